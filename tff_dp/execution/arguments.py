"""Reads the arguments of a call, and refuses those that stock TFF would refuse for their types.

Stock TFF checks each value while it serializes it for its worker. Here nothing is serialized, and
TensorFlow by itself would broadcast, round, or wrap around values that do not fit. Values that have
exactly the right type, the ordinary case, are recognized quickly; the others are checked by TFF's
own functions.

Source: TFF 0.87.0, python/core/impl/executors/value_serialization.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import tensorflow as tf
import tree

from tff_dp import _compat
from tff_dp._arrays import CohortArrays, arrays_of
from tff_dp._compat.tff import internals
from tff_dp.errors import ArgumentTypeError
from tff_dp.execution.round import failures

tff = _compat.tff.load()

_REMEDY = "Pass a value of that type: TFF converts none."
_SHOWN = 60  # the most characters of a value in a message
_LONGEST = 300  # the most characters of a type in a message


class Argument:
    """An argument of a computation.

    Args:
      name: The name of the argument in messages.
      type_spec: Its TFF type. If it is placed, the type of its member counts.
    """

    def __init__(self, name: str, type_spec: Any) -> None:
        self._reader = _reader(name, type_spec)

    def flat(self, value: Any) -> list[Any]:
        """Flattens a value into its tensors and data sets.

        Args:
          value: A value in any of the containers that TFF accepts: its own `Struct`, mappings,
            sequences, named tuples and attrs classes. Lists in place of data sets become data sets.

        Returns:
          The tensors and data sets, in the order of the type.

        Raises:
          ArgumentTypeError: The value is not of the type.
        """
        found: list[Any] = []
        self._reader.read(value, found)
        return found

    def parts(self, value: Any) -> Sequence[Any]:
        """Returns the elements of a structure, neither converted nor checked.

        Args:
          value: A value in any of the containers that TFF accepts. The argument's type is a
            structure.

        Returns:
          The elements, in the order of the type.

        Raises:
          ArgumentTypeError: The value is no structure, or has other elements than the type.
        """
        elements: Sequence[Any] = self._reader.elements(value)
        return elements

    def clients(self, data: Any) -> Any:
        """Checks the data of a cohort's clients, and converts structures to tuples.

        Args:
          data: A list with a value of the type for each client; or an object with a method
            `arrays`, such as `Clients.cohort` returns.

        Returns:
          A list with an entry for each client, whose structures are tuples in the order of the
          type; an object with a method `arrays` is returned unchanged.

        Raises:
          ArgumentTypeError: A client's value is not of the type, or the data are not a list.
        """
        cohort = arrays_of(data)
        if cohort is not None:
            if not isinstance(self._reader, _Sequence):
                raise self._reader.refused("the arrays of a cohort")
            self._reader.check_arrays(cohort, data)
            return data
        if not isinstance(data, list):
            raise ArgumentTypeError(
                f"{self._reader.name} is {_described(data)}: expected a list with an entry for each "
                "client. Make a list of it."
            )
        found = []
        for position, client in enumerate(data):
            try:
                found.append(self._reader.nested(client))
            except ArgumentTypeError as error:
                whose = failures.client_name(position, len(data))
                raise ArgumentTypeError(f"The data of {whose} do not fit: {error}") from None
        return found


class _Reader:
    """Reads values of one type.

    Attributes:
      name: The name of the value in messages.
      type: The TFF type.
    """

    def __init__(self, name: str, type_spec: Any) -> None:
        self.name, self.type = name, type_spec

    def read(self, value: Any, found: list[Any]) -> None:
        """Appends a value's tensors and data sets to a list."""
        found.append(self.nested(value))

    def nested(self, value: Any) -> Any:
        """Returns a checked value, with tuples in place of structures."""
        raise NotImplementedError

    def refused(self, got: str) -> ArgumentTypeError:
        """Returns the error for a value that is not of the type."""
        expected = str(self.type)[:_LONGEST]
        return ArgumentTypeError(f"{self.name} is {got}: expected {expected}. {_REMEDY}")


