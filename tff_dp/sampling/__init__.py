"""Samplers: which clients participate in a round, and what that means for the privacy accounting.

A sampler states the neighboring relations under which its amplification is known, draws the cohort
of a round, and wraps the privacy event of one round. The cohorts that are drawn and the sampling
that is accounted for can therefore not disagree.
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
