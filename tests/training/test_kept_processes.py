"""Processes that are kept: the same results as new ones, the plan's own noise, and when they are kept."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from scipy import stats

import tff_dp
from tests.support.noise import FALSE_POSITIVE
from tff_dp import execution
from tff_dp.execution.graph import traced
from tff_dp.execution.round import compile_policy
from tff_dp.process import build_process, initialize_from
from tff_dp.training import kept_processes

pytestmark = pytest.mark.heavy

CLIENTS = 6


@pytest.fixture(scope="module")
def clients(tff):
    rng = np.random.default_rng(0)
    data = {
        f"client_{i}": (
            rng.normal(size=(4 + i, 50)).astype(np.float32),
            rng.normal(size=(4 + i, 20)).astype(np.float32),
        )
        for i in range(CLIENTS)
    }
    return tff_dp.data.from_arrays(data)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(kept_processes, "_kept", type(kept_processes._kept)())


def model(units=20, seed=0):
    """Makes a model of 1020 weights."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.layers.Input([50]), keras.layers.Dense(units)])


def plan(z, clip_norm=1.0, rounds=3, **more):
    more = {"sampler": tff_dp.FullParticipation()} | more
    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=clip_norm, noise_multiplier=z),
        population=CLIENTS,
        rounds=rounds,
        delta=1e-2,
        **more,
    )


def weights_of(result):
    return np.concatenate([w.ravel() for w in result.model.get_weights()])


FROZEN = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=1e-30))  # no update of a grid step


def noise_of(clients, plan):
    """Returns the sum of a run's noise in each weight, where clients change nothing."""
    made = model()
    start = np.concatenate([w.ravel() for w in made.get_weights()])
    result = tff_dp.fit(made, clients, loss="mse", privacy=plan, algorithm=FROZEN)
    return weights_of(result) - start


def has_deviation(sample, expected):
    """Returns whether a sample of a centered Gaussian may have a standard deviation."""
    share = float(np.sum(sample**2)) / expected**2
    low, high = stats.chi2.ppf([FALSE_POSITIVE / 2, 1 - FALSE_POSITIVE / 2], len(sample))
    return bool(low < share < high)


@pytest.mark.slow
def test_each_run_of_a_sweep_has_the_noise_of_its_own_plan(clients):
    """Runs share one process. Noise that was left over from another plan is told from the right one."""
    sweep = (0.5, 4.0, 1.0, 30.0, 0.5)
    for z in sweep:
        noise = noise_of(clients, plan(z))
        expected = z * math.sqrt(3) / CLIENTS  # of three rounds, over the number of clients
        assert has_deviation(noise, expected)
        assert not any(has_deviation(noise, expected * other / z) for other in set(sweep) - {z})
    assert (
        len(kept_processes._kept) == 2
    )  # from 8 on, uniform numbers of the fine part take a word each


@pytest.mark.slow
def test_a_plan_of_another_clip_norm_or_cohort_has_a_process_of_its_own(clients):
    for other in (plan(1.0), plan(1.0, clip_norm=7.0), plan(1.0, cohort=3, sampler=None)):
        noise = noise_of(clients, other)
        scale = other.mechanism.clip_norm * math.sqrt(3) / other.clients_per_round
        assert has_deviation(noise, scale)
    assert len(kept_processes._kept) == 3


def test_plans_of_metrics_have_the_noise_of_their_own(clients):
    """Their noise is in the graph: another noise multiplier is another process."""
    metric = tff_dp.PrivateMetric(name="loss", clip_value=1000.0, budget_fraction=0.5)
    for z in (1.0, 2.0):
        both = plan(z, metrics=(metric,))
        assert has_deviation(noise_of(clients, both), z * math.sqrt(2 * 3) / CLIENTS)
    assert len(kept_processes._kept) == 2


