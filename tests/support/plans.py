"""Plans of Gaussian noise, and how a refusal is checked."""

from __future__ import annotations

import pytest

from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import GaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.sampling import Adjacency, FullParticipation

AOR, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE


def gaussian(z: float = 1.0) -> GaussianMechanism:
    return GaussianMechanism(clip_norm=0.5, noise_multiplier=z)


def a_plan(**changes: object) -> PrivacyPlan:
    """A plan whose epsilon costs no privacy loss distribution, but for what is changed."""
    arguments = {
        "mechanism": gaussian(10.0),
        "population": 1000,
        "rounds": 100,
        "delta": 1e-5,
        "sampler": FullParticipation(),
    }
    return PrivacyPlan(**(arguments | changes))


def refused(make, *parts: str, kind: type[Exception] = ArgumentError) -> None:
    with pytest.raises(kind) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)
