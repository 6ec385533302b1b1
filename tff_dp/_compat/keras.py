"""Private and version-dependent names of Keras 3 and of tf-keras (Keras 2).

Nothing is imported here before it is needed: tf-keras must not be used before TFF has been imported, and
whoever has a model has imported its Keras.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

_OWN = ("keras.", "tf_keras.")  # what the names of both packages' modules begin with


def is_legacy(model: Any) -> bool:
    """Returns whether a model is one of tf-keras."""
    return any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(model).__mro__)


def library_of(model: Any) -> ModuleType:
    """Returns the package that a model is of: `keras` or `tf_keras`."""
    return importlib.import_module("tf_keras" if is_legacy(model) else "keras")


def is_defined_by_keras(value: Any) -> bool:
    """Returns whether a class or a function is one that either Keras defines, and not its user."""
    return (getattr(value, "__module__", None) or "").startswith(_OWN)


def is_own_loss_function(function: Any, keras: ModuleType) -> bool:
    """Returns whether a function is one of the loss functions that a Keras defines.

    Args:
      function: The function.
      keras: `keras` or `tf_keras`.
    """
    module = getattr(function, "__module__", None) or ""
    return module.startswith((f"{keras.__name__}.src.losses", f"{keras.__name__}.losses"))


def layers_of(model: Any, *, include_self: bool = False) -> list[Any]:
    """Returns the layers of a model and of its layers; with `include_self`, the model first."""
    return list(model._flatten_layers(include_self=include_self))


def layers_within(layer: Any) -> list[Any]:
    """Returns the layers within a model or a wrapper such as `TimeDistributed`.

    Empty for what has no such method or whose method fails: the caller looks at the public `layers` too.
    """
    flatten = getattr(layer, "_flatten_layers", None)
    if not callable(flatten):
        return []
    with contextlib.suppress(Exception):
        return [part for part in flatten(include_self=False) if part is not layer]
    return []


def compile_config(model: Any) -> Any:
    """Returns the object that holds what a model was compiled with; None where there is none."""
    return getattr(model, "_compile_config", None)  # both have it; neither says so in public


def compile_arguments(model: Any) -> Mapping[str, Any] | None:
    """Returns the arguments of a model's `compile`; None where it was not compiled, or is no model."""
    held = getattr(compile_config(model), "config", None)
    compiled = getattr(model, "compiled", False) or getattr(model, "_is_compiled", False)
    return held if compiled and isinstance(held, Mapping) else None


def count_as_uncompiled(model: Any) -> None:
    """Makes a tf-keras model count as one that was not compiled, as TFF's converters want it."""
    model._is_compiled = False


def mask_of(outputs: Any) -> Any:
    """Returns the mask that layers such as `Masking` have attached to a tensor, or None."""
    return getattr(outputs, "_keras_mask", None)


def set_mask(outputs: Any, mask: Any) -> None:
    """Attaches a mask to a tensor, which losses and metrics of Keras then leave out by it."""
    outputs._keras_mask = mask


def wrapped_function(wrapper: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """Returns the function of a `MeanMetricWrapper`, and its arguments; None for anything else."""
    if type(wrapper).__name__ != "MeanMetricWrapper" or not hasattr(wrapper, "_fn_kwargs"):
        return None
    return wrapper._fn, wrapper._fn_kwargs


def loss_arguments(loss: Any) -> Mapping[str, Any]:
    """Returns the arguments that a loss object gives to its function; none for a loss without one."""
    found: Mapping[str, Any] = getattr(loss, "_fn_kwargs", {})
    return found


def random_layer_class() -> Any:
    """Returns the base class of tf-keras's layers that draw random numbers."""
    import tf_keras  # not before TFF has been imported

    return tf_keras.__internal__.layers.BaseRandomLayer


def tf_keras_is_legacy() -> bool:
    """Returns whether `tf.keras` is Keras 2 (tf-keras) in this process, as TFF's converter needs."""
    import tensorflow as tf  # which this module is not to bring

    return bool(tf.keras.Model.__module__.startswith("tf_keras"))


def restore_classes(model: Any) -> None:
    """Makes a tf-keras model usable again after TFF has made one of the same classes in a graph.

    When tf-keras makes a layer in a `tf.Graph`, as TFF does, it swaps the bases of the layer's class for
    those of TensorFlow 1, and every eager layer of that class is broken until another one is made
    eagerly, which swaps them back.
    """
    for layer in layers_of(model, include_self=True):
        object_type: Any = type(layer)
        object_type.__new__(object_type)


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
            # With a name, so that the next model's own is numbered as it would have been.
            tf_keras.Sequential(name="unused")
