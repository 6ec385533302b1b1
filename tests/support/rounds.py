"""Cohorts of a linear regression, plans for them, and how the results of rounds are compared."""

from __future__ import annotations

import numpy as np
import tree

import tff_dp
from tff_dp import data


def plan(mechanism, population=4) -> tff_dp.PrivacyPlan:
    return tff_dp.PrivacyPlan(
        mechanism=mechanism,
        population=population,
        sampler=tff_dp.FullParticipation(),
        rounds=10,
        delta=1e-5,
    )


def noise_of_round(process, clients, cohort=range(4)) -> np.ndarray:
    state = process.initialize()
    state = process.next(state, [clients.dataset(c, batch_size=4) for c in cohort]).state
    weights = process.get_model_weights(state).trainable
    return np.concatenate([np.ravel(w) for w in weights])


def cohort_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), 5)).astype(np.float32)
    y = (x @ np.arange(5) + 0.1 * rng.normal(size=len(x))).astype(np.float32)[:, None]
    return data.Clients(x, y, np.cumsum([0, *sizes]), allow_empty=True)


def assert_close(actual, expected):
    for a, b in zip(tree.flatten(actual), tree.flatten(expected), strict=True):
        if np.asarray(b).dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)
