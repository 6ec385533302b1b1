"""Clients whose data sets are plainly slices of tensors: what they hold is known without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp._compat.tensorflow import Slices
from tff_dp.execution.cohort.listing import Listing


def listed(datasets: Sequence[Any]) -> Listing | None:
    """Lists the batches of data sets, if all of them are slices of tensors in batches.

    Reading a data set takes a step of `tf.data` for each row; its tensors are there already.

    Args:
      datasets: The data sets, at least one, all of one element specification.

    Returns:
      The examples and the list of all batches, with one client for each data set; None if some data
      set is made in another way.
    """
    found: list[Slices] = []
    for dataset in datasets:
        slices = tf_compat.slices_of(dataset)
        if slices is None:
            return None
        found.append(slices)
    pieces: list[Sequence[Any]] = []
    counts: list[int] = []
    first = [0]
    for slices in found:
        rows, own = _rows(slices), _counts(slices)
        pieces.append([_repeated(tensor, slices, rows) for tensor in slices.tensors])
        counts += own
        first.append(len(counts))
    fields = [tf.concat(column, 0) for column in zip(*pieces, strict=True)]
    sizes = np.array(counts, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)
    return Listing(fields, np.array(first, np.int64), starts, sizes)


def _rows(slices: Slices) -> int:
    """Returns the number of rows in the batches of one repetition."""
    rows = slices.before * int(slices.tensors[0].shape[0])
    return rows - rows % slices.batch_size if slices.drop_remainder else rows


def _counts(slices: Slices) -> list[int]:
    """Returns the number of rows in each batch of all repetitions."""
    full, rest = divmod(_rows(slices), slices.batch_size)
    return ([slices.batch_size] * full + [rest] * (rest > 0)) * slices.after


def _repeated(tensor: tf.Tensor, slices: Slices, rows: int) -> tf.Tensor:
    """Returns the rows of all batches, one batch after another."""
    if slices.before != 1:
        tensor = tf.concat([tensor[:0], *[tensor] * slices.before], 0)
    tensor = tensor if len(tensor) == rows else tensor[:rows]
    return tensor if slices.after == 1 else tf.concat([tensor[:0], *[tensor] * slices.after], 0)