class _Tensor(_Reader):
    """Reads tensors."""

    def __init__(self, name: str, type_spec: Any) -> None:
        super().__init__(name, type_spec)
        kind = type_spec.dtype.type
        self._kind = bytes if kind is np.str_ else kind
        self._dtype = np.dtype(object if kind is np.str_ else kind)
        self._tf_dtype = tf.as_dtype(type_spec.dtype)
        self._shape = type_spec.shape
        self._is_scalar = type_spec.shape == ()
        # Python numbers of this class and range certainly fit; `_closely` checks the others.
        self._python: type | None = None
        self._low = self._high = 0.0
        if self._is_scalar and issubclass(kind, np.integer):
            self._python = int
            self._low, self._high = np.iinfo(kind).min, np.iinfo(kind).max
        elif self._is_scalar and issubclass(kind, np.floating):
            self._python = float
            self._high = float(np.finfo(kind).max) if kind is not np.longdouble else math.inf
            self._low = -self._high

    def nested(self, value: Any) -> Any:
        kind = type(value)
        if kind is np.ndarray:
            if value.dtype == self._dtype and self._fits(value.shape):
                return value
        elif kind is self._kind:
            if self._is_scalar:
                return value
        elif kind is self._python:
            if self._low <= value <= self._high:
                return self._kind(value)
        elif (
            isinstance(value, tf.Tensor)
            and value.dtype == self._tf_dtype
            and self._fits(tuple(value.shape))
        ):
            return value
        return self._closely(value)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        expected = self._shape
        return (
            shape == expected
            or expected is None
            or (
                len(shape) == len(expected)
                and all(b is None or a == b for a, b in zip(shape, expected, strict=True))
            )
        )

    def _closely(self, value: Any) -> Any:
        """Returns a value as TFF would serialize it, or raises if TFF would refuse it."""
        given = value
        if isinstance(value, tf.Variable):
            value = value.read_value()
        if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
            value = value.numpy()
        kind = self.type.dtype.type
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            try:
                value = tree.map_structure(_as_numpy, value)
            except TypeError as error:  # such as a range, which cannot be built from elements
                raise self.refused(f"{_described(given)} ({error})") from None
            if not all(internals.is_compatible_dtype(part, kind) for part in tree.flatten(value)):
                raise self.refused(_described(given))
            try:
                value = np.asarray(value, object if kind is np.str_ else kind)
            except (ValueError, OverflowError) as error:  # ragged lists
                raise self.refused(f"{_described(given)} ({error})") from None
        known = isinstance(
            value, bool | int | float | complex | str | bytes | np.generic | np.ndarray
        )
        if (
            not known
            or not internals.is_compatible_shape(value, self._shape)
            or not internals.is_compatible_dtype(value, kind)
        ):
            raise self.refused(_described(given))
        return value if kind is np.str_ else np.asarray(value, kind)


class _Sequence(_Reader):
    """Reads data sets."""

    def __init__(self, name: str, type_spec: Any) -> None:
        super().__init__(name, type_spec)
        self._last_spec: Any = None  # the specification of the last data set that was accepted
        self._taken: set[Any] = set()  # the data types and shapes of arrays that were accepted

    def nested(self, value: Any) -> Any:
        if isinstance(value, tf.data.Dataset):
            self._check(value)
            return value
        if isinstance(value, list):
            return self._made_of(value)
        raise self.refused(_described(value))

    def check_arrays(self, cohort: CohortArrays, data: Sequence[Any]) -> None:
        """Raises if the data sets that arrays represent are not of the type."""
        kind = (cohort.names, *((field.dtype, field.shape[1:]) for field in cohort.fields))
        if kind not in self._taken and len(data):
            self._check(data[0])
            self._taken.add(kind)

    def _check(self, dataset: Any) -> None:
        spec = dataset.element_spec
        if self._last_spec is not None and spec == self._last_spec:
            return
        try:
            given = tff.SequenceType(tff.types.tensorflow_to_type(spec))
        except (TypeError, ValueError) as error:  # elements that are not tensors
            raise self.refused(f"a data set of {str(spec)[:_SHOWN]} ({error})") from None
        if not self.type.is_assignable_from(given):
            raise self.refused(f"a data set of type {given}")
        self._last_spec = spec

    def _made_of(self, elements: list[Any]) -> Any:
        """Returns the data set that TFF makes from a list of elements."""
        try:
            return internals.make_data_set_from_elements(None, elements, self.type.element)
        except (TypeError, ValueError, tf.errors.OpError) as error:  # OpError: unequal shapes
            what = f"a list of {len(elements)} elements that make no such data set ({error})"
            raise self.refused(what) from None


