"""Between the values of TFF's types and flat lists of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from tff_dp import _compat


def flatten(value: Any, type_spec: Any) -> Iterator[Any]:
    """Yields the tensors and sequences in a value, in the order of its type.

    Args:
      value: A value of the type, in any of the containers that TFF takes: its own `Struct`, mappings,
        sequences, named tuples and attrs classes.
      type_spec: A TFF type without client placement; a server's is looked through.
    """
    tff = _compat.load_tff()
    if isinstance(type_spec, tff.FederatedType):
        yield from flatten(value, type_spec.member)
    elif isinstance(type_spec, tff.StructType):
        for position, (name, part) in enumerate(_elements(type_spec)):
            yield from flatten(_element(value, position, name), part)
    else:
        yield value


def unflatten(tensors: Iterator[Any], type_spec: Any) -> Any:
    """Returns the value of a type whose tensors are given, in TFF's `Struct`s; numpy at the leaves."""
    tff = _compat.load_tff()
    if isinstance(type_spec, tff.FederatedType):
        return unflatten(tensors, type_spec.member)
    if isinstance(type_spec, tff.StructType):
        from tensorflow_federated.python.common_libs import structure

        return structure.Struct(
            [(name, unflatten(tensors, part)) for name, part in _elements(type_spec)]
        )
    value = next(tensors)
    return value.numpy() if hasattr(value, "numpy") else value


def in_containers(value: Any, type_spec: Any) -> Any:
    """Returns a value in the Python containers that its type was annotated with."""
    from tensorflow_federated.python.core.impl.types import type_conversions

    return type_conversions.type_to_py_container(value, type_spec)


def count_tensors(type_spec: Any) -> int:
    """Returns the number of tensors and sequences in a type."""
    tff = _compat.load_tff()
    if isinstance(type_spec, tff.FederatedType):
        return count_tensors(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return sum(count_tensors(part) for _, part in _elements(type_spec))
    return 1


def _elements(type_spec: Any) -> list[tuple[str | None, Any]]:
    from tensorflow_federated.python.common_libs import structure

    return list(structure.to_elements(type_spec))


def _element(value: Any, position: int, name: str | None) -> Any:
    if isinstance(value, Mapping):
        return value[name] if name is not None else list(value.values())[position]
    if attrs.has(type(value)):
        return getattr(value, attrs.fields(type(value))[position].name)
    return value[position]
