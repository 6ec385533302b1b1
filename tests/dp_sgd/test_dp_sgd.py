"""DP-SGD in the clients does what is accounted for: clipping, batches, noise, and nothing else.

Statistical tests: each rejects a right implementation with probability FALSE_POSITIVE or less, and each
has negative controls, which it must reject.
"""

from __future__ import annotations

import functools
import itertools
import math

import keras
import numpy as np
import pytest
from scipy import stats

import tff_dp
from tests.support import oracles
from tests.support.silos import (
    Silos,
    flat,
    in_contexts,
    inside,
    linear,
    mechanism,
    regression,
    sum_of,
)
from tests.support.tables import slow
from tff_dp import data, execution, noise
from tff_dp.dp_sgd import client_work
from tff_dp.process import initialize_from, model_weights

pytestmark = pytest.mark.heavy

FALSE_POSITIVE = 1e-6


@pytest.fixture(scope="module")
def made(tff):
    """A function to what a function makes, once for all contexts: not for tests that plant a defect."""
    return functools.cache(lambda make: make())


# --- Clipping -------------------------------------------------------------------------------------


def clipped_by_hand(gradient: np.ndarray, clip_norm: float) -> np.ndarray:
    return gradient * min(1.0, clip_norm / max(np.linalg.norm(gradient), 1e-300))


@pytest.mark.parametrize(
    ("context", "weighting"),
    [
        ("stock", None),
        ("scan", None),
        ("scan", "examples"),
        slow("xla", None),
        ("call", "examples"),
    ],
)
def test_steps_without_noise_are_those_of_clipped_gradients_by_hand(stock, context, weighting):
    # All records are in each batch; 40 of them take two passes. The second client has fewer than the
    # plan's: it draws at the rate of the plan's smallest, here 1.
    own = mechanism(noise_multiplier=0.0, batch_size=40, local_steps=3, clip_norm=1.5)
    algorithm = tff_dp.FedAvg(
        client_optimizer=tff_dp.SGD(learning_rate=0.1, momentum=0.5), weighting=weighting
    )
    silos = Silos(linear(3, bias=True), regression((40, 40)), own, algorithm=algorithm)
    clients = regression((40, 13))

    expected, clipped = [], 0
    for client in range(2):
        x, y = (part.astype(np.float64) for part in clients.client(client))
        x = np.concatenate([x, np.ones([len(x), 1])], 1)
        weights, velocity = np.zeros(4), np.zeros(4)
        for _ in range(3):
            each = 2 * (x @ weights - y[:, 0])[:, None] * x
            clipped += int((np.linalg.norm(each, axis=1) > 1.5).sum())
            velocity = 0.5 * velocity + sum(clipped_by_hand(g, 1.5) for g in each) / 40
            weights = weights - 0.1 * velocity
        expected.append(weights)
    assert 0 < clipped < 3 * 53  # some are clipped, and some are not
    shares = [40 / 53, 13 / 53] if weighting else [0.5, 0.5]
    # As which batches the data come does not matter; each way is compiled anew.
    for batch_size in (1000,) if context == "xla" else (1000, 7):
        with inside(context):
            (change,) = silos.change(clients=clients, batch_size=batch_size)
        np.testing.assert_allclose(change, np.average(expected, 0, shares), rtol=2e-5, atol=1e-6)


