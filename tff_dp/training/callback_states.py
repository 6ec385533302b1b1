"""What Keras's own callbacks count from round to round, which a resumed run goes on with.

Keras sets these attributes anew when training begins. They are plain numbers, apart from the weights
that `EarlyStopping` may restore, and they are stored with each checkpoint: those of the round whose
weights it has. Callbacks of other classes keep what they keep, and begin anew with a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_dp import _warnings
from tff_dp._compat import keras as keras_compat

# By the name of the class in `keras.callbacks`: the attributes that change from epoch to epoch.
_NUMBERS = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch"),
    "ModelCheckpoint": ("best",),
    "ReduceLROnPlateau": ("wait", "cooldown_counter", "best"),
}
_ARRAYS = {"EarlyStopping": "best_weights"}
# What tells apart callbacks of one class and one monitor, which may be given in another order.
_SETTINGS = ("patience", "factor", "cooldown", "filepath", "start_from_epoch", "save_weights_only")
# Classes without such attributes: of other ones, nobody knows.
_WITHOUT = {
    "CSVLogger",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ProgbarLogger",
    "RemoteMonitor",
    "TensorBoard",
}


@dataclasses.dataclass(frozen=True)
class States:
    """What the callbacks of a run have counted until a round.

    Attributes:
      numbers: An entry for each callback that counts: its "class", its "monitor", its "settings", its
        "numbers", and how many "arrays" it has.
      arrays: The arrays of all of them, one after another.
    """

    numbers: Sequence[Mapping[str, Any]] = ()
    arrays: Sequence[np.ndarray] = ()


def states_of(callbacks: Sequence[Any]) -> States:
    """Reads what callbacks have counted.

    Args:
      callbacks: The callbacks.

    Returns:
      Copies, which do not change with the callbacks.
    """
    numbers: list[dict[str, Any]] = []
    arrays: list[np.ndarray] = []
    for callback in callbacks:
        kind = _kind(callback)
        if kind not in _NUMBERS:
            continue
        try:
            counted = {name: _to_plain(getattr(callback, name, None)) for name in _NUMBERS[kind]}
            own = _numeric(getattr(callback, _ARRAYS.get(kind, ""), None))
        except (TypeError, ValueError):
            continue  # a subclass keeps other values under these names, which are its own matter
        numbers.append(
            {
                "class": kind,
                "monitor": str(getattr(callback, "monitor", "")),
                "settings": _settings(callback),
                "numbers": counted,
                "arrays": len(own),
            }
        )
        arrays += own
    return States(numbers, arrays)


def _numeric(arrays: Any) -> list[np.ndarray]:
    """Copies a list of arrays, or raises TypeError if they cannot be stored beside a state."""
    found = [np.array(array) for array in (() if arrays is None else arrays)]
    if not isinstance(arrays, list | tuple | type(None)) or any(
        a.dtype.kind in "OSU" for a in found
    ):
        raise TypeError("expected a list of arrays of numbers")
    return found


def restore(callbacks: Sequence[Any], states: States) -> None:
    """Gives callbacks what those of the same class and monitor had counted, or warns.

    Of several, those with the same settings go first, and then those in the same order.

    Args:
      callbacks: The callbacks, whose training has just begun.
      states: What was stored.
    """
    matched = _matched(callbacks, _entries(states))
    for place, callback in enumerate(callbacks):
        kind = _kind(callback)
        what = _named(callback)
        if place in matched:
            for name, value in matched[place].items():
                setattr(callback, name, value)
        elif kind in _NUMBERS:
            _warn(what, "the run that is resumed had none like it")
        elif kind == "CSVLogger" and not getattr(callback, "append", False):
            _warn(
                what, "it writes its file anew. Pass append=True to keep the rows of earlier rounds"
            )
        if type(callback).__name__ != kind or kind not in _NUMBERS.keys() | _WITHOUT:
            _warn(what, "only what Keras's own classes count is restored")


def _matched(callbacks: Sequence[Any], entries: Sequence[_Entry]) -> dict[int, dict[str, Any]]:
    """Finds the stored attributes of callbacks, by their place; each entry is used at most once."""
    left, found = dict(enumerate(entries)), {}
    for by_settings in (True, False):
        for place, callback in enumerate(callbacks):
            if place in found or _kind(callback) not in _NUMBERS:
                continue
            for number, entry in left.items():
                if entry.same == _same(callback) and (
                    not by_settings or entry.settings == _settings(callback)
                ):
                    found[place] = left.pop(number).values
                    break
    return found


def weights_to_restore(callbacks: Sequence[Any], states: States) -> Sequence[np.ndarray] | None:
    """Finds the weights that a callback restores when training has ended.

    Args:
      callbacks: The callbacks.
      states: What was stored at the end of training.

    Returns:
      The weights that `EarlyStopping(restore_best_weights=True)` restores, in the order of the model's
      `get_weights()`; None if none does.
    """
    found = None
    for place, values in sorted(_matched(callbacks, _entries(states)).items()):
        if getattr(callbacks[place], "restore_best_weights", False):
            found = values.get("best_weights") or found
    return found


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What was stored of a callback: class and monitor, settings, and the attributes that change."""

    same: tuple[str, str]
    settings: Sequence[str]
    values: dict[str, Any]


def _same(callback: Any) -> tuple[str, str]:
    return _kind(callback), str(getattr(callback, "monitor", ""))


def _settings(callback: Any) -> list[str]:
    return [str(getattr(callback, name, "")) for name in _SETTINGS]


def _entries(states: States) -> list[_Entry]:
    entries, start = [], 0
    for entry in states.numbers:
        kind = entry["class"]
        values: dict[str, Any] = {
            name: _from_plain(value) for name, value in entry["numbers"].items()
        }
        if kind in _ARRAYS:
            own = list(states.arrays[start : start + entry["arrays"]])
            values[_ARRAYS[kind]] = own or None
        start += entry["arrays"]
        same = kind, entry["monitor"]
        entries.append(_Entry(same, entry.get("settings", ()), values))
    return entries


def _kind(callback: Any) -> str:
    """Returns the name of the class of Keras that a callback is of, or derives from; "" for none."""
    for kind in type(callback).__mro__:
        if keras_compat.is_defined_by_keras(kind):
            return kind.__name__
    return ""


def _named(callback: Any) -> str:
    name = type(callback).__name__
    monitor = getattr(callback, "monitor", None)
    return name if monitor is None else f"{name}(monitor={monitor!r})"


def _warn(what: str, why: str) -> None:
    _warnings.warn(f"The callback {what} begins anew in the resumed run: {why}.")


def _to_plain(value: Any) -> int | str | None:
    """Returns a number as JSON can hold it, floats of any value included."""
    if value is None or isinstance(value, int | np.integer):
        return None if value is None else int(value)
    return float(value).hex()


def _from_plain(value: int | str | None) -> int | float | None:
    return float.fromhex(value) if isinstance(value, str) else value
