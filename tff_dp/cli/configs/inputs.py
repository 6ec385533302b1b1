"""The model and the data of a configuration."""

from __future__ import annotations

import dataclasses
import operator
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tff_dp
from tff_dp import data
from tff_dp._compat.quiet import quiet_import
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.tables import DataTable, ModelTable, ValidationTable, table
from tff_dp.cli.mechanisms import import_module
from tff_dp.errors import ArgumentError, DataError

_OF_FILES = ("client", "features", "label")
_NOBODY = "client of tff-dp"  # a column for public data, which have none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The model of a configuration.

    Attributes:
      model: The model, as `fit` takes it.
      loss: As for `fit`.
      metrics: As for `fit`.
    """

    model: Any
    loss: str | None
    metrics: tuple[str, ...] | None


def model_of(mistakes: Mistakes) -> Model | None:
    """Makes the model of a configuration.

    Args:
      mistakes: The configuration, and where to add what is wrong with it.

    Returns:
      The model; None if there are mistakes.
    """
    values = _table("model", mistakes)
    found = None if values is None else table(ModelTable, values, ("model",), mistakes)
    if found is None:
        return None
    path = ("model", "build")
    with quiet_import():  # the function imports Keras, which brings TensorFlow
        _ = tff_dp.tff
    model = called(found.build, found.args, path, mistakes)
    if model is None:
        if not mistakes.has(path):
            mistakes.add(path, f"build={found.build!r} has returned None: return the model.")
        return None
    return Model(model=model, loss=found.loss, metrics=found.metrics)


def clients_of(name: str, mistakes: Mistakes) -> Any:
    """Makes the clients that a table of the configuration describes.

    Args:
      name: The name of the table: "data", "validation" or "evaluate".
      mistakes: The configuration, and where to add what is wrong with it.

    Returns:
      The `tff_dp.Clients`; None if there are mistakes.
    """
    values = _table(name, mistakes)
    of = ValidationTable if name == "validation" else DataTable
    found = None if values is None else table(of, values, (name,), mistakes)
    if found is None:
        return None
    if (found.load is None) == (found.file is None):
        given = "neither" if found.load is None else "both"
        mistakes.add((name,), f"{given} of load and file is given: expected one of them.")
        return None
    if found.load is not None:
        return _loaded(found, name, mistakes)
    needed: tuple[str, ...] = _OF_FILES
    if isinstance(found, ValidationTable) and found.kind == "public":
        needed = tuple(key for key in _OF_FILES if key != "client")
    absent = [key for key in needed if getattr(found, key) is None]
    for key in absent:
        mistakes.add((name, key), "missing: expected the name of a column of the file.")
    if absent:
        return None
    try:
        return read_file(mistakes.source.folder / str(found.file), found)
    except (ArgumentError, OSError, ValueError, ImportError) as error:
        named = re.match(r"(\w+)(?==| is )", str(error))
        argument = named[1] if named else ""
        key = {"dtype": "features", "column": "client", "frame": "file"}.get(argument, argument)
        at = key if isinstance(error, ArgumentError) and hasattr(found, key) else "file"
        mistakes.add_error((name, at), error)
        return None


def find_modules(folder: pathlib.Path) -> None:
    """Lets modules in a folder be imported. Installed modules come first.

    Args:
      folder: The folder of the configuration.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def imported(name: str, path: Sequence[str], mistakes: Mistakes) -> Any:
    """Imports what "package.module:name" names.

    Args:
      name: The text.
      path: The keys that lead to it.
      mistakes: Where to add what is wrong.

    Returns:
      What it names; None if there are mistakes.
    """
    key, (module, _, attribute) = f"{path[-1]}={name!r}", name.partition(":")
    if not module or not attribute:
        mistakes.add(
            path, f'{key} names nothing: expected "package.module:name", such as "my_model:build".'
        )
        return None
    try:
        found = import_module(module, key)
        return operator.attrgetter(attribute)(found)
    except ArgumentError as error:
        where = mistakes.source.folder
        mistakes.add(path, str(error).removesuffix(".") + f", or in {where}.")
    except AttributeError:
        here = [each for each in vars(found) if not each.startswith("_")]
        mistakes.add(
            path, f"{key} is not there: the module {module} has {', '.join(here) or 'no names'}."
        )
    return None


def called(name: str, args: Mapping[str, Any], path: Sequence[str], mistakes: Mistakes) -> Any:
    """Imports a function and calls it.

    Args:
      name: "package.module:function".
      args: The named arguments.
      path: The keys that lead to the name.
      mistakes: Where to add what is wrong.

    Returns:
      What the function has returned; None if there are mistakes.
    """
    function = imported(name, path, mistakes)
    if function is None:
        return None
    if not callable(function):
        mistakes.add(path, f"{path[-1]}={name!r} is {function!r}: expected a function.")
        return None
    try:
        return function(**args)
    except Exception as error:  # whatever the function raises
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        is_own = trace is None or trace.tb_frame.f_code.co_filename == __file__
        at = (
            ""
            if is_own or trace is None
            else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
        )
        mistakes.add(path, f"{path[-1]}={name!r} has failed: {type(error).__name__}: {error}{at}.")
        return None


