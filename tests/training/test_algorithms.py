"""Algorithms from outside of the package, and those whose process would not be private."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import covered
from tff_dp import execution
from tff_dp.algorithms import Algorithm, FedAvg
from tff_dp.errors import ArgumentError, ComputationError
from tff_dp.process import build_process
from tff_dp.training import kept_processes

FEATURES, BATCH, RATE, CLIP = 3, 4, 0.05, 0.1
SIZES = (5, 12, 1, 9)


# --- Algorithms of a user's own --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecayingFedAvg(FedAvg):
    """Federated averaging whose server's rate is multiplied by `decay` after each round."""

    decay: float

    def build_server_optimizer(self) -> Any:
        rate, decay = self.server_optimizer.learning_rate, self.decay

        def schedule(number):
            import tensorflow as tf

            return rate * decay ** tf.cast(number, tf.float32)

        optimizers = tff_dp.tff.learning.optimizers
        return optimizers.schedule_learning_rate(super().build_server_optimizer(), schedule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalizedFedAvg(Algorithm):
    """Federated averaging that steps by the mean gradient: updates over (rate * steps), both public."""

    rate: float
    steps: int
    server_rate: float = 1.0

    def compose(self, model, components):
        tff = tff_dp.tff
        sgd = tff.learning.optimizers.build_sgdm
        build = (
            tff.learning.algorithms.build_weighted_fed_avg
            if components.is_weighted
            else tff.learning.algorithms.build_unweighted_fed_avg
        )
        return build(
            model.tff_model,
            client_optimizer_fn=sgd(self.rate),
            server_optimizer_fn=sgd(self.server_rate / (self.rate * self.steps)),
            model_aggregator=components.aggregator,
            metrics_aggregator=components.metrics_aggregator,
        )


OWN = [
    DecayingFedAvg(client_optimizer=tff_dp.SGD(learning_rate=RATE), decay=0.5),
    NormalizedFedAvg(rate=RATE, steps=3, server_rate=0.2),
]


def server_rate(algorithm: Algorithm, number: int) -> float:
    """Returns what an algorithm multiplies the mean change of weights with, in a round from 0."""
    if isinstance(algorithm, DecayingFedAvg):
        return algorithm.decay**number
    return algorithm.server_rate / (algorithm.rate * algorithm.steps)


@pytest.fixture(scope="module")
def clients() -> tff_dp.data.Clients:
    rng = np.random.default_rng(7)
    arrays = {}
    for client, size in enumerate(SIZES):
        x = rng.normal(size=(size, FEATURES)).astype(np.float32)
        y = x @ rng.normal(size=FEATURES) + rng.normal(size=size)
        arrays[f"c{client}"] = (x, y[:, None].astype(np.float32))
    return tff_dp.data.from_arrays(arrays)


@pytest.fixture
def fast(tff):
    with execution.fast(xla=False):
        yield


def linear() -> keras.Model:
    return keras.Sequential(
        [keras.layers.Input([FEATURES]), keras.layers.Dense(1, kernel_initializer="zeros")]
    )


def plan(z: float = 0.0, **changes: Any) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=CLIP, noise_multiplier=z),
        "population": len(SIZES),
        "sampler": tff_dp.FullParticipation(),
        "rounds": 3,
        "delta": 1e-3,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def records_plan() -> tff_dp.PrivacyPlan:
    mechanism = tff_dp.RecordGaussianMechanism(
        clip_norm=1.0, noise_multiplier=1.0, batch_size=1, local_steps=2
    )
    return tff_dp.PrivacyPlan(
        mechanism=mechanism, unit="record", records=SIZES, rounds=3, delta=1e-3
    )