class _Structure(_Reader):
    """Reads structures by position, as TFF does."""

    def __init__(self, name: str, type_spec: Any) -> None:
        super().__init__(name, type_spec)
        elements = tff.structure.to_elements(type_spec)
        self._names = tuple(own for own, _ in elements)
        self._parts = [
            _reader(f"{name}[{i}]" if own is None else f"{name}.{own}", part)
            for i, (own, part) in enumerate(elements)
        ]
        self._of_kind: dict[type, Callable[[Any], Sequence[Any]]] = {}

    def read(self, value: Any, found: list[Any]) -> None:
        for part, element in zip(self._parts, self.elements(value), strict=True):
            part.read(element, found)

    def nested(self, value: Any) -> Any:
        return tuple(
            part.nested(element)
            for part, element in zip(self._parts, self.elements(value), strict=True)
        )

    def elements(self, value: Any) -> Sequence[Any]:
        """Returns the elements of a value."""
        kind = type(value)
        elements = self._of_kind.get(kind)
        if elements is None:
            elements = self._of_kind[kind] = self._elements_of(kind, value)
        found = elements(value)
        if len(found) != len(self._parts):
            raise self.refused(f"a structure of {len(found)}")
        return found

    def _elements_of(self, kind: type, value: Any) -> Callable[[Any], Sequence[Any]]:
        """Returns the function that extracts the elements of containers of a class."""
        if issubclass(kind, tff.structure.Struct):
            return lambda value: self._ordered(tff.structure.to_elements(value))
        if attrs.has(kind):
            fields = [field.name for field in attrs.fields(kind)]
            if len(fields) < 2:  # `attrgetter` returns a tuple for two or more
                return lambda value: [getattr(value, field) for field in fields]
            return operator.attrgetter(*fields)
        if issubclass(kind, Mapping):
            return self._of_mapping
        if issubclass(kind, list | tuple):
            return _as_it_is
        raise self.refused(_described(value))

    def _of_mapping(self, value: Mapping[Any, Any]) -> Sequence[Any]:
        if tuple(value) != self._names:
            return self._ordered(list(value.items()))
        return list(value.values())

    def _ordered(self, elements: Sequence[tuple[Any, Any]]) -> Sequence[Any]:
        """Returns the values of named elements, which are taken by position, as TFF does.

        A value is refused if an element stands at the place of another one by name: what is meant
        would be ambiguous.
        """
        names = [name for name, _ in elements]
        moved = [
            name
            for name, own in zip(names, self._names, strict=False)
            if name is not None and name != own and name in self._names
        ]
        if moved and len(names) == len(self._names):
            raise ArgumentTypeError(
                f"{self.name} has its elements in the order {', '.join(map(str, names))}: expected "
                f"{str(self.type)[:_LONGEST]}. Pass them in that order: TFF takes elements by position."
            )
        return [value for _, value in elements]


def _reader(name: str, type_spec: Any) -> Any:
    if isinstance(type_spec, tff.FederatedType):
        return _reader(name, type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return _Structure(name, type_spec)
    if isinstance(type_spec, tff.SequenceType):
        return _Sequence(name, type_spec)
    return _Tensor(name, type_spec)


def _as_it_is(value: Any) -> Any:
    return value


def _as_numpy(value: Any) -> Any:
    return value.numpy() if isinstance(value, tf.Tensor) and hasattr(value, "numpy") else value


def _described(value: Any) -> str:
    """Returns a short description of a value for a message."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is not None and shape is not None:
        return f"{getattr(dtype, 'name', dtype)}{list(shape)}"
    return f"{type(value).__name__} {str(value)[:_SHOWN]}"
