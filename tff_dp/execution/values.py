"""Between the values of TFF's types and flat lists of tensors."""

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
    """Between values of one type and flat lists of their tensors.

    Made once a type: TFF's own conversions look at the type anew for each value, which takes longer
    than a small round.

    Args:
      type_spec: A TFF type without client placement; a server's is looked through.

    Attributes:
      count: How many tensors and sequences a value has.
    """

    def __init__(self, type_spec: Any) -> None:
        self._type = type_spec
        self.count = count_tensors(type_spec)
        self._tree = _tree(type_spec)
        self._build: Callable[[Sequence[Any]], Any] | None = None

    def flatten(self, value: Any) -> list[Any]:
        """Returns the tensors and sequences in a value, in the order of its type.

        Args:
          value: In any of the containers that TFF takes: its own `Struct`, mappings, sequences,
            named tuples and attrs classes.
        """
        found: list[Any] = []
        _collect(value, self._tree, found)
        return found

    def value(self, leaves: Sequence[Any]) -> Any:
        """Returns the value of the type, in the containers of its annotation.

        Args:
          leaves: Its leaves; those that are tensors become numpy arrays and scalars.
        """
        if self._build is None:
            places = iter(range(len(leaves)))
            template = in_containers(_structs(self._type, places), self._type)
            self._build = _builder(template)
        return self._build([as_numpy(leaf) for leaf in leaves])


class Scalars:
    """The tensors of the scalars that a computation returned last.

    A learning process gets its state back at the next call. Most of a private one's are scalars,
    and making a tensor of one costs a small round as much as a step of training. Arrays are not
    kept: unlike numpy's scalars and bytes, whoever has them may write to them.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[Any, Any]] = {}

    def returned(self, tensors: Sequence[Any]) -> list[Any]:
        """Returns tensors' values, and remembers those that are scalars in place of the last ones."""
        found = [as_numpy(tensor) for tensor in tensors]
        self._held = {
            id(value): (value, tensor)
            for value, tensor in zip(found, tensors, strict=True)
            if isinstance(value, (np.generic, bytes))
        }
        return found

    def known(self, value: Any) -> Any:
        """Returns the tensor of a value that is remembered, or the value."""
        held = self._held.get(id(value))
        return held[1] if held is not None and held[0] is value else value


def as_numpy(leaf: Any) -> Any:
    """Returns a tensor's value, or what is no tensor as it is."""
    return leaf.numpy() if hasattr(leaf, "numpy") else leaf


class _Place(int):
    """The position of a tensor, at the leaf of a template."""


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
    """Returns the function that makes a value like a template from its tensors."""
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
    """Returns the tensors and sequences in a value, in the order of its type; see `Layout`."""
    return Layout(type_spec).flatten(value)


def fields_of(value: Any) -> list[Any]:
    """Returns the elements of a structure in one of the containers that results come in."""
    if isinstance(value, Mapping):
        return list(value.values())
    if attrs.has(type(value)):
        return [getattr(value, field.name) for field in attrs.fields(type(value))]
    return list(value)


def in_containers(value: Any, type_spec: Any) -> Any:
    """Returns a value in the Python containers that its type was annotated with."""
    return tff.types.type_to_py_container(value, type_spec)


def count_tensors(type_spec: Any) -> int:
    """Returns the number of tensors and sequences in a type."""
    if isinstance(type_spec, tff.FederatedType):
        return count_tensors(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return sum(count_tensors(part) for _, part in _elements(type_spec))
    return 1


def leaves(type_spec: Any) -> list[Any]:
    """Returns the types of the tensors and sequences in a type, in order."""
    if isinstance(type_spec, tff.FederatedType):
        return leaves(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return [leaf for _, part in _elements(type_spec) for leaf in leaves(part)]
    return [type_spec]


def is_one_sequence(type_spec: Any) -> bool:
    """Returns whether a type is that of one sequence, in whatever structures."""
    found = leaves(type_spec)
    return len(found) == 1 and isinstance(found[0], tff.SequenceType)


def tensor_specs(leaf: Any) -> Any:
    """Returns the `tf.TensorSpec`s of a tensor's type, or of a sequence's elements, in a structure."""
    if isinstance(leaf, tff.SequenceType):
        return [tensor_specs(part) for part in leaves(leaf.element)]
    return tf.TensorSpec(leaf.shape, leaf.dtype)


def spread(tensors: Sequence[Any], type_spec: Any, over: Any) -> list[Any]:
    """Returns a value for each tensor of a type; a single one in place of a structure is for all of it.

    Args:
      tensors: The values, in the order of their type.
      type_spec: Their type.
      over: The type whose tensors they are for.
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
