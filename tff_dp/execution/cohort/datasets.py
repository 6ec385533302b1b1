"""Blocks of cohorts whose data are `tf.data.Dataset`s, which one graph reads into tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.cohort import grouping, tables
from tff_dp.execution.cohort.listing import Listing, as_regular

_AT_ONCE = 256  # data sets that one call reads
_readers: dict[Any, Callable[..., Any]] = {}


def obstacle(element_spec: Any) -> str | None:
    """Returns why the examples of a data set cannot be rows of tensors.

    Args:
      element_spec: The specification of its elements.

    Returns:
      The reason, as part of a sentence; None if each element is a batch of examples of static
      shapes.
    """
    for spec in tf.nest.flatten(element_spec):
        if not isinstance(spec, tf.TensorSpec):
            return f"its data sets have elements of type {type(spec).__name__}"
        if spec.shape.rank is None or spec.shape.rank == 0:
            return "its data sets are not batched"
        if not spec.shape[1:].is_fully_defined():
            return f"its data sets have examples of shape {spec.shape[1:]}"
    return None


class NotRowsError(Exception):
    """The tensors of a batch have different leading sizes, so that they are not columns of rows."""


def blocks_of_datasets(
    data: Sequence[Any], *, is_regular: grouping.IsRegular, by_size: bool
) -> Iterator[tables.Block]:
    """Yields the blocks of clients whose data are data sets of batches.

    Args:
      data: The data sets, all of one element specification.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether the clients of a block must have the same number of examples, and not only
        last batches of the same size.

    Yields:
      The blocks.

    Raises:
      NotRowsError: The tensors of some batch differ in leading size.
    """
    for low in range(0, len(data), _AT_ONCE):
        some = data[low : low + _AT_ONCE]
        listing = read(some, some[0].element_spec)
        found = as_regular(listing)
        if found is None:
            positions = np.arange(low, low + len(some))
            yield tables.Block(listing.fields, grouping.listed_table(listing, positions))
            continue
        length = tables.padded_length(len(listing.fields[0]))
        fields = [
            tf.pad(field, [[0, length - len(field)], *[[0, 0]] * (field.shape.rank - 1)])
            for field in listing.fields
        ]
        yield from grouping.grouped(fields, found, is_regular, by_size=by_size, offset=low)


def read(datasets: Sequence[Any], element_spec: Any) -> Listing:
    """Reads all elements of data sets, in order.

    Args:
      datasets: The data sets, at least one, whose elements are batches.
      element_spec: The specification of their elements, for which `obstacle` returns None.

    Returns:
      The examples and the list of all batches, with one client for each data set.

    Raises:
      NotRowsError: The tensors of some batch differ in leading size.
    """
    specs = tf.nest.flatten(element_spec)
    key = tuple((spec.dtype, tuple(spec.shape[1:].as_list())) for spec in specs)
    if key not in _readers:
        _readers[key] = _make_reader(key)
    variants = [tf.data.experimental.to_variant(dataset) for dataset in datasets]
    fields, sizes, first = _readers[key](tf.stack(variants))
    sizes = sizes.numpy()
    if (sizes != sizes[:, :1]).any():
        raise NotRowsError
    counts = sizes[:, 0]
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    return Listing(list(fields), first.numpy(), starts, counts)


def _make_reader(key: tuple[tuple[tf.DType, tuple[int, ...]], ...]) -> Callable[..., Any]:
    types = {
        "output_types": [dtype for dtype, _ in key],
        "output_shapes": [tf.TensorShape([None, *shape]) for _, shape in key],
    }

    def reader(variants: tf.Tensor) -> Any:
        clients = tf.shape(variants)[0]

        def array(dtype: tf.DType, shape: Any) -> tf.TensorArray:
            return tf.TensorArray(
                dtype, 0, dynamic_size=True, element_shape=shape, infer_shape=False
            )

        def client(i: tf.Tensor, number: tf.Tensor, *arrays: Any) -> list[Any]:
            *parts, sizes, first = arrays
            iterator = tf.raw_ops.AnonymousIteratorV3(**types)
            started = tf.raw_ops.MakeIterator(dataset=variants[i], iterator=iterator)

            def batch(_: tf.Tensor, number: tf.Tensor, *arrays: Any) -> list[Any]:
                *parts, sizes = arrays
                read = tf.raw_ops.IteratorGetNextAsOptional(iterator=iterator, **types)
                more = tf.raw_ops.OptionalHasValue(optional=read)

                def append() -> list[Any]:
                    values = tf.raw_ops.OptionalGetValue(optional=read, **types)
                    written = [p.write(number, v) for p, v in zip(parts, values, strict=True)]
                    leading = tf.stack([tf.shape(value, tf.int64)[0] for value in values])
                    return [number + 1, *written, sizes.write(number, leading)]

                return [more, *tf.cond(more, append, lambda: [number, *parts, sizes])]

            with tf.control_dependencies([started]):
                _, number, *arrays = tf.while_loop(
                    lambda more, *_: more,
                    batch,
                    [tf.constant(True), number, *parts, sizes],
                    parallel_iterations=1,
                )
            return [i + 1, number, *arrays, first.write(i + 1, tf.cast(number, tf.int64))]

        _, _, *arrays = tf.while_loop(
            lambda i, *_: i < clients,
            client,
            [
                tf.constant(0),
                tf.constant(0),
                *(array(dtype, [None, *shape]) for dtype, shape in key),
                array(tf.int64, [len(key)]),
                array(tf.int64, []).write(0, tf.constant(0, tf.int64)),
            ],
            parallel_iterations=1,
        )
        *parts, sizes, first = arrays
        return [part.concat() for part in parts], sizes.stack(), first.stack()

    made: Callable[..., Any] = tf.function(
        reader, input_signature=[tf.TensorSpec([None], tf.variant)], autograph=False
    )
    return made
