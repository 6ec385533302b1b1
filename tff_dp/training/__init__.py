"""Training: the round loop, the checks before it, and the results after it."""

from tff_dp.training.fitting import fit

__all__ = ["fit"]
