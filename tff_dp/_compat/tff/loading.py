"""Everything that depends on versions: bridges from TFF 0.87.0 to the TensorFlow of today.

TFF 0.87.0 and tensorflow-privacy 0.9.0 import three modules that cannot be imported any more, because
packages behind them are dead or were left out (docs/stack.md). While TFF is imported, and only where
those packages are missing, placeholders take the place of exactly these three modules. Whoever uses a
placeholder gets an ImportError that says so; no other module, and no package, is faked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from tff_dp._compat import worker_process
from tff_dp.errors import StackError


@dataclasses.dataclass(frozen=True)
class _Placeholder:
    """A module to replace, the names its importers take from it, and the package that it lacks."""

    module: str
    names: tuple[str, ...]
    lacks: str


_PLACEHOLDERS = (
    _Placeholder(
        "tensorflow_privacy.privacy.estimators.dnn", ("DNNClassifier",), "tensorflow_estimator"
    ),
    _Placeholder(
        "tensorflow_privacy.privacy.estimators.v1.dnn", ("DNNClassifier",), "tensorflow_estimator"
    ),
    _Placeholder(
        "tensorflow_federated.python.learning.programs.vizier_program_logic",
        ("train_model_with_vizier",),
        "vizier",
    ),
)

# Distribution name to the version prefixes with which the tests have passed.
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


class _PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of the given modules only."""

    def __init__(self, placeholders: Sequence[_Placeholder]) -> None:
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


