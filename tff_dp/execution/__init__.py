"""Where TFF computations run.

This package imports nothing of tff_dp beyond its lowest layer: it serves plain TFF users as well.
"""

from tff_dp.execution.stock import current_or_stock, stock

__all__ = ["current_or_stock", "stock"]
