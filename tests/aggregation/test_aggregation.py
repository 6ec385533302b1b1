"""The composed aggregators: sensitivity, denominator, and the distribution of their noise.

Statistical tests: each rejects a right implementation with probability 1e-6 or less (stated as
`noise.FALSE_POSITIVE`), and each is run on 2/3 and 3/2 of the right noise as well, which it must reject.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.noise import Aggregator, has_standard_deviation, is_normal
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    Mechanism,
    PerLayerGaussianMechanism,
    TreeMechanism,
)

DIMENSION = 20_000
CLIP = 0.5


def fixed(z: float) -> GaussianMechanism:
    return GaussianMechanism(clip_norm=CLIP, noise_multiplier=z)


def adaptive(z: float, **changes) -> AdaptiveGaussianMechanism:
    return AdaptiveGaussianMechanism(noise_multiplier=z, initial_clip_norm=CLIP, **changes)


def aggregate(tff, mechanism: Mechanism, m: float, updates, dimension=3) -> np.ndarray:
    return Aggregator(build_aggregator(mechanism, m), dimension)(updates)


@pytest.mark.parametrize(
    ("mechanism", "m", "sigma"),
    [
        # sigma: z C / m for the fixed clip; z_v C / m for the adaptive one, trap 5's golden z_v.
        (fixed(1.0), 10.0, 1.0 * CLIP / 10),
        (fixed(3.0), 2.5, 3.0 * CLIP / 2.5),
        (adaptive(1.0), 20.0, 1.1547005 * CLIP / 20),
        (adaptive(1.0), 100.0, 1.0050378 * CLIP / 100),
        (
            PerLayerGaussianMechanism(clip_norms=(CLIP,), noise_multiplier=2.0),
            10.0,
            2.0 * CLIP / 10,
        ),
    ],
)
def test_the_noise_has_the_planned_distribution_and_no_other(tff, stock, mechanism, m, sigma):
    # With 20,000 coordinates the chi-squared test sees a noise that is off by 4 %.
    noise = aggregate(tff, mechanism, m, [np.zeros(DIMENSION)] * 3, DIMENSION)
    assert has_standard_deviation(noise, sigma)
    assert is_normal(noise, sigma)
    for factor in (2 / 3, 3 / 2):  # negative controls
        assert not has_standard_deviation(factor * noise, sigma)
        assert not is_normal(factor * noise, sigma)


def test_each_layer_is_clipped_to_its_own_norm_and_all_get_the_noise_of_the_whole(tff, stock):
    def build(z):
        mechanism = PerLayerGaussianMechanism(clip_norms=(0.3, 0.4), noise_multiplier=z)
        return build_aggregator(mechanism, 2.0)

    long, short = [[3.0, 4.0], [0.0, 10.0]], [[0.1, 0.1], [-0.1, 0.0]]
    for found, expected in zip(
        Aggregator(build(0.0), 2, 2)([long, short]),
        ([0.18 + 0.1, 0.24 + 0.1], [-0.1, 0.4]),
        strict=True,
    ):
        np.testing.assert_allclose(found, np.array(expected) / 2, rtol=4e-5, atol=1e-7)
    zero = [np.zeros(DIMENSION), np.zeros(DIMENSION)]
    for noise in Aggregator(build(2.0), DIMENSION, DIMENSION)([zero]):
        assert has_standard_deviation(
            noise, 2.0 * 0.5 / 2
        )  # the whole update's norm: hypot(.3, .4)
        for own in (0.3, 0.4):  # a layer's own norm would be too little
            assert not has_standard_deviation(noise, 2.0 * own / 2)


@pytest.mark.parametrize("norms", [(0.3,), (0.3, 0.4, 0.5)])
def test_another_number_of_layers_than_clip_norms_is_refused(tff, norms):
    mechanism = PerLayerGaussianMechanism(clip_norms=norms, noise_multiplier=1.0)
    with pytest.raises(ArgumentError, match=r"clip_norms=.*expected 2 norms"):
        Aggregator(build_aggregator(mechanism, 2.0), 2, 2)


def test_the_test_sees_a_noise_that_is_off_by_five_percent(tff, stock):
    noise = aggregate(tff, fixed(0.95), 1.0, [np.zeros(DIMENSION)], DIMENSION)
    assert not has_standard_deviation(noise, 1.0 * CLIP)


def test_noise_is_independent_between_rounds_and_between_coordinates(tff, stock):
    aggregator = Aggregator(build_aggregator(fixed(1.0), 1.0), DIMENSION)
    first, second = (aggregator([np.zeros(DIMENSION)]) for _ in range(2))
    # Correlations of n independent pairs are N(0, 1/n); 5 deviations have probability 6e-7.
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))
    assert abs(np.corrcoef(first, first + 0.1 * second)[0, 1]) > 5 / math.sqrt(DIMENSION)


def test_an_empty_round_still_gets_its_noise(tff, stock):
    noise = aggregate(tff, fixed(1.0), 10.0, [], DIMENSION)
    assert has_standard_deviation(noise, CLIP / 10)


def test_the_count_of_unclipped_clients_is_noised_with_its_standard_deviation(tff, stock):
    m, rounds, clients, rate = 20.0, 300, 2, 0.2
    aggregator = Aggregator(build_aggregator(adaptive(1.0, clip_learning_rate=rate), m), 2)
    noise, clip = [], CLIP
    for _ in range(rounds):
        aggregator([np.zeros(2)] * clients)
        new = float(aggregator.output.measurements["dp_query_metrics"]["clip"])
        # Geometric update with bits shifted by 1/2 (zero updates are unclipped, bit 1).
        share = 0.5 - math.log(new / clip) / rate
        noise.append((share - 0.5) * m - clients * 0.5)
        clip = new
    sample = np.array(noise)
    assert has_standard_deviation(sample, 0.05 * m)
    for factor in (2 / 3, 3 / 2):
        assert not has_standard_deviation(factor * sample, 0.05 * m)


HONEST = [np.array([0.3, 0.0, 0.0]), np.array([0.0, 0.9, 0.0]), np.array([0.1, 0.1, -0.1])]
HOSTILE = {
    "norm 1e9": np.array([1e9, -1e9, 0.0]),
    "overflowing norm": np.array([1e30, 1e30, 0.0]),
    "NaN": np.array([np.nan, 0.0, 0.0]),
    "infinity": np.array([0.0, np.inf, 0.0]),
    "zero": np.zeros(3),
    "at the bound": np.array([0.0, 0.0, CLIP]),
}


def moved(aggregate_with, hostile) -> float:
    """Returns by how much one more client moves an aggregate."""
    return float(np.linalg.norm(aggregate_with([*HONEST, hostile]) - aggregate_with(HONEST)))


_FIXED = {"clip_norm": CLIP, "noise_multiplier": 0.0}
NOISELESS = [
    fixed(0.0),
    adaptive(0.0),
    PerLayerGaussianMechanism(clip_norms=(CLIP,), noise_multiplier=0.0),
    LaplaceMechanism(**_FIXED),
    TreeMechanism(**_FIXED),
    BandedMechanism(**_FIXED, bands=2),
    LocalGaussianMechanism(**_FIXED),
    LocalLaplaceMechanism(**_FIXED),
]
LATER = {"Distributed", "Record"}  # have tests of their own


def test_every_mechanism_is_tried():
    from tff_dp.aggregation.build import _BUILDERS

    tried = {type(mechanism) for mechanism in NOISELESS}
    others = {kind for kind in _BUILDERS if kind.__name__.startswith(tuple(LATER))}
    assert tried | others == set(_BUILDERS)


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("mechanism", NOISELESS, ids=lambda mechanism: type(mechanism).__name__)
def test_one_hostile_client_moves_the_noiseless_aggregate_by_at_most_c_over_m(
    tff, stock, mechanism, hostile
):
    m = 4.0
    bound = CLIP / m * (1 + 1e-7)  # the rounding of the released float32
    assert moved(lambda updates: aggregate(tff, mechanism, m, updates), hostile) <= bound


def test_the_sensitivity_check_catches_naive_aggregators(tff, stock):
    import tensorflow_privacy as tfp

    m = 4.0
    bound = CLIP / m * (1 + 1e-5)
    naive = tff.aggregators.DifferentiallyPrivateFactory(
        tfp.NormalizedQuery(tfp.GaussianSumQuery(CLIP, 0.0), m)
    )
    for name in ("NaN", "infinity", "overflowing norm"):  # pass through the clipping as NaN
        assert not moved(lambda updates: Aggregator(naive, 3)(updates), HOSTILE[name]) <= bound
    realized = tff.aggregators.UnweightedMeanFactory()  # neither clips nor keeps the denominator
    assert not moved(lambda updates: Aggregator(realized, 3)(updates), HOSTILE["norm 1e9"]) <= bound


def test_the_denominator_is_the_expected_number_of_clients(tff, stock):
    clipped = [update * min(1, CLIP / np.linalg.norm(update)) for update in HONEST]
    for m in (2.0, 3.0, 7.5):
        result = aggregate(tff, fixed(0.0), m, HONEST)
        np.testing.assert_allclose(result, np.sum(clipped, axis=0) / m, rtol=4e-5, atol=1e-7)
    for mechanism in NOISELESS:
        short = [update / 10 for update in HONEST]  # nothing is clipped, in either norm
        result = aggregate(tff, mechanism, 7.5, short)
        np.testing.assert_allclose(result, np.sum(short, axis=0) / 7.5, rtol=1e-5, atol=1e-7)


def test_the_leaking_zeroing_default_is_not_in_the_aggregator(tff, stock):
    def text(factory):
        process = factory.create(tff.types.TensorType(np.float32, [3]))
        return str(process.next.type_signature)

    leaking = tff.learning.dp_aggregator(1.0, 100.0)
    assert "zeroed_count" in text(leaking)
    for mechanism in (fixed(1.0), adaptive(1.0)):
        assert "zero" not in text(build_aggregator(mechanism, 100.0))


def test_the_aggregators_event_is_the_plans(tff, stock):
    import dp_accounting
    from tensorflow_federated.python.aggregators import differential_privacy as dp

    aggregator = Aggregator(build_aggregator(fixed(1.3), 10.0), 3)
    with pytest.raises(ValueError, match="initialize"):  # an initial state has no event
        dp.extract_dp_event_from_state(aggregator.state)
    aggregator(HONEST)
    event = dp.extract_dp_event_from_state(aggregator.state)
    assert isinstance(event, dp_accounting.GaussianDpEvent)
    assert event.noise_multiplier == pytest.approx(1.3, rel=1e-6)

    aggregator = Aggregator(build_aggregator(adaptive(1.0), 20.0), 3)
    aggregator(HONEST)
    event = dp.extract_dp_event_from_state(aggregator.state)
    multipliers = [part.noise_multiplier for part in event.events]
    # Values at z_v, the count at 2 s_b; together the plan's z = 1, which is what is accounted for.
    assert sorted(multipliers) == pytest.approx([1.1547005, 2.0], rel=1e-6)
    assert sum(z**-2 for z in multipliers) == pytest.approx(1.0, rel=1e-6)


def test_what_cannot_work_is_refused_before_anything_is_built(tff):
    with pytest.raises(ArgumentError, match=r"noise_multiplier=1\.0.*\(0, 0\.4\).*clients a round"):
        build_aggregator(adaptive(1.0), 4.0)
    with pytest.raises(ArgumentError, match=r"clients_per_round=0.*\(0, inf\)"):
        build_aggregator(fixed(1.0), 0)

    class Unknown(Mechanism):
        noise_multiplier = 1.0

    with pytest.raises(ArgumentError, match="has no aggregator"):
        build_aggregator(Unknown(), 4.0)


def test_a_global_tensorflow_seed_does_not_seed_the_noise(tff, stock):
    import tensorflow as tf

    noise = []
    try:
        for _ in range(2):
            tf.random.set_seed(1)
            noise.append(aggregate(tff, fixed(1.0), 1.0, [np.zeros(3)]))
    finally:
        tf.random.set_seed(None)
    assert np.all(noise[0] != noise[1])


def test_a_client_of_zeros_moves_the_count_of_unclipped_clients_by_twice_its_share(tff, stock):
    """Why adaptive clipping is refused under zero-out: absence moves the count by 1/2, zeros by 1."""

    def count(updates) -> float:
        mechanism = adaptive(0.0, clip_learning_rate=0.2)
        aggregator = Aggregator(build_aggregator(mechanism, 20.0), 3)
        aggregator(updates)
        clip = float(aggregator.output.measurements["dp_query_metrics"]["clip"])
        return (0.5 - math.log(clip / CLIP) / 0.2 - 0.5) * 20.0

    clipped, zeros, absent = (
        count([*HONEST, *own]) for own in ([np.full(3, 9.0)], [np.zeros(3)], [])
    )
    assert abs(clipped - absent) == pytest.approx(0.5, rel=1e-3)
    assert abs(clipped - zeros) == pytest.approx(1.0, rel=1e-3)
