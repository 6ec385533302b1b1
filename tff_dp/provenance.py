"""What a trained model has cost, kept with the model: in memory, and in its file.

A model carries one record for each data set that it was trained on, where data sets that have no
client in common count as several. The record follows the model object, its layers, `model.save` to
a `.keras` file (as an asset inside of it), and `FitResult.save` to any file (as a second file
beside it). Weights that are copied by hand into another model carry nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import warnings
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tff_dp import _checks, _compat, _disk
from tff_dp.charges import Charges
from tff_dp.errors import ArgumentError, ModelError

_FORMAT = 1
_ASSET = "tff_dp_privacy.json"
_SIDECAR = ".privacy.json"
_MARKS: weakref.WeakKeyDictionary[Any, tuple[Charges, ...]] = weakref.WeakKeyDictionary()
# The records of trained weights by their fingerprint, for weights that are copied out of a model.
_BY_WEIGHTS: dict[str, tuple[Charges, ...]] = {}


def mark(model: Any, records: Sequence[Charges]) -> None:
    """Makes a model carry records, in place of those it has.

    Args:
      model: A Keras 3 or tf-keras model.
      records: What was spent on each data set that the model was trained on.
    """
    records = tuple(records)
    for part in _parts(model):
        with contextlib.suppress(TypeError):  # no layer, and without weak references
            _MARKS[part] = records
    kind = type(model)

    def save_assets(folder: str) -> None:
        own = getattr(kind, "save_assets", None)
        if own is not None:
            own(model, folder)
        content = _content(model, _MARKS.get(model, records))
        pathlib.Path(folder, _ASSET).write_text(content, encoding="utf-8")

    # Keras asks every object for its assets when it writes a .keras file, and ignores those that
    # the class of a loaded object does not ask for: the file loads without tff_dp.
    with contextlib.suppress(AttributeError):
        model.save_assets = save_assets


def remember_weights(model: Any) -> None:
    """Remembers the records of a model by its weights, for as long as Python runs.

    Args:
      model: A Keras 3 or tf-keras model that carries records.
    """
    with contextlib.suppress(TypeError):
        records = _MARKS.get(model, ())
        if records:
            _BY_WEIGHTS[_fingerprint_of(model.get_weights())] = records


def groups_of_weights(arrays: Sequence[np.ndarray]) -> tuple[tuple[Charges, ...], ...]:
    """Finds the records of weights that were copied out of a remembered model.

    Args:
      arrays: The weights, unchanged, as `get_weights` returned them.

    Returns:
      As for `groups_carried_by`; empty if the weights are not known.
    """
    found = _BY_WEIGHTS.get(_fingerprint_of(arrays))
    return () if found is None else (found,)


def groups_carried_by(model: Any) -> tuple[tuple[Charges, ...], ...]:
    """Finds the records that a model carries, by what was trained together; see `charged_before`.

    Args:
      model: A Keras 3 or tf-keras model.

    Returns:
      For each training, one record for each of its data sets.
    """
    found: list[tuple[Charges, ...]] = []
    for part in _parts(model):
        with contextlib.suppress(TypeError):
            group = _MARKS.get(part, ())
            if group and group not in found:
                found.append(group)
    return tuple(found)


def carried_by(model: Any) -> tuple[Charges, ...]:
    """Finds the records that a model carries: its own and those of its layers, each once.

    Args:
      model: A Keras 3 or tf-keras model.

    Returns:
      One record for each data set.
    """
    found: list[Charges] = []
    for part in _parts(model):
        with contextlib.suppress(TypeError):
            found += [record for record in _MARKS.get(part, ()) if record not in found]
    return tuple(found)


def save(model: Any, path: str | os.PathLike[str], records: Sequence[Charges]) -> None:
    """Saves a model, and beside it a file with what it has cost.

    Args:
      model: A Keras 3 or tf-keras model.
      path: Where to, in any form that the model's own `save` knows. Of Keras 3, a `.keras` file alone
        holds what the model was compiled with.
      records: As for `mark`.

    Raises:
      ArgumentError: `path` is no path, or cannot be written.
    """
    _checks.instance(
        "path", path, (str, os.PathLike), "Give the path of a file, such as model.keras."
    )
    path = pathlib.Path(path)
    record = _sidecar(path)
    try:
        # First: no crash leaves a new model beside an old record.
        _disk.replace(record, _content(model, records).encode(), mode=0o666)
        if path.suffix == ".keras" or (
            _compat.keras.is_legacy(model) and model.get_compile_config() is not None
        ):
            model.save(path)
        else:  # Keras 3 writes to other formats what it cannot read, such as the name of a loss
            model.save(path, include_optimizer=False)
    except OSError as error:
        raise ArgumentError(
            f"path={str(path)!r} cannot be written: {error}. Make its folder, or room on the "
            "disk, or give another path; the model is still there."
        ) from error


def load_model(path: str | os.PathLike[str], **arguments: Any) -> Any:
    """Loads a model that `fit` has trained, with the record of what it has spent.

    Args:
      path: Where the model was saved, by its own `save` as a `.keras` file or by `FitResult.save`.
      **arguments: For `load_model` of the model's kind of Keras, such as `custom_objects` or `compile`.

    Returns:
      The model, a Keras 3 or tf-keras one. `fit` knows what it has spent. It is compiled as it was saved,
      unless Keras cannot read that back: a loss that is a local function, say, is not in the file.

    Raises:
      ModelError: The file has no record, or one of a model with other weights.
      StackError: The model is a tf-keras one, and TFF cannot be imported.
    """
    path = pathlib.Path(path)
    inside, beside = list(_in_archive(path)), _sidecar(path)
    found = inside
    if not inside and beside.exists():
        found = [_parsed(beside, beside.read_text(encoding="utf-8"))]
    if not found:
        raise ModelError(
            f"{path} has no record of what the model has spent: expected a .keras file of a model "
            f"that fit has trained, or {beside} beside it, which FitResult.save writes. If the "
            "model was never trained on private data, load it with Keras; else pass spent_before= "
            "to fit."
        )
    kind = str(found[0]["keras"])
    if kind == "tf_keras":
        _compat.tff.load()  # which cannot be imported once tf-keras has been used
    keras = importlib.import_module(kind)
    model = _loaded(keras, path, arguments)
    if not inside and _fingerprint(model) != found[0]["weights"]:
        raise ModelError(
            f"{beside} is the record of a model with other weights than {path} has: one of the "
            "files was replaced. Restore both from one FitResult.save, or pass spent_before= to "
            "fit."
        )
    parsed = [tuple(Charges.from_dict(values) for values in each["records"]) for each in found]
    if len(set(parsed)) > 1:
        raise ModelError(
            f"{path} holds parts of several models that fit has trained, whose data may be the same. "
            "Load it with Keras, and pass spent_before= to fit, with the charges of all of them, joined "
            "by `|`."
        )
    mark(model, parsed[0])
    remember_weights(model)
    return model


def _loaded(keras: Any, path: pathlib.Path, arguments: Mapping[str, Any]) -> Any:
    """Loads a model; without what it was compiled with, if only that is in the way."""
    try:
        return keras.saving.load_model(path, **arguments)
    except Exception as error:
        if "compile" in arguments:
            raise
        try:
            model = keras.saving.load_model(path, compile=False, **arguments)
        except Exception:
            raise error from None
        warnings.warn(
            f"{path} was loaded without the loss, metrics and optimizer that it was compiled with: "
            f"{error} Register them (keras.saving.register_keras_serializable), or pass custom_objects=.",
            UserWarning,
            stacklevel=3,
        )
        return model


def _parts(model: Any) -> Iterator[Any]:
    """Yields a model and its layers, those of its layers included."""
    yield model
    yield from _compat.keras.layers_within(model)
    layers = getattr(model, "layers", None)
    if isinstance(layers, list | tuple):  # else it is something of the layer's own
        for layer in layers:
            yield from _parts(layer)


def _content(model: Any, records: Sequence[Charges]) -> str:
    record = {
        "tff_dp": _FORMAT,
        "keras": "tf_keras" if _compat.keras.is_legacy(model) else "keras",
        "weights": _fingerprint(model),
        "records": [each.to_dict() for each in records],
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _fingerprint(model: Any) -> str:
    """Returns a hash of a model's weights, in whatever order they come."""
    return _fingerprint_of(model.get_weights())


