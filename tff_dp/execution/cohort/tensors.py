"""Blocks of clients whose data are tensors instead of sequences of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.cohort import grouping, tables


def blocks_of_tensors(
    data: Sequence[Any], data_type: Any, *, by_size: bool
) -> Iterator[tables.Block]:
    """Yields the blocks of clients whose data are tensors.

    If a graph is vectorized over clients, the clients of a block must fill its rows, as in
    `grouping.parts`: a row that is not full would count its last client several times.

    Args:
      data: The value of each client.
      data_type: The TFF type of one client's value.
      by_size: Whether the graph is vectorized over clients.

    Yields:
      The blocks, in the order of the cohort.
    """
    leaves = values.leaves(data_type)
    dtypes = [tf.as_dtype(leaf.dtype) for leaf in leaves]
    layout = values.Layout(data_type)
    for some in grouping.parts(np.arange(len(data)), grouping.WIDEST if by_size else 0):
        columns = zip(*(layout.flatten(data[i]) for i in some), strict=True)
        fields = [
            tf.stack([tf.convert_to_tensor(value, dtype) for value in column])
            for column, dtype in zip(columns, dtypes, strict=True)
        ]
        yield tables.Block(fields, tables.ClientTable(tables.Form("tensors"), len(some), some))
