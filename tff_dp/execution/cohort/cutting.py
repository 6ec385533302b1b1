"""Cuts a cohort into blocks, whatever its data came as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tff_dp._arrays import arrays_of
from tff_dp.execution import values
from tff_dp.execution.cohort import arrays, datasets, grouping, resident, tables, tensors


def blocks_of(
    data: Any,
    data_type: Any,
    held: resident.Resident,
    *,
    is_regular: grouping.IsRegular,
    by_size: bool,
) -> Iterator[tables.Block]:
    """Returns the blocks of a cohort, which follow from the cohort and from these arguments alone.

    Args:
      data: The clients' data, as the computation was given it.
      data_type: A client's TFF type.
      held: The arrays that stay on the device between rounds.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether the clients of a block must have the same number of full batches.
    """
    cohort = arrays_of(data)
    if cohort is not None:
        return arrays.blocks_of_arrays(cohort, held, is_regular=is_regular, by_size=by_size)
    if values.is_one_sequence(data_type):
        return datasets.blocks_of_datasets(data, is_regular=is_regular, by_size=by_size)
    return tensors.blocks_of_tensors(data, data_type, by_size=by_size)
