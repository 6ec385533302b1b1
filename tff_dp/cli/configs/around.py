"""What acts between the rounds of a configuration's run: validation and callbacks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import tff_dp
from tff_dp._compat import keras as keras_compat
from tff_dp.cli.configs.inputs import Model, clients_of, imported
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.privacy import privacy_of
from tff_dp.cli.configs.tables import ValidationTable, refuse_unknown
from tff_dp.cli.configs.tables import table as checked_table
from tff_dp.errors import ArgumentError, StackError

_PATHS = ("filename", "filepath", "log_dir")  # relative to the folder of the configuration
_FUNCTIONS = ("schedule", "on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end")


def around_of(model: Model | None, mistakes: Mistakes) -> dict[str, Any]:
    """Makes what acts between the rounds.

    Args:
      model: The model; None if it could not be made.
      mistakes: The configuration, and where to add what is wrong with it.

    Returns:
      Arguments of `fit`.
    """
    return {**_validation(mistakes), **_callbacks(model, mistakes)}


def _validation(mistakes: Mistakes) -> dict[str, Any]:
    values = mistakes.source.values.get("validation")
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        mistakes.add(
            ("validation",),
            f"validation={values!r} is outside its bound: expected a table [validation].",
        )
        return {}
    found = checked_table(ValidationTable, values, ("validation",), mistakes)
    if found is None:
        return {}
    if found.kind not in ("public", "clients"):
        mistakes.add(
            ("validation", "kind"),
            f'kind={found.kind!r} is outside its bound: expected "public" or "clients".',
        )
        return {}
    data = clients_of("validation", mistakes)
    arguments: dict[str, Any] = {}
    if found.freq is not None:
        arguments["validation_freq"] = found.freq
    if found.kind == "clients":
        if found.privacy is not None:
            plan = privacy_of(("validation", "privacy"), data, mistakes)
            if isinstance(plan, tff_dp.NoPrivacy):
                mistakes.add(
                    ("validation", "privacy"),
                    'type="NoPrivacy": expected a plan. Leave the table out to validate without one.',
                )
            arguments["validation_privacy"] = plan
        return arguments | {"validation_clients": data}
    if found.privacy is not None:
        mistakes.add(
            ("validation", "privacy"),
            'is for held-out clients: expected none with kind = "public", whose data are public.',
        )
    if _are_those_of_training(mistakes):
        mistakes.add(
            ("validation", "kind"),
            'kind="public" (the default), and these are the data of [data], which the plan in [privacy] '
            "protects: expected other data. Whatever is measured on them is outside of epsilon.",
        )
    return arguments | {"validation_data": None if data is None else data.pooled()}


def _are_those_of_training(mistakes: Mistakes) -> bool:
    """Says whether [validation] names the data that a plan protects."""

    def named(name: str) -> Mapping[str, Any]:
        found = mistakes.source.values.get(name)
        return found if isinstance(found, Mapping) else {}

    def source_of(table: Mapping[str, Any]) -> Any:
        if isinstance(table.get("file"), str):
            return (mistakes.source.folder / table["file"]).resolve()
        return None if table.get("load") is None else (table["load"], table.get("args"))

    if named("privacy").get("type") == "NoPrivacy":
        return False
    source = source_of(named("validation"))
    return source is not None and bool(source == source_of(named("data")))


def _callbacks(model: Model | None, mistakes: Mistakes) -> dict[str, Any]:
    values = mistakes.source.values.get("callbacks")
    if values is None:
        return {}
    if not isinstance(values, list) or not all(isinstance(each, Mapping) for each in values):
        mistakes.add(
            ("callbacks",),
            f"callbacks={values!r} is outside its bound: expected tables [[callbacks]].",
        )
        return {}
    library = keras_compat.library_of(_keras_model(model))
    made = [
        _callback(each, ("callbacks", str(place)), library, mistakes)
        for place, each in enumerate(values)
    ]
    return {"callbacks": made}


def _keras_model(model: Model | None) -> Any:
    """Returns the Keras model of a configuration, as far as it is known."""
    given = None if model is None else model.model
    return given.model if isinstance(given, tff_dp.ModelSpec) else given


def _callback(
    values: Mapping[str, Any], path: tuple[str, ...], library: Any, mistakes: Mistakes
) -> Any:
    """Makes a callback of a table; None if there are mistakes."""
    named, arguments = values.get("name"), {k: v for k, v in values.items() if k != "name"}
    if not isinstance(named, str):
        wrong = "missing" if named is None else f"name={named!r} is outside its bound"
        mistakes.add((*path, "name"), f"{wrong}: expected a class of Keras in quotes.")
        return None
    kind = _kind(named, (*path, "name"), library, mistakes)
    if kind is None:
        return None
    parameters = inspect.signature(kind).parameters
    if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        refuse_unknown(arguments, parameters, path, mistakes)
    for key, value in arguments.items():
        if key in _FUNCTIONS and isinstance(value, str):
            arguments[key] = imported(value, (*path, key), mistakes)
        elif key in _FUNCTIONS:
            mistakes.add((*path, key), f'{key}={value!r}: expected "package.module:function".')
        elif key in _PATHS and isinstance(value, str):
            arguments[key] = str(mistakes.source.folder / value)
    if mistakes.has(path):
        return None
    from tff_dp.training.refused_callbacks import check_callback

    try:
        callback = kind(**arguments)
        if kind is not tff_dp.EndOnNaN:
            check_callback(callback, library)
        return callback
    except (ArgumentError, StackError) as error:
        mistakes.add((*path, "name"), str(error))
    except Exception as error:  # whatever the class raises
        mistakes.add(path, f"{named} cannot be made: {type(error).__name__}: {error}")
    return None


def _kind(named: str, path: tuple[str, ...], library: Any, mistakes: Mistakes) -> Any:
    """Returns the class that a name stands for; None if there are mistakes."""
    if ":" in named:
        found = imported(named, path, mistakes)
        if found is None or isinstance(found, type):
            return found
        mistakes.add(path, f"name={named!r} is {found!r}: expected a class of callbacks.")
        return None
    if named == "EndOnNaN":
        return tff_dp.EndOnNaN
    own = library.callbacks
    known = [
        name
        for name in dir(own)
        if isinstance(getattr(own, name), type) and issubclass(getattr(own, name), own.Callback)
    ]
    if named in known:
        return getattr(own, named)
    close = difflib.get_close_matches(named, [*known, "EndOnNaN"], 1, 0.6)
    meant = f" Did you mean {close[0]}?" if close else ""
    mistakes.add(
        path,
        f"name={named!r} is no callback of {library.__name__}.{meant} Expected the name of one in "
        f'{library.__name__}.callbacks, EndOnNaN, or "package.module:Class".',
    )
    return None
