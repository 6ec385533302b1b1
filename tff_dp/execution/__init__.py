"""Where TFF computations run.

This package imports nothing of tff_dp beyond its lowest layer: it serves plain TFF users as well.
"""

from tff_dp.execution.fast import current_or_fast, fast
from tff_dp.execution.stock import stock

__all__ = ["current_or_fast", "fast", "stock"]
