"""Reads the examples of a tf.data.Dataset into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tff_dp.data import _fields
from tff_dp.data._fields import Array, Fields
from tff_dp.errors import ArgumentError, DataError

# The names of x or y among the fields of an example; None where examples are pairs.
Names: TypeAlias = str | Sequence[str] | None

_READ = 256  # examples that are read in one batch


def read(client: str, dataset: Any, x: Names, y: Names) -> tuple[Fields, Fields]:
    """Reads one client's examples.

    Args:
      client: The client's id, for messages.
      dataset: A finite `tf.data.Dataset` of single examples, which are pairs or dictionaries.
      x: For dictionaries, the names of the inputs. A single name that is not in a list gives an
        array.
      y: For dictionaries, the names of the targets, in the same way.

    Returns:
      x and y: arrays [examples, ...], or dictionaries of them.

    Raises:
      ArgumentError: The names do not fit the examples.
      DataError: The dataset is batched or infinite, or its examples are not dense tensors of one
        shape.
    """
    import tensorflow as tf  # here: clients can be made, and accounted for, without it

    where = f"client {client!r}"
    if not isinstance(dataset, tf.data.Dataset):
        raise DataError(
            f"{where} has a {type(dataset).__name__}: expected a tf.data.Dataset of (x, y)."
        )
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"{where}: its dataset is infinite: expected a finite one. Drop its repeat()."
        )
    specs = _pair(where, dataset.element_spec, x, y)
    _check_specs(where, specs)
    try:
        batches = [_pair(where, b, x, y) for b in dataset.batch(_READ).as_numpy_iterator()]
    except tf.errors.InvalidArgumentError as error:
        raise DataError(
            f"{where}: its examples cannot be stacked: {error.message}. Pad them to one shape."
        ) from error
    if not batches:
        batches = [tuple(_empty(spec) for spec in specs)]
    read_x, read_y = (
        _fields.converted(f"{where}: {name}", _stacked([batch[i] for batch in batches]))
        for i, name in enumerate("xy")
    )
    return read_x, read_y


def _pair(where: str, element: Any, x: Names, y: Names) -> tuple[Any, ...]:
    """Returns x and y of an example, of a batch or of an element_spec."""
    if isinstance(element, tuple) and len(element) == 2:
        if x is not None or y is not None:
            raise ArgumentError(f"x={x!r}, y={y!r}: the examples are pairs already. Pass neither.")
        return element
    if not isinstance(element, Mapping):
        raise DataError(
            f"{where} has examples of type {type(element).__name__}: expected pairs (x, y). Map "
            "the dataset to pairs."
        )
    if x is None or y is None:
        raise ArgumentError(
            f"x={x!r}, y={y!r}: {where} has examples of the fields {_listed(element)}: expected "
            "pairs (x, y). Map the dataset to pairs; from_client_data takes the fields' names as "
            "x= and y=."
        )
    _fields.check_apart("x", _listing(x), {})
    _fields.check_apart("y", _listing(y), {})
    if _listing(x) != _listing(y):  # equal names are allowed: an autoencoder reproduces its input
        for name in _listing(y):
            _fields.check_apart("x", _listing(x), {"y": name})
    return _named("x", element, x), _named("y", element, y)


def _named(argument: str, element: Mapping[str, Any], names: str | Sequence[str]) -> Any:
    for name in _listing(names):
        if name not in element:
            raise ArgumentError(
                f"{argument}={name!r} is not a field of the examples: expected {_listed(element)}."
            )
    return element[names] if isinstance(names, str) else {name: element[name] for name in names}


def _listing(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else list(names)


def _listed(element: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in element)


def _check_specs(where: str, specs: tuple[Any, ...]) -> None:
    import tensorflow as tf  # here: clients can be made, and accounted for, without it

    leaves = [
        leaf for name, spec in zip("xy", specs, strict=True) for leaf in _spec_leaves(name, spec)
    ]
    for label, spec in leaves:
        if not isinstance(spec, tf.TensorSpec):
            raise DataError(
                f"{where}: {label} is a {type(spec).__name__}: expected a dense tensor, or a flat "
                "dictionary or tuple of them. Map the dataset to such examples."
            )
    if all(spec.shape.rank and spec.shape[0] is None for _, spec in leaves):
        raise DataError(
            f"{where}: its dataset looks batched, x and y begin with a dimension of unknown size: "
            "expected single examples. Call unbatch(), or set the shapes with tf.ensure_shape."
        )


def _spec_leaves(name: str, spec: Any) -> list[tuple[str, Any]]:
    if isinstance(spec, Mapping):
        return [(f"{name}[{key!r}]", leaf) for key, leaf in spec.items()]
    if isinstance(spec, tuple):
        return [(f"{name}[{place}]", leaf) for place, leaf in enumerate(spec)]
    return [(name, spec)]


def _stacked(batches: list[Any]) -> Any:
    if isinstance(batches[0], Mapping):
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    if isinstance(batches[0], tuple):
        return tuple(map(np.concatenate, zip(*batches, strict=True)))
    return np.concatenate(batches)


def _empty(spec: Any) -> Any:
    if isinstance(spec, Mapping):
        return {key: _empty(leaf) for key, leaf in spec.items()}
    if isinstance(spec, tuple):
        return tuple(map(_empty, spec))
    shape = [size or 0 for size in spec.shape] if spec.shape.rank is not None else []
    empty: Array = np.empty([0, *shape], spec.dtype.as_numpy_dtype)
    return empty
