"""Random numbers in this process: fresh, independent, well seeded, and repeatable on request."""

from __future__ import annotations

import math
import os

import keras
import numpy as np
import pytest
from scipy import stats

import tff_dp
from tests.support.rounds import noise_of_round, plan
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.execution.graph import randomness
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = pytest.mark.heavy

FALSE_POSITIVE = 1e-6  # of each statistical test
MODES = [("scan", False), ("scan", True), ("vmap", False), ("vmap", True), ("call", False)]


@pytest.fixture(scope="module")
def dropping(tff):
    """A process whose clients drop inputs and whose server adds noise: every kind of draw in a round."""
    x = np.ones([16, 64], np.float32)
    clients = data.Clients(x, np.zeros([16, 1], np.float32), [0, 4, 8, 12, 16])
    layers = [
        keras.layers.Input([64]),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ]
    bound = ModelSpec(model=keras.Sequential(layers), loss="mse").bind(clients.element_spec())
    mechanism = tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=1e-3))
    return bound, build_process(bound, algorithm=algorithm, privacy=plan(mechanism)), clients


def trained(dropping, strategy, xla, seed, rounds=2):
    bound, process, clients = dropping
    with execution.fast(strategy, xla=xla, seed=seed, strict=True):
        state = initialize_from(process, bound.initial_weights)
        found = []
        for _ in range(rounds):
            state = process.next(state, clients.cohort(range(4), batch_size=2)).state
            found.append(model_weights(process, state).trainable[0].ravel())
    return found


@pytest.mark.parametrize("xla", [False, slow(True)])
def test_a_seed_gives_the_same_draws_in_every_strategy(dropping, xla):
    # XLA makes normal numbers of the same bits by another formula: runs with and without it differ.
    expected = trained(dropping, "scan", xla, seed=7)
    for strategy, with_xla in MODES[1:]:
        if with_xla == xla:
            for actual, of_scan in zip(trained(dropping, strategy, xla, 7), expected, strict=True):
                np.testing.assert_allclose(actual, of_scan, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(trained(dropping, "scan", xla, seed=7), expected)
    other = trained(dropping, "scan", xla, seed=8)
    assert np.abs(other[0] - expected[0]).max() > 0.1


@pytest.mark.parametrize(("strategy", "xla"), MODES)
def test_draws_are_fresh_in_every_call_without_a_seed(dropping, strategy, xla):
    a = trained(dropping, strategy, xla, None, rounds=1)[0]
    b = trained(dropping, strategy, xla, None, rounds=1)[0]
    assert np.abs(a - b).max() > 0.1


@pytest.mark.parametrize(
    ("strategy", "xla"), [slow(*mode) if mode == ("vmap", True) else mode for mode in MODES]
)
def test_clients_and_steps_of_a_round_drop_different_inputs(tff, strategy, xla):
    # Each client has two steps; a weight changes where its input was kept, by an amount that tells the
    # client: with masks that were shared, changes would come in fewer kinds.
    y = np.repeat([0.0, -1.0, -2.0, -3.0], 2).astype(np.float32)[:, None]
    clients = data.Clients(np.ones([8, 256], np.float32), y, [0, 2, 4, 6, 8])
    layers = [
        keras.layers.Input([256]),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
    ]
    bound = ModelSpec(model=keras.Sequential(layers), loss="mse").bind(clients.element_spec())
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=1e-5))
    process = build_process(bound, algorithm=algorithm, privacy=tff_dp.NoPrivacy())
    with execution.fast(strategy, xla=xla, strict=True):
        state = initialize_from(process, bound.initial_weights)
        state = process.next(state, clients.cohort(range(4), batch_size=1)).state
    change = model_weights(process, state).trainable[0].ravel()
    # Clients 1, 2, 3 move a kept weight by 1, 2, 3 units a step (client 0 by none), two steps each.
    units = np.round(change / change.min() * 12) if change.min() < 0 else change
    # Right masks give fewer than 8 kinds, or no odd one, with probability below 1e-19: with six kinds
    # missing, each of 256 weights is one of seven, of 52/64 at most (and 1716 choices of the six).
    kinds = len(np.unique(np.round(units)))
    assert kinds >= 8  # of 13; shared between clients: 3; shared between steps: 8 at most, all even
    assert (np.round(units) % 2 == 1).any()


