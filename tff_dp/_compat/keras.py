"""Private and version-dependent names of Keras 3 and of tf-keras (Keras 2).

Neither package is imported before it is needed: tf-keras must not be used before TFF has been
imported, and the Keras of an existing model is imported already.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

_OWN = ("keras.", "tf_keras.")  # prefixes of the names of both packages' modules


def is_legacy(model: Any) -> bool:
    """Checks whether a model belongs to tf-keras.

    Args:
      model: Any object. Nothing is imported for the check.

    Returns:
      True if a class in the MRO of `model` is defined in tf-keras, False otherwise.
    """
    return any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(model).__mro__)


def library_of(model: Any) -> ModuleType:
    """Finds the Keras package that a model belongs to.

    Args:
      model: A Keras model.

    Returns:
      The module `tf_keras` for a model of tf-keras, and `keras` for anything else. It is imported
      if it is not imported yet.
    """
    return importlib.import_module("tf_keras" if is_legacy(model) else "keras")


def is_defined_by_keras(value: Any) -> bool:
    """Checks whether Keras 3 or tf-keras defines a class or function, as opposed to user code.

    Args:
      value: A class or a function.

    Returns:
      True if its module is part of either package. False for objects without a `__module__`.
    """
    return (getattr(value, "__module__", None) or "").startswith(_OWN)


def is_own_loss_function(function: Any, keras: ModuleType) -> bool:
    """Checks whether a function is one of the built-in loss functions of a Keras package.

    Args:
      function: The function.
      keras: The module `keras` or `tf_keras`.

    Returns:
      True if the function is defined in the losses module of `keras`, False otherwise.
    """
    module = getattr(function, "__module__", None) or ""
    return module.startswith((f"{keras.__name__}.src.losses", f"{keras.__name__}.losses"))


def layers_of(model: Any, *, include_self: bool = False) -> list[Any]:
    """Lists the layers of a model recursively.

    Args:
      model: A Keras model.
      include_self: Whether the list starts with the model itself.

    Returns:
      The layers of the model and the layers nested in them.
    """
    return list(model._flatten_layers(include_self=include_self))


def layers_within(layer: Any) -> list[Any]:
    """Lists the layers nested in a model or in a wrapper layer such as `TimeDistributed`.

    Args:
      layer: A Keras layer or model, or an object of a similar kind.

    Returns:
      The nested layers, without `layer` itself. The list is empty if the object does not have the
      private method that finds them, or if that method fails: callers look at the public `layers`
      as well.
    """
    flatten = getattr(layer, "_flatten_layers", None)
    if not callable(flatten):
        return []
    with contextlib.suppress(Exception):
        return [part for part in flatten(include_self=False) if part is not layer]
    return []


def compile_config(model: Any) -> Any:
    """Finds the object in which a model stores the arguments of its `compile`.

    Args:
      model: A Keras model, or any other object.

    Returns:
      The object, whose `config` holds the arguments; None if there is none.
    """
    return getattr(model, "_compile_config", None)  # private in both packages


def compile_arguments(model: Any) -> Mapping[str, Any] | None:
    """Finds the arguments with which a model was compiled.

    Args:
      model: A Keras model, or any other object.

    Returns:
      The arguments of `compile` by name; None if `model` was not compiled or is not a model.
    """
    held = getattr(compile_config(model), "config", None)
    compiled = getattr(model, "compiled", False) or getattr(model, "_is_compiled", False)
    return held if compiled and isinstance(held, Mapping) else None


def count_as_uncompiled(model: Any) -> None:
    """Marks a tf-keras model as not compiled, which TFF's converters require.

    Args:
      model: A model of tf-keras. It is changed in place.
    """
    model._is_compiled = False


def mask_of(outputs: Any) -> Any:
    """Returns the mask that a layer such as `Masking` attached to a tensor.

    Args:
      outputs: A tensor that a layer has returned.

    Returns:
      The mask, a Boolean tensor; None if the tensor has none.
    """
    return getattr(outputs, "_keras_mask", None)


def set_mask(outputs: Any, mask: Any) -> None:
    """Attaches a mask to a tensor, by which losses and metrics of Keras ignore its masked entries.

    Args:
      outputs: The tensor. It is changed in place.
      mask: A Boolean tensor that is False where entries are to be ignored, or None.
    """
    outputs._keras_mask = mask


def wrapped_function(wrapper: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """Unwraps a `MeanMetricWrapper` of either Keras.

    Args:
      wrapper: A metric, or any other object.

    Returns:
      The wrapped function and its keyword arguments. None unless the class of `wrapper` is named
      exactly `MeanMetricWrapper`: a subclass may compute something else.
    """
    if type(wrapper).__name__ != "MeanMetricWrapper" or not hasattr(wrapper, "_fn_kwargs"):
        return None
    return wrapper._fn, wrapper._fn_kwargs


def loss_arguments(loss: Any) -> Mapping[str, Any]:
    """Returns the keyword arguments that a loss object passes to its loss function.

    Args:
      loss: A loss of either Keras.

    Returns:
      The arguments by name; an empty mapping for a loss that does not wrap a function.
    """
    found: Mapping[str, Any] = getattr(loss, "_fn_kwargs", {})
    return found


def profiles_batches(callback: Any) -> bool:
    """Says whether a `TensorBoard` callback profiles batches.

    Args:
      callback: The callback, whose class does not keep its argument `profile_batch`.

    Returns:
      True if `profile_batch` is not 0.
    """
    return bool(getattr(callback, "_stop_batch", 0))


def random_layer_class() -> Any:
    """Returns the base class of the layers of tf-keras that draw random numbers."""
    import tf_keras  # not before TFF has been imported

    return tf_keras.__internal__.layers.BaseRandomLayer


def tf_keras_is_legacy() -> bool:
    """Returns whether `tf.keras` is Keras 2 (tf-keras) in this process, as TFF's converter needs."""
    import tensorflow as tf  # this module must not import TensorFlow by itself

    return bool(tf.keras.Model.__module__.startswith("tf_keras"))


def restore_classes(model: Any) -> None:
    """Makes a tf-keras model usable again after TFF has built layers of the same classes in a graph.

    When a layer of tf-keras is created in a `tf.Graph`, as TFF does, tf-keras replaces the base
    classes of the layer's class by those for TensorFlow 1. Every eager layer of that class is
    broken until another one is created eagerly, which restores the base classes.

    Args:
      model: A model of tf-keras.
    """
    for layer in layers_of(model, include_self=True):
        object_type: Any = type(layer)
        object_type.__new__(object_type)


@contextlib.contextmanager
def usable_tf_keras_models() -> Iterator[None]:
    """Keeps the tf-keras models of this process usable while models are created in graphs.

    When a tf-keras model is created in a graph, as TFF does when it builds a process, tf-keras
    replaces the base classes of all models by those for TensorFlow 1: `get_weights` of any model
    fails from then on, until a model is created outside of a graph. This context manager creates
    one when it exits.

    Yields:
      Nothing.
    """
    try:
        yield
    finally:
        tf_keras = sys.modules.get("tf_keras")
        if tf_keras is not None:
            # A name is given, so that the number in the next model's default name stays the same.
            tf_keras.Sequential(name="unused")
