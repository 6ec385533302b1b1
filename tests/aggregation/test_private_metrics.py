"""Released training metrics: each bounded, noised with its own share, and counted."""

from __future__ import annotations

import collections
import math

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.noise import has_standard_deviation, is_normal
from tests.support.training import fit, make_clients, plan
from tff_dp import execution
from tff_dp.aggregation import private_metrics
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import PrivateMetric
from tff_dp.plan import PrivacyPlan

LOSS = PrivateMetric(name="loss", clip_value=4.0, budget_fraction=0.1)
M = 4.0


def aggregation(metrics, z: float):
    """Returns a function from clients' values, shape [clients, metrics], to what is released."""
    tff = tff_dp.tff
    names = [metric.name for metric in metrics]
    finalizers = collections.OrderedDict((name, lambda value: value) for name in names)
    local = tff.types.to_type(collections.OrderedDict((name, np.float32) for name in names))
    build = private_metrics(metrics, z, M)
    computation = build(finalizers)

    @tff.federated_computation(tff.types.FederatedType(local, tff.CLIENTS))
    def aggregate(values):
        return computation(values)

    def call(rows) -> np.ndarray:
        clients = [dict(zip(names, map(np.float32, row), strict=True)) for row in rows]
        released = aggregate([collections.OrderedDict(client) for client in clients])
        return np.array([released[metric.name] for metric in metrics])

    return call


def test_shares_add_up_to_the_plans_noise():
    accuracy = PrivateMetric(name="accuracy", clip_value=1.0, budget_fraction=0.3)
    private = plan(metrics=(LOSS, accuracy))
    z = private.mechanism.noise_multiplier
    update = private.update_mechanism.noise_multiplier
    parts = [update, *(metric.stddev(z) / metric.clip_value for metric in private.metrics)]
    assert sum(part**-2 for part in parts) == pytest.approx(z**-2)
    assert update == pytest.approx(z / math.sqrt(0.6))
    # What is accounted for is the total, and without metrics all of it is the updates'.
    assert private.epsilon().epsilon == pytest.approx(plan().epsilon().epsilon, rel=1e-6)
    assert plan().update_mechanism == plan().mechanism
    # Negative control: the updates' noise alone would report too small an epsilon.
    alone = plan(mechanism=private.update_mechanism)
    assert alone.epsilon().epsilon < private.epsilon().epsilon


def test_the_noise_is_the_shares(context):
    # Each metric is a computation of its own, which takes longer to build than to run.
    metrics = [
        PrivateMetric(name=f"m{i}", clip_value=3.0, budget_fraction=0.0004) for i in range(8)
    ]
    call = aggregation(metrics, 2.0)
    zero = np.zeros([2, 8])
    noise = np.concatenate([call(zero) for _ in range(150)])
    sigma = 2.0 * 3.0 / math.sqrt(0.0004) / M
    assert has_standard_deviation(noise, sigma)
    assert is_normal(noise, sigma)
    for factor in (0.8, 1.25):  # negative controls
        assert not has_standard_deviation(factor * noise, sigma)
    assert len(np.unique(noise)) == noise.size


def test_one_client_moves_a_metric_by_its_bound_at_most(context):
    metrics = [PrivateMetric(name="a", clip_value=4.0), PrivateMetric(name="b", clip_value=1.0)]
    call = aggregation(metrics, 0.0)
    honest = [[1.0, 0.5], [2.0, 0.25]]
    base = call(honest)
    np.testing.assert_allclose(base, [3.0 / M, 0.75 / M], rtol=1e-6)  # m, not the realized two
    for hostile in ([1e9, -1e9], [np.nan, np.inf], [-np.inf, np.nan], [4.0, 1.0]):
        moved = np.abs(call([*honest, hostile]) - base)
        assert (moved <= np.array([4.0, 1.0]) / M * (1 + 1e-6)).all()
    np.testing.assert_allclose(call([*honest, [1e9, np.nan]]), [7.0 / M, 0.75 / M], rtol=1e-6)
    np.testing.assert_allclose(call([]), [0, 0])