def test_a_kept_process_gives_what_a_new_one_gives(clients):
    """With clients whose data differ from run to run, and weights that differ."""
    privacy = tff_dp.NoPrivacy()
    for seed in (1, 2):
        kept = tff_dp.fit(model(seed=seed), clients, loss="mse", privacy=privacy, rounds=2, seed=5)
        new = kept_processes._kept
        kept_processes._kept = type(new)()
        alone = tff_dp.fit(model(seed=seed), clients, loss="mse", privacy=privacy, rounds=2, seed=5)
        kept_processes._kept = new
        np.testing.assert_array_equal(weights_of(kept), weights_of(alone))
    assert len(kept_processes._kept) == 1


def test_the_same_model_is_traced_once_and_what_differs_anew(clients, monkeypatch):
    composed = []
    compose = kept_processes.compose
    monkeypatch.setattr(
        kept_processes, "compose", lambda *a, **k: (composed.append(1), compose(*a, **k))[1]
    )

    class Scaled(keras.layers.Layer):
        factor = 1.0

        def call(self, x):
            return x * self.factor

    layer = Scaled()
    scaled = keras.Sequential([keras.layers.Input([50]), layer, keras.layers.Dense(20)])

    def run(made, loss="mse", algorithm=None, privacy=None):
        before = len(composed)
        bound = tff_dp.ModelSpec(model=made, loss=loss).bind(clients.element_spec())
        kept_processes.process_for(
            bound, algorithm=algorithm or tff_dp.FedAvg(), privacy=privacy or tff_dp.NoPrivacy()
        )
        return len(composed) > before

    made = model()
    assert run(made)
    assert not run(made)
    assert not run(model(seed=3))  # of other weights
    assert run(made, loss="mae")
    assert run(made, loss=keras.losses.Huber(0.5))
    assert run(made, loss=keras.losses.Huber(0.6))
    assert run(made, algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.2)))
    assert run(scaled)
    assert not run(scaled)
    layer.factor = 2.0
    assert run(scaled)  # by what it computes, whatever its configuration says

    def of_the_world(labels, predictions):
        return keras.ops.mean((labels - predictions) ** 2) * world["factor"]

    world = {"factor": 1.0}
    assert run(made, loss=of_the_world)
    assert not run(made, loss=of_the_world)
    world["factor"] = 2.0
    assert run(made, loss=of_the_world)
    assert len(kept_processes._kept) <= kept_processes._MOST


class Slower(tff_dp.SGD):
    """An optimizer of the caller's own: what its `build` reads is not what equality compares."""

    rate = 0.01

    def build(self):
        return tff_dp.SGD(learning_rate=Slower.rate).build()


def test_classes_of_the_callers_own_have_processes_of_their_own(clients):
    made, found = model(), []
    for rate in (0.01, 0.1):
        Slower.rate = rate
        algorithm = tff_dp.FedAvg(client_optimizer=Slower(learning_rate=0.5))
        result = tff_dp.fit(
            made, clients, loss="mse", privacy=tff_dp.NoPrivacy(), rounds=1, algorithm=algorithm
        )
        start = np.concatenate([w.ravel() for w in made.get_weights()])
        found.append(np.abs(weights_of(result) - start).max())
    assert found[1] > 5 * found[0]
    assert not kept_processes._kept
    with pytest.raises(tff_dp.ArgumentError, match="is unknown: expected FedAvg"):
        tff_dp.fit(made, clients, loss="mse", privacy=plan(1.0), algorithm={"type": "FedAvg"})


def test_numbers_of_another_type_are_another_kind(clients):
    bound = tff_dp.ModelSpec(model=model(), loss="mse").bind(clients.element_spec())
    keys = {
        kept_processes._key(
            bound,
            tff_dp.FedAvg(server_optimizer=tff_dp.SGD(learning_rate=rate)),
            tff_dp.NoPrivacy(),
            None,
        )
        for rate in (1, 1.0, np.float64(1), 1.0)
    }
    assert len(keys) == 3


