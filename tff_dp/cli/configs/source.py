"""A configuration, and where in its file (or on the command line) each value stands."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tff_dp.errors import ArgumentError

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A configuration with the origin of its values.

    Args:
      values: The tables.
      origins: For each key path, where it stands: "file:line", or the option that sets it.
      name: The name of the file, for what stands nowhere in it.
      folder: The folder to which relative paths refer.
    """

    values: Mapping[str, Any]
    origins: Mapping[Path, str]
    name: str
    folder: pathlib.Path

    def replaced(self, path: Path, value: Any, origin: str) -> Source:
        """Replaces a value.

        Args:
          path: The keys that lead to the value. Tables that are missing are made.
          value: The new value.
          origin: Where it stands, such as an option.

        Returns:
          A new configuration; the same one if something on the path is no table.
        """
        values: Any = copy.deepcopy(self.values)
        table = values
        for name in path[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                return self
        table[path[-1]] = value
        return dataclasses.replace(self, values=values, origins={**self.origins, path: origin})

    def where(self, path: Sequence[str]) -> str:
        """Says where a value stands.

        Args:
          path: The keys that lead to the value.

        Returns:
          The origin of the value, or of the innermost table around it that has one.
        """
        for length in range(len(path), 0, -1):
            found = self.origins.get(tuple(path[:length]))
            if found is not None:
                return found
        return self.name


def read_source(path: str, overrides: Sequence[str]) -> Source:
    """Reads a configuration.

    Args:
      path: The path of a TOML file.
      overrides: Texts "key.path=value", the values as in TOML, which replace those of the file.

    Returns:
      The configuration.

    Raises:
      ArgumentError: The file cannot be read, is not TOML, or an override is malformed.
    """
    file = pathlib.Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"CONFIG={path!r} cannot be read: {error}. Expected a TOML file; tff-dp train --example "
            "FOLDER writes one."
        ) from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(
            f"CONFIG={path!r} is not TOML: {error}. Quote texts, and write lists in brackets."
        ) from None
    origins = {key: f"{path}:{line}" for key, line in lines_of(text).items()}
    for override in overrides:
        _override(values, origins, override)
    return Source(values=values, origins=origins, name=path, folder=file.resolve().parent)


def restored_source(values: Mapping[str, Any], name: str, folder: pathlib.Path) -> Source:
    """Makes a configuration from values that were stored.

    Args:
      values: The tables.
      name: The name of the file in which they are stored.
      folder: The folder to which relative paths refer.

    Returns:
      The configuration. All of its values stand in that file.
    """
    return Source(values=values, origins={}, name=name, folder=folder)


def lines_of(text: str) -> dict[Path, int]:
    """Finds the lines of a TOML file in which its keys are set.

    The file is parsed again after each line: a key stands in the statement after which it is there
    for the first time. So every form that TOML has is understood as the parser does. The time grows
    with the square of the number of lines: a thousand take some seconds.

    Args:
      text: The content of a valid TOML file.

    Returns:
      For the path of each key, tables included, the number of the first line of its statement. A
      list of tables has the numbers of its entries in the path.
    """
    found: dict[Path, int] = {}
    begun, lines = 0, text.splitlines(keepends=True)
    for end in range(1, len(lines) + 1):
        try:
            values = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:  # within a statement of several lines
            continue
        for path in _paths(values):
            found.setdefault(path, begun + 1)
        begun = end
    return found


def _paths(values: Any, at: Path = ()) -> Iterator[Path]:
    if isinstance(values, Mapping):
        entries: Any = values.items()
    elif isinstance(values, list):
        entries = ((str(place), each) for place, each in enumerate(values))
    else:
        return
    for name, value in entries:
        path = (*at, name)
        yield path
        yield from _paths(value, path)


def _override(values: dict[str, Any], origins: dict[Path, str], text: str) -> None:
    option = f"--set {text}"
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ArgumentError(
            f"--set={text!r} sets nothing: expected key.path=value, such as train.rounds=10."
        )
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise ArgumentError(
            f"--set={text!r} has no TOML value: expected a number, true, false, [list] or a text in "
            "quotes, which a shell wants in quotes of its own: --set 'model.loss=\"mse\"'."
        ) from None
    table = values
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ArgumentError(
                f"--set={text!r} sets a key of {name!r}, which is no table: expected the path of a value."
            )
    table[path[-1]] = found
    for known in [known for known in origins if known[: len(path)] == path]:
        del origins[known]
    for known in (path, *((*path, *inner) for inner in _paths(found))):
        origins[known] = option
