"""Federated programs: TFF's own loops, calls side by side, and what goes wrong in them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime
import gc
import pathlib
import re
import threading

import keras
import numpy as np
import pytest
import tree

import tff_dp
from tff_dp import data, execution
from tff_dp.errors import ComputationError
from tff_dp.execution import exclusive, noise
from tff_dp.model import ModelSpec
from tff_dp.noise.words import SCOPE
from tff_dp.noise.words import words as noise_words
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = pytest.mark.heavy

CLIENTS, COHORT = 6, 4
SECONDS = 20.0  # after which a test that waits for another thread gives up, and fails


def silos() -> data.Clients:
    rng = np.random.default_rng(0)
    sizes = [8, 8, 4, 7, 3, 8]
    x = rng.normal(size=(sum(sizes), 3)).astype(np.float32)
    y = (x @ np.arange(3.0)[:, None] + 0.1 * rng.normal(size=(len(x), 1))).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *sizes]))


def keras_model():
    return keras.Sequential(
        [keras.layers.Input([3]), keras.layers.Dense(1, kernel_initializer="zeros")]
    )


def privacy() -> tff_dp.PrivacyPlan:
    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
        population=CLIENTS,
        sampler=tff_dp.FixedSizeSampler(size=COHORT),
        adjacency="replace-one",
        rounds=4,
        delta=1e-2,
    )


@pytest.fixture(scope="module")
def training(tff):
    """A process with noise, and its clients' data sets."""
    clients = silos()
    bound = ModelSpec(model=keras_model(), loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=privacy())
    return process, [clients.dataset(c, batch_size=4) for c in range(CLIENTS)]


def assert_equal(actual, expected):
    tree.map_structure(np.testing.assert_array_equal, actual, expected)


# --- TFF's own program -------------------------------------------------------------------------------


class Kept:
    """Keeps what is released, as values, by key."""

    def __new__(cls, tff):
        class Manager(tff.program.ReleaseManager):
            def __init__(self):
                self.values = {}

            async def release(self, value, key):
                self.values[key] = await tff.program.materialize_value(value)

        return Manager()


def in_turn(tff, datasets):
    """A data source whose cohorts take turns: its iterator has a place that programs save."""
    kind = tff.program.DatasetDataSource(datasets).federated_type

    class Iterator(tff.program.FederatedDataSourceIterator):
        federated_type = kind

        def __init__(self, place=0):
            self.place = place

        @classmethod
        def from_bytes(cls, buffer):
            return cls(int.from_bytes(buffer, "big"))

        def to_bytes(self):
            return self.place.to_bytes(8, "big")

        def select(self, k=None):
            self.place += 1
            return [datasets[(self.place + i) % len(datasets)] for i in range(k)]

    class Source(tff.program.FederatedDataSource):
        federated_type = kind

        def iterator(self):
            return Iterator()

    return Source()


def train(tff, process, source, folder, rounds, *, evaluation=None):
    """Runs `train_model`; returns metrics by round and the final state."""
    metrics, models = Kept(tff), Kept(tff)
    program = tff.learning.programs.train_model(
        train_process=process,
        train_data_source=source,
        train_per_round_clients=COHORT,
        train_total_rounds=rounds,
        program_state_manager=tff.program.FileProgramStateManager(str(folder)),
        model_output_manager=models,
        train_metrics_manager=metrics,
        evaluation_manager=evaluation,
        evaluation_periodicity=1,
    )
    asyncio.run(program)
    return metrics.values, models.values[f"training_checkpoint_round_{rounds}"]


def by_hand(process, iterator, state, rounds):
    """What `train_model` does, in calls that return values: a state and the metrics of each round."""
    outputs = []
    for _ in range(rounds):
        output = process.next(state, iterator.select(COHORT))
        state = output.state
        outputs.append(output.metrics["client_work"]["train"])
    return state, outputs