LAYERS = keras.layers
MODELS = {
    "convolution": (
        (6, 6, 2),
        lambda: [LAYERS.Conv2D(3, 3), LAYERS.MaxPooling2D(), LAYERS.Flatten()],
    ),
    "normalized": ((5,), lambda: [LAYERS.Dense(4, "tanh"), LAYERS.LayerNormalization()]),
    "recurrent": ((4, 3), lambda: [LAYERS.LSTM(3)]),
    "regularized": ((5,), lambda: [LAYERS.Dense(4, "relu", kernel_regularizer="l2")]),
    "sparse": ((5,), lambda: [LAYERS.Embedding(7, 3), LAYERS.Flatten()]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [slow(k) if k == "recurrent" else k for k in MODELS])
def test_gradients_of_examples_are_vectorized_and_those_of_keras_one_at_a_time(
    tff, monkeypatch, kind
):
    import tensorflow as tf

    monkeypatch.setattr(tf, "map_fn", None)  # by which examples run one after another
    shape, layers = MODELS[kind]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(12, *shape)).astype(np.float32)
    if kind == "sparse":
        x = rng.integers(0, 7, size=(12, *shape)).astype(np.int32)
    y = rng.integers(0, 3, size=12).astype(np.int64)
    model = keras.Sequential(
        [keras.layers.Input(shape, dtype=x.dtype.name), *layers(), keras.layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    own = mechanism(noise_multiplier=0.0, batch_size=12, local_steps=1, clip_norm=0.8)
    silos = Silos(model, data.Clients(x, y, [0, 12]), own, loss=loss)
    total, norms = 0.0, []
    for i in range(12):
        with tf.GradientTape() as tape:
            value = loss(y[i : i + 1], model(x[i : i + 1], training=True)) + sum(model.losses)
        variables = [v.value for v in model.trainable_variables]
        gradient = flat(tf.convert_to_tensor(g) for g in tape.gradient(value, variables))
        norms.append(np.linalg.norm(gradient))
        total = total + clipped_by_hand(gradient, 0.8)
    assert max(norms) > 0.8
    with inside("scan"):
        (change,) = silos.change()
    np.testing.assert_allclose(change, -total / 12, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_vectorized_runs_one_example_after_another(tff, monkeypatch):
    import tensorflow as tf

    own = mechanism(noise_multiplier=0.0, batch_size=40, local_steps=2)
    with inside("scan"):
        vectorized = Silos(linear(3, bias=True), regression((40,)), own).change()[0]

        def fails(*_):
            raise ValueError("no converter")

        monkeypatch.setattr(tf, "vectorized_map", fails)
        slow = Silos(linear(3, bias=True), regression((40,)), own).change()[0]
    np.testing.assert_allclose(slow, vectorized, rtol=1e-5)


HONEST = 8
HOSTILE = {
    "huge": (np.full(3, 1e6), 1e6),
    "squares above float32": (np.full(3, 1e15), 1e15),
    "infinite loss": (np.full(3, 1e30), 1e30),
    "NaN": (np.array([np.nan, 0, 0]), 0.0),
    "infinity": (np.array([0, np.inf, 0]), 1.0),
    "NaN label": (np.ones(3), np.nan),
    "ordinary": (np.array([1.0, -1.0, 2.0]), -3.0),
}
CLIP, RATE = 0.7, 0.3


def noiseless_silos() -> Silos:
    # Batches are expected to have all records, with and without the one more.
    own = mechanism(noise_multiplier=0.0, batch_size=HONEST + 1, local_steps=1, clip_norm=CLIP)
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=RATE))
    return Silos(linear(3, bias=True), regression((HONEST + 1,)), own, algorithm=algorithm)


def moved(context: str, silos: Silos) -> dict[str, float]:
    """Returns by how much one more record moves a noiseless step, in units of rate * clip / batch."""
    honest = regression((HONEST,))
    x, y = honest.client(0)
    found = {}
    with inside(context):
        (without,) = silos.change(clients=honest)
        for name, (more_x, more_y) in HOSTILE.items():
            more = data.Clients(
                np.concatenate([x, [more_x]]).astype(np.float32),
                np.concatenate([y, [[more_y]]]).astype(np.float32),
                [0, HONEST + 1],
                allow_nonfinite=True,
            )
            (change,) = silos.change(clients=more)
            found[name] = float(np.linalg.norm(change - without)) * (HONEST + 1) / RATE / CLIP
    return found


BOUND = 1 + 1e-5  # the rounding of the weights, in float32


@in_contexts
def test_one_hostile_record_moves_a_step_by_at_most_the_clip_norm(stock, made, context):
    found = moved(context, made(noiseless_silos))
    assert all(value <= BOUND for value in found.values()), found
    for name in ("huge", "squares above float32"):
        assert found[name] == pytest.approx(1, rel=1e-4)  # the bound is reached
    for name in ("infinite loss", "NaN", "infinity", "NaN label"):
        assert found[name] == 0


def on_grid(parts, clip_norm, grid):
    """Returns gradients in steps, whatever their norm."""
    import tensorflow as tf

    factor = grid.steps / clip_norm
    return noise.Clipped([tf.cast(part * factor, tf.int64) for part in parts], None)


def mean_clipped(parts, clip_norm, grid, counted):
    """Defect: the mean gradient is clipped, and not each example's."""
    import tensorflow as tf

    kept = [tf.where(tf.reshape(counted, [-1, 1, 1][: len(g.shape)]), g, 0.0) for g in parts]
    size = tf.reduce_sum(tf.cast(counted, tf.float32))
    means = [tf.reduce_sum(g, 0, keepdims=True) / size for g in kept]
    clipped, _ = tf.clip_by_global_norm(means, clip_norm)
    alike = [tf.repeat(c, k.shape[0], axis=0) for k, c in zip(kept, clipped, strict=True)]
    return on_grid(alike, clip_norm, grid)


def each_weight_clipped(parts, clip_norm, grid, counted):
    """Defect: each weight's gradient is clipped by itself, so that together they exceed the bound."""
    each = [RIGHT_CLIP([g], clip_norm, grid, counted).parts[0] for g in parts]
    return noise.Clipped(each, None)


def nonfinite_kept(parts, clip_norm, grid, counted):
    """Defect: what is not finite passes through the clipping."""
    import tensorflow as tf

    norm = tf.sqrt(tf.add_n([tf.reduce_sum(g**2, range(1, len(g.shape))) for g in parts]))
    factor = tf.where(counted, clip_norm / tf.maximum(norm, clip_norm), 0.0)
    clipped = [g * tf.reshape(factor, [-1, 1, 1][: len(g.shape)]) for g in parts]
    return on_grid(clipped, clip_norm, grid)


def unclipped(parts, clip_norm, grid, counted):
    """Defect: nothing is clipped."""
    import tensorflow as tf

    kept = [tf.where(tf.reshape(counted, [-1, 1, 1][: len(g.shape)]), g, 0.0) for g in parts]
    return on_grid(kept, clip_norm, grid)


RIGHT_CLIP = noise.clip_l2_each


@pytest.mark.parametrize("defect", [mean_clipped, each_weight_clipped, nonfinite_kept, unclipped])
def test_the_sensitivity_check_catches_planted_defects(tff, monkeypatch, defect):
    monkeypatch.setattr(noise, "clip_l2_each", defect)
    found = moved("scan", noiseless_silos())
    assert not all(value <= BOUND for value in found.values()), found


# --- Batches --------------------------------------------------------------------------------------

STEPS, SILOS, RECORDS, BATCH = 4, 3, 40, 8
# A step's gradient moves the weights by these shares, by the momentum of 1/2: any sum of some of them
# tells which, so that a round's change tells in which of its batches each record was.
SHARES = np.array([1.875, 1.75, 1.5, 1.0])


def one_hot_silos() -> Silos:
    """Silos in which each record moves a weight of its own, by as much as the clip norm."""
    x = np.eye(SILOS * RECORDS, dtype=np.float32)
    clients = data.Clients(x, np.zeros([len(x), 1], np.float32), np.arange(SILOS + 1) * RECORDS)
    own = mechanism(noise_multiplier=0.0, batch_size=BATCH, local_steps=STEPS)
    sgd = tff_dp.SGD(learning_rate=1.0, momentum=0.5)
    algorithm = tff_dp.FedAvg(client_optimizer=sgd)
    return Silos(linear(len(x)), clients, own, loss=sum_of, algorithm=algorithm)


def batches_in(changes) -> np.ndarray:
    """Returns who was in which batch: bool [rounds, steps, silos, records]."""
    subsets = np.array(list(itertools.product([False, True], repeat=STEPS)))
    sums = subsets @ SHARES
    amounts = -np.asarray(changes) * BATCH * SILOS
    nearest = np.abs(amounts[..., None] - sums).argmin(-1)
    np.testing.assert_allclose(amounts, sums[nearest], atol=1e-3)
    drawn = subsets[nearest].reshape(-1, SILOS, RECORDS, STEPS)
    return np.moveaxis(drawn, -1, 1)


def is_poisson(drawn: np.ndarray) -> bool:
    """Tests that each record is in each batch by a coin of its own; [rounds, steps, silos, records].

    Seven tests, each of which a right sampler passes but for FALSE_POSITIVE / 7.
    """
    level = FALSE_POSITIVE / 7
    rate = BATCH / RECORDS
    p_values = [oracles.binomial_p(drawn.sum(), drawn.size, rate)]
    # The sizes of the batches are binomial.
    law = stats.binom(RECORDS, rate)
    sizes = drawn.sum(-1).ravel()
    edges = [0, *range(6, 12), RECORDS + 1]
    seen = np.histogram(sizes, edges)[0]
    expected = np.diff([law.cdf(edge - 1) for edge in edges]) * len(sizes)
    p_values.append(stats.chisquare(seen, expected).pvalue)
    # No record is preferred.
    each = drawn.sum((0, 1)).ravel()
    trials = drawn.shape[0] * STEPS
    spread = np.sum((each - trials * rate) ** 2) / (trials * rate * (1 - rate))
    p_values.append(2 * min(stats.chi2.cdf(spread, len(each)), stats.chi2.sf(spread, len(each))))
    # Steps, silos, rounds and records share nothing: products of pairs have mean zero.
    centered = (drawn - rate) / math.sqrt(rate * (1 - rate))
    pairs = [
        *(centered[:, a] * centered[:, b] for a, b in itertools.combinations(range(STEPS), 2)),
        *(
            centered[:, :, a] * centered[:, :, b]
            for a, b in itertools.combinations(range(SILOS), 2)
        ),
        centered[1:] * centered[:-1],
        centered[..., 1:] * centered[..., :-1],
    ]
    groups = [pairs[:6], pairs[6:9], pairs[9:10], pairs[10:]]
    for group in groups:
        products = np.concatenate([pair.ravel() for pair in group])
        p_values.append(2 * stats.norm.sf(abs(products.mean()) * math.sqrt(products.size)))
    return min(p_values) > level


def simulated(rng, rounds: int, kind: str) -> np.ndarray:
    """Returns batches of a right sampler, or of one with a defect."""
    shape = (rounds, STEPS, SILOS, RECORDS)
    coins = rng.random(shape)
    if kind == "poisson":
        return coins < BATCH / RECORDS
    if kind == "fixed size":
        return coins.argsort(-1).argsort(-1) < BATCH
    if kind == "shuffled passes":  # batches of a permutation, one after another
        places = rng.random((rounds, 1, SILOS, RECORDS)).argsort(-1).argsort(-1) // BATCH
        return places == np.arange(STEPS)[None, :, None, None]
    if kind == "one batch for all steps":
        return np.broadcast_to(coins[:, :1] < BATCH / RECORDS, shape)
    if kind == "one batch for all silos":
        return np.broadcast_to(coins[:, :, :1] < BATCH / RECORDS, shape)
    if kind == "one batch for all rounds":
        return np.broadcast_to(coins[:1] < BATCH / RECORDS, shape)
    assert kind == "another rate"
    return coins < 1.2 * BATCH / RECORDS


DEFECTS = (
    "fixed size",
    "shuffled passes",
    "one batch for all steps",
    "one batch for all silos",
    "one batch for all rounds",
    "another rate",
)
ROUNDS = 30


def test_the_test_of_batches_catches_other_samplers():
    rng = np.random.default_rng(5)
    assert all(is_poisson(simulated(rng, ROUNDS, "poisson")) for _ in range(20))
    for kind in DEFECTS:
        assert not is_poisson(simulated(rng, ROUNDS, kind)), kind


@in_contexts
def test_each_step_of_each_silo_draws_a_poisson_batch_of_its_own(stock, made, context):
    silos = made(one_hot_silos)
    with inside(context):
        drawn = batches_in(silos.change(ROUNDS))
    assert is_poisson(drawn)


def test_coins_are_words_of_64_bits_modulo_the_number_of_records():
    # 2^64 is twice 6 * 2^60 and 2^62 more, so that values below 2^62 come three times in four, where
    # an unbiased coin, or one of fewer bits, has 2 / 3. For n records the excess is below n / 2^64.
    import tensorflow as tf

    n, among, below = 20_000, 6 * 2**60, 2**62
    _, drawn = tf.function(client_work._poisson_batch)(
        tf.constant(n, tf.int64), tf.constant(among, tf.int64), below
    )

    @tf.function(jit_compile=True)
    def compiled():
        coins = tf.raw_ops.StatelessRandomUniformIntV2(
            shape=[n],
            key=tf.constant([3], tf.uint64),
            counter=tf.constant([1, 2], tf.uint64),
            alg=1,
            minval=tf.constant(0, tf.int64),
            maxval=tf.constant(among, tf.int64),
        )
        return tf.math.count_nonzero(coins < below)

    for count in (int(drawn), int(compiled())):
        assert oracles.binomial_p(count, n, 0.75) > FALSE_POSITIVE
        assert oracles.binomial_p(count, n, 2 / 3) < FALSE_POSITIVE


def test_a_defective_sampler_in_the_clients_is_caught(tff, monkeypatch):
    import tensorflow as tf

    def fixed_size(count, _, batch_size):
        coins = tf.raw_ops.RandomUniform(shape=tf.stack([count + 1]), dtype=tf.float32)
        others = tf.concat([[2.0], coins[1:]], 0)  # row 0 is no record
        return tf.argsort(others), tf.constant(batch_size, tf.int64)

    monkeypatch.setattr(client_work, "_poisson_batch", fixed_size)
    silos = one_hot_silos()
    with inside("scan"):
        assert not is_poisson(batches_in(silos.change(ROUNDS)))


# --- Noise ----------------------------------------------------------------------------------------

WIDE, Z = 6000, 2.0


def wide_silos(sizes=(4, 4, 4)) -> Silos:
    """Silos whose records have no gradient: a round's change is noise."""
    clients = data.Clients(
        np.zeros([sum(sizes), WIDE], np.float32),
        np.zeros([sum(sizes), 1], np.float32),
        np.cumsum([0, *sizes]),
    )
    own = mechanism(noise_multiplier=Z, batch_size=2, local_steps=STEPS, clip_norm=CLIP)
    return Silos(linear(WIDE), clients, own)


def has_law(sample: np.ndarray, sigma: float) -> bool:
    """Tests of N(0, sigma^2), of the variance and of the shape: right but for FALSE_POSITIVE."""
    statistic = np.sum((sample / sigma) ** 2)
    tail = min(stats.chi2.cdf(statistic, sample.size), stats.chi2.sf(statistic, sample.size))
    shape = stats.kstest(sample / sigma, "norm").pvalue
    return bool(tail > FALSE_POSITIVE / 4 and shape > FALSE_POSITIVE / 2)


@in_contexts
def test_the_noise_has_the_planned_law_in_each_step_and_silo_and_round(stock, made, context):
    silos = made(wide_silos)
    with inside(context):
        changes = silos.change(3)
    # Independent noise in 4 steps of 3 silos, over the expected 2 records: noise that silos or steps
    # shared would be sqrt(3) or 2 times as large. 18000 values show an error of 4 %.
    sigma = Z * CLIP / 2 * math.sqrt(STEPS / 3)
    sample = np.concatenate(changes)
    assert has_law(sample, sigma)
    for factor in (2 / 3, 0.95, 1.05, 3 / 2):  # negative controls
        assert not has_law(factor * sample, sigma)
    # Correlations of n independent pairs are N(0, 1 / n): 5.3 deviations have probability 1.2e-7.
    pairs = [*itertools.combinations(changes, 2), (sample[1:], sample[:-1])]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5.3 / math.sqrt(len(a))
    mixed = sample[:-1] + 0.1 * sample[1:]  # negative control
    assert abs(np.corrcoef(mixed, sample[1:])[0, 1]) > 5.3 / math.sqrt(len(mixed))


@pytest.mark.parametrize("context", ["scan", "xla"])
def test_fused_rounds_have_noise_of_their_own(tff, made, context):
    silos, rounds = made(wide_silos), 5
    cohorts = [silos.clients.cohort(range(3), batch_size=4) for _ in range(rounds)]
    with inside(context):
        state = initialize_from(silos.process, silos.bound.initial_weights)
        state, _ = execution.iterate(silos.process.next, state, cohorts)
        change = flat(model_weights(silos.process, state).trainable)
    sigma = Z * CLIP / 2 * math.sqrt(STEPS / 3)
    assert has_law(change, sigma * math.sqrt(rounds))
    assert not has_law(change, sigma * rounds)  # as the same noise in each round would be


@pytest.mark.parametrize("context", ["stock", "scan", "call"])
def test_clients_without_records_and_empty_batches_still_send_noised_steps(stock, made, context):
    silos = made(wide_silos)
    empty = silos.clients.subset([0, 1, 2])
    empty = data.Clients(*(part[:0] for part in empty.pooled()), [0, 0, 0, 0], allow_empty=True)
    with inside(context):
        (change,) = silos.change(clients=empty)
    assert has_law(change, Z * CLIP / 2 * math.sqrt(STEPS / 3))


def test_many_batches_of_one_expected_record_are_empty_and_nothing_breaks(tff):
    x = np.eye(6, dtype=np.float32)
    clients = data.Clients(x, np.zeros([6, 1], np.float32), [0, 6])
    own = mechanism(noise_multiplier=0.0, batch_size=1, local_steps=1)
    silos = Silos(linear(6), clients, own, loss=sum_of)
    with inside("scan"):
        drawn = -np.array(silos.change(200))
    # A gradient as long as the clip norm loses 2^-16 of it.
    assert set(np.unique(np.round(drawn, 4))) == {0.0, 1.0}
    empty = int((drawn.sum(1) == 0).sum())
    assert oracles.binomial_p(empty, 200, (1 - 1 / 6) ** 6) > FALSE_POSITIVE
    assert empty > 0


def test_no_data_raise_a_client_s_rate_above_the_worst_that_is_accounted_for(tff):
    # The plan's smallest client has 10 records; two clients come, with 4 and with 20.
    x = np.eye(24, dtype=np.float32)
    y = np.zeros([24, 1], np.float32)
    planned = data.Clients(x[:, :24], y, [0, 10, 24])
    own = mechanism(noise_multiplier=0.0, batch_size=2, local_steps=1)
    silos = Silos(linear(24), planned, own, loss=sum_of)
    rounds = 150
    with inside("scan"):
        changes = silos.change(rounds, clients=data.Clients(x, y, [0, 4, 24]))
    drawn = np.round(-np.array(changes) * 2 * 2) > 0
    assert oracles.binomial_p(drawn[:, :4].sum(), 4 * rounds, 2 / 10) > FALSE_POSITIVE
    assert oracles.binomial_p(drawn[:, 4:].sum(), 20 * rounds, 2 / 20) > FALSE_POSITIVE
    assert oracles.binomial_p(drawn[:, :4].sum(), 4 * rounds, 2 / 4) < FALSE_POSITIVE


@pytest.mark.parametrize("context", ["stock", "scan", slow("call")])
def test_a_global_seed_seeds_neither_batches_nor_noise(stock, context):
    import tensorflow as tf

    found = []
    try:
        for _ in range(2):
            keras.utils.set_random_seed(1)
            silos = wide_silos()
            with inside(context):
                found.append(silos.change()[0])
    finally:
        tf.random.set_seed(None)
    assert np.all(found[0] != found[1])


@pytest.mark.parametrize("other", ["call", slow("vmap")])
def test_a_seeded_context_draws_the_same_by_every_strategy(other):
    found = {}
    silos = Silos(
        linear(3, bias=True),
        regression((20, 20)),
        mechanism(batch_size=5, local_steps=3, noise_multiplier=0.5),
        algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1)),
    )
    for context in ("scan", other):
        settings = {"strategy": context} | ({} if context == "call" else {"xla": False})
        with execution.fast(seed=7, strict=True, **settings):
            found[context] = silos.change(2)
    np.testing.assert_allclose(found["scan"], found[other], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("context", ["stock", "scan"])
def test_examples_and_steps_drop_inputs_of_their_own(stock, context):
    # All 16 records alike, all in each batch: a weight's change counts the masks that kept its input.
    clients = data.Clients(np.ones([16, 500], np.float32), np.zeros([16, 1], np.float32), [0, 16])
    layers = [keras.layers.Input([500]), keras.layers.Dropout(0.5)]
    model = keras.Sequential([*layers, keras.layers.Dense(1, use_bias=False)])
    own = mechanism(noise_multiplier=0.0, batch_size=16, local_steps=2, clip_norm=1e3)
    silos = Silos(model, clients, own, loss=sum_of)
    with inside(context):
        (change,) = silos.change()
    kept = -change * 16 / 2
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)
    # Binomial(32, 1/2) each, of variance 8: masks that steps shared would make it 16, examples 128.
    variance = np.mean((kept - 16) ** 2)
    assert abs(variance / 8 - 1) < 5.3 * math.sqrt(2 / 500)  # 1.2e-7; kurtosis is below normal's
