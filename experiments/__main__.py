"""`python -m experiments NAME [--config FILE] [--set section.key=value] [--out FOLDER]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pathlib
import sys
import tempfile
import tomllib
from typing import Any

from tff_dp.errors import ArgumentError, TffDpError

_HERE = pathlib.Path(__file__).parent


def names() -> list[str]:
    """Returns the experiments: the modules that have a TOML file beside them."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load_settings(name: str, config: str | None, overrides: list[str]) -> dict[str, Any]:
    """Reads an experiment's settings.

    Args:
      name: The experiment.
      config: Path of a TOML file instead of its own, or None.
      overrides: "section.key=value" texts, the values as TOML.

    Raises:
      ArgumentError: The experiment or a key is unknown, or a text is malformed.
    """
    if name not in names():
        raise ArgumentError(f"NAME={name!r} is unknown: expected one of {', '.join(names())}.")
    own = _read(_HERE / f"{name}.toml")
    settings = own if config is None else _read(pathlib.Path(config))
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, field = key.partition(".")
        if not (equals and dot) or key not in _keys(own):
            known = ", ".join(_keys(own))
            raise ArgumentError(
                f"--set={text!r} names no setting: expected section.key=value with one of {known}."
            )
        try:
            found = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise ArgumentError(
                f"--set={text!r} has no TOML value: expected a number, true, false, [list] or "
                '"text".'
            ) from None
        settings = {**settings, section: {**settings.get(section, {}), field: found}}
    _check(settings, own)
    return settings


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ArgumentError(f"--config={str(path)!r} cannot be read as TOML: {error}.") from None


def _check(settings: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises ArgumentError unless settings have the sections, keys and types of an experiment's own."""
    keys, expected = _keys(settings), _keys(own)
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


def _keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the values by "section.key"; of what is no section, by its name alone."""
    found: dict[str, Any] = {}
    for section, table in settings.items():
        entries = table.items() if isinstance(table, dict) else [(None, table)]
        found |= {section if key is None else f"{section}.{key}": v for key, v in entries}
    return found


def _alike(value: Any, own: Any) -> bool:
    """Returns whether a value can stand for another one in TOML; a whole number does for a real one."""
    if isinstance(own, list):
        return isinstance(value, list) and all(_alike(each, own[0]) for each in value)
    if isinstance(own, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(own)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    found.add_argument("name", metavar="NAME", help=f"one of: {', '.join(names())}")
    found.add_argument(
        "--config", metavar="FILE", help="a TOML file instead of the experiment's own"
    )
    found.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], dest="overrides",
        help="change one setting, the value as in TOML; may be repeated",
    )  # fmt: skip
    found.add_argument(
        "--out",
        metavar="FOLDER",
        help="where results go; results/NAME by default. Relative paths are those of this folder",
    )
    return found


def check_out(out: pathlib.Path) -> None:
    """Refuses a folder for results that cannot be made or written. Leaves nothing there.

    Args:
      out: The folder; it and folders above it may be missing.

    Raises:
      ArgumentError: It is a file, or the folders that are there cannot be written.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            out.stat()
        there = next(path for path in (out, *out.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"--out={str(out)!r} cannot be written: {error}. Give a folder that can be made or written."
        ) from None


def main(arguments: list[str] | None = None) -> int:
    """Runs an experiment; returns the exit code: 0, 1 for a failed self-check, 2 for bad input."""
    options = parser().parse_args(arguments)
    try:
        settings = load_settings(options.name, options.config, options.overrides)
        out = pathlib.Path(options.out or pathlib.Path("results") / options.name)
        check_out(out)
        experiment = importlib.import_module(f"experiments.{options.name}")
        return int(experiment.main(settings, out))
    except TffDpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