def test_train_model_gives_the_numbers_of_fast_and_resumes(tff, training, tmp_path):
    process, datasets = training
    source = in_turn(tff, datasets)
    with execution.federated_context(seed=3):
        first, early = train(tff, process, source, tmp_path, 2)
    with execution.federated_context(seed=4):  # as if started again
        second, late = train(tff, process, source, tmp_path, 4)
    saved = asyncio.run(tff.program.FileProgramStateManager(str(tmp_path)).get_versions())
    iterator = source.iterator()
    with execution.fast(seed=3):
        state, metrics = by_hand(process, iterator, process.initialize(), 2)
    with execution.fast(seed=4):
        process.initialize()  # `train_model` does so before it looks for a state, and draws a key
        later, more = by_hand(process, iterator, state, 2)
    assert_equal(early, state)
    assert_equal(late, later)
    assert (list(first), list(second)) == ([1, 2], [3, 4])  # no round was run twice
    assert saved == [0, 1, 2, 3, 4]
    released = [{**first, **second}[n]["model_metrics"] for n in (1, 2, 3, 4)]
    assert_equal(released, metrics + more)
    weights = [model_weights(process, s).trainable for s in (state, later)]
    assert all(np.any(a != b) for a, b in zip(*weights, strict=True))


def test_the_noise_of_programs_is_fresh_without_a_seed(tff, training, tmp_path):
    process, datasets = training
    ends = []
    for run in range(2):
        with execution.federated_context():
            _, end = train(tff, process, in_turn(tff, datasets), tmp_path / str(run), 1)
        ends.append(model_weights(process, end).trainable)
    assert all(np.all(a != b) for a, b in zip(*ends, strict=True))


def test_the_example_of_the_documentation_runs(tff, tmp_path, monkeypatch, capsys):
    text = (pathlib.Path(__file__).parents[1] / "docs" / "execution.md").read_text()
    (example,) = [e for e in re.findall(r"```python\n(.*?)```", text, re.S) if "asyncio" in e]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/execution.md", "exec"), {})
    losses = ast.literal_eval(re.sub(r"np\.float32\((.*?)\)", r"\1", capsys.readouterr().out))
    assert list(losses) == list(range(1, 11))
    assert losses[10] < losses[1] / 10


def test_evaluations_run_beside_the_training(tff, training, tmp_path):
    process, datasets = training
    bound = ModelSpec(model=keras_model(), loss="mse").bind(silos().element_spec())
    evaluate = tff.learning.algorithms.build_fed_eval(bound.tff_model)
    evaluated = Kept(tff)
    source = tff.program.DatasetDataSource(datasets)
    manager = tff.learning.programs.EvaluationManager(
        data_source=source,
        aggregated_metrics_manager=evaluated,
        create_state_manager_fn=lambda name: tff.program.FileProgramStateManager(
            str(tmp_path / name)
        ),
        create_process_fn=lambda name: (evaluate, None),
        cohort_size=CLIENTS,
        duration=datetime.timedelta(0),  # each evaluation is one round
    )
    with execution.federated_context(seed=3):
        _, end = train(tff, process, source, tmp_path / "train", 2, evaluation=manager)
    with execution.fast():
        weights = process.get_model_weights(end)
        state = evaluate.set_model_weights(evaluate.initialize(), weights)
        expected = evaluate.next(state, datasets).metrics["client_work"]["eval"]
    assert sorted(evaluated.values) == [1, 2]
    tree.map_structure(  # the clients come in another order
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        evaluated.values[2]["model_metrics"],
        expected["total_rounds_metrics"],
    )


def test_the_synchronous_contexts_are_refused_by_tff_which_is_why_this_one_exists(tff, training):
    with execution.fast(), pytest.raises(ValueError, match="FederatedContext"):
        tff.program.check_in_federated_context()
    with execution.federated_context() as context:
        tff.program.check_in_federated_context()
        assert isinstance(context, tff.program.NativeFederatedContext)


# --- Calls side by side ------------------------------------------------------------------------------


