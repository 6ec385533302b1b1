"""Placeholders for modules of TFF 0.87.0 and tensorflow-privacy 0.9.0 that cannot be imported.

The packages that three modules need are discontinued or were left out (docs/stack.md). While TFF or
tensorflow-privacy is imported, and only if such a package is missing, a placeholder replaces
exactly the module that needs it. Using a name of a placeholder raises an ImportError that explains
this. No other module, and no package, is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """A module that is replaced because a package that it needs is missing.

    Args:
      module: The full name of the module.
      names: The names that other modules import from it.
      lacks: The package that it needs.
    """

    module: str
    names: tuple[str, ...]
    lacks: str


PLACEHOLDERS = (
    Placeholder(
        "tensorflow_privacy.privacy.estimators.dnn", ("DNNClassifier",), "tensorflow_estimator"
    ),
    Placeholder(
        "tensorflow_privacy.privacy.estimators.v1.dnn", ("DNNClassifier",), "tensorflow_estimator"
    ),
    Placeholder(
        "tensorflow_federated.python.learning.programs.vizier_program_logic",
        ("train_model_with_vizier",),
        "vizier",
    ),
)


class PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads placeholders for the given modules only.

    Args:
      placeholders: The modules to replace.
    """

    def __init__(self, placeholders: Sequence[Placeholder]) -> None:
        self._by_name = {p.module: p for p in placeholders}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds the placeholder of a module.

        Args:
          fullname: The name of the module that is imported.
          path: Ignored.
          target: Ignored.

        Returns:
          The spec of the placeholder; None for a module that is not replaced.
        """
        del path, target
        if fullname not in self._by_name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin="placeholder of tff_dp")

    def exec_module(self, module: ModuleType) -> None:
        """Defines the names of a placeholder, each as a class that raises ImportError when called.

        Args:
          module: The new module, which is empty so far.
        """
        placeholder = self._by_name[module.__name__]
        for name in placeholder.names:
            setattr(module, name, _unavailable(name, placeholder))


def _unavailable(name: str, placeholder: Placeholder) -> type:
    """Returns a class that cannot be instantiated; importers use it in annotations or as a base class."""

    def refuse(cls: type, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(
            f"{placeholder.module}.{name} needs the package {placeholder.lacks!r}, which does not work "
            "with the TensorFlow that tff_dp runs on; see docs/stack.md."
        )

    return type(name, (), {"__new__": refuse, "__module__": placeholder.module})


def _is_there(package: str) -> bool:
    """Returns whether a package is installed or, as a stand-in, already imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, such as one that a test has put there
        return True


@contextlib.contextmanager
def placeholders() -> Iterator[None]:
    """Installs the placeholders for the modules whose package is missing, and removes them on exit.

    Yields:
      Nothing.
    """
    missing = [p for p in PLACEHOLDERS if not _is_there(p.lacks)]
    finder = PlaceholderFinder(missing)
    sys.meta_path.insert(0, finder)  # first: the real files exist, but their import fails
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
