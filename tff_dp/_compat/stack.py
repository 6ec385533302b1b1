"""Versions of other packages with which the tests pass."""

from __future__ import annotations

import importlib.metadata
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