def drawing(tff):
    import tensorflow as tf

    @tff.tensorflow.computation(np.int32)
    def draw(number):
        return number, tf.random.uniform([4], 0, 2**30, tf.int32)

    return draw


def test_gathered_calls_give_right_results_from_keys_of_their_own(tff, training):
    process, datasets = training
    draw = drawing(tff)

    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(values)

    async def program():
        start = await tff.program.materialize_value(process.initialize())
        calls = []
        for number in range(8):
            calls += [draw(number), total([number] * (number + 1))]
        rounds = [process.next(start, datasets[:3]) for _ in range(3)]
        return await asyncio.gather(*map(tff.program.materialize_value, calls + rounds))

    with execution.federated_context():
        found = asyncio.run(program())
    drawn = found[:16:2]
    assert [number for number, _ in drawn] == list(range(8))
    assert found[1:16:2] == [n * (n + 1) for n in range(8)]
    # Of 48 draws among 2^30, two are equal with a probability of 1e-6; with one key for all, all are.
    assert len(np.unique([numbers for _, numbers in drawn])) == 32
    weights = [np.ravel(model_weights(process, out.state).trainable[0]) for out in found[16:]]
    assert len(np.unique(np.concatenate(weights))) == 9
    assert_equal(found[16].metrics, found[17].metrics)  # what has no noise


def test_values_of_a_call_may_be_the_arguments_of_the_next(tff, training):
    process, datasets = training

    async def program():
        state = process.initialize()
        for _ in range(2):
            state = process.next(state, datasets[:3]).state  # nothing awaited in between
        return await tff.program.materialize_value(state)

    with execution.federated_context(seed=8):
        found = asyncio.run(program())
    with execution.fast(seed=8):
        state = process.initialize()
        for _ in range(2):
            state = process.next(state, datasets[:3]).state
    assert_equal(found, state)


def calling(tff, function):
    """A computation that calls a function from its graph, which gives an int32."""
    import tensorflow as tf

    @tff.tensorflow.computation
    def computation():
        return tf.ensure_shape(tf.numpy_function(function, [], tf.int32), [])

    return computation


def test_the_event_loop_goes_on_while_a_computation_runs(tff):
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        return np.int32(go_on.wait(SECONDS))

    async def program():
        value = asyncio.create_task(tff.program.materialize_value(calling(tff, wait)()))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        go_on.set()  # never, if the call had blocked the loop
        return await value

    with execution.federated_context():
        assert asyncio.run(program()) == 1


def meetings(tff, seconds: float) -> int:
    """Counts how often two calls were in their computations at the same time."""
    barrier, met = threading.Barrier(2), []

    def meet():
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(seconds)
            met.append(1)
        return np.int32(len(met))

    with (
        execution.federated_context(install=False) as one,
        execution.federated_context(install=False) as other,
    ):
        computations = [calling(tff, meet) for _ in range(2)]

        async def program():
            # Two contexts, and a thread that calls one of them for values.
            calls = [c.invoke(f, None) for c, f in zip((one, other), computations, strict=True)]
            third = asyncio.to_thread(other.synchronous.invoke, computations[0], None)
            return await asyncio.gather(third, *map(tff.program.materialize_value, calls))

        asyncio.run(program())
    return len(met)


def test_no_two_calls_of_a_process_run_at_the_same_time(tff):
    assert meetings(tff, 0.5) == 0


def test_without_the_lock_that_test_fails(tff, monkeypatch):
    monkeypatch.setattr(exclusive, "lock", contextlib.nullcontext())
    assert meetings(tff, 2.0) > 0


# --- What goes wrong ---------------------------------------------------------------------------------


