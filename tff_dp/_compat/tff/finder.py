"""Makes a plain `import tensorflow_federated` work after tff_dp has been imported.

TFF 0.87.0 imports modules that can no longer be imported. A finder in `sys.meta_path` handles the
import of TFF, and that of tensorflow-privacy, which has the same problem: it lets Python's own
finders locate the package, and wraps its loader, so that the package's code runs with the
placeholders in place and is repaired afterwards. For any other module the finder only compares the
name. Once TFF has been imported, the finder removes itself. Python holds the module's import lock
throughout, so that a second thread waits until TFF is complete.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TFF = "tensorflow_federated"
_PACKAGES = (TFF, "tensorflow_privacy")
_TRUE = ("1", "true", "True")  # values of TF_USE_LEGACY_KERAS, as TensorFlow reads it


def register() -> None:
    """Installs the finder, unless it is installed already or TFF has been imported."""
    if sys.modules.get(TFF) is None and not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder(importlib.abc.MetaPathFinder):
    """Handles imports of TFF and of tensorflow-privacy, which the other finders locate."""

    def __init__(self) -> None:
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds the spec of TFF or of tensorflow-privacy, and wraps its loader.

        Args:
          fullname: The name of the module that is imported.
          path: The search path of its parent package, or None; passed to the other finders.
          target: The module that is reloaded, or None; passed to the other finders.

        Returns:
          The spec; None for any other module, or if no other finder knows the package.
        """
        if fullname not in _PACKAGES or getattr(self._asking, "is_asking", False):
            return None
        self._asking.is_asking = True  # a second `Finder` among the others asks this one in turn
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

    def __getattr__(self, name: str) -> Any:  # such as get_data, for callers that only use the spec
        if name == "_loader":  # of an object that is being copied, which has no attributes yet
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Removes the remains of a failed import, and lets the package's own loader create the module."""
        _forget_half_imported()
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Runs the package's code with the placeholders in place, and repairs TFF afterwards."""
        # Imported here, so that importing tff_dp loads no more than the finder itself.
        from tff_dp._compat import stack
        from tff_dp._compat.tff.placeholders import placeholders

        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        # TFF's own code, and that of tensorflow-privacy, takes `tf.keras` for Keras 2.
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
        _find_legacy_keras()
        try:
            with placeholders(), _uncollected():
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


def _find_legacy_keras() -> None:
    """Lets `tensorflow.compat.v2.keras` be found, which TensorFlow Probability imports by this name.

    TensorFlow adds its folder to a path when `tensorflow.compat.v2` is imported: that of tf-keras only if
    the variable is set by then, which it is not if `import tf_keras` comes first.
    """
    module, spec = sys.modules.get("tensorflow.compat.v2"), importlib.util.find_spec("tf_keras")
    if module is None or spec is None or os.environ["TF_USE_LEGACY_KERAS"] not in _TRUE:
        return
    for folder in spec.submodule_search_locations or ():
        where = os.path.join(folder, "api", "_v2")
        if where not in module.__path__:
            module.__path__ = [where, *module.__path__]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses the collection of cyclic garbage.

    Next to nothing of the millions of objects that an import creates is garbage, and Python would
    spend a fifth of the time of the import on looking through them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _mend(tff: ModuleType) -> None:
    try:
        from tff_dp._compat.tff import setup  # it imports parts of TFF

        setup.mend(tff, is_new=True)
    except (ImportError, AttributeError) as error:
        # Another version of TFF may have these names elsewhere; its import must still succeed.
        warnings.warn(
            f"tff_dp mends nothing in tensorflow_federated {getattr(tff, '__version__', '')}, which is "
            f"not the version that it was tested with ({type(error).__name__}: {error}). See "
            "docs/stack.md.",
            RuntimeWarning,
            stacklevel=2,
        )


def _forget_half_imported() -> None:
    """Removes the submodules that a failed import has left in `sys.modules`.

    Without the placeholders, `import tensorflow_federated` fails. Python then removes the package
    itself but keeps the submodules that were already imported. A later import finds these, does not
    bind them in the new package, and fails with "name 'python' is not defined".
    """
    for package in _PACKAGES:
        if package in sys.modules:  # complete, or being imported right now
            continue
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            del sys.modules[name]
