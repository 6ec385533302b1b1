"""The tables of a configuration as dataclasses, from whose fields the checks follow."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tff_dp import _checks
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.errors import ArgumentError

_T = TypeVar("_T")


def _in(bound: str) -> Any:
    return dataclasses.field(default=None, metadata={"bound": bound})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The table [model].

    Args:
      build: "package.module:function"; the function returns a Keras model or a `ModelSpec`.
      args: Named arguments for the function.
      loss: The loss, by its name in Keras; left out if the model is compiled.
      metrics: Metrics, by their names in Keras.
    """

    build: str
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: str | None = None
    metrics: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataTable:
    """The table [data], or [evaluate] for data to evaluate on. It names a function or a file.

    Args:
      load: "package.module:function"; the function returns `tff_dp.Clients`, or a dictionary of
        arrays by client as `tff_dp.data.from_arrays` takes it.
      args: Named arguments for the function.
      file: A file in CSV (.csv), Parquet (.parquet) or NumPy's format (.npz), with one example in
        each row.
      client: The column of the client ids.
      features: The columns of x. Of an .npz file, a single array of any shape, or several columns.
      label: The column of y.
      label_dtype: The type of y, such as "int32"; by default that of the column.
      allow_nonfinite: Whether numbers may be infinite.
    """

    load: str | None = None
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    file: str | None = None
    client: str | None = None
    features: tuple[str, ...] | None = None
    label: str | None = None
    label_dtype: str | None = None
    allow_nonfinite: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationTable(DataTable):
    """The table [validation]: data on which the model is evaluated between rounds.

    Args:
      load: As in [data].
      args: As in [data].
      file: As in [data].
      client: As in [data]; it may be left out for public data.
      features: As in [data].
      label: As in [data].
      label_dtype: As in [data].
      allow_nonfinite: As in [data].
      kind: "public" for data that are nobody's secret, or "clients" for held-out clients.
      freq: After how many rounds to validate.
      privacy: A plan for the held-out clients, whose metrics are released with noise.
    """

    kind: str = "public"
    freq: int | None = _in("[1, inf)")
    privacy: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTable:
    """The table [train]: arguments of `tff_dp.fit`.

    Args:
      run_dir: The folder of the run.
      rounds: The number of rounds; by default all rounds of the plan.
      batch_size: The number of examples in a client's batch.
      epochs: The number of passes of a client over its data in a round.
      shuffle: Whether a client's examples are permuted.
      seed: A seed of the cohorts. With it, the report marks the run as not private.
      release_metrics: Whether the history has the clients' training metrics.
      max_epsilon: Training stops before this epsilon would be exceeded.
      disjoint_data: Whether the model was trained before on other clients only.
      save_every: The number of rounds between two checkpoints.
      keep: The number of checkpoints to keep.
      progress: Whether to show a progress bar; by default, if the output is a terminal.
      device: What TensorFlow runs on: "auto", "cpu" or "gpu".
    """

    run_dir: str
    rounds: int | None = _in("[1, inf)")
    batch_size: int | None = _in("[1, inf)")
    epochs: int | None = _in("[1, inf)")
    shuffle: bool | None = None
    seed: int | None = _in("[0, inf)")
    release_metrics: bool | None = None
    max_epsilon: float | None = _in("(0, 100]")
    disjoint_data: bool | None = None
    save_every: int | None = _in("[1, inf)")
    keep: int | None = _in("[1, inf)")
    progress: bool | None = None
    device: str = "auto"

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `fit` that were given, without folder, progress bar and device."""
        others = ("run_dir", "progress", "device")
        names = [f.name for f in dataclasses.fields(self) if f.name not in others]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def table(
    kind: type[_T], values: Mapping[str, Any], path: Sequence[str], mistakes: Mistakes
) -> _T | None:
    """Checks a table of the configuration.

    Args:
      kind: One of the dataclasses of this module.
      values: The table.
      path: The keys that lead to it.
      mistakes: Where to add what is wrong.

    Returns:
      The table; None if there are mistakes in it.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    refuse_unknown(values, fields, path, mistakes)
    given = {}
    for name, field in fields.items():
        if name in values:
            given[name] = _checked(
                values[name], hints[name], field.metadata.get("bound"), (*path, name), mistakes
            )
        elif field.default is field.default_factory is dataclasses.MISSING:
            mistakes.add((*path, name), f"missing: expected {_expected(hints[name])}.")
    return None if mistakes.has(path) else kind(**given)


def refuse_unknown(
    values: Mapping[str, Any], known: Iterable[str], path: Sequence[str], mistakes: Mistakes
) -> None:
    """Adds a mistake for each key that is not known.

    Args:
      values: A table.
      known: The names of its keys.
      path: The keys that lead to it.
      mistakes: Where to add what is wrong.
    """
    names = [*known]
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1, 0.7)
            meant = f"Did you mean {close[0]}? " if close else ""
            mistakes.add(
                (*path, name), f"unknown key. {meant}Expected one of {', '.join(sorted(names))}."
            )


def _checked(
    value: Any, hint: Any, bound: str | None, path: tuple[str, ...], mistakes: Mistakes
) -> Any:
    """Returns a value of a field's type, after adding a mistake if it is not one."""
    hint = _without_none(hint)
    try:
        if hint is int:
            return _checks.integer(path[-1], value, bound or "(-inf, inf)")
        if hint is float:
            return _checks.real(path[-1], value, bound or "(-inf, inf)")
    except ArgumentError as error:
        mistakes.add_error(path, error)
        return None
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            mistakes.add(
                path, f"{path[-1]}={value!r} is outside its bound: expected {_expected(hint)}."
            )
            return None
        return tuple(value)
    kind = dict if typing.get_origin(hint) is dict else hint
    if not isinstance(value, kind):
        mistakes.add(
            path, f"{path[-1]}={value!r} is outside its bound: expected {_expected(hint)}."
        )
        return None
    return value


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
    return hint


def _expected(hint: Any) -> str:
    hint = _without_none(hint)
    if typing.get_origin(hint) is tuple:
        return 'a list of texts, such as ["a", "b"]'
    return {
        str: "a text in quotes",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
    }.get(hint, "a table of values")
