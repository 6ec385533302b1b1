"""Runs other frameworks' code of `docs/coming-from.md`: `./run python -m benchmarks.coming_from`.

A block that names a list of packages, `benchmarks/environments/NAME.txt`, in its first line is run in an
environment of these packages, in a folder of its own, after the page's first block, which writes the
data.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from benchmarks import _environments

PAGE = _environments.ROOT / "docs" / "coming-from.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
_NAMED = re.compile(r"# Not run in the tests: .*benchmarks/environments/(\w+)\.txt")
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def programs(text: str) -> dict[str, str]:
    """Returns the programs of a page by the environments that they need."""
    first, *others = _BLOCK.findall(text)
    found = {}
    for block in others:
        named = _NAMED.match(block)
        if named:
            found[named[1]] = f"{first}\n{block}"
    return found


def run(name: str, program: str) -> str | None:
    """Runs a program in its environment; returns what it printed, or None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8")
        done = subprocess.run(
            [_environments.python(name), str(path)],
            cwd=folder,
            env=os.environ | _QUIET,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-15:]), file=sys.stderr)
        return None
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns 1 if a program failed, otherwise 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="only this environment")
    options = parser.parse_args(arguments)
    failed = 0
    for name, program in programs(PAGE.read_text(encoding="utf-8")).items():
        if options.only not in ("", name):
            continue
        begin = time.monotonic()
        out = run(name, program)
        failed += out is None
        print(f"{name}: {'FAILED' if out is None else 'ran'}, {time.monotonic() - begin:.0f} s")
        print(*(out or "").splitlines()[-3:], sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