@pytest.mark.parametrize("algorithm", [tff_dp.FedAvg(), tff_dp.FedSGD()])
def test_nothing_but_the_noised_means_leaves_a_round(tff, algorithm):
    from tff_dp.model import ModelSpec
    from tff_dp.process import build_process

    clients = make_clients()
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    for released in ((), (LOSS,)):
        process = build_process(bound, algorithm=algorithm, privacy=plan(metrics=released))
        text = str(process.next.type_signature.result)
        assert ("num_examples" in text) == (not released)
        assert "loss" in text


def test_training_releases_the_plans_metrics(tff):
    with execution.fast(xla=False):
        quiet = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1e-4)
        private = plan(mechanism=quiet, metrics=(PrivateMetric(name="loss", clip_value=50.0),))
        result = fit(privacy=private)
        plain = fit(rounds=5, algorithm=tff_dp.FedAvg(weighting="uniform"))
        shown = [record.metrics for record in result.history]
        assert all(set(metrics) == {"loss"} for metrics in shown)
        assert all(record.metrics_private for record in result.history)
        # The first round's clients start from the same weights; uniform means of their own losses.
        losses = [np.mean(y**2) for _, y in map(make_clients().client, range(4))]
        assert shown[0]["loss"] == pytest.approx(np.mean(losses), rel=0.2)
        assert not plain.history[0].metrics_private
        assert "released with noise: this epsilon covers them" in result.statement()
        assert "outside this epsilon" not in result.statement()

        withheld = fit(privacy=private, release_metrics=False)
        assert withheld.history[0].metrics is None
        assert not withheld.history[0].metrics_private
        raw = fit(privacy=plan(), release_metrics=True)
        assert not raw.history[0].metrics_private
        assert "outside this epsilon" in raw.statement()


def test_metrics_that_cannot_be_released_are_refused(tff):
    with pytest.raises(ArgumentError, match=r"name='accuracy' .*unknown.*'loss'"):
        fit(privacy=plan(metrics=(PrivateMetric(name="accuracy", clip_value=1.0),)))
    with pytest.raises(AccountingError, match=r"metrics=.*LaplaceMechanism.*GaussianMechanism"):
        plan(
            mechanism=tff_dp.LaplaceMechanism(clip_norm=1.0, noise_multiplier=1.0), metrics=(LOSS,)
        )
    with pytest.raises(ArgumentError, match=r"budget_fractions of metrics=1\.2.*\[0, 1\)"):
        plan(
            metrics=[
                PrivateMetric(name=n, clip_value=1.0, budget_fraction=0.4) for n in ("a", "b", "c")
            ]
        )
    with pytest.raises(ArgumentError, match="twice"):
        plan(metrics=(LOSS, LOSS))
    for name, value in (
        ("clip_value", 0.0),
        ("budget_fraction", 1.0),
        ("budget_fraction", 0.0),
        ("name", 3),
    ):
        with pytest.raises(ArgumentError, match=f"{name}={value!r}"):
            PrivateMetric(**({"name": "loss", "clip_value": 1.0} | {name: value}))


def test_the_noise_left_to_the_updates_must_suit_adaptive_clipping():
    adaptive = tff_dp.AdaptiveGaussianMechanism(noise_multiplier=1.0, clipped_count_stddev=0.6)
    assert plan(mechanism=adaptive).update_mechanism == adaptive
    with pytest.raises(ArgumentError, match=r"noise_multiplier=1\.2909.*\(0, 1\.2\)"):
        plan(
            mechanism=adaptive,
            metrics=(PrivateMetric(name="loss", clip_value=1.0, budget_fraction=0.4),),
        )


def test_a_plan_with_metrics_survives_json():
    private = plan(metrics=(LOSS,))
    assert PrivacyPlan.from_dict(private.to_dict()) == private
    assert private.to_dict()["metrics"][0]["type"] == "PrivateMetric"


@pytest.mark.parametrize("shape", [[1], [4]])
def test_a_metric_that_is_not_one_number_is_refused(tff, shape):
    """One draw of noise would be added to all its numbers, whose differences were then exact."""
    computation = private_metrics([PrivateMetric(name="f1", clip_value=1.0)], 1.0, M)(
        collections.OrderedDict(f1=lambda value: value)
    )
    local = collections.OrderedDict(f1=tff.types.TensorType(np.float32, shape))
    with pytest.raises(ArgumentError, match=r"name='f1'.*shape.*one number for each client"):
        tff.federated_computation(
            lambda values: computation(values),
            tff.types.FederatedType(tff.types.to_type(local), tff.CLIENTS),
        )
