"""Training: the round loop, the checks before it, and the results after it."""

from tff_dp.training.fitting import fit
from tff_dp.training.resuming import resume

__all__ = ["fit", "resume"]
