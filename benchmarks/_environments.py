"""Virtual environments for other frameworks, which cannot share one with TensorFlow Federated.

Each is made from a list of pinned packages, `benchmarks/environments/NAME.txt`, the first time that it
is needed, and made anew when the list has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys
import venv

_HERE = pathlib.Path(__file__).parent
ROOT = _HERE.parent
"""The checkout, whose `benchmarks` the other environments run."""


def python(name: str | None) -> str:
    """Returns the interpreter of an environment, which is made if it is missing.

    Args:
      name: Of the environment; None for the one that runs this.

    Returns:
      The path of the interpreter.

    Raises:
      SystemExit: The packages cannot be installed; what pip said is on standard error.
    """
    if name is None:
        return sys.executable
    listed = _HERE / "environments" / f"{name}.txt"
    folder = _folder(name, listed.read_bytes())
    found = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One process makes an environment; others, such as those of the tests, wait for it.
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _make(name, folder, listed)
    return str(found)


def _make(name: str, folder: pathlib.Path, listed: pathlib.Path) -> None:
    print(f"making {folder} from {listed}", file=sys.stderr, flush=True)
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, "-r", str(listed)], check=False)
    if done.returncode:
        raise SystemExit(
            f"The environment {name} cannot be made; leave its systems out (--systems)."
        )
    (folder / "complete").touch()


def _folder(name: str, listed: bytes) -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(listed).hexdigest()[:12]
    return pathlib.Path(cache) / "tff_dp_benchmarks" / f"{name}-{version}-{digest}"
