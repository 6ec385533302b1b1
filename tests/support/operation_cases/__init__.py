"""What each known operation is tried on: `tff_dp.execution.graph.operations` is the table of them."""

from __future__ import annotations

import itertools

from tests.support.operation_cases import elementwise, networks, reductions, shapes, sources
from tests.support.operation_cases.case import CASES, Case, raw, written

__all__ = ["BY_OPERATION", "CASES", "Case", "raw", "written"]

for _add_cases in (
    elementwise.elementwise,
    elementwise.casts,
    elementwise.choices,
    shapes.shapes,
    shapes.indices,
    reductions.reductions,
    reductions.products,
    networks.networks,
    reductions.fourier,
    sources.lists,
    sources.draws,
    sources.constants,
):
    _add_cases()

BY_OPERATION = {
    op: list(cases)
    for op, cases in itertools.groupby(sorted(CASES, key=lambda case: case.op), lambda c: c.op)
}
