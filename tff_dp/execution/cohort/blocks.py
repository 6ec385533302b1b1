"""A cohort's data, block by block, as tensors on the device and tables that say whose they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._arrays import CohortArrays, arrays_of
from tff_dp.execution import values
from tff_dp.execution.cohort import datasets, tables

_DATASETS = 256  # read at once
_BYTES = 1 << 24  # of examples, copied at once where the arrays are too large for the device
_ALIGNMENT = 64  # bytes, at which TensorFlow takes memory over instead of copying it


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Some clients of a cohort, as a graph takes them.

    Attributes:
      fields: Tensors [rows, ...].
      table: Who they are, and where their batches begin.
      batch_size: Examples in a full batch; 0 where batches are listed, or data are no sequences.
      epochs: Passes over the examples.
      apart: Whether each epoch has positions of its own.
      limits: The least and the largest of each field's numbers, None where they are not known; empty
        for none known.
    """

    fields: Sequence[tf.Tensor]
    table: tables.Table
    batch_size: int = 0
    epochs: int = 1
    apart: bool = False
    limits: tuple[tables.Limits, ...] = ()

    def of_nobody(self) -> Block:
        """Returns a block of the same shapes without clients."""
        columns = {name: np.zeros_like(column) for name, column in self.table.columns.items()}
        return dataclasses.replace(self, table=dataclasses.replace(self.table, columns=columns))


def of_cohort(
    data: Any,
    data_type: Any,
    resident: tables.Resident,
    *,
    is_regular: tables.IsRegular,
    by_size: bool,
) -> Iterator[Block]:
    """Yields the blocks of a cohort.

    Args:
      data: The clients' data, as the computation was given it.
      data_type: A client's TFF type.
      resident: Where arrays stay between rounds.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether clients of a block must have as many full batches each.
    """
    cohort = arrays_of(data)
    if cohort is not None:
        yield from _of_arrays(cohort, resident, is_regular=is_regular, by_size=by_size)
    elif values.is_one_sequence(data_type):
        yield from _of_datasets(data, is_regular=is_regular, by_size=by_size)
    elif len(data):
        yield from _of_tensors(data, data_type, by_size=by_size)


def _of_arrays(
    cohort: CohortArrays,
    resident: tables.Resident,
    *,
    is_regular: tables.IsRegular,
    by_size: bool,
) -> Iterator[Block]:
    if resident.fits(cohort.fields):
        fields = [resident.tensor(field) for field in cohort.fields]
        limits = tuple(resident.limits(field) for field in cohort.fields)
        for block in _tables(cohort, fields, 0, is_regular=is_regular, by_size=by_size):
            yield dataclasses.replace(block, limits=limits)
        return
    for low, high in _spans(cohort):
        part, rows = _alone(cohort, low, high)
        fields = [_copied(field, rows) for field in cohort.fields]
        yield from _tables(part, fields, low, is_regular=is_regular, by_size=by_size)


def _tables(
    cohort: CohortArrays,
    fields: Sequence[tf.Tensor],
    offset: int,
    *,
    is_regular: tables.IsRegular,
    by_size: bool,
) -> Iterator[Block]:
    rows = {}
    if cohort.rows is not None:
        rows = {"rows": tables.padded(cohort.rows.astype(np.int32), len(cohort))}
    for table in tables.regular_tables(cohort, is_regular, by_size=by_size, offset=offset):
        table = dataclasses.replace(table, columns=table.columns | rows)
        if table.remainder is None:
            yield Block(fields, table)
        else:
            yield Block(fields, table, cohort.batch_size, cohort.epochs, cohort.apart)


def _spans(cohort: CohortArrays) -> Iterator[tuple[int, int]]:
    """Yields (low, high) of clients whose examples together have about the bytes of a block."""
    row = sum(field.nbytes // max(len(field), 1) for field in cohort.fields)
    most = 1 << max(_BYTES // max(row, 1), 1).bit_length() - 1  # a length that needs no filling up
    passes = cohort.epochs if cohort.apart else 1
    ends = np.cumsum(cohort.sizes * passes)
    low = 0
    while low < len(cohort):
        before = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield low, high
        low = high


def _alone(cohort: CohortArrays, low: int, high: int) -> tuple[CohortArrays, Any]:
    """Returns some clients as if theirs were all examples, and those examples' rows."""
    sizes = cohort.sizes[low:high]
    lengths = sizes * (cohort.epochs if cohort.apart else 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    firsts = cohort.starts[low:high]
    if cohort.rows is None and (firsts[:-1] + lengths[:-1] == firsts[1:]).all():
        rows: Any = slice(int(firsts[0]), int(firsts[0] + starts[-1]))  # neighbours
    else:
        positions = np.arange(starts[-1]) + np.repeat(firsts - starts[:-1], lengths)
        rows = positions if cohort.rows is None else cohort.rows[positions]
    alone = dataclasses.replace(cohort, rows=None, starts=starts[:-1], sizes=sizes)
    return alone, rows


def _copied(field: np.ndarray, rows: Any) -> tf.Tensor:
    """Returns rows of a field as a tensor of a length that few blocks differ in."""
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    array = _aligned([tables.padded_length(count), *field.shape[1:]], field.dtype)
    if isinstance(rows, slice):
        array[:count] = field[rows]
    else:
        np.take(field, rows, axis=0, out=array[:count], mode="clip")
    array[count:] = np.zeros([], field.dtype)
    if array.dtype.kind not in "biufc":
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())  # no second copy


def _aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Returns an array, not filled, whose memory TensorFlow can take over."""
    if dtype.hasobject:
        return np.empty(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _of_datasets(
    data: Sequence[Any], *, is_regular: tables.IsRegular, by_size: bool
) -> Iterator[Block]:
    for low in range(0, len(data), _DATASETS):
        some = data[low : low + _DATASETS]
        listing = datasets.read(some, some[0].element_spec)
        found = tables.as_regular(listing)
        if found is None:
            positions = np.arange(low, low + len(some))
            yield Block(listing.fields, tables.listed_table(listing, positions))
            continue
        length = tables.padded_length(len(listing.fields[0]))
        fields = [
            tf.pad(field, [[0, length - len(field)], *[[0, 0]] * (field.shape.rank - 1)])
            for field in listing.fields
        ]
        yield from _tables(found, fields, low, is_regular=is_regular, by_size=by_size)


def _of_tensors(data: Sequence[Any], data_type: Any, *, by_size: bool) -> Iterator[Block]:
    """Yields the blocks of clients whose data are tensors.

    Side by side, the clients of a block must fill their rows, as in `cohorts.regular_tables`: a row that
    is not full would count its last client several times.
    """
    leaves = values.leaves(data_type)
    dtypes = [tf.as_dtype(leaf.dtype) for leaf in leaves]
    layout = values.Layout(data_type)
    for some in tables.parts(np.arange(len(data)), tables.WIDEST if by_size else 0):
        columns = zip(*(layout.flatten(data[i]) for i in some), strict=True)
        fields = [
            tf.stack([tf.convert_to_tensor(value, dtype) for value in column])
            for column, dtype in zip(columns, dtypes, strict=True)
        ]
        table = {"count": np.int32(len(some)), "positions": some.astype(np.int32)}
        yield Block(fields, tables.Table(None, None, table, len(some)))
