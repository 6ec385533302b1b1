"""Mechanisms of the clients themselves: what their reports cost, and whose noise is in the sum."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from tests.support.noise import (
    Aggregator,
    are_uncorrelated,
    has_standard_deviation,
    is_laplace,
    is_normal,
    process_of,
)
from tests.support.tables import slow
from tff_dp import execution
from tff_dp.accounting import round_of, spend
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import AccountingError
from tff_dp.mechanisms import LocalGaussianMechanism, LocalLaplaceMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
)

CLIP, M, DIMENSION = 0.5, 4.0, 20_000


def gaussian(z: float) -> LocalGaussianMechanism:
    return LocalGaussianMechanism(clip_norm=CLIP, noise_multiplier=z)


def laplace(z: float) -> LocalLaplaceMechanism:
    return LocalLaplaceMechanism(clip_norm=CLIP, noise_multiplier=z)


# --- What reports cost --------------------------------------------------------------------------

EVERY_ROUND = [FullParticipation(), PoissonSampler(rate=0.01), FixedSizeSampler(size=10)]


@pytest.mark.parametrize("sampler", EVERY_ROUND, ids=lambda sampler: type(sampler).__name__)
def test_a_client_may_report_in_every_round_and_nothing_is_amplified(sampler):
    # Golden: z=10, T=100, replace-one is 9.9973; a replaced data set moves a report by 2 C.
    report = spend(round_of(gaussian(10.0), sampler, 1000), 100, 1e-5)
    assert report.epsilon == pytest.approx(9.997256, rel=1e-6)
    assert report.adjacency is Adjacency.REPLACE_ONE
    assert report.rounds == 100
    pure = spend(round_of(laplace(10.0), sampler, 1000), 1, 1e-12)
    assert pure.epsilon == pytest.approx(2 / 10.0, rel=1e-6)


@pytest.mark.parametrize(
    ("sampler", "reports"),
    [
        (MinSeparationSampler(size=10, min_separation=20), 5),
        (MinSeparationSampler(size=10, min_separation=20, max_participations=2), 2),
        (CyclicPoissonSampler(rate=0.5, cycle=50), 2),
    ],
)
def test_bounded_participation_bounds_the_reports(sampler, reports):
    for mechanism in (gaussian(10.0), laplace(10.0)):
        found = spend(round_of(mechanism, sampler, 1000), 100, 1e-5)
        plain = spend(round_of(mechanism, FullParticipation(), 1000), reports, 1e-5)
        assert found.values == plain.values
        assert (
            spend(round_of(mechanism, sampler, 1000), [range(1, 101)] * 2, 1e-5).epsilon
            > found.epsilon
        )


def test_a_run_that_goes_on_costs_no_more_than_its_rounds():
    one_round = round_of(gaussian(10.0), FullParticipation(), 1000)
    assert (
        spend(one_round, [range(1, 51), range(50, 61)], 1e-5).values
        == spend(one_round, 61, 1e-5).values
    )


@pytest.mark.parametrize("adjacency", ["add-or-remove-one", "zero-out"])
@pytest.mark.parametrize("mechanism", [gaussian(1.0), laplace(1.0)])
def test_that_a_client_takes_part_is_not_hidden(mechanism, adjacency):
    with pytest.raises(AccountingError, match=rf"{adjacency}.*replace-one.*participates"):
        PrivacyPlan(
            mechanism=mechanism,
            population=100,
            cohort=10,
            rounds=5,
            delta=1e-4,
            adjacency=adjacency,
        )


def test_a_plan_is_calibrated():
    for mechanism in (gaussian(1.0), laplace(1.0)):
        plan = PrivacyPlan(
            mechanism=mechanism, population=100, cohort=10, rounds=5, delta=1e-4
        ).calibrated(3.0)
        assert 2.99 < plan.epsilon().epsilon <= 3.0


# --- The noise of reports, on both contexts -----------------------------------------------------


@pytest.fixture(params=["stock", "scan", "vmap", "call"])
def context(request, tff):
    if request.param == "stock":
        yield request.getfixturevalue("stock")
        return
    with execution.fast(request.param) as context:
        yield context


@pytest.fixture(scope="module")
def aggregator_of(tff):
    """A function to an aggregator of a mechanism; contexts share its process."""
    process = functools.cache(lambda own, *wide: process_of(build_aggregator(own, M), *wide))
    return lambda own, *wide: Aggregator(None, *wide, process=process(own, *wide))


@pytest.mark.parametrize("context", ["stock", "scan", slow("vmap"), "call"], indirect=True)
def test_every_client_adds_noise_of_its_own(aggregator_of, context):
    aggregator = aggregator_of(gaussian(2.0), DIMENSION, DIMENSION)
    sigma = 2.0 * CLIP / M
    zero = [np.zeros(DIMENSION), np.zeros(DIMENSION)]
    for clients in (1, 5):
        first, second = aggregator([zero] * clients)
        for noise in (first, second):
            # Noise that clients had in common would add up to `clients` times that of one.
            assert has_standard_deviation(noise, math.sqrt(clients) * sigma)
            assert is_normal(noise, math.sqrt(clients) * sigma)
            assert not has_standard_deviation(1.06 * noise, math.sqrt(clients) * sigma)
        assert are_uncorrelated(first, second)
        third, _ = aggregator([zero] * clients)
        assert are_uncorrelated(first, third)
    # Nobody else adds any.
    assert all(np.array_equal(part, np.zeros(DIMENSION)) for part in aggregator([]))


@pytest.mark.parametrize("context", ["stock", "scan", slow("vmap"), "call"], indirect=True)
def test_a_report_has_laplace_noise(aggregator_of, context):
    aggregator = aggregator_of(laplace(2.0), DIMENSION)
    noise = aggregator([np.zeros(DIMENSION)])
    assert is_laplace(noise, 2.0 * CLIP / M)
    for factor in (2 / 3, 3 / 2):
        assert not is_laplace(factor * noise, 2.0 * CLIP / M)
    both = aggregator([np.zeros(DIMENSION)] * 2)
    assert not is_laplace(both, 2.0 * CLIP / M)
    assert np.var(both) == pytest.approx(2 * np.var(noise), rel=0.15)


def test_an_update_that_is_no_number_is_noised_as_any_other(aggregator_of, context):
    aggregator = aggregator_of(gaussian(2.0), DIMENSION)
    noise = aggregator([np.full(DIMENSION, np.nan)])
    assert has_standard_deviation(noise, 2.0 * CLIP / M)
