"""Divides a cohort into blocks, whatever the form of its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tff_dp._arrays import arrays_of
from tff_dp.execution import values
from tff_dp.execution.cohort import (
    arrays,
    datasets,
    grouping,
    references,
    resident,
    tables,
    tensors,
)


def blocks_of(
    data: Any,
    data_type: Any,
    held: resident.Resident | references.ByReference,
    *,
    is_regular: grouping.IsRegular,
    by_size: bool,
) -> Iterator[tables.Block]:
    """Divides a cohort into blocks.

    The division is a deterministic function of the arguments.

    Args:
      data: The data of the clients, as the computation received them: a cohort of arrays, or a
        sequence of data sets or of other values.
      data_type: The TFF type of one client's data.
      held: The arrays that stay on the device between rounds, or what makes references to arrays.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether the clients of a block must have the same number of examples, and not only
        last batches of the same size.

    Returns:
      The blocks, which are built as the iterator advances.

    Raises:
      NotRowsError: While it advances: the tensors of a batch in a data set differ in leading size.
    """
    cohort = arrays_of(data)
    if cohort is not None:
        return arrays.blocks_of_arrays(cohort, held, is_regular=is_regular, by_size=by_size)
    if values.is_one_sequence(data_type):
        return datasets.blocks_of_datasets(data, is_regular=is_regular, by_size=by_size)
    return tensors.blocks_of_tensors(data, data_type, by_size=by_size)
