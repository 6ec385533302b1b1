"""How full a card is, and what is said where a device has no memory left."""

from __future__ import annotations

import re
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.fake_driver import A100, H200
from tests.support.rounds import cohort_of
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution import gpu_memory
from tff_dp.execution.round import client_loop
from tff_dp.execution.round.strategies import Way
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

pytestmark = pytest.mark.heavy
GIB = 2**30


@pytest.fixture
def cards(monkeypatch):
    """Returns a function that has TensorFlow see cards, each with what it holds of it."""

    def put(*held, known=(A100, H200)):
        places = [tf.config.LogicalDevice(f"/device:GPU:{i}", "GPU") for i in range(len(held))]
        memory = {
            f"GPU:{i}": dict(zip(("current", "peak"), each, strict=True))
            for i, each in enumerate(held)
        }
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: places)
        monkeypatch.setattr(tf.config.experimental, "get_memory_info", memory.__getitem__)
        monkeypatch.setattr(gpu_memory, "_cards", lambda: [*known])

    return put


def test_the_fullest_card_is_described(tff, cards):
    assert gpu_memory.described() == ""
    cards((3 * GIB, 5 * GIB), known=[A100])
    assert gpu_memory.described() == "GPU memory 3.0 of 40.0 GiB, at most 5.0"
    cards((30 * GIB, 31 * GIB), (70 * GIB, 80 * GIB))
    text = "GPU memory 30.0 of 40.0 GiB, at most 31.0 (the fullest of 2 GPUs)"
    assert gpu_memory.described() == text


def test_a_card_in_several_parts_has_no_total(tff, cards):
    cards((3 * GIB, 5 * GIB), (4 * GIB, 6 * GIB), known=[A100])
    text = "GPU memory 4.0 GiB, at most 6.0 (the fullest of 2 GPUs)"
    assert gpu_memory.described() == text
    cards((GIB, GIB), known=[])
    assert gpu_memory.described() == "GPU memory 1.0 GiB, at most 1.0"


def test_a_card_whose_allocator_keeps_no_account_is_left_out(tff, cards, monkeypatch):
    cards((GIB, GIB), known=[A100])

    def refuse(name):
        raise ValueError(f"Memory stats not available for device '{name}'")

    monkeypatch.setattr(tf.config.experimental, "get_memory_info", refuse)
    assert gpu_memory.described() == ""


def test_only_a_context_on_gpus_has_gpu_memory(tff, cards):
    cards((GIB, GIB), known=[A100])
    assert gpu_memory.of_context() == ""  # the context that TFF installs
    with execution.fast("scan", "cpu") as context:
        assert gpu_memory.of_context() == ""
        places = types.SimpleNamespace(on_gpu=True)
        context._settings = types.SimpleNamespace(places=places)
        assert gpu_memory.of_context() == "GPU memory 1.0 of 40.0 GiB, at most 1.0"


def test_errors_of_memory_are_told_from_others(tff):
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying"),
        tf.errors.UnknownError(None, None, "CUDA_ERROR_OUT_OF_MEMORY"),
    ):
        assert gpu_memory.is_out_of_memory(error)
        assert "smaller batch_size" in gpu_memory.advice(error)
    for error in (
        tf.errors.InvalidArgumentError(None, None, "shapes"),
        ValueError("out of memory"),
    ):
        assert not gpu_memory.is_out_of_memory(error)
        assert gpu_memory.advice(error) == ""


@pytest.fixture(scope="module")
def trained(tff):
    """Returns a function that trains for a round, and the clients."""
    clients = cohort_of([8, 8, 5, 12])
    model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())

    def train(strategy, rounds=1):
        process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
        with execution.fast(strategy, "cpu", xla=False, strict=True):
            state = initialize_from(process, bound.initial_weights)
            for _ in range(rounds):
                state = process.next(state, clients.cohort(range(4), batch_size=4)).state
            return execution.explain(process.next), state.global_model_weights.trainable

    return train


@pytest.mark.slow
def test_a_client_that_needs_too_much_memory_is_named_with_the_remedy(tff):
    """The kernel itself fails: no machine has 2 ** 60 bytes."""

    @tff.tensorflow.computation(np.int32)
    def work(size):
        return tf.reduce_sum(tf.fill([size, size, size], 1.0))

    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def total(sizes):
        return tff.federated_sum(tff.federated_map(work, sizes))

    for strategy in ("scan", "call"):
        with execution.fast(strategy, "cpu", xla=False, strict=True):
            assert total([np.int32(2)] * 3) == 24
            with pytest.raises(ComputationError, match="client 1") as raised:
                total([np.int32(2), np.int32(1 << 20), np.int32(2)])
        assert "A device is out of memory. What takes less: a smaller batch_size" in str(
            raised.value
        )


@pytest.mark.slow
def test_rounds_go_on_in_a_way_that_takes_less_memory_and_say_so_once(trained, monkeypatch):
    expected = trained("scan", rounds=2)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said where there is memory
        assert "clients: strategy vmap, without XLA" in trained("vmap")[0]
    clients = client_loop.clients

    def full(parts, shape, tensors, common, root, **options):
        found = clients(parts, shape, tensors, common, root, **options)
        if not shape.side_by_side:
            return found
        size = tf.cast(tf.cast(root[0], tf.bool), tf.int32) * (1 << 20)  # known when it is run
        nothing = tf.minimum(tf.reduce_sum(tf.fill([size, size, size], 1.0)), 0.0)
        return [each + tf.cast(nothing, each.dtype) for each in found]

    monkeypatch.setattr(client_loop, "clients", full)
    with pytest.warns(RuntimeWarning) as said:
        text, weights = trained("vmap", rounds=2)
    assert "clients: strategy scan, without XLA" in text
    assert re.search(r"side by side without XLA given up: .*(OOM|memory|ResourceExhausted)", text)
    (message,) = [str(each.message) for each in said if "memory" in str(each.message)]
    assert message.startswith(f"Rounds run by {Way('scan')} from now on, and not by {Way('vmap')}")
    assert "smaller batch_size" in message
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
