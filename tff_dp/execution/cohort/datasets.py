"""Blocks of cohorts whose data are `tf.data.Dataset`s, which are taken apart, or read by one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.cohort import grouping, slices, tables
from tff_dp.execution.cohort.listing import Listing, as_regular

_AT_ONCE = 256  # data sets that one call reads
_UNEQUAL = "The tensors of a batch differ in leading size."
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
        listing = slices.listed(some)
        if listing is None:
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
    try:
        *fields, client, place = _readers[key](tf.stack(variants))
    except tf.errors.InvalidArgumentError as error:
        if _UNEQUAL in str(error):
            raise NotRowsError from None
        raise
    return _listed(fields, client.numpy(), place.numpy(), len(datasets))


def _listed(
    fields: list[tf.Tensor], client: np.ndarray, place: np.ndarray, clients: int
) -> Listing:
    """Finds the batches in the rows that a reader has returned; see `_make_reader`."""
    fields, client, place = [field[:-1] for field in fields], client[:-1], place[:-1]
    is_row = place >= 0
    begins = np.flatnonzero(place <= 0)  # the first row of each batch, or the row of an empty one
    ends = np.concatenate([begins[1:], [len(place)]])
    counts = np.where(is_row[begins], ends - begins, 0) if len(begins) else begins
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    batches = np.bincount(client[begins], minlength=clients)
    if not is_row.all():
        fields = [tf.boolean_mask(field, is_row) for field in fields]
    return Listing(fields, np.concatenate([[0], np.cumsum(batches)]), starts, counts)


def _make_reader(key: Sequence[tuple[tf.DType, tuple[int, ...]]]) -> Callable[..., Any]:
    """Makes a graph that reads all rows of data sets in one pass.

    An iterator for each data set, with a step of a loop for each batch, takes several times as long
    as training on them. Here the data sets are one, whose iteration does not leave the runtime of
    `tf.data` except for a function of each batch. It labels the rows: with the number of their data
    set, and with their place in their batch. A batch without rows gets one row, of zeros, whose
    place is -1; so does the end, since there may be no batch at all.
    """

    def labeled(client: tf.Tensor, *batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        sizes = [tf.shape(field, tf.int64)[0] for field in batch]
        same = [tf.debugging.Assert(size == sizes[0], [_UNEQUAL]) for size in sizes[1:]]
        with tf.control_dependencies(same):
            missing = tf.cast(tf.equal(sizes[0], 0), tf.int64)
        fields = [
            tf.concat([field, tf.zeros([missing, *shape], dtype)], 0)
            for field, (dtype, shape) in zip(batch, key, strict=True)
        ]
        rows = sizes[0] + missing
        return (*fields, tf.fill([rows], client), tf.range(rows) - missing)

    def reader(variants: tf.Tensor) -> Any:
        specs = tuple(tf.TensorSpec([None, *shape], dtype) for dtype, shape in key)

        def numbered(client: tf.Tensor) -> tf.data.Dataset:
            batches = tf.data.experimental.from_variant(variants[client], specs)
            return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(client).repeat(), batches))

        clients = tf.shape(variants, tf.int64)[0]
        batches = tf.data.Dataset.range(clients).flat_map(numbered)
        end = tuple(tf.zeros([0, *shape], dtype) for dtype, shape in key)
        batches = batches.concatenate(
            tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), end))
        )
        rows = batches.map(lambda client, batch: labeled(client, *batch)).unbatch()
        return tf.raw_ops.DatasetToSingleElement(
            dataset=tf.data.experimental.to_variant(rows.batch(tf.int32.max)),
            output_types=[spec.dtype for spec in rows.element_spec],
            output_shapes=[tf.TensorShape([None, *spec.shape]) for spec in rows.element_spec],
        )

    made: Callable[..., Any] = tf.function(
        reader, input_signature=[tf.TensorSpec([None], tf.variant)], autograph=False
    )
    return made
