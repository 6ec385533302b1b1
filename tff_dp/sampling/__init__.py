"""Who takes part in a round, and what that does to the privacy accounting.

A sampler states the neighbouring relations under which its amplification is known, draws a round's
cohort, and wraps the event of one round, so that what is drawn and what is accounted for cannot
disagree.
"""

from tff_dp.sampling.base import Adjacency, Sampler
from tff_dp.sampling.dependent import CyclicPoissonSampler, MinSeparationSampler
from tff_dp.sampling.independent import FixedSizeSampler, FullParticipation, PoissonSampler

__all__ = [
    "Adjacency",
    "CyclicPoissonSampler",
    "FixedSizeSampler",
    "FullParticipation",
    "MinSeparationSampler",
    "PoissonSampler",
    "Sampler",
]
