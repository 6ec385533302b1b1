"""Converts between values of TFF types and flat lists of tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import tensorflow as tf

from tff_dp import _compat

tff = _compat.tff.load()


class Layout:
    """Converts between values of one type and flat lists of their tensors.

    A layout is made once per type: TFF's own conversions inspect the type again for each value,
    which takes longer than a small round.

    Args:
      type_spec: A TFF type that is not placed at clients. If it is placed at the server, its member
        counts.

    Attributes:
      count: The number of tensors and sequences in a value.
    """

    def __init__(self, type_spec: Any) -> None:
        self._type = type_spec
        self.count = count_tensors(type_spec)
        self._tree = _tree(type_spec)
        self._build: Callable[[Sequence[Any]], Any] | None = None

    def flatten(self, value: Any) -> list[Any]:
        """Flattens a value, without checking it.

        Args:
          value: A value in any of the containers that TFF accepts: its own `Struct`, mappings,
            sequences, named tuples and attrs classes.

        Returns:
          Its tensors and sequences, in the order of the type.
        """
        found: list[Any] = []
        _collect(value, self._tree, found)
        return found

    def value(self, leaves: Sequence[Any]) -> Any:
        """Builds a value from its leaves.

        Args:
          leaves: The leaves, in the order of the type. Tensors become numpy arrays and scalars.

        Returns:
          The value, in the Python containers that the type was annotated with.
        """
        if self._build is None:
            places = iter(range(len(leaves)))
            template = in_containers(_structs(self._type, places), self._type)
            self._build = _builder(template)
        return self._build([as_numpy(leaf) for leaf in leaves])


class Scalars:
    """Keeps the tensors of the scalars that a computation returned last.

    A learning process receives its state again at the next call. Most parts of a private process's
    state are scalars, and making a tensor of one costs a small round as much as a training step.
    Arrays are not kept: unlike numpy scalars and bytes, their holder may write to them.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[Any, Any]] = {}

    def returned(self, tensors: Sequence[Any]) -> list[Any]:
        """Converts tensors to values, and remembers the scalars among them in place of older ones.

        Args:
          tensors: The tensors of a result.

        Returns:
          Their values: numpy arrays, numpy scalars, and bytes.
        """
        found = [as_numpy(tensor) for tensor in tensors]
        self._held = {
            id(value): (value, tensor)
            for value, tensor in zip(found, tensors, strict=True)
            if isinstance(value, (np.generic, bytes))
        }
        return found

    def known(self, value: Any) -> Any:
        """Looks up the tensor of a value.

        Args:
          value: Any value.

        Returns:
          The tensor that this very object was converted from, if it is remembered; otherwise the
          value.
        """
        held = self._held.get(id(value))
        return held[1] if held is not None and held[0] is value else value


def as_numpy(leaf: Any) -> Any:
    """Converts a tensor to its value.

    Args:
      leaf: A tensor, or anything else.

    Returns:
      The numpy array or scalar, or bytes; what is not a tensor is returned unchanged.
    """
    return leaf.numpy() if hasattr(leaf, "numpy") else leaf


class _Place(int):
    """The position of a tensor, as a leaf of a template."""


