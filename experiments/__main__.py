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
    path = pathlib.Path(config) if config else _HERE / f"{name}.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ArgumentError(f"--config={str(path)!r} cannot be read as TOML: {error}.") from None
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, field = key.partition(".")
        if not (equals and dot) or field not in settings.get(section, {}):
            known = ", ".join(f"{s}.{k}" for s, table in settings.items() for k in table)
            raise ArgumentError(
                f"--set={text!r} names no setting: expected section.key=value with one of {known}."
            )
        try:
            settings[section][field] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise ArgumentError(
                f"--set={text!r} has no TOML value: expected a number, true, false, [list] or "
                '"text".'
            ) from None
    return settings


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
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of: {', '.join(names())}")
    parser.add_argument("--config", metavar="FILE", help="settings instead of the experiment's own")
    parser.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], dest="overrides",
        help="change one setting; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="where results go; results/NAME by default")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.name, options.config, options.overrides)
        out = pathlib.Path(options.out or pathlib.Path("results") / options.name)
        check_out(out)
        from tff_dp import _compat

        with _compat.quiet_import():
            _compat.load_tff()
        experiment = importlib.import_module(f"experiments.{options.name}")
        return int(experiment.main(settings, out))
    except TffDpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