def test_models_alike_on_inputs_of_other_names_are_of_another_kind(tff):
    rng = np.random.default_rng(0)

    def named(first, second):
        x = {name: rng.normal(size=(6, 3)).astype(np.float32) for name in (first, second)}
        y = rng.normal(size=(6, 1)).astype(np.float32)
        inputs = {name: keras.layers.Input([3], name=name) for name in x}
        joined = keras.layers.Concatenate()(list(inputs.values()))
        made = keras.Model(inputs, keras.layers.Dense(1)(joined))
        of_both = tff_dp.data.from_arrays({"one": (x, y), "two": (x, y)})
        return tff_dp.fit(made, of_both, loss="mse", privacy=tff_dp.NoPrivacy(), rounds=1)

    named("a", "b")
    named("c", "d")
    assert len(kept_processes._kept) == 2


@pytest.mark.slow
def test_tf_keras_models_stay_usable_when_a_run_on_a_kept_process_is_refused(clients):
    import tf_keras

    made = tf_keras.Sequential([tf_keras.layers.Input([50]), tf_keras.layers.Dense(20)])
    other = tf_keras.Sequential([tf_keras.layers.Input([50]), tf_keras.layers.Dense(20)])
    x, y = clients.pooled()
    other.compile(loss="mse")
    tff_dp.fit(made, clients, loss="mse", privacy=plan(1.0))
    assert len(kept_processes._kept) == 1
    with pytest.raises(tff_dp.AccountingError):
        tff_dp.fit(made, clients, loss="mse", privacy=plan(1.5), max_epsilon=0.001)
    assert len(other.get_weights()) == len(made.get_weights()) == 2
    assert made(x).shape == y.shape
    assert np.isfinite(other.evaluate(x, y, verbose=0))


def test_a_process_of_ones_own_has_its_noise_in_the_graph(clients):
    """`build_process` is for everybody: a state of another plan must not bring another noise."""
    bound = tff_dp.ModelSpec(model=model(), loss="mse").bind(clients.element_spec())
    strong, weak = (
        build_process(bound, algorithm=FROZEN, privacy=plan(z, rounds=1)) for z in (8.0, 0.1)
    )
    everyone = clients.cohort(range(CLIENTS), batch_size=4)
    with execution.fast():
        state = initialize_from(weak, bound.initial_weights)
        after = strong.next(state, everyone).state.global_model_weights
    noise = np.concatenate(
        [
            (a - b).ravel()
            for a, b in zip(after.trainable, bound.initial_weights.trainable, strict=True)
        ]
    )
    assert has_deviation(noise, 8.0 / CLIENTS)


def test_a_model_larger_than_the_plan_allows_is_refused_by_a_kept_process_too(clients):
    tff_dp.fit(model(), clients, loss="mse", privacy=plan(1.0))
    with pytest.raises(tff_dp.ArgumentError, match="max_dimension"):
        tff_dp.fit(model(), clients, loss="mse", privacy=plan(1.0, max_dimension=1000))


# --- When XLA compiles ----------------------------------------------------------------------------


def test_a_kind_is_used_once_it_has_trained_enough_and_begun_before():
    trained, rounds, used, begun = compile_policy.Trained(at_once=False), 0, None, None
    while used is None:
        trained.meets()
        if trained.uses("kind", 16, 16):
            used = rounds
        if trained.due(None) == "kind":
            begun = rounds
        rounds += 1
    assert used == compile_policy.USED_FROM // 16
    assert begun is not None
    assert begun < used


@pytest.mark.parametrize(("expected", "compiled"), [(1000, False), (1 << 12, True)])
def test_whoever_knows_the_rounds_has_it_begun_after_the_third_or_never(expected, compiled):
    trained, begun, used = compile_policy.Trained(at_once=False), [], False
    for rounds in range(expected):
        trained.meets()
        used = trained.uses("kind", 8, 8) or used
        if trained.due(expected) is not None:
            begun.append(rounds)
    assert begun == ([2] if compiled else [])
    assert used == compiled


def test_kinds_that_are_few_in_a_cohort_are_never_begun():
    trained = compile_policy.Trained(at_once=False)
    for _ in range(5000):
        trained.meets()
        assert not any(trained.uses(kind, 10, 30) for kind in "abc")
        assert trained.due(None) is None


