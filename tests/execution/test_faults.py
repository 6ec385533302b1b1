"""What goes wrong in the fast context: who is named, what is left, and what leaks."""

from __future__ import annotations

import gc
import os
import pathlib
import threading

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.errors import ComputationError
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

pytestmark = pytest.mark.heavy

MODES = [("scan", False), ("scan", True), ("vmap", False), ("vmap", True), ("call", False)]
CLIENTS = 6


@pytest.fixture(scope="module")
def linear(tff):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8 * CLIENTS, 5)).astype(np.float32)
    clients = data.Clients(x, x[:, :1], np.arange(0, len(x) + 1, 8))
    model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    return bound, process, clients


@pytest.fixture(scope="module")
def checked(tff):
    """Clients assert that their examples are positive, and the server that the sum is small."""
    import tensorflow as tf

    @tff.tensorflow.computation(tff.SequenceType(tff.TensorType(np.float32, [None])))
    def total(batches):
        def add(sum_, batch):
            check = tf.debugging.assert_positive(batch, "examples must be positive")
            with tf.control_dependencies([check]):
                return sum_ + tf.reduce_sum(batch)

        return batches.reduce(0.0, add)

    @tff.tensorflow.computation(np.float32)
    def small(value):
        with tf.control_dependencies([tf.debugging.assert_less(value, 100.0, "too large a sum")]):
            return tf.identity(value)

    @tff.federated_computation(tff.FederatedType(total.type_signature.parameter, tff.CLIENTS))
    def summed(clients):
        return tff.federated_map(small, tff.federated_sum(tff.federated_map(total, clients)))

    return summed


def sequences(*clients):
    import tensorflow as tf

    return [
        tf.data.Dataset.from_tensor_slices(np.array(values, np.float32)).batch(2)
        for values in clients
    ]


@pytest.mark.parametrize(("strategy", "xla"), MODES)
def test_a_check_that_fails_names_the_client_even_where_xla_drops_assertions(
    checked, strategy, xla
):
    with execution.fast(strategy, xla=xla, strict=True):
        assert checked(sequences([1, 2], [3, 4], [5, 6])) == 21.0
        with pytest.raises(ComputationError, match=r"(?s)client 1 \(of 3.*must be positive"):
            checked(sequences([1, 2], [3, -4], [-5, 6]))
        with pytest.raises(ComputationError, match=r"server's computation failed.*too large a sum"):
            checked(sequences([1, 2], [300, 4]))
        assert checked(sequences([1, 2, 3])) == 6.0


@pytest.mark.parametrize(("strategy", "xla"), MODES)
def test_a_data_set_that_fails_names_the_client_and_leaves_the_context_usable(
    linear, strategy, xla
):
    import tensorflow as tf

    bound, process, clients = linear

    def fail(x, y):
        with tf.control_dependencies([tf.debugging.assert_less(x, -1e3, "spoiled data")]):
            return tf.identity(x), y

    good = [clients.dataset(c, batch_size=4) for c in range(3)]
    with execution.fast(strategy, xla=xla, strict=True):
        state = initialize_from(process, bound.initial_weights)
        with pytest.raises(ComputationError, match=r"(?s)client 2 \(of 3.*spoiled data"):
            process.next(state, [*good[:2], good[2].map(fail)])
        process.next(state, good)


def test_a_secure_sum_refuses_a_value_beyond_its_bound(tff):
    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def secure(values):
        return tff.federated_secure_sum(values, 10), tff.federated_secure_sum_bitwidth(values, 5)

    with execution.fast(strict=True):
        assert secure([3, 10, 0]) == (13, 13)
        with pytest.raises(ComputationError, match=r"client 1 \(of 2.*maximum of a secure sum"):
            secure([3, 11])


def test_an_interrupted_round_leaves_nothing_behind(linear, monkeypatch):
    from tff_dp.execution.cohort import slices

    bound, process, clients = linear
    started = threading.active_count()

    def interrupting(*arguments):
        raise KeyboardInterrupt

    with execution.fast(strict=True):
        state = initialize_from(process, bound.initial_weights)
        cohort = clients.cohort(range(3), batch_size=4)
        expected = process.next(state, cohort).state.global_model_weights.trainable[0]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(slices, "listed", interrupting)
            process.next(state, list(cohort))
        again = process.next(state, cohort).state.global_model_weights.trainable[0]
        np.testing.assert_array_equal(again, expected)
    assert threading.active_count() == started


def resident_mebibytes() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("kind", ["arrays", slow("data sets")])
def test_memory_does_not_grow_with_rounds(linear, kind):
    # 500 rounds after 100 to warm up; the slope is a line's through all of them.
    bound, process, clients = linear
    sets = [clients.dataset(c, batch_size=4) for c in range(CLIENTS)]
    gc.freeze()  # what was there before need not be searched for garbage again and again
    with execution.fast(strict=True, xla=True):  # compiled in the first round, not in the midst
        state = initialize_from(process, bound.initial_weights)
        used = []
        for number in range(600):
            cohort = clients.cohort(range(CLIENTS), batch_size=4) if kind == "arrays" else sets
            state = process.next(state, cohort).state
            if number % 50 == 0:
                gc.collect()  # takes as long as many rounds
                used.append(resident_mebibytes())
    slope = np.polyfit(np.arange(len(used[2:])), used[2:], 1)[0] * 2  # each 100 rounds
    assert slope < 5


def test_memory_does_not_grow_with_a_cohort_that_streams(tff):
    # 64 MiB a block at most (and one ahead), of 512 MiB of examples that no device array holds.
    rows = 1 << 15
    x = np.broadcast_to(np.ones([1, 4096], np.float32), [rows, 4096])  # 512 MiB that take no memory
    y = np.zeros([rows, 1], np.float32)
    clients = data.Clients(x, y, np.arange(0, rows + 1, 64), allow_nonfinite=True)
    model = keras.Sequential([keras.layers.Input([4096]), keras.layers.Dense(1)])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedSGD(), privacy=tff_dp.NoPrivacy())
    with execution.fast(strict=True) as context:
        context.settings.resident.limit = 0
        state = initialize_from(process, bound.initial_weights)
        process.next(state, clients.cohort(range(64), batch_size=64))
        peaks = []
        for count in (128, 512):
            pathlib.Path("/proc/self/clear_refs").write_text(
                "5", encoding="utf-8"
            )  # resets the peak
            before = resident_mebibytes()
            process.next(state, clients.cohort(range(count), batch_size=64))
            status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
            peak = next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]
            peaks.append(int(peak) / 2**10 - before)
    assert peaks[1] < peaks[0] + 200