def read_file(path: pathlib.Path, columns: DataTable) -> data.Clients:
    """Reads clients from a file with one example in each row.

    Args:
      path: The file; its name ends in .csv, .parquet or .npz.
      columns: The names of its columns.

    Returns:
      The clients.

    Raises:
      ArgumentError: A column is unknown, or the name has another end.
      DataError: The content is malformed.
    """
    features = columns.features or ()
    client = columns.client or _NOBODY
    if path.suffix == ".npz":
        return _from_arrays(path, columns)
    if path.suffix not in (".csv", ".parquet"):
        raise ArgumentError(
            f"file={str(path)!r} is of an unknown kind: expected a name that ends in .csv, .parquet or "
            '.npz. For other files, name a function: load = "package.module:function".'
        )
    try:
        import pandas
    except ImportError:
        raise ArgumentError(
            f"file={str(path)!r} needs pandas, which is not installed: pip install pandas"
            f"{' pyarrow' if path.suffix == '.parquet' else ''}."
        ) from None
    try:
        if path.suffix == ".csv":
            # Ids are texts: pandas would read "007" as the number 7.
            frame = pandas.read_csv(path, dtype={client: str})
        else:
            frame = pandas.read_parquet(path)
    except ImportError as error:
        raise ArgumentError(
            f"file={str(path)!r} needs pyarrow, which is not installed: pip install pyarrow. ({error})"
        ) from None
    except (OSError, ValueError) as error:  # pandas derives its errors from ValueError
        raise DataError(f"file={str(path)!r} cannot be read: {error}.") from None
    if columns.client is None:  # public data are nobody's
        frame[client] = "0"
    return data.from_frame(
        frame,
        client=client,
        features=list(features),
        label=columns.label,
        label_dtype=columns.label_dtype,
        allow_nonfinite=columns.allow_nonfinite,
    )


def _from_arrays(path: pathlib.Path, columns: DataTable) -> data.Clients:
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"file={str(path)!r} cannot be read: {error}.") from None
    wanted = {"label": columns.label}
    if columns.client is not None:
        wanted["client"] = columns.client
    for key, name in [*wanted.items(), *(("features", each) for each in columns.features or ())]:
        if name not in arrays:
            raise ArgumentError(
                f"{key}={name!r} is no array of the file: expected one of {', '.join(arrays)}."
            )
    features = [arrays[name] for name in columns.features or ()]
    if not features:
        raise ArgumentError("features=[] is empty: expected the name of at least one array.")
    shapes = [each.shape for each in features]
    if len(features) > 1 and any(shape != (len(features[0]),) for shape in shapes):
        raise ArgumentError(
            f"features={list(columns.features or ())!r} have the shapes {shapes}: expected a single "
            "array of any shape, or several of shape [examples]."
        )
    x = features[0] if len(features) == 1 else np.stack(features, axis=1)
    y = arrays[str(columns.label)]
    if columns.label_dtype is not None:
        try:
            y = y.astype(columns.label_dtype)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"label_dtype={columns.label_dtype!r}: {error}.") from None
    owners = np.zeros(len(y), int) if columns.client is None else arrays[columns.client]
    return data.by_column(x, y, owners, allow_nonfinite=columns.allow_nonfinite)


def _loaded(found: DataTable, name: str, mistakes: Mistakes) -> Any:
    for key in ("client", "features", "label", "label_dtype"):
        if getattr(found, key) is not None:
            mistakes.add((name, key), "is for files: leave it out with load.")
    clients = called(str(found.load), found.args, (name, "load"), mistakes)
    if isinstance(clients, Mapping):
        try:
            return data.from_arrays(clients, allow_nonfinite=found.allow_nonfinite)
        except ArgumentError as error:
            mistakes.add_error((name, "load"), error)
            return None
    if not isinstance(clients, data.Clients):
        if not mistakes.has((name, "load")):
            mistakes.add(
                (name, "load"),
                f"load={found.load!r} has returned a {type(clients).__name__}: expected "
                "tff_dp.Clients, or a dictionary of (x, y) by client.",
            )
        return None
    return clients


def _table(name: str, mistakes: Mistakes) -> Mapping[str, Any] | None:
    values = mistakes.source.values.get(name)
    if isinstance(values, Mapping):
        return values
    if values is None:
        mistakes.add((name,), f"missing: expected a table [{name}].")
    else:
        mistakes.add((name,), f"{name}={values!r} is outside its bound: expected a table [{name}].")
    return None
