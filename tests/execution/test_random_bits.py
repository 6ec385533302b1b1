"""Where noise gets its random bits: keyed, or refused by name; and the cryptographic stream."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from scipy import stats

import tff_dp
from tff_dp import data, execution
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import ArgumentError, ComputationError, StackError
from tff_dp.execution import compilation, marked_noise
from tff_dp.execution.graph import imported_graph, keyed_import, random_words, randomness
from tff_dp.execution.marked_noise import NOISE_SCOPE
from tff_dp.execution.round import programs, whole_round
from tff_dp.model import ModelSpec
from tff_dp.noise.words import SCOPE
from tff_dp.noise.words import words as noise_words
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = pytest.mark.heavy

FALSE_POSITIVE = 1e-6  # of each statistical test
CLIENTS = 4


def test_the_contexts_look_for_the_scope_that_noise_is_drawn_under():
    assert NOISE_SCOPE == SCOPE


# --- Models whose graphs run as imported ------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class Obstacle(keras.layers.Layer):
    """Changes nothing, by an operation that cannot be written anew."""

    def __init__(self, kind="gamma", **arguments):
        super().__init__(**arguments)
        self.kind = kind

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}

    def call(self, x):
        import tensorflow as tf

        if self.kind == "gamma":
            found = tf.random.gamma([], 1.0)
        else:
            found = tf.numpy_function(lambda: np.float32(1.0), [], tf.float32)
        return x + tf.stop_gradient(0.0 * tf.ensure_shape(found, []))


OBSTACLES = {"gamma": "RandomGamma", "numpy": "PyFunc"}


def silos() -> data.Clients:
    rng = np.random.default_rng(0)
    x = rng.normal(size=[16, 2]).astype(np.float32)
    return data.Clients(x, x.sum(1, keepdims=True), [0, 4, 8, 12, 16])


def model_with(kind):
    layers = [keras.layers.Input([2]), keras.layers.Dense(1, kernel_initializer="zeros")]
    return keras.Sequential([*layers, *([Obstacle(kind)] if kind else [])])


def plan(mechanism, **changes) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": mechanism,
        "population": CLIENTS,
        "sampler": tff_dp.FullParticipation(),
        "rounds": 3,
        "delta": 1e-3,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def plans() -> dict[str, tff_dp.PrivacyPlan]:
    size = {"clip_norm": 1.0, "noise_multiplier": 3.0}
    skellam = tff_dp.DistributedSkellamMechanism(**size, dimension=3)
    of_records = tff_dp.RecordGaussianMechanism(**size, batch_size=2, local_steps=2)
    return {
        "central": plan(tff_dp.GaussianMechanism(**size)),
        "local": plan(tff_dp.LocalGaussianMechanism(**size)),
        "distributed": plan(skellam, adjacency="zero-out"),
        "record": tff_dp.PrivacyPlan(
            unit="record", mechanism=of_records, records=(4,) * CLIENTS, rounds=3, delta=1e-3
        ),
    }


@pytest.fixture(scope="module")
def processes(tff):
    """A function from a plan's name and an obstacle to the process, made once, and its model."""
    made = {}

    def process(name, kind="gamma"):
        if (name, kind) not in made:
            spec = ModelSpec(model=model_with(kind), loss="mse")
            bound = spec.bind(silos().element_spec())
            algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1))
            privacy = plans()[name]
            made[name, kind] = bound, build_process(bound, algorithm=algorithm, privacy=privacy)
        return made[name, kind]

    return process


