"""Learning processes that the tests of several modules run."""

from __future__ import annotations

import keras
import pytest

import tff_dp
from tests.support.random_bits import model_with, plans, silos
from tests.support.rounds import cohort_of, plan
from tff_dp.model import ModelSpec
from tff_dp.process import build_process


@pytest.fixture(scope="module")
def linear(tff):
    """A process with server noise and clients of whom some have a last batch of another size."""
    clients = cohort_of([8, 8, 4, 12, 0, 7, 8, 3])
    model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.1)
    return bound, build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plan(mechanism)), clients


@pytest.fixture(scope="session")
def processes(tff):
    """A function from a plan's name and an obstacle to the bound model and its process, made once."""
    made = {}

    def process(name, kind="gamma"):
        if (name, kind) not in made:
            spec = ModelSpec(model=model_with(kind), loss="mse")
            bound = spec.bind(silos().element_spec())
            algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1))
            built = build_process(bound, algorithm=algorithm, privacy=plans()[name])
            made[name, kind] = bound, built
        return made[name, kind]

    return process


@pytest.fixture(scope="session")
def jax_python():
    """The interpreter of an environment that has JAX and no TensorFlow."""
    from benchmarks import _environments

    try:
        return _environments.python("jax")
    except SystemExit as error:
        pytest.skip(f"JAX cannot be installed into an environment of its own: {error}")
