"""Mechanisms of distributed noise and a plan for them."""

from __future__ import annotations

import math

import pytest

import tff_dp
from tff_dp.mechanisms import DistributedGaussianMechanism, DistributedSkellamMechanism
from tff_dp.sampling import FullParticipation

KINDS = (DistributedGaussianMechanism, DistributedSkellamMechanism)

CLIP = 0.5

DELTA = 1e-5

BETA = math.exp(-0.5)

both_kinds = pytest.mark.parametrize("kind", KINDS, ids=["Gaussian", "Skellam"])


def mechanism(kind=DistributedSkellamMechanism, z=1.0, dimension=1000, **changes):
    return kind(clip_norm=CLIP, noise_multiplier=z, dimension=dimension, **changes)


def a_plan(kind=DistributedSkellamMechanism, z=1.0, dimension=1000, bits=20, **changes):
    values = {
        "mechanism": mechanism(kind, z, dimension, bits=bits),
        "population": 100,
        "sampler": FullParticipation(),
        "rounds": 10,
        "delta": DELTA,
    }
    return tff_dp.PrivacyPlan(**(values | changes))
