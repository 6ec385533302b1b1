"""Placeholders for modules of TFF 0.87.0 and tensorflow-privacy 0.9.0 that cannot be imported.

The packages behind three modules are dead or were left out (docs/stack.md). While TFF or
tensorflow-privacy is imported, and only where such a package is missing, a placeholder takes the place of
exactly its module. Whoever uses a name of a placeholder gets an ImportError that says so; no other
module, and no package, is faked.
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
    """A module to replace, the names its importers take from it, and the package that it lacks."""

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
    """Answers imports of the given modules only."""

    def __init__(self, placeholders: Sequence[Placeholder]) -> None:
        self._by_name = {p.module: p for p in placeholders}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname not in self._by_name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin="placeholder of tff_dp")

    def exec_module(self, module: ModuleType) -> None:
        placeholder = self._by_name[module.__name__]
        for name in placeholder.names:
            setattr(module, name, _unavailable(name, placeholder))


def _unavailable(name: str, placeholder: Placeholder) -> type:
    """Returns a class, since importers subclass or annotate with it, that cannot be made or called."""

    def refuse(cls: type, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(
            f"{placeholder.module}.{name} needs the package {placeholder.lacks!r}, which does not work "
            "with the TensorFlow that tff_dp runs on; see docs/stack.md."
        )

    return type(name, (), {"__new__": refuse, "__module__": placeholder.module})


@contextlib.contextmanager
def placeholders() -> Iterator[None]:
    """Puts placeholders in place, in the block, for what needs a package that is not installed."""
    missing = [p for p in PLACEHOLDERS if importlib.util.find_spec(p.lacks) is None]
    finder = PlaceholderFinder(missing)
    sys.meta_path.insert(0, finder)  # in front: the files exist, they just cannot be imported
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
