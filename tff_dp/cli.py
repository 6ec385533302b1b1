"""The command `tff-dp`. It parses, calls and prints; nothing is computed here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import tff_dp


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: The command line without the program's name; None takes the process's own.

    Returns:
      The exit code.
    """
    parser = argparse.ArgumentParser(prog="tff-dp", description=tff_dp.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"tff-dp {tff_dp.__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0
