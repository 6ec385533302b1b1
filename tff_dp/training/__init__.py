"""Training: the round loop, and what is checked before it and made after it."""

from tff_dp.training.fitting import fit

__all__ = ["fit"]