def _tree(type_spec: Any) -> list[tuple[str | None, Any]] | None:
    if isinstance(type_spec, tff.FederatedType):
        return _tree(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return [(name, _tree(part)) for name, part in _elements(type_spec)]
    return None


def _collect(value: Any, tree: Any, found: list[Any]) -> None:
    if tree is None:
        found.append(value)
        return
    for position, (name, part) in enumerate(tree):
        _collect(_element(value, position, name), part, found)


def _structs(type_spec: Any, places: Iterator[int]) -> Any:
    if isinstance(type_spec, tff.FederatedType):
        return _structs(type_spec.member, places)
    if isinstance(type_spec, tff.StructType):
        return tff.structure.Struct(
            [(name, _structs(part, places)) for name, part in _elements(type_spec)]
        )
    return _Place(next(places))


def _builder(template: Any) -> Callable[[Sequence[Any]], Any]:
    """Returns the function that builds a value like a template from its tensors."""
    if isinstance(template, _Place):
        return operator.itemgetter(int(template))
    kind = type(template)
    if isinstance(template, Mapping):
        keys, parts = list(template), [_builder(part) for part in template.values()]
        return lambda tensors: kind(
            (key, part(tensors)) for key, part in zip(keys, parts, strict=True)
        )
    if attrs.has(kind):
        parts = [_builder(getattr(template, field.name)) for field in attrs.fields(kind)]
        return lambda tensors: kind(*(part(tensors) for part in parts))
    parts = [_builder(part) for part in template]
    if hasattr(kind, "_fields"):  # a named tuple
        return lambda tensors: kind(*(part(tensors) for part in parts))
    return lambda tensors: kind([part(tensors) for part in parts])


def flatten(value: Any, type_spec: Any) -> list[Any]:
    """Flattens a value, without checking it; see `Layout.flatten`.

    Args:
      value: A value in any of the containers that TFF accepts.
      type_spec: Its TFF type, not placed at clients.

    Returns:
      Its tensors and sequences, in the order of the type.
    """
    return Layout(type_spec).flatten(value)


def fields_of(value: Any) -> list[Any]:
    """Lists the elements of a structure.

    Args:
      value: A structure in one of the containers that results have: a mapping, an instance of an
        attrs class, or a sequence.

    Returns:
      The elements, in order.
    """
    if isinstance(value, Mapping):
        return list(value.values())
    if attrs.has(type(value)):
        return [getattr(value, field.name) for field in attrs.fields(type(value))]
    return list(value)


def in_containers(value: Any, type_spec: Any) -> Any:
    """Puts a value into the Python containers that its type was annotated with.

    Args:
      value: A value whose structures are TFF's `Struct`.
      type_spec: Its TFF type.

    Returns:
      The value in these containers.
    """
    return tff.types.type_to_py_container(value, type_spec)


def count_tensors(type_spec: Any) -> int:
    """Counts the leaves of a type.

    Args:
      type_spec: A TFF type; placements are ignored.

    Returns:
      The number of tensors and sequences in it.
    """
    if isinstance(type_spec, tff.FederatedType):
        return count_tensors(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return sum(count_tensors(part) for _, part in _elements(type_spec))
    return 1


def leaves(type_spec: Any) -> list[Any]:
    """Lists the leaves of a type.

    Args:
      type_spec: A TFF type; placements are ignored.

    Returns:
      The types of its tensors and sequences, in order.
    """
    if isinstance(type_spec, tff.FederatedType):
        return leaves(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return [leaf for _, part in _elements(type_spec) for leaf in leaves(part)]
    return [type_spec]


def is_one_sequence(type_spec: Any) -> bool:
    """Tells whether the only leaf of a type is a sequence.

    Args:
      type_spec: A TFF type; the sequence may be nested in structures.

    Returns:
      Whether it is.
    """
    found = leaves(type_spec)
    return len(found) == 1 and isinstance(found[0], tff.SequenceType)


def tensor_specs(leaf: Any) -> Any:
    """Converts the type of a leaf to TensorFlow's specifications.

    Args:
      leaf: The type of a tensor or of a sequence.

    Returns:
      The `tf.TensorSpec` of the tensor; for a sequence, a list of those of its elements' leaves.
    """
    if isinstance(leaf, tff.SequenceType):
        return [tensor_specs(part) for part in leaves(leaf.element)]
    return tf.TensorSpec(leaf.shape, leaf.dtype)


def spread(tensors: Sequence[Any], type_spec: Any, over: Any) -> list[Any]:
    """Assigns a value to each tensor of a type.

    Args:
      tensors: The values, in the order of `type_spec`.
      type_spec: The type of the values. A single tensor in place of a structure of `over` holds for
        all tensors of that structure.
      over: The type whose tensors need values.

    Returns:
      A value for each tensor of `over`, in order.
    """
    if not isinstance(type_spec, tff.StructType):
        return [tensors[0]] * count_tensors(over)
    found, rest = [], list(tensors)
    for (_, part), (_, whole) in zip(_elements(type_spec), _elements(over), strict=True):
        count = count_tensors(part)
        found += spread(rest[:count], part, whole)
        rest = rest[count:]
    return found


def _elements(type_spec: Any) -> list[tuple[str | None, Any]]:
    return list(tff.structure.to_elements(type_spec))


def _element(value: Any, position: int, name: str | None) -> Any:
    if isinstance(value, Mapping):
        return value[name] if name is not None else list(value.values())[position]
    if attrs.has(type(value)):
        return getattr(value, attrs.fields(type(value))[position].name)
    return value[position]