def change(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns what local SGD adds to the weights of a linear model."""
    local = weights.copy()
    for start in range(0, len(y), BATCH):
        rows = slice(start, start + BATCH)
        residual = x[rows] @ local[:-1] + local[-1] - y[rows, 0]
        local -= RATE * 2 * np.append(x[rows].T @ residual, residual.sum()) / len(residual)
    return local - weights


def expected_weights(clients: Any, algorithm: Algorithm, *, private: bool) -> np.ndarray:
    weights = np.zeros(FEATURES + 1)
    for number in range(3):
        changes = [change(weights, *clients.client(c)) for c in range(len(SIZES))]
        if private:
            changes = [c * min(1, CLIP / np.linalg.norm(c)) for c in changes]
        mean = np.average(changes, axis=0, weights=None if private else SIZES)
        weights = weights + server_rate(algorithm, number) * mean
    return weights


def fit(clients: Any, algorithm: Algorithm, privacy: Any, **changes: Any) -> tff_dp.FitResult:
    return tff_dp.fit(
        linear,
        clients,
        loss="mse",
        privacy=privacy,
        algorithm=algorithm,
        **({"rounds": 3, "batch_size": BATCH, "shuffle": False} | changes),
    )


def weights_of(result: tff_dp.FitResult) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in result.model.get_weights()])


@pytest.mark.parametrize(
    ("algorithm", "private"),
    covered(OWN, [False, True], by=[(OWN[0], True), (OWN[1], False)], slow=None),
    ids=lambda each: type(each).__name__ if isinstance(each, Algorithm) else str(each),
)
def test_an_algorithm_from_outside_trains_as_it_says(fast, clients, algorithm, private):
    result = fit(clients, algorithm, plan() if private else tff_dp.NoPrivacy())
    expected = expected_weights(clients, algorithm, private=private)
    np.testing.assert_allclose(weights_of(result), expected, rtol=2e-4, atol=1e-6)
    plain = FedAvg(client_optimizer=tff_dp.SGD(learning_rate=RATE))
    same = fit(clients, plain, plan() if private else tff_dp.NoPrivacy())
    assert np.abs(weights_of(same) - expected).max() > 1e-3  # else the test shows nothing
    assert np.isfinite(result.model.evaluate(*clients.pooled(), verbose=0))


@pytest.mark.parametrize("algorithm", OWN, ids=lambda each: type(each).__name__)
def test_it_is_read_back_from_its_dictionary(algorithm):
    assert Algorithm.from_dict(algorithm.to_dict()) == algorithm


def test_its_epsilon_is_the_plan_s_and_the_statement_says_whose_it_is(fast, clients, tmp_path):
    result = fit(clients, OWN[0], plan(1.0), ledger=tmp_path / "ledger.jsonl")
    assert result.epsilon == plan(1.0).epsilon().epsilon
    assert tff_dp.ledger.replay(tmp_path / "ledger.jsonl").epsilon == result.epsilon
    name = f"{DecayingFedAvg.__module__}.DecayingFedAvg"
    assert f"The algorithm {name} is not one of tff_dp's own." in result.statement()
    assert "is not one of" not in fit(clients, FedAvg(), plan(1.0)).statement()
    assert not any("Decaying" in repr(key) for key in kept_processes._kept)


def test_its_noise_is_of_the_stated_size_whatever_plan_came_before(fast):
    """Without learning, the weights are the rounds' noise, each times the rate of its round.

    The deviation of 2001 draws is within 10 % but for 6.3 of its own, 1.6 % (3e-10): 2/3 and 3/2 of the
    noise would fail, and so would that of another plan.
    """
    features = 2000
    empty = tff_dp.data.Clients(
        np.zeros([4, features], np.float32), np.zeros([4, 1], np.float32), range(5)
    )

    def wide():
        layer = keras.layers.Dense(1, kernel_initializer="zeros")
        return keras.Sequential([keras.layers.Input([features]), layer])

    for z in (1.0, 4.0, 2.0):
        result = tff_dp.fit(wide, empty, loss="mse", privacy=plan(z), algorithm=OWN[0])
        expected = z * CLIP / 4 * np.sqrt(1 + 1 / 4 + 1 / 16)
        assert abs(weights_of(result).std() / expected - 1) < 0.1


def test_it_trains_where_records_are_protected(fast, clients):
    privacy = records_plan()
    result = fit(clients, OWN[0], privacy, batch_size=None)
    assert result.epsilon == privacy.epsilon().epsilon
    assert np.any(weights_of(result))


# --- Algorithms that would not be private ----------------------------------------------------------


class Unprotected(FedAvg):
    """Takes TFF's mean in place of the plan's aggregator."""

    def compose(self, model, components):
        return tff_dp.tff.learning.algorithms.build_unweighted_fed_avg(
            model.tff_model,
            client_optimizer_fn=self.build_client_optimizer(),
            server_optimizer_fn=self.build_server_optimizer(),
        )


class UsingTwice(FedAvg):
    """Aggregates by two processes of the plan's aggregator."""

    def compose(self, model, components):
        super().compose(model, components)
        return super().compose(model, components)


class OwnSteps(FedAvg):
    """Takes the plan's aggregator, but not the steps in which records are protected."""

    def compose(self, model, components):
        return super().compose(model, dataclasses.replace(components, client_work=None))


class UsingNothing(FedAvg):
    """Composes no process."""

    def compose(self, model, components):
        return {"compose": "nothing"}


class Pretending(Unprotected):
    """Makes the plan's aggregator, and does not use it."""

    def compose(self, model, components):
        tff = tff_dp.tff
        components.aggregator.create(tff.types.to_type([(np.float32, [FEATURES, 1])]))
        return super().compose(model, components)


class Larger(FedAvg):
    """Aggregates more numbers than the model has weights."""

    def compose(self, model, components):
        tff = tff_dp.tff
        components.aggregator.create(tff.types.to_type([(np.float32, [10_000])]))
        return super().compose(model, components)


@pytest.mark.parametrize(
    ("algorithm", "privacy", "message"),
    [
        (Unprotected(), plan(1.0), r"components\.aggregator, .* not used .*NoPrivacy"),
        (UsingTwice(), plan(1.0), r"components\.aggregator, .* used 2 times"),
        (Larger(), plan(1.0, max_dimension=100), r"max_dimension=100 .* 10000"),
        (Unprotected(), records_plan(), r"components\.aggregator, .* not used"),
        (OwnSteps(), records_plan(), r"components\.client_work, .* not used"),
        (UsingNothing(), plan(1.0), r"composed \{'compose'.*LearningProcess"),
        (UsingNothing(), tff_dp.NoPrivacy(), r"composed \{'compose'.*LearningProcess"),
        (
            FedAvg,
            plan(1.0),
            r"is unknown: expected FedAvg.*subclass of tff_dp\.algorithms\.Algorithm",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Algorithm) else None,
)
def test_a_process_that_would_not_be_private_is_refused(
    fast, clients, tmp_path, algorithm, privacy, message
):
    bound = tff_dp.ModelSpec(model=linear, loss="mse").bind(clients.element_spec())
    with pytest.raises(ArgumentError, match=message):
        build_process(bound, algorithm=algorithm, privacy=privacy)
    changes = {} if isinstance(privacy, tff_dp.NoPrivacy) else {"ledger": tmp_path / "ledger.jsonl"}
    with pytest.raises(ArgumentError, match=message):
        fit(clients, algorithm, privacy, batch_size=None, **changes)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_an_aggregator_that_is_made_and_not_used_is_found_by_its_noise(fast, clients, tmp_path):
    with pytest.raises(ComputationError, match=r"holds no noise .* No round was charged"):
        fit(clients, Pretending(), plan(1.0), ledger=tmp_path / "ledger.jsonl")
    assert not (tmp_path / "ledger.jsonl").exists()


def test_without_a_plan_there_are_no_parts_to_leave_out(fast, clients):
    assert np.any(weights_of(fit(clients, Unprotected(), tff_dp.NoPrivacy())))


def test_algorithms_are_described_without_tensorflow():
    program = (
        "import sys, tff_dp\n"
        "from tff_dp import algorithms\n"
        "made = [tff_dp.FedAvg(), tff_dp.FedProx(proximal_strength=1.0), tff_dp.FedSGD(),"
        " tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.1))]\n"
        "assert [algorithms.Algorithm.from_dict(each.to_dict()) for each in made] == made\n"
        "print([m for m in ('tensorflow', 'tensorflow_federated', 'keras') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
