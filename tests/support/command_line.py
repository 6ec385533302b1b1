"""The command line, called as a function."""

from __future__ import annotations

import json

from tff_dp import cli


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as end:  # argparse's own
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def found(capsys, *arguments: str) -> dict:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)
