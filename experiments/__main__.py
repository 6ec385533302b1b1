"""Lists the experiments, or runs one: `python -m experiments [NAME] [options]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pathlib
import sys
import tempfile

from experiments import _device, _settings
from tff_dp.errors import ArgumentError, TffDpError


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    found.add_argument(
        "name", metavar="NAME", nargs="?",
        help=f"one of: {', '.join(_settings.names())}; without it, they are listed",
    )  # fmt: skip
    found.add_argument(
        "--smoke", action="store_true", help="a small size, which shows in seconds that all works"
    )
    found.add_argument(
        "--device", choices=_device.CHOICES, default="auto",
        help="what TensorFlow runs on; cpu hides GPUs, and gpu is an error if there is none",
    )  # fmt: skip
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
        help="where results go; by default results/NAME, or results/NAME-smoke. An experiment that was "
        "interrupted goes on there. Relative paths are those of this folder",
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


def listing() -> str:
    """Returns the experiments with their questions, a line each."""
    names = _settings.names()
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {_settings.question(name)}" for name in names)


def main(arguments: list[str] | None = None) -> int:
    """Runs an experiment; returns the exit code: 0, 1 for a failed self-check, 2 for bad input.

    Args:
      arguments: Those of the command line; None for this process's own.
    """
    options = parser().parse_args(arguments)
    if options.name is None:
        print(listing())
        return 0
    try:
        settings = _settings.load(
            options.name, options.config, options.overrides, smoke=options.smoke
        )
        folder = f"{options.name}-smoke" if options.smoke else options.name
        out = pathlib.Path(options.out or pathlib.Path("results") / folder)
        check_out(out)
        _device.choose(options.device)
        experiment = importlib.import_module(f"experiments.{options.name}")
        return int(experiment.main(settings, out))
    except TffDpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Interrupted. The same command goes on with what is in {out}.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