def test_a_failing_call_raises_and_the_others_do_not(tff, training):
    import tensorflow as tf

    process, datasets = training

    def fail(x, y):
        with tf.control_dependencies([tf.debugging.assert_less(x, -1.0, "spoiled data")]):
            return tf.identity(x), y

    complaints = []

    async def program():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        state = await tff.program.materialize_value(process.initialize())
        spoiled = [datasets[0], datasets[1].map(fail)]
        calls = [process.next(state, given) for given in (datasets[:2], spoiled, datasets[:2])]
        return await asyncio.gather(
            *map(tff.program.materialize_value, calls), return_exceptions=True
        )

    with execution.federated_context():
        first, failed, last = asyncio.run(program())
    gc.collect()
    assert not complaints  # TFF's context has asyncio complain of each part of the result
    with pytest.raises(ComputationError, match=r"(?s)client 1 \(of 2 .*spoiled data"):
        raise failed
    assert_equal(first.metrics, last.metrics)


def test_a_cancelled_call_is_not_run_or_its_result_is_dropped(tff):
    begun, go_on, runs = threading.Event(), threading.Event(), []

    def wait():
        begun.set()
        return np.int32(go_on.wait(SECONDS))

    def count():
        runs.append(1)
        return np.int32(len(runs))

    counted = calling(tff, count)
    with execution.federated_context(install=False) as context:

        async def invoke(computation):
            return await context._context.invoke(computation, None)

        async def program():
            running = asyncio.create_task(invoke(calling(tff, wait)))
            while not begun.is_set():
                await asyncio.sleep(0.01)
            queued = asyncio.create_task(invoke(counted))
            await asyncio.sleep(0.01)
            for task in (running, queued):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            go_on.set()
            return await invoke(counted)

        assert asyncio.run(program()) == 1  # the one that was cancelled has not counted


def test_what_was_not_awaited_within_the_block_says_so(tff):
    draw = drawing(tff)

    async def program():
        with execution.federated_context():
            references = draw(1)
        return await tff.program.materialize_value(references)

    with pytest.raises(ComputationError, match="was left before this computation was run"):
        asyncio.run(program())


def test_what_is_dropped_as_the_block_is_left_says_so_too(tff):
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        return np.int32(go_on.wait(SECONDS))

    async def program():  # its second call waits behind one that runs as the block is left
        with execution.federated_context(install=False) as context:
            tasks = [
                asyncio.create_task(context._context.invoke(c, None))
                for c in (calling(tff, wait), drawing(tff))
            ]
            while not begun.is_set():
                await asyncio.sleep(0.01)
            threading.Timer(0.2, go_on.set).start()
        assert await tasks[0] == 1
        await tasks[1]

    with pytest.raises(ComputationError, match="was left before this computation was run"):
        asyncio.run(program())


def test_a_call_outside_of_a_coroutine_names_the_remedy(tff):
    draw = drawing(tff)
    with execution.federated_context(), pytest.raises(ComputationError, match=r"execution\.fast"):
        draw(1)


def test_results_that_stay_with_clients_are_refused_as_by_tff(tff):
    kind = tff.FederatedType(np.int32, tff.CLIENTS)
    unchanged = tff.federated_computation(lambda values: values, kind)
    with (
        execution.federated_context(),
        pytest.raises(ValueError, match="only structures, server-placed values, or tensors"),
    ):
        unchanged([1, 2])


def test_what_has_no_form_here_runs_on_stock_tff_or_is_refused(tff):
    import tensorflow as tf

    @tff.tensorflow.computation(np.int64)
    def counted(length):
        return tf.data.Dataset.range(length)

    async def program():
        return list(await tff.program.materialize_value(counted(3)))

    with execution.federated_context(), pytest.warns(RuntimeWarning, match="runs on stock TFF"):
        assert asyncio.run(program()) == [0, 1, 2]
    with (
        execution.federated_context(strict=True),
        pytest.raises(ComputationError, match="strict=True refuses"),
    ):
        asyncio.run(program())


