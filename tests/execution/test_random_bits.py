"""Where noise gets its random bits: keyed, or refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tff_dp
from tests.support.random_bits import (
    ZEROS,
    are_fair,
    model_with,
    one_round,
    plan,
    plans,
    silos,
    summing,
)
from tests.support.tables import slow
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution import compilation, marked_noise
from tff_dp.execution.graph import imported_graph, keyed_import, randomness
from tff_dp.execution.marked_noise import NOISE_SCOPE
from tff_dp.execution.round import programs
from tff_dp.model import ModelSpec
from tff_dp.noise.words import SCOPE
from tff_dp.noise.words import words as noise_words
from tff_dp.process import build_process

pytestmark = pytest.mark.heavy


def test_the_contexts_look_for_the_scope_that_noise_is_drawn_under():
    assert NOISE_SCOPE == SCOPE


# --- Models whose graphs run as imported ------------------------------------------------------------


OBSTACLES = {"gamma": "RandomGamma", "numpy": "PyFunc"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("local", "gamma"), slow("local", "numpy"), ("distributed", "gamma"), ("record", "gamma")],
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
