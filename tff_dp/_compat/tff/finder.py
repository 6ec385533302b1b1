"""Has a plain `import tensorflow_federated` work, once tff_dp has been imported.

TFF 0.87.0 imports modules that cannot be imported any more. A finder in `sys.meta_path` waits for the
import of TFF (or of tensorflow-privacy, which has the same trouble), has Python's own finders find the
package, and wraps its loader: the package's code then runs with the placeholders in place, and is mended
afterwards. For any other module the finder compares one name and is out of the way. Once TFF has been
imported, the finder removes itself. Python holds the module's import lock meanwhile, so that a second
thread waits for a whole TFF.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TFF = "tensorflow_federated"
_PACKAGES = (TFF, "tensorflow_privacy")


def register() -> None:
    """Puts the finder in place, unless it is there already or TFF has been imported."""
    if sys.modules.get(TFF) is None and not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder(importlib.abc.MetaPathFinder):
    """Answers imports of TFF and of tensorflow-privacy, by what the other finders find."""

    def __init__(self) -> None:
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of one of the two packages with its loader wrapped; None for any other."""
        if fullname not in _PACKAGES or getattr(self._asking, "is_asking", False):
            return None
        self._asking.is_asking = True  # another finder of this kind may ask all the others as well
        try:
            spec = _found_by_others(self, fullname, path, target)
        finally:
            self._asking.is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _found_by_others(
    own: Finder, fullname: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in [each for each in sys.meta_path if each is not own]:
        spec = finder.find_spec(fullname, path, target)
        if spec is not None:
            return spec
    return None


class _Loader(importlib.abc.Loader):
    """Runs a package's own loader with the placeholders in place."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # such as get_data, for whoever only asks for the spec
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Forgets what a failed import has left; the module is the loader's own."""
        _forget_half_imported()
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Runs the package's code."""
        # Here and not at the top: importing tff_dp costs no more than the finder itself.
        from tff_dp._compat import stack
        from tff_dp._compat.tff.placeholders import placeholders

        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        # TFF's own code, and that of tensorflow-privacy, takes `tf.keras` for Keras 2.
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
        try:
            with placeholders():
                self._loader.exec_module(module)
        except ImportError as error:
            problems = "; ".join(stack.check_stack()) or "none"
            error.add_note(
                f"Packages that differ from those with which tff_dp was tested: {problems}. See "
                "docs/stack.md."
            )
            raise
        if module.__name__ == TFF:
            sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, Finder)]
            _mend(module)


def _mend(tff: ModuleType) -> None:
    try:
        from tff_dp._compat.tff import setup  # it imports parts of TFF

        setup.mend(tff, is_new=True)
    except (ImportError, AttributeError) as error:
        # A TFF that has these names elsewhere: whoever imports it must still get it.
        warnings.warn(
            f"tff_dp mends nothing in tensorflow_federated {getattr(tff, '__version__', '')}, which is "
            f"not the version that it was tested with ({type(error).__name__}: {error}). See "
            "docs/stack.md.",
            RuntimeWarning,
            stacklevel=2,
        )


def _forget_half_imported() -> None:
    """Removes what an import that failed has left in `sys.modules`.

    Without the placeholders, `import tensorflow_federated` fails. Python then drops the package itself
    and keeps the submodules that had been imported by then. A later import finds those, does not bind
    them in the new package, and ends with "name 'python' is not defined".
    """
    for package in _PACKAGES:
        if package in sys.modules:  # whole, or being imported
            continue
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            del sys.modules[name]