def one_round(bound, process, **context) -> np.ndarray:
    with execution.fast(strict=True, **context):
        state = initialize_from(process, bound.initial_weights)
        state = process.next(state, silos().cohort(range(CLIENTS), batch_size=2)).state
        return np.concatenate([np.ravel(w) for w in model_weights(process, state).trainable])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("local", "gamma"), ("local", "numpy"), ("distributed", "gamma"), ("record", "gamma")],
)
def test_noise_of_clients_whose_graphs_run_as_imported_follows_from_the_key_alone(
    processes, name, kind
):
    # Found: Skellam noise of such clients was reproduced from the clock in microseconds. What follows
    # from a key, whenever it is drawn, follows from no clock, and from no generator of TensorFlow's.
    bound, process = processes(name, kind)
    first, second = (one_round(bound, process, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.all(one_round(bound, process, seed=6) != first)
    fresh = [one_round(bound, process) for _ in range(2)]
    assert np.all(fresh[0] != fresh[1])
    with execution.fast():
        told = execution.explain(process.next)
        assert execution.noise_bits(process.next).source.startswith("Philox4x32-10")
    assert f"not keyed: in work, {OBSTACLES[kind]} (" in told
    assert "noise of a privacy plan: in work; its random bits: Philox4x32-10" in told


def test_without_the_keys_that_test_fails(tff, monkeypatch):
    monkeypatch.setattr(keyed_import, "_replaceable", lambda graph_def: [])
    spec = ModelSpec(model=model_with("gamma"), loss="mse")
    bound = spec.bind(silos().element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plans()["distributed"])
    first, second = (one_round(bound, process, seed=5) for _ in range(2))
    assert np.all(first != second)


def test_the_servers_noise_is_keyed_whatever_the_model_draws(processes):
    bound, process = processes("central")
    first, second = (one_round(bound, process, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with execution.fast(random_bits="philox"):
        result = tff_dp.fit(model_with("gamma"), silos(), loss="mse", privacy=plans()["central"])
        told = execution.explain(process.next)
    assert math.isfinite(result.epsilon)
    assert result.random_bits == marked_noise.PHILOX
    assert f"Random bits of the noise: {marked_noise.PHILOX}." in result.statement()
    assert "noise of a privacy plan: in update; its random bits: Philox" in told


@pytest.mark.parametrize(
    ("name", "where", "operations"),
    [
        ("central", "update", {"RandomUniformInt"}),
        ("local", "work", {"RandomUniformInt"}),
        ("record", "work", {"RandomUniformInt", "RandomStandardNormal"}),
        ("distributed", "work", set()),  # whose draws are TFF's, with seeds by the clock
    ],
)
def test_the_mark_of_noise_survives_tffs_serialization_and_split(
    processes, name, where, operations
):
    _, process = processes(name)
    parts = compilation.runner_of(process.next).runner.parts
    assert parts.noisy == [where]
    found = parts.programs[where].provenance
    drawings = [drawing for drawing in found.drawings if drawing.noise]
    assert operations >= {drawing.op for drawing in drawings}
    assert bool(drawings) == bool(operations)
    assert not any(drawing.obstacle for drawing in drawings)
    assert bool(found.casts) == (name == "distributed")
    if name == "record":  # in a function, and a loop in it
        assert all(drawing.function for drawing in drawings)


def test_noise_stays_keyed_when_a_graph_turns_out_not_to_be_writable(tff, monkeypatch):
    def fails(*arguments):
        raise NotImplementedError("planted")

    monkeypatch.setattr(programs.RoundPrograms, "client", fails)
    spec = ModelSpec(model=model_with(None), loss="mse")
    bound = spec.bind(silos().element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plans()["local"])
    first, second = (one_round(bound, process, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.all(one_round(bound, process) != first)
    with execution.fast():
        assert "planted" in execution.explain(process.next)


# --- Imported graphs ---------------------------------------------------------------------------------


def draws_of_all_kinds(tff):
    """A computation that draws in a function, a loop, a branch, a data set and its reduction."""
    import tensorflow as tf

    @tff.tensorflow.computation(tff.SequenceType(np.float32))
    def drawing(dataset):
        _, looped = tf.while_loop(
            lambda i, _: i < 3,
            lambda i, found: (i + 1, tf.concat([found[1:], tf.random.normal([1])], 0)),
            (0, tf.zeros([3])),
        )

        @tf.function
        def inside(x):
            seed = tf.cast(tf.stack([tf.timestamp() * 1e6, x]), tf.int64)
            return seed, tf.random.uniform([3], dtype=tf.float64), tf.random.shuffle(tf.range(99))

        seed, uniform, shuffled = inside(tf.constant(0.0, tf.float64))
        branch = tf.cond(looped[0] < 99, lambda: tf.random.normal([2]), lambda: tf.zeros([2]))
        mapped = dataset.map(lambda x: x + tf.random.uniform([])).reduce(
            tf.zeros([]), lambda a, b: a + b + tf.random.truncated_normal([])
        )
        drawn = noise_words([200_000])
        chosen = tf.random.categorical(tf.zeros([1, 7]), 30)
        generator = tf.raw_ops.RngReadAndSkip(
            resource=tf.Variable(tf.zeros([3], tf.int64), trainable=False).handle,
            alg=1,
            delta=tf.constant(1, tf.uint64),
        )
        return (looped, seed, uniform, shuffled, branch, mapped, drawn, chosen, generator)

    return drawing


def key(number: int):
    import tensorflow as tf

    return tf.constant(randomness.root(9, number))


def test_every_draw_of_an_imported_graph_follows_from_its_key(tff):
    import tensorflow as tf

    computation = draws_of_all_kinds(tff)
    imported, again = (imported_graph.ImportedGraph(computation) for _ in range(2))
    rows = [tf.data.Dataset.from_tensor_slices(np.array([1, 2], np.float32))]
    first = [t.numpy() for t in imported(rows, key(1))]
    for other in (imported, again):
        other(rows, key(3))
        for a, b in zip(first, other(rows, key(1)), strict=True):
            np.testing.assert_array_equal(a, b)
    # Another key, another draw; fewer than 30 of 30 choices of 7 are equal but by 7^-30.
    for a, b in zip(first, imported(rows, key(2)), strict=True):
        assert np.any(a != b)
    looped, seed, *_, drawn, _, _ = first
    assert len(np.unique(looped)) == 3  # steps of a loop share nothing
    assert seed[0] != seed[1]
    assert len(np.unique(drawn)) == len(drawn)
    assert are_fair(drawn)
    assert not are_fair(drawn & ~np.int64(1 << 17))
    assert not are_fair(np.where(np.arange(len(drawn)) % 50, drawn, 0))


def are_fair(drawn: np.ndarray) -> bool:
    """Returns whether the bits of words look like coins, at FALSE_POSITIVE: each place, and all."""
    bits = np.unpackbits(np.ascontiguousarray(drawn).view(np.uint8).reshape(len(drawn), -1), axis=1)
    ones = bits.sum(0)
    each = 2 * stats.norm.sf(np.abs(ones - len(drawn) / 2) / math.sqrt(len(drawn) / 4))
    together = 2 * stats.norm.sf(abs(ones.sum() - bits.size / 2) / math.sqrt(bits.size / 4))
    return each.min() * len(ones) > FALSE_POSITIVE / 2 and together > FALSE_POSITIVE / 2


# --- What cannot be keyed is refused -----------------------------------------------------------------


def weak(kind: str):
    """Draws noise under the plan's scope whose bits cannot be keyed."""
    import tensorflow as tf

    with tf.name_scope(SCOPE):
        if kind == "RandomGamma":
            return tf.random.gamma([3], 1.0)
        if kind == "PyFunc":
            drawn = tf.numpy_function(
                lambda: np.random.default_rng().normal(size=3), [], tf.float64
            )
            return tf.cast(tf.ensure_shape(drawn, [3]), tf.float32)
        if kind == "StatelessRandomGetKeyCounter":
            return tf.random.stateless_normal([3], seed=[1, 2])
        if kind == "NonDeterministicInts":
            return tf.cast(tf.raw_ops.NonDeterministicInts(shape=[3], dtype=tf.int64), tf.float32)
        assert kind == "Timestamp"

        def step(i, found, time):
            seed = tf.stack([tf.cast(time, tf.int64), 0])
            return i + 1, found + tf.random.stateless_normal([3], seed), time

        start = (0, tf.zeros([3]), tf.timestamp() * 1e6)
        return tf.while_loop(lambda i, *_: i < 2, step, start)[1]


WEAK = [
    "RandomGamma",
    "PyFunc",
    "StatelessRandomGetKeyCounter",
    "NonDeterministicInts",
    "Timestamp",
]


def summing(tff, client=None, server=None, result=None):
    """A process-like computation: clients' vectors are summed, with noise of whoever has some."""
    import tensorflow as tf

    vector = tff.TensorType(np.float32, [3])

    @tff.tensorflow.computation(vector)
    def work(x):
        return x + client() if client else x

    @tff.tensorflow.computation(np.int32, vector)
    def update(state, total):
        return state + 1, total + server() if server else total

    types = tff.FederatedType(np.int32, tff.SERVER), tff.FederatedType(vector, tff.CLIENTS)

    @tff.federated_computation(*types)
    def take_round(state, vectors):
        total = tff.federated_sum(tff.federated_map(work, vectors))
        both = tff.federated_map(update, (state, total))
        return both[0], both[1]

    del tf, result
    return take_round


ZEROS = np.zeros([3], np.float32)


@pytest.mark.parametrize("where", ["client", "server"])
@pytest.mark.parametrize("kind", WEAK)
def test_noise_that_cannot_be_keyed_is_refused_by_name(tff, kind, where):
    take_round = summing(tff, **{where: lambda: weak(kind)})
    with execution.fast():
        for run in (
            lambda: take_round(0, [ZEROS]),
            lambda: execution.iterate(take_round, 0, [[ZEROS]] * 2),
        ):
            with pytest.raises(ComputationError, match=rf"cannot be drawn as it must.*{kind}"):
                run()
        assert kind in execution.noise_bits(take_round).obstacle
        assert "refused" in execution.explain(take_round) or "not at all" in execution.explain(
            take_round
        )


@pytest.mark.parametrize("kind", WEAK)
def test_and_so_it_is_in_a_computation_without_clients(tff, kind):
    computation = tff.tensorflow.computation(lambda: weak(kind))
    with execution.fast(), pytest.raises(ComputationError, match=kind):
        computation()


def test_noise_that_can_be_keyed_runs_in_the_same_computations(tff):
    import tensorflow as tf

    def strong():
        return tf.cast(noise_words([3]), tf.float32)

    with execution.fast():
        for where in ("client", "server"):
            take_round = summing(tff, **{where: strong})
            assert np.all(take_round(0, [ZEROS])[1] != take_round(0, [ZEROS])[1])


def test_noise_is_not_run_on_stock_tff_but_where_that_is_asked_for(tff, stock_context):
    import tensorflow as tf

    @tff.tensorflow.computation
    def as_sequence():  # has no form that runs in this process
        return tf.data.Dataset.from_tensors(noise_words([3]))

    @tff.tensorflow.computation
    def drawn():
        return noise_words([3])

    with execution.fast():
        with pytest.raises(ComputationError, match="it returns a sequence"):
            as_sequence()
        assert "not at all" in execution.explain(as_sequence)
    with execution.stock(), pytest.raises(ComputationError, match="stock TFF has TensorFlow seed"):
        drawn()
    assert stock_context.invoke(drawn, None).shape == (3,)


class Foreign:
    """An execution context of somebody else's."""

    def __new__(cls, tff, inner):
        class Context(tff.framework.SyncContext):
            def invoke(self, comp, arg):
                return inner.invoke(comp, arg)

        return Context()


@pytest.mark.parametrize("context", ["stock", "foreign"])
def test_fit_refuses_contexts_that_do_not_key_before_it_charges(
    tff, stock_context, tmp_path, context
):
    ledger = tmp_path / "ledger.jsonl"
    current = stock_context if context == "stock" else Foreign(tff, stock_context)
    arguments = {"loss": "mse", "privacy": plans()["central"], "ledger": ledger}
    with tff.framework.get_context_stack().install(current):
        with pytest.raises(
            ComputationError, match=r"32 bits or by the clock.*No round was charged"
        ):
            tff_dp.fit(model_with(None), silos(), **arguments)
        assert not ledger.exists()
        silent = plan(tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0))
        result = tff_dp.fit(model_with(None), silos(), loss="mse", privacy=silent, rounds=1)
    assert math.isinf(result.epsilon)
    assert "Random bits" not in result.statement()


@pytest.mark.parametrize("defect", ["RandomGamma", "no scope"])
def test_fit_refuses_a_mechanism_that_draws_otherwise_before_it_charges(
    tff, monkeypatch, tmp_path, defect
):
    import tensorflow as tf

    def gaussian(shape, *scale):
        del scale
        if defect == "no scope":
            return tf.cast(tf.random.normal(shape), tf.int64)
        with tf.name_scope(SCOPE):
            return tf.cast(tf.random.gamma(shape, 1.0), tf.int64)

    monkeypatch.setattr("tff_dp.noise.scaled_gaussian", gaussian)
    ledger = tmp_path / "ledger.jsonl"
    why = "holds no noise" if defect == "no scope" else "RandomGamma"
    with pytest.raises(ComputationError, match=rf"{why}.*No round was charged"):
        tff_dp.fit(model_with(None), silos(), loss="mse", privacy=plans()["central"], ledger=ledger)
    assert not ledger.exists()


# --- The cryptographic stream ------------------------------------------------------------------------

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


@pytest.mark.parametrize(("rounds_at_once", "xla"), [(4, True), (3, False), (1, False)])
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