@pytest.mark.parametrize(("strategy", "xla"), [("scan", False), ("scan", True)])
def test_noise_is_normal_and_independent_between_tensors_and_rounds(wide_pair, strategy, xla):
    process, clients = wide_pair
    with execution.fast(strategy, xla=xla, strict=True):
        samples = [noise_of_round(process, clients).reshape(2, -1) for _ in range(2)]
    rows = np.concatenate(samples)
    sigma = 0.1 * 2.0 * 0.5 / 4
    for row in rows:
        statistic = np.sum((row / sigma) ** 2)
        low, high = FALSE_POSITIVE / 2, 1 - FALSE_POSITIVE / 2
        assert low < stats.chi2.cdf(statistic, row.size) < high
        assert not low < stats.chi2.cdf(statistic * 1.2**2, row.size) < high  # negative control
        assert stats.kstest(row / sigma, "norm").pvalue > FALSE_POSITIVE
    correlations = np.corrcoef(rows)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 5.2 / math.sqrt(rows.shape[1])  # 6 pairs, 1e-6 together


@pytest.fixture(scope="module")
def wide_pair(tff):
    """A process of two weight tensors of one shape, whose clients change nothing."""
    clients = data.Clients(
        np.zeros([4, 3000], np.float32), np.zeros([4, 1], np.float32), np.arange(5)
    )
    entry = keras.layers.Input([3000])
    ends = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(entry) for _ in range(2)
    ]
    model = keras.Model(entry, keras.layers.Add()(ends))
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=2.0)
    algorithm = tff_dp.FedSGD()
    return build_process(bound, algorithm=algorithm, privacy=plan(mechanism)), clients


def test_keys_come_from_the_operating_system_128_bits_a_call_and_256_for_the_servers_noise(
    dropping, monkeypatch
):
    asked = []

    def urandom(count):
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr(os, "urandom", urandom)
    a = trained(dropping, "scan", False, None, rounds=1)[0]
    assert asked
    assert set(asked) == {16, 32}
    assert asked.count(32) == 1  # the round's, for AES
    b = trained(dropping, "scan", False, None, rounds=1)[0]
    np.testing.assert_array_equal(a, b)  # nothing else than these bits decides


def test_a_seeded_context_says_so_and_its_runs_are_not_private():
    clients = data.from_arrays(
        {str(i): (np.ones([4, 2], np.float32), np.ones([4, 1], np.float32)) for i in range(4)}
    )
    arguments = {
        "loss": "mse",
        "privacy": plan(tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=10.0)),
        "rounds": 2,
        "seed": 1,
    }

    def model():
        return keras.Sequential([keras.layers.Input([2]), keras.layers.Dense(1)])

    first = model()
    weights = first.get_weights()
    with execution.fast(seed=5) as context:
        assert context.is_seeded
        assert execution.is_seeded()
        seeded = tff_dp.fit(first, clients, **arguments)
    again = model()
    again.set_weights(weights)
    with execution.fast(seed=5):
        repeated = tff_dp.fit(again, clients, **arguments)
    assert math.isinf(seeded.epsilon)
    assert all(math.isinf(record.epsilon) for record in seeded.history)
    assert seeded.statement().startswith("No differential privacy: the execution context")
    for a, b in zip(seeded.model.get_weights(), repeated.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with execution.fast():
        assert not execution.is_seeded()
        assert math.isfinite(tff_dp.fit(model(), clients, **arguments).epsilon)


def test_folding_gives_unrelated_keys():
    import tensorflow as tf

    root = tf.constant(randomness.root(1, 1))
    keys = {tuple(randomness.fold(root, word).numpy()) for word in range(500)}
    keys |= {tuple(randomness.fold(randomness.fold(root, 1), word).numpy()) for word in range(500)}
    assert len(keys) == 1000
    bits = np.unpackbits(np.array(sorted(keys), np.uint64).view(np.uint8))
    # Fair coins: 5 standard deviations, 6e-7.
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / math.sqrt(bits.size)
    assert tuple(randomness.root(1, 1)) != tuple(randomness.root(1, 2))
    assert tuple(randomness.root(1, 1)) != tuple(randomness.root(11, 1))


def test_a_clock_that_becomes_an_integer_is_a_seed_and_gets_entropy(tff):
    import tensorflow as tf

    @tff.tensorflow.computation
    def seed():
        return tf.cast(tf.stack([tf.timestamp() * 1e6, tf.constant(0.0, tf.float64)]), tf.int64)

    @tff.tensorflow.computation
    def time():
        return tf.timestamp()

    with execution.fast(strict=True):
        seeds = np.array([seed() for _ in range(50)])
        assert time() > 1.7e9  # a clock that stays a clock tells the time
    assert len(np.unique(seeds)) == 100
    assert seeds.max() > 1e17  # microseconds would be about 2e15
    assert seeds.min() >= 0
    with execution.fast(seed=3):
        first = seed()
    with execution.fast(seed=3):
        np.testing.assert_array_equal(first, seed())
