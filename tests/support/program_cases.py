"""A private process with its clients, and how results are compared, for the tests of programs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tree

import tff_dp
from tff_dp import data
from tff_dp.model import ModelSpec
from tff_dp.process import build_process

CLIENTS, COHORT = 6, 4


def silos() -> data.Clients:
    rng = np.random.default_rng(0)
    sizes = [8, 8, 4, 7, 3, 8]
    x = rng.normal(size=(sum(sizes), 3)).astype(np.float32)
    y = (x @ np.arange(3.0)[:, None] + 0.1 * rng.normal(size=(len(x), 1))).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *sizes]))


def keras_model():
    return keras.Sequential(
        [keras.layers.Input([3]), keras.layers.Dense(1, kernel_initializer="zeros")]
    )


def privacy() -> tff_dp.PrivacyPlan:
    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
        population=CLIENTS,
        sampler=tff_dp.FixedSizeSampler(size=COHORT),
        adjacency="replace-one",
        rounds=4,
        delta=1e-2,
    )


def assert_equal(actual, expected):
    tree.map_structure(np.testing.assert_array_equal, actual, expected)


def bound_model() -> Any:
    return ModelSpec(model=keras_model(), loss="mse").bind(silos().element_spec())


def make_training() -> tuple[Any, list[Any]]:
    """Returns a process with noise, and its clients' data sets."""
    process = build_process(bound_model(), algorithm=tff_dp.FedAvg(), privacy=privacy())
    return process, [silos().dataset(c, batch_size=4) for c in range(CLIENTS)]