@pytest.mark.parametrize("parts", [1, 8])
def test_a_round_that_repays_it_alone_does_not_wait_for_another(parts):
    """A cohort that comes in parts is compiled for in the midst of its first round."""
    trained = compile_policy.Trained(at_once=False)
    trained.meets()
    each = (1 << 15) // parts
    assert [trained.uses("kind", each, each) for _ in range(parts)][-1]


def test_what_comes_in_parts_counts_as_a_whole():
    trained = compile_policy.Trained(at_once=False)
    for _ in range(3):
        trained.meets()
        assert not any(trained.uses("kind", 500, 500) for _ in range(4))
    assert compile_policy.Trained(at_once=False).due(10) is None  # which has met nothing
    assert trained.due(8) is None  # 16,000 batches in all
    assert trained.due(10) == "kind"
    assert trained.due(10) is None  # begun once


def test_whoever_asks_for_xla_has_it_at_once():
    trained = compile_policy.Trained(at_once=True)
    trained.meets()
    assert [trained.uses(kind, 10, 30) for kind in "abc"] == [True, True, False]
    assert trained.due(None) is None


@pytest.mark.slow
def test_rounds_are_the_same_however_long_compiling_takes(tff, monkeypatch):
    """Which graph runs a round is a matter of counts, and XLA's graph gives what its rounds need."""
    monkeypatch.setattr(compile_policy, "USED_FROM", 60)
    monkeypatch.setattr(compile_policy, "_BEGUN_FROM", 30)
    monkeypatch.setattr(compile_policy, "_WORTH", 50)
    asked: list[bool] = []
    call = traced.Graphs.call

    def noted(self, wanted):
        if wanted.name[0] == "whole":
            asked.append(wanted.name[1].xla)
        return call(self, wanted)

    monkeypatch.setattr(traced.Graphs, "call", noted)
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=(8, 50)), rng.normal(size=(8, 20))) for _ in range(CLIENTS)]
    even = tff_dp.data.from_arrays(
        {f"c{i}": (x.astype(np.float32), y.astype(np.float32)) for i, (x, y) in enumerate(pairs)}
    )
    found = []
    for forget in (True, True, False):
        if forget:
            kept_processes._kept.clear()
        asked.clear()
        result = tff_dp.fit(
            model(), even, loss="mse", privacy=tff_dp.NoPrivacy(), rounds=20, batch_size=32, seed=1
        )
        assert asked == sorted(asked)  # first without, then with XLA
        assert {*asked} == {False, True}
        found.append(weights_of(result))
    with execution.fast():  # runs in one context count each on its own
        for _ in range(2):
            asked.clear()
            result = tff_dp.fit(
                model(),
                even,
                loss="mse",
                privacy=tff_dp.NoPrivacy(),
                rounds=20,
                batch_size=32,
                seed=1,
            )
            assert {*asked} == {False, True}
            found.append(weights_of(result))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    with execution.fast(xla=False):
        plain = tff_dp.fit(
            model(), even, loss="mse", privacy=tff_dp.NoPrivacy(), rounds=20, batch_size=32, seed=1
        )
    np.testing.assert_allclose(weights_of(plain), found[0], rtol=2e-5, atol=1e-6)


def test_rounds_that_are_expected_are_so_within_the_block_alone(tff):
    with execution.fast() as context:
        with execution.expecting(500):
            assert context.settings.expected == 500
            with execution.expecting(7):
                assert context.settings.expected == 7
            assert context.settings.expected == 500
        assert context.settings.expected is None
        with (
            pytest.raises(tff_dp.ArgumentError, match=r"rounds=0 .*\[1, inf\)"),
            execution.expecting(0),
        ):
            pass
    with execution.stock(), execution.expecting(3):
        pass


def test_the_account_says_from_when_on_xla_is_used(clients):
    bound = tff_dp.ModelSpec(model=model(), loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    for xla, told in ((None, True), (True, False), (False, False)):
        with execution.fast(xla=xla):
            assert (
                f"trained on {compile_policy.USED_FROM}" in execution.explain(process.next)
            ) == told
