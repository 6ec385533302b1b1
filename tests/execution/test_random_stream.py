"""The cryptographic stream that noise under a plan is made of."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.random_bits import (
    ZEROS,
    are_fair,
    model_with,
    one_round,
    plans,
    silos,
    summing,
)
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import ArgumentError, ComputationError, StackError
from tff_dp.execution import compilation, marked_noise
from tff_dp.execution.graph import random_words
from tff_dp.execution.round import whole_round
from tff_dp.model import ModelSpec
from tff_dp.noise.words import SCOPE
from tff_dp.noise.words import words as noise_words
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = pytest.mark.heavy


# NIST SP 800-38A, F.5.1 and F.5.5: CTR-AES128 and CTR-AES256, counter, output blocks.
COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST = {
    "2b7e151628aed2a6abf7158809cf4f3c": (
        "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
        "6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
    ),
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": (
        "0bdf7df1591716335e9a8b15c860c5025a6e699d536119065433863c8f657b94"
        "1bc12c9c01610d5d0d8bd6a3378eca622956e1c8693536b1bee99c73a31576b6"
    ),
}


@pytest.mark.parametrize("secret", NIST)
def test_words_are_those_of_aes_in_counter_mode(secret):
    found = random_words.aes_ctr(bytes.fromhex(secret), bytes.fromhex(COUNTER), 8)
    assert found.dtype == np.int64
    assert found.tobytes() == bytes.fromhex(NIST[secret])
    assert found[0] == int.from_bytes(bytes.fromhex(NIST[secret])[:8], "little", signed=True)


def test_a_long_stream_goes_on_from_part_to_part():
    # One block of counter mode is AES of the counter alone: 100,003 words begin 50,002 of them.
    found = random_words.aes_ctr(bytes(32), bytes(16), 100_003)
    for block in (0, 1, 4095, 4096, 50_001):
        alone = random_words.aes_ctr(bytes(32), block.to_bytes(16, "big"), 2)
        here = found[2 * block : 2 * block + 2]
        np.testing.assert_array_equal(alone[: len(here)], here)
    assert len(np.unique(found)) == len(found)
    assert random_words.aes_ctr(bytes(32), bytes(16), 0).shape == (0,)


def test_each_call_has_a_key_of_256_bits_from_the_system(monkeypatch):
    import os

    asked = []
    urandom = os.urandom

    def recorded(count):
        asked.append(urandom(count))
        return asked[-1]

    monkeypatch.setattr(os, "urandom", recorded)
    found = [random_words.of_call(1000, None, call) for call in (1, 1, 2)]
    assert [len(bits) for bits in asked] == [32] * 3
    np.testing.assert_array_equal(found[0], random_words.aes_ctr(asked[0], bytes(16), 1000))
    # A word in common has probability 3000^2 / 2^65, below 1e-12.
    assert len(np.unique(np.concatenate(found))) == 3000
    np.testing.assert_array_equal(random_words.of_call(9, 3, 1), random_words.of_call(9, 3, 1))
    assert np.all(random_words.of_call(9, 3, 1) != random_words.of_call(9, 3, 2))


def test_the_words_are_fair_and_the_test_sees_words_that_are_not():
    drawn = random_words.of_call(200_000, None, 1)
    assert are_fair(drawn)
    assert not are_fair(np.abs(drawn))
    assert not are_fair(drawn & (drawn >> 7))


def passing_words_on(tff):
    """A computation whose server returns the words of its noise: two tensors, and a state that counts."""
    import tensorflow as tf

    vector = tff.TensorType(np.float32, [3])

    @tff.tensorflow.computation(np.int32, vector)
    def update(state, total):
        with tf.name_scope(SCOPE):
            a, b = noise_words([2, 3]), noise_words([tf.size(total)])
        return state + 1, (a, b)

    types = tff.FederatedType(np.int32, tff.SERVER), tff.FederatedType(vector, tff.CLIENTS)

    @tff.federated_computation(*types)
    def take_round(state, vectors):
        both = tff.federated_map(update, (state, tff.federated_sum(vectors)))
        return both[0], both[1]

    return take_round


@pytest.fixture
def made(monkeypatch):
    """The words of each call that is made."""
    calls = []
    of_call = random_words.of_call

    def recorded(*arguments):
        calls.append(of_call(*arguments))
        return calls[-1]

    monkeypatch.setattr(random_words, "of_call", recorded)
    return calls


def flat(drawn) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in drawn])


@pytest.mark.parametrize(("strategy", "xla"), [("scan", True), ("scan", False), ("call", False)])
def test_the_noise_of_a_server_is_made_of_these_words_bit_by_bit(tff, made, strategy, xla):
    take_round = passing_words_on(tff)
    with execution.fast(strategy, xla=xla, strict=True, random_bits="aes-ctr"):
        found = [flat(take_round(0, [ZEROS] * count)[1]) for count in (2, 2, 0, 3)]
        told = execution.explain(take_round)
    assert [len(each) for each in made] == [9] * 4
    for drawn, given in zip(found, made, strict=True):
        # Of the 64 bits of the stream, a word has the first 63.
        np.testing.assert_array_equal(np.sort(drawn), np.sort(given >> 1))
    assert len(np.unique(np.concatenate(found))) == 36
    assert f"noise of a privacy plan: in update; its random bits: {marked_noise.AES_CTR}" in told
    with execution.fast(strategy, xla=xla, strict=True, random_bits="philox"):
        assert not np.isin(flat(take_round(0, [ZEROS])[1]), np.concatenate(made)).any()
    assert len(made) == 4  # Philox has asked for none


@pytest.mark.parametrize(("rounds_at_once", "xla"), [slow(4, True), (3, False), (1, False)])
def test_fused_rounds_have_words_of_their_own(tff, made, monkeypatch, rounds_at_once, xla):
    clients = data.Clients(np.zeros([4, 3], np.float32), np.zeros([4, 1], np.float32), range(5))
    bound = ModelSpec(
        model=keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)]), loss="mse"
    ).bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plans()["central"])
    calls = []
    several = whole_round.several
    monkeypatch.setattr(whole_round, "several", lambda *a: calls.append(1) or several(*a))
    cohorts = [clients.cohort(range(4), batch_size=1)] * 4
    with execution.fast("scan", xla=xla, random_bits="aes-ctr", seed=4):
        runner = compilation.runner_of(process.next).runner
        needed = runner.parts.layout.count
        monkeypatch.setattr(random_words, "MOST_FUSED", rounds_at_once * needed * 8)
        start = initialize_from(process, bound.initial_weights)
        fused, _ = execution.iterate(process.next, start, cohorts)
        assert bool(calls) == (rounds_at_once > 1)
    assert len(made) == 4
    assert len(np.unique(np.concatenate(made))) == 4 * needed
    with execution.fast("scan", xla=xla, random_bits="aes-ctr", seed=4):
        state = initialize_from(process, bound.initial_weights)
        for cohort in cohorts:
            state = process.next(state, cohort).state
    for a, b in zip(model_weights(process, fused), model_weights(process, state), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_noise_under_a_plan_is_made_of_the_stream_by_default_and_says_so(tff, made):
    result = tff_dp.fit(model_with(None), silos(), loss="mse", privacy=plans()["central"])
    assert len(made) == 3
    assert result.random_bits == marked_noise.AES_CTR
    assert f"Random bits of the noise: {marked_noise.AES_CTR}." in result.statement()


def test_the_default_takes_philox_where_the_stream_cannot_be_had_and_says_so(
    processes, made, monkeypatch
):
    _, central = processes("central")
    _, local = processes("local")
    with execution.fast():
        assert execution.noise_bits(central.next).source == marked_noise.AES_CTR
        assert execution.noise_bits(local.next).source == marked_noise.PHILOX
    monkeypatch.setattr(random_words, "is_installed", lambda: False)
    one_round(*processes("central"))
    assert not made
    with execution.fast():
        assert execution.noise_bits(central.next).source == marked_noise.PHILOX
        assert f"its random bits: {marked_noise.PHILOX}" in execution.explain(central.next)


def test_the_noise_changes_with_its_words_alone(tff, monkeypatch):
    spec = ModelSpec(model=model_with(None), loss="mse")
    bound = spec.bind(silos().element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plans()["central"])
    found = []
    for number in (1, 1, 2):
        fixed = random_words.aes_ctr(bytes([number] * 32), bytes(16), 10_000)
        monkeypatch.setattr(random_words, "of_call", lambda count, *_, fixed=fixed: fixed[:count])
        found.append(one_round(bound, process, random_bits="aes-ctr"))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.all(found[0] != found[2])


CENTRAL = [
    tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
    tff_dp.AdaptiveGaussianMechanism(initial_clip_norm=1.0, noise_multiplier=0.2),
    tff_dp.PerLayerGaussianMechanism(clip_norms=(1.0,), noise_multiplier=1.0),
    tff_dp.LaplaceMechanism(clip_norm=1.0, noise_multiplier=1.0),
    tff_dp.TreeMechanism(clip_norm=1.0, noise_multiplier=1.0),
    tff_dp.BandedMechanism(clip_norm=1.0, noise_multiplier=1.0, bands=3),
]


@pytest.mark.parametrize("mechanism", CENTRAL, ids=lambda mechanism: type(mechanism).__name__)
def test_the_stream_reaches_the_noise_of_every_central_mechanism(tff, made, mechanism):
    vector = tff.TensorType(np.float32, [3])
    process = build_aggregator(mechanism, 4.0, 8).create(vector)
    with execution.fast(strict=True, random_bits="aes-ctr"):
        assert execution.noise_bits(process.next).source == marked_noise.AES_CTR
        found = [process.next(process.initialize(), [ZEROS] * 4).result for _ in range(2)]
    assert len(made) == 2
    assert np.any(found[0] != found[1])
    assert len(np.unique(np.concatenate(made))) == 2 * len(made[0])


@pytest.mark.parametrize("name", ["local", "distributed", "record"])
def test_noise_that_the_stream_does_not_reach_is_refused_and_not_charged(tff, tmp_path, name):
    ledger = tmp_path / "ledger.jsonl"
    with (
        execution.fast(random_bits="aes-ctr"),
        pytest.raises(ComputationError, match=r"does not reach it, because noise is drawn in work"),
    ):
        tff_dp.fit(model_with(None), silos(), loss="mse", privacy=plans()[name], ledger=ledger)
    assert not ledger.exists()


def unfed(kind: str):
    import tensorflow as tf

    with tf.name_scope(SCOPE):
        if kind == "draws in a loop":
            return tf.while_loop(
                lambda i, _: i < 2,
                lambda i, found: (i + 1, found + tf.cast(noise_words([3]), tf.float32)),
                (0, tf.zeros([3])),
            )[1]
        if kind == "only the graph knows":
            count = tf.cast(
                tf.size(tf.where(tf.ones([3]) * tf.cast(tf.timestamp(), tf.float32))), tf.int32
            )
            return tf.cast(noise_words([count]), tf.float32)[:3]
        return tf.random.normal([3])


@pytest.mark.parametrize(
    "kind", ["draws in a loop", "only the graph knows", "something else than whole words"]
)
def test_operations_whose_words_cannot_be_made_outside_are_refused(tff, kind):
    take_round = summing(tff, server=lambda: unfed(kind))
    with (
        execution.fast(random_bits="aes-ctr"),
        pytest.raises(ComputationError, match=rf"{SCOPE}.*{kind}"),
    ):
        take_round(0, [ZEROS])
    with execution.fast():
        take_round(0, [ZEROS])


def test_the_option_is_checked_and_its_package_named(monkeypatch):
    with pytest.raises(ArgumentError, match="random_bits='rc4'"), execution.fast(random_bits="rc4"):
        pass
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives", None)
    with (
        pytest.raises(
            StackError, match=r"'cryptography', which is not installed.*leave random_bits"
        ),
        execution.fast(random_bits="aes-ctr"),
    ):
        pass
    with execution.fast():
        pass
