"""The settings of an experiment: its TOML file, and what the command line changes of it."""

from __future__ import annotations

import ast
import json
import pathlib
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tff_dp.errors import ArgumentError

FOLDER = pathlib.Path(__file__).parent
SMOKE = "smoke"  # the table of changes for --smoke: "section.key" = value


def names() -> list[str]:
    """Returns the experiments: the modules that have a TOML file beside them."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def question(name: str) -> str:
    """Returns the first line of an experiment's docstring, without importing it.

    Args:
      name: The experiment.
    """
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def load(
    name: str, config: str | None = None, overrides: Sequence[str] = (), *, smoke: bool = False
) -> dict[str, Any]:
    """Reads an experiment's settings.

    Args:
      name: The experiment.
      config: Path of a TOML file instead of its own, or None.
      overrides: "section.key=value" texts, the values as TOML.
      smoke: Whether the changes of the experiment's own table [smoke] are made, before those of
        `overrides`.

    Returns:
      The settings by section and key, without the table [smoke].

    Raises:
      ArgumentError: The experiment or a key is unknown, a value is of another type than the
        experiment's own, or a text is malformed.
    """
    if name not in names():
        raise ArgumentError(f"NAME={name!r} is unknown: expected one of {', '.join(names())}.")
    own = _read(FOLDER / f"{name}.toml")
    small = own.pop(SMOKE, {})
    settings = own
    if config is not None:
        settings = _read(pathlib.Path(config))
        settings.pop(SMOKE, None)
    changes = [_change(text, own) for text in overrides]
    for key, value in [*(small.items() if smoke else ()), *changes]:
        section, _, field = key.partition(".")
        settings = {**settings, section: {**settings.get(section, {}), field: value}}
    _check(settings, own)
    return settings


def command(name: str, settings: Mapping[str, Any]) -> str:
    """Returns the command that runs an experiment with some settings.

    Args:
      name: The experiment.
      settings: Its settings, as `load` returns them.

    Returns:
      A line for a shell. It has --smoke or not, whichever leaves fewer settings to be changed.
    """
    lines = []
    for smoke in (False, True):
        base = flat(load(name, smoke=smoke))
        changes = [
            f"--set {shlex.quote(f'{key}={json.dumps(value)}')}"
            for key, value in flat(settings).items()
            if base.get(key) != value
        ]
        start = ["python -m experiments", name, *(["--smoke"] if smoke else [])]
        lines.append((len(changes), " ".join([*start, *changes])))
    return min(lines, key=lambda line: line[0])[1]


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by "section.key"; of what is no section, by its name alone.

    Args:
      settings: Settings by section and key.
    """
    found: dict[str, Any] = {}
    for section, table in settings.items():
        entries = table.items() if isinstance(table, dict) else [(None, table)]
        found |= {section if key is None else f"{section}.{key}": v for key, v in entries}
    return found


def _change(text: str, own: Mapping[str, Any]) -> tuple[str, Any]:
    """Returns the key and the value of a "section.key=value" text."""
    key, equals, value = text.partition("=")
    if not (equals and "." in key) or key not in flat(own):
        known = ", ".join(flat(own))
        raise ArgumentError(
            f"--set={text!r} names no setting: expected section.key=value with one of {known}."
        )
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise ArgumentError(
            f'--set={text!r} has no TOML value: expected a number, true, false, [list] or "text".'
        ) from None


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ArgumentError(f"--config={str(path)!r} cannot be read as TOML: {error}.") from None


def _check(settings: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises ArgumentError unless settings have the sections, keys and types of an experiment's own."""
    keys, expected = flat(settings), flat(own)
    missing, unknown = sorted(expected.keys() - keys.keys()), sorted(keys.keys() - expected.keys())
    if missing or unknown:
        raise ArgumentError(
            f"The settings lack {', '.join(missing) or 'nothing'} and have "
            f"{', '.join(unknown) or 'nothing'} besides: expected exactly {', '.join(expected)}."
        )
    for key, value in keys.items():
        if not _alike(value, expected[key]):
            raise ArgumentError(
                f"{key}={value!r} is of another type than the experiment's own value: expected something "
                f"like {expected[key]!r}."
            )


def _alike(value: Any, own: Any) -> bool:
    """Returns whether a value can stand for another one in TOML; a whole number does for a real one."""
    if isinstance(own, list):
        return isinstance(value, list) and all(_alike(each, own[0]) for each in value if own)
    if isinstance(own, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(own)
