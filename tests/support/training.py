"""Clients of a linear regression, models for them, a plan, and a short call of `tff_dp.fit`."""

from __future__ import annotations

import keras
import numpy as np

import tff_dp
from tff_dp import data

FEATURES = 3


def make_clients(sizes=(8, 12, 20, 9), seed=0, labels=None) -> data.Clients:
    rng = np.random.default_rng(seed)
    weights = np.array([1.0, -2.0, 0.5])
    arrays = {}
    for client, size in enumerate(sizes):
        x = rng.normal(size=(size, FEATURES)).astype(np.float32)
        y = (x @ weights).astype(np.float32)[:, None] if labels is None else labels(rng, size)
        arrays[f"c{client}"] = (x, y)
    return data.from_arrays(arrays)


def linear_model() -> keras.Model:
    return keras.Sequential(
        [keras.layers.Input([FEATURES]), keras.layers.Dense(1, kernel_initializer="zeros")]
    )


def plan(**changes) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
        "population": 4,
        "sampler": tff_dp.FullParticipation(),
        "rounds": 5,
        "delta": 1e-5,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def fit(clients=None, privacy=None, **changes):
    values = {"loss": "mse", "batch_size": 8, "seed": 1} | changes
    model = values.pop("model", linear_model)
    return tff_dp.fit(
        model, clients or make_clients(), privacy=privacy or tff_dp.NoPrivacy(), **values
    )


def legacy_model():
    import tf_keras  # after TFF, which cannot be imported once tf-keras is

    return tf_keras.Sequential([tf_keras.layers.Input([FEATURES]), tf_keras.layers.Dense(1)])
