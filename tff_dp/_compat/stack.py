"""Versions of other packages with which the tests pass."""

from __future__ import annotations

import importlib.metadata
import pathlib
import sys

# From the name of a distribution to the version prefixes with which the tests pass.
TESTED: dict[str, tuple[str, ...]] = {
    "tensorflow-federated": ("0.87.0",),
    "tensorflow-privacy": ("0.9.0",),
    "tensorflow": ("2.21.",),
    "tf-keras": ("2.21.",),
    "keras": ("3.",),
    "jax": ("0.5.3",),
    "jaxlib": ("0.5.3",),
    "numpy": ("2.",),
    "dp-accounting": ("0.6.0",),
}
TESTED_PYTHON = ((3, 11), (3, 12), (3, 13))
# The packages whose pins in tensorflow-federated and tensorflow-privacy are replaced: docs/stack.md.
OVERRIDDEN = (
    *("absl-py", "attrs", "cachetools", "dm-tree", "dp-accounting", "google-vizier"),
    *(
        "googleapis-common-protos",
        "jax",
        "jaxlib",
        "ml-dtypes",
        "numpy",
        "packaging",
        "scikit-learn",
    ),
    *("scipy", "tensorflow", "tensorflow-estimator", "tensorflow-model-optimization"),
    *("tensorflow-probability", "typing-extensions"),
)
_LOCK = "requirements.lock"


def check_stack() -> list[str]:
    """Compares the installed packages with the tested versions.

    Returns:
      One clause for each deviation; an empty list if all installed versions are tested ones.
    """
    problems = []
    if sys.version_info[:2] not in TESTED_PYTHON:
        tested = ", ".join(f"{major}.{minor}" for major, minor in TESTED_PYTHON)
        problems.append(f"Python is {sys.version.split()[0]}, tested are {tested}")
    for name, prefixes in TESTED.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed, tested is {' or '.join(prefixes)}")
            continue
        if not version.startswith(prefixes):
            problems.append(f"{name} is {version}, tested is {' or '.join(prefixes)}")
    return problems


def locked() -> dict[str, str]:
    """Reads which versions of all packages were tested together on this Python.

    Returns:
      The version of each package in the lock file, which a wheel has beside this module, and a
      checkout at its top; empty if there is none.
    """
    from packaging.requirements import Requirement

    here = pathlib.Path(__file__).parent
    path = next((p for p in (here / _LOCK, here.parents[1] / _LOCK) if p.is_file()), None)
    if path is None:
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            wanted = Requirement(line.rstrip(" \\"))
            if wanted.marker is None or wanted.marker.evaluate():
                found[wanted.name] = next(iter(wanted.specifier)).version
    return found
