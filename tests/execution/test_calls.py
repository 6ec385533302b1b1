"""Calls in coroutines: side by side, and what goes wrong in them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.program_cases import assert_equal, make_training
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution import lock, program_context
from tff_dp.noise.words import SCOPE
from tff_dp.noise.words import words as noise_words
from tff_dp.process import model_weights

pytestmark = pytest.mark.heavy

SECONDS = 120.0  # after which a test that waits for another thread gives up, and fails


@pytest.fixture(scope="module")
def training(tff):
    """A process with noise, and its clients' data sets."""
    return make_training()


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
            if not met:
                barrier.wait(seconds)
                met.append(1)
                barrier.abort()  # nobody else has to wait
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
    monkeypatch.setattr(lock, "lock", contextlib.nullcontext())
    assert meetings(tff, SECONDS) > 0


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


def test_what_is_dropped_as_the_block_is_left_says_so_too(tff, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    class Executor(ThreadPoolExecutor):
        def shutdown(self, **options):  # as the block is left, the call that runs goes on
            super().shutdown(wait=False, cancel_futures=options["cancel_futures"])
            go_on.set()
            super().shutdown(**options)

    monkeypatch.setattr(program_context, "ThreadPoolExecutor", Executor)

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