def _fingerprint_of(arrays: Sequence[Any]) -> str:
    hashes = []
    for weight in arrays:
        values = np.ascontiguousarray(weight)
        head = f"{values.dtype.name}{values.shape}".encode()
        hashes.append(hashlib.sha256(head + values.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def _sidecar(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + _SIDECAR)


def _in_archive(path: pathlib.Path) -> Iterator[Mapping[str, Any]]:
    """Yields the records in a .keras file: the model's own first, then those of its parts."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == _ASSET]
        for name in sorted(names, key=len):
            yield _parsed(path, archive.read(name).decode())


def _parsed(path: pathlib.Path, text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
        if found["tff_dp"] != _FORMAT or found["keras"] not in ("keras", "tf_keras"):
            raise ValueError
        return {name: found[name] for name in ("keras", "weights", "records")}
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{path} holds no record that this version of tff_dp can read: expected one of format "
            f"{_FORMAT}. Restore it from a backup, or pass spent_before= to fit."
        ) from None


def record_of(value: Any) -> Charges:
    """Takes the charges of what `fit` was given as `spent_before`.

    Args:
      value: Charges, or a result that has them.

    Returns:
      The charges.

    Raises:
      ArgumentError: The value is neither.
    """
    found = value if isinstance(value, Charges) else getattr(value, "charges", None)
    if not isinstance(found, Charges):
        raise ArgumentError(
            f"spent_before={value!r} is outside its bound: expected a FitResult or its charges, "
            "what was spent on these clients' data before."
        )
    return found
