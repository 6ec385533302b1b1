"""Federated programs: TFF's own loop, and the rest of tff_dp in their context."""

from __future__ import annotations

import ast
import asyncio
import datetime
import re

import numpy as np
import pytest
import tree

import tff_dp
from tests.support.paths import ROOT
from tests.support.program_cases import (
    CLIENTS,
    COHORT,
    assert_equal,
    bound_model,
    keras_model,
    make_training,
    privacy,
    silos,
)
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution import marked_noise
from tff_dp.process import initialize_from, model_weights

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def training(tff):
    """A process with noise, and its clients' data sets."""
    return make_training()


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
    text = (ROOT / "docs" / "execution.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)  # one after another, as a page's do
    last = next(place for place, block in enumerate(blocks) if "asyncio" in block)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks[: last + 1]:
        capsys.readouterr()
        exec(compile(block, "docs/execution.md", "exec"), names)
    losses = ast.literal_eval(re.sub(r"np\.float32\((.*?)\)", r"\1", capsys.readouterr().out))
    assert list(losses) == list(range(1, 11))
    assert losses[10] < losses[1] / 10


def test_evaluations_run_beside_the_training(tff, training, tmp_path):
    process, datasets = training
    bound = bound_model()
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
    bound = bound_model()
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
        assert result.random_bits == (marked_noise.PHILOX if seed is None else marked_noise.SEEDED)
    assert execution.is_seeded() is False


def test_what_needs_values_refuses_a_federated_context_of_somebody_elses(tff, training):
    process, _ = training
    bound = bound_model()
    foreign = tff.program.NativeFederatedContext(None)
    with (
        tff.framework.get_context_stack().install(foreign),
        pytest.raises(ComputationError, match=r"NativeFederatedContext.*federated_context\(\)"),
    ):
        initialize_from(process, bound.initial_weights)
