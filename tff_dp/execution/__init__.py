"""Execution contexts: where TFF computations run.

Apart from tff_dp's lowest layer, this package imports nothing of tff_dp, so that it serves plain
TFF users as well.
"""

from tff_dp.cluster import Cluster
from tff_dp.execution.context import current_or_fast, expecting, fast, install, is_seeded
from tff_dp.execution.explanation import explain
from tff_dp.execution.exporting import export, restored_state
from tff_dp.execution.iteration import iterate
from tff_dp.execution.marked_noise import NoiseBits, noise_bits
from tff_dp.execution.program_context import federated_context
from tff_dp.execution.stock import stock
from tff_dp.exported import CohortShape, ExportedRound, load_exported

__all__ = [
    "Cluster",
    "CohortShape",
    "ExportedRound",
    "NoiseBits",
    "current_or_fast",
    "expecting",
    "explain",
    "export",
    "fast",
    "federated_context",
    "install",
    "is_seeded",
    "iterate",
    "load_exported",
    "noise_bits",
    "restored_state",
    "stock",
]
