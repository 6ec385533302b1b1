"""Functions that XLA compiles by themselves: the numbers, draws and errors of the same code inlined."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.rounds import cohort_of
from tff_dp import execution, noise
from tff_dp.errors import ComputationError
from tff_dp.execution.graph import compiled_calls
from tff_dp.model import ModelSpec
from tff_dp.noise import compiling
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = pytest.mark.heavy

WIDE = 1 << 18  # float32 numbers: 1 MiB
CLIENTS = [np.full([WIDE], value, np.float32) for value in (1.5, -2.5, 0.25)]


@pytest.fixture
def taken(monkeypatch):
    """For each call of a marked function, whether it was compiled by itself."""
    found, write = [], compiled_calls.write

    def spied(emission, node, inputs, path):
        result = write(emission, node, inputs, path)
        if compiled_calls.NAME in node.attr["f"].func.name:
            found.append(result is not None)
        return result

    monkeypatch.setattr(compiled_calls, "write", spied)
    return found


def inlined(monkeypatch):
    monkeypatch.setattr(compiled_calls, "write", lambda *_: None)


def summing(work, shape=(WIDE,)):
    """Returns the computation of the sum over clients of what a function gives."""
    from tff_dp import tff

    member = tff.TensorType(np.float32, shape)

    @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
    def computation(clients):
        made = tff.tensorflow.computation(lambda x: work(x), member)
        return tff.federated_sum(tff.federated_map(made, clients))

    return computation


def run(work, clients=CLIENTS, seed=5, **options):
    options = {"strategy": "scan", "xla": False, **options}
    with execution.fast(seed=seed, strict=True, **options):
        return summing(work, clients[0].shape)(clients)


def test_the_mark_is_the_one_that_is_looked_for(tff):
    assert compiled_calls.NAME == compiling.NAME
    assert (
        compiling.NAME
        in noise.compiled(lambda x: x).get_concrete_function(tf.zeros([])).name.decode()
    )


def draws(x):
    return x + tf.cast(noise.gaussian([WIDE], 1e3), tf.float32)


def test_a_marked_function_gives_the_same_numbers_and_draws(tff, taken, monkeypatch):
    """Each client and each call of the function draws its own."""

    def work(x):
        marked = noise.compiled(draws)
        return marked(x) + 3.0 * marked(x)

    found = run(work)
    assert taken == [True, True]
    inlined(monkeypatch)
    np.testing.assert_allclose(found, run(work), atol=8)  # a draw may round to its neighbor
    assert np.std(found) == pytest.approx(1e3 * np.sqrt(3 * (1 + 9)), rel=0.02)
    assert np.abs(found - run(work, seed=6)).mean() > 100


@pytest.mark.parametrize(
    ("clients", "options"),
    [
        (CLIENTS, {"xla": True}),
        (CLIENTS, {"strategy": "vmap"}),
        ([client[:100] for client in CLIENTS], {}),
    ],
)
def test_elsewhere_a_marked_function_is_one_like_others(tff, taken, clients, options):
    """Where XLA compiles everything, for clients side by side, and where little is to be saved."""

    def work(x):
        return noise.compiled(lambda x: x * 2.0)(x)

    found = run(work, clients, **options)
    assert taken
    assert not any(taken)
    np.testing.assert_array_equal(found, 2 * sum(clients))


def test_what_xla_cannot_compile_is_written_without_it(tff, taken):
    def work(x):
        return noise.compiled(lambda x: tf.boolean_mask(x, x > 0)[:1] + tf.zeros([WIDE]))(x)

    positive = [client for client in CLIENTS if client[0] > 0]
    np.testing.assert_array_equal(run(work, positive), sum(positive))
    assert not any(taken)


def test_a_check_in_a_marked_function_names_the_client(tff, taken):
    def work(x):
        place = tf.cast(x[0], tf.int32)  # the kernel refuses what XLA clamps
        return noise.compiled(lambda x, place: x + tf.gather(x, place))(x, place)

    first, *others = CLIENTS
    beyond = np.full([WIDE], WIDE, np.float32)
    np.testing.assert_array_equal(run(work, [first, first]), 4 * first)
    assert all(taken)
    with pytest.raises(ComputationError, match="client 1"):
        run(work, [first, beyond, *others])


@pytest.fixture(scope="module")
def silos(tff):
    """A process of DP-SGD for a model whose gradients of a few examples exceed a cache, and its data."""
    layers = [keras.layers.Dense(8192, activation="relu"), keras.layers.Dense(16)]
    model = keras.Sequential([keras.layers.Input([5]), *layers, keras.layers.Dense(1)])
    clients = cohort_of([12, 9, 5])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    mechanism = tff_dp.RecordGaussianMechanism(
        clip_norm=0.5, noise_multiplier=0.5, batch_size=5, local_steps=3
    )
    privacy = tff_dp.PrivacyPlan(mechanism=mechanism, records=[12, 9, 5], rounds=3, delta=1e-3)
    return build_process(bound, algorithm=tff_dp.FedAvg(), privacy=privacy), bound, clients


def trained(silos, **options):
    process, bound, clients = silos
    with execution.fast(seed=3, strict=True, **options):
        state = initialize_from(process, bound.initial_weights)
        for _ in range(2):
            state = process.next(state, clients.cohort([0, 1, 2], batch_size=5)).state
        return model_weights(process, state).trainable


@pytest.mark.slow
def test_dp_sgd_takes_the_steps_that_it_takes_inlined(silos, taken, monkeypatch):
    """The sums of clipped gradients, and the noise, are compiled; the model's gradients are not."""
    _, bound, _ = silos
    found = trained(silos, strategy="scan", xla=False)
    assert taken
    assert all(taken)
    assert len(taken) % 2 == 0
    inlined(monkeypatch)
    _forget(silos)
    expected = trained(silos, strategy="scan", xla=False)
    moved = [
        np.abs(a - b).max() for a, b in zip(expected, bound.initial_weights.trainable, strict=True)
    ]
    for a, b, most in zip(found, expected, moved, strict=True):
        assert most > 0
        np.testing.assert_allclose(a, b, atol=1e-4 * most)


def _forget(silos):
    """Has the next call write its graphs anew."""
    from tff_dp.execution import compilation

    process, *_ = silos
    compilation.runner_of(process.next).runner.graphs.kept._graphs.clear()