def _unavailable(name: str, placeholder: _Placeholder) -> type:
    """Returns a class, since importers subclass or annotate with it, that cannot be made or called."""

    def refuse(cls: type, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(
            f"{placeholder.module}.{name} needs the package {placeholder.lacks!r}, which does not work "
            "with the TensorFlow that tff_dp runs on; see docs/stack.md."
        )

    return type(name, (), {"__new__": refuse, "__module__": placeholder.module})


@contextlib.contextmanager
def _placeholders() -> Iterator[None]:
    missing = [p for p in _PLACEHOLDERS if importlib.util.find_spec(p.lacks) is None]
    finder = _PlaceholderFinder(missing)
    sys.meta_path.insert(0, finder)  # in front: the files exist, they just cannot be imported
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def load_tff() -> Any:
    """Imports TensorFlow Federated on the installed TensorFlow.

    `TF_USE_LEGACY_KERAS=1` is set for this process unless it is set already: TFF's own code takes
    `tf.keras` for Keras 2. `import keras` is Keras 3 all the same. The variable counts if `tf.keras`
    has not been used before.

    Returns:
      The module `tensorflow_federated`.

    Raises:
      StackError: A package is missing or does not work with the others.
    """
    loaded = sys.modules.get("tensorflow_federated")
    if loaded is not None and hasattr(loaded, "__version__"):
        worker_process.let_them_end(loaded, renew_default=False)
        return loaded
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    _forget_half_imported()
    try:
        with _placeholders():
            import tensorflow_federated
    except ImportError as error:
        problems = "; ".join(check_stack()) or "all of them are present"
        raise StackError(
            f"tensorflow_federated cannot be imported: {error}. Packages that differ from those "
            f"tested: {problems}. Install the tested set: pip install --no-deps -r requirements.lock "
            "(docs/stack.md)."
        ) from error
    _allow_deep_protos()
    _let_data_sources_be_copied(tensorflow_federated)
    worker_process.let_them_end(tensorflow_federated, renew_default=True)
    return tensorflow_federated


def _forget_half_imported() -> None:
    """Removes what an import of TFF that failed has left in `sys.modules`.

    A plain `import tensorflow_federated` fails on the packages that the placeholders stand for. Python
    then drops the package itself and keeps the submodules that had been imported by then. A later import
    finds those, does not bind them in the new package, and ends with "name 'python' is not defined".
    """
    for package in ("tensorflow_federated", "tensorflow_privacy"):
        if package in sys.modules:  # whole, or being imported by another thread
            continue
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            del sys.modules[name]


def _let_data_sources_be_copied(tff: Any) -> None:
    """Lets TFF's iterator over data sets be copied, as `train_model` of TFF does in each round.

    TensorFlow refuses to copy any `tf.data.Dataset` ("cannot pickle 'Graph' object"). Neither the
    iterator nor its data sets change when a cohort is selected: the copy may hold the same ones.
    """

    def copied(iterator: Any, memo: Any) -> Any:
        del memo
        return type(iterator)(iterator._datasets, iterator._federated_type)

    tff.program.DatasetDataSourceIterator.__deepcopy__ = copied


def _allow_deep_protos() -> None:
    """Lifts the bound of 100 on how deep messages nest, which TFF's larger computations exceed.

    Python's protobuf copies a submessage by serializing it, and refuses to read back what nests deeper:
    `tff.learning.ddp_secure_aggregator` could not even be built.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from google._upb import _message  # type: ignore[import-untyped]

        _message.SetAllowOversizeProtos(True)


def tensor_specs(value_type: Any) -> Any:
    """Returns the structure of `tf.TensorSpec`s of a TFF type of tensors."""
    load_tff()
    from tensorflow_federated.python.core.impl.types import type_conversions

    return type_conversions.type_to_tf_tensor_specs(value_type)


def check_stack() -> list[str]:
    """Compares what is installed with what the tests have passed with.

    Returns:
      One sentence a deviation; empty where the installed packages are a tested combination.
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


def tf_keras_is_legacy() -> bool:
    """Returns whether `tf.keras` is Keras 2 (tf-keras) in this process, as TFF's converter needs."""
    import tensorflow as tf

    return bool(tf.keras.Model.__module__.startswith("tf_keras"))


@contextlib.contextmanager
def usable_tf_keras_models() -> Iterator[None]:
    """Leaves the tf-keras models of this process as usable as they were, whatever graphs are made.

    Whoever makes a tf-keras model within a graph, as TFF does when it builds a process, has tf-keras
    exchange the base classes of all models for those of TensorFlow 1: `get_weights` of any model fails
    from then on, until a model is made outside of a graph.
    """
    try:
        yield
    finally:
        tf_keras = sys.modules.get("tf_keras")
        if tf_keras is not None:
            tf_keras.Sequential(
                name="unused"
            )  # with a name: the next model's own is numbered as before


@contextlib.contextmanager
def equality_by_value() -> Iterator[None]:
    """Makes == and != compare tensors by value, as they do in eager code and in Keras's own training.

    TFF traces in a graph of TensorFlow 1, in which they compare by identity: `y != 0`, in a loss function
    say, is then True for whatever y holds. To be used around Keras's and the user's own code.
    """
    import tensorflow as tf

    if tf.compat.v1.executing_eagerly_outside_functions():
        yield
        return
    equal, unequal = tf.Tensor.__eq__, tf.Tensor.__ne__

    def by_value(operation: Any, where_none: bool) -> Any:
        def compare(self: Any, other: Any) -> Any:
            if other is None:
                return where_none
            return operation(x=self, y=other, incompatible_shape_error=False)

        return compare

    tf.Tensor.__eq__ = by_value(tf.raw_ops.Equal, False)
    tf.Tensor.__ne__ = by_value(tf.raw_ops.NotEqual, True)
    try:
        yield
    finally:
        tf.Tensor.__eq__, tf.Tensor.__ne__ = equal, unequal


@contextlib.contextmanager
def constants_for_eager_tensors() -> Iterator[None]:
    """Makes the function graph that is being traced embed eager tensors as constants.

    Some Keras layers hold plain tensors (an adapted `Normalization` its mean and variance). A function
    captures such a tensor as an input, which TFF cannot serialize; its value never changes, so it can
    be a constant of the graph. To be used while a `tf.function` is traced.
    """
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    original = getattr(graph, "capture", None)
    if original is None:  # not a function graph: nothing is captured
        yield
        return
    constants: dict[int, Any] = {}

    def capture(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(tensor, "numpy") or tensor.dtype in (tf.resource, tf.variant):
            return original(tensor, *args, **kwargs)
        if id(tensor) not in constants:
            with graph.as_default(), tf.control_dependencies(None):
                constants[id(tensor)] = tf.constant(tensor.numpy())
        return constants[id(tensor)]

    graph.capture = capture
    try:
        yield
    finally:
        graph.capture = original


def call_flat(function: Any, tensors: Sequence[Any]) -> Any:
    """Calls a concrete function with the flat list of its inputs.

    The public call of a pruned function first tries to bind its arguments by name, fails, and formats an
    error message with the value of every tensor in it, at each call: milliseconds, or seconds for large
    tensors.
    """
    return function._call_flat(list(tensors), function.captured_inputs)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Keeps native libraries from writing to standard error while TensorFlow is imported.

    For programs, not for the library: TensorFlow logs to file descriptor 2 before its log level can be
    set. If the import fails, what was written is shown.
    """
    import tempfile

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            sink.seek(0)
            sys.stderr.write(sink.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


def __getattr__(name: str) -> Any:
    if name == "tff":
        return load_tff()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