@pytest.mark.parametrize("kind", ["not keyed", "on stock TFF"])
def test_noise_that_cannot_be_keyed_is_refused(tff, kind):
    import tensorflow as tf

    @tff.tensorflow.computation
    def gamma():
        with tf.name_scope(SCOPE):
            return tf.random.gamma([3], 1.0)

    @tff.tensorflow.computation
    def as_sequence():
        return tf.data.Dataset.from_tensors(noise_words([3]))

    computation, why = {
        "not keyed": (gamma, "RandomGamma"),
        "on stock TFF": (as_sequence, "it returns a sequence"),
    }[kind]

    async def program():
        return await tff.program.materialize_value(computation())

    with execution.federated_context():
        with pytest.raises(ComputationError, match=rf"cannot be drawn as it must be.*{why}"):
            asyncio.run(program())
        assert why in execution.noise_bits(computation).obstacle


# --- With the rest of tff_dp -------------------------------------------------------------------------


def test_each_clients_structure_reaches_the_computation(tff):
    # TFF's own context takes the list of clients for the structure, and cuts it off: two of three here.
    member = tff.StructType([("a", np.int32), ("b", np.int32)])

    @tff.federated_computation(
        tff.FederatedType(member, tff.CLIENTS), tff.FederatedType(np.int32, tff.SERVER)
    )
    def total(values, start):
        return tff.federated_sum(values), start

    async def program():
        given = [{"a": n, "b": 10 * n} for n in (1, 2, 3)]
        return await tff.program.materialize_value(total(given, 5))

    with execution.federated_context():
        found, start = asyncio.run(program())
    assert (dict(found), start) == ({"a": 6, "b": 60}, 5)


def test_cohorts_of_arrays_run_as_their_data_sets_do(tff, training):
    process, datasets = training

    async def program(given):
        state = await tff.program.materialize_value(process.initialize())
        return await tff.program.materialize_value(process.next(state, given))

    found = []
    for given in (silos().cohort(range(3), batch_size=4), datasets[:3]):
        with execution.federated_context(seed=1):
            found.append(asyncio.run(program(given)))
    assert_equal(found[0].metrics, found[1].metrics)
    weights = [model_weights(process, output.state).trainable for output in found]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [None, 5])
def test_settings_are_found_and_what_returns_values_does_so(tff, training, seed):
    process, _ = training
    bound = ModelSpec(model=keras_model(), loss="mse").bind(silos().element_spec())
    with execution.fast(seed=seed, strategy="call", random_bits="philox"):
        account, bits = execution.explain(process), execution.noise_bits(process.next)
    with execution.federated_context(seed=seed, strategy="call", random_bits="philox") as context:
        assert execution.is_seeded() is (seed is not None)
        assert execution.explain(process) == account
        assert execution.noise_bits(process.next) == bits
        with execution.current_or_fast() as current:
            assert current.settings is context.settings
            assert isinstance(current, tff.framework.SyncContext)
            assert not isinstance(current, tff.program.FederatedContext)
        state = initialize_from(process, bound.initial_weights)
        cohorts = [silos().cohort(range(3), batch_size=4)] * 2
        state, outputs = execution.iterate(process.next, state, cohorts)
        assert len(outputs) == 2
        assert all(w.dtype == np.float32 for w in model_weights(process, state).trainable)
        result = tff_dp.fit(keras_model(), silos(), loss="mse", privacy=privacy(), batch_size=4)
        assert np.isinf(result.epsilon) == (seed is not None)
        assert result.random_bits == (noise.PHILOX if seed is None else noise.SEEDED)
    assert execution.is_seeded() is False


def test_what_needs_values_refuses_a_federated_context_of_somebody_elses(tff, training):
    process, _ = training
    bound = ModelSpec(model=keras_model(), loss="mse").bind(silos().element_spec())
    foreign = tff.program.NativeFederatedContext(None)
    with (
        tff.framework.get_context_stack().install(foreign),
        pytest.raises(ComputationError, match=r"NativeFederatedContext.*federated_context\(\)"),
    ):
        initialize_from(process, bound.initial_weights)
