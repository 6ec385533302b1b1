"""Clipping that holds for every size and type, and sums and releases on a public grid."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest

from tests.support.noise import Aggregator
from tff_dp import execution
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    TreeMechanism,
)

CLIP = 0.7
MIDDLE = 700_001  # elements: many blocks of squares, and a rest


@pytest.fixture(params=["plain", "XLA"])
def compiled(request):
    import tensorflow as tf

    return functools.partial(tf.function, jit_compile=request.param == "XLA")


def norms(parts, grid, clip_norm: float) -> tuple[float, float]:
    """Returns the L2 and the L1 norm of whole numbers of steps, over the clip norm; exact enough."""
    wide = np.concatenate([np.asarray(part).ravel() for part in parts]).astype(np.longdouble)
    unit = np.longdouble(grid.steps)
    return float(np.sqrt(np.sum(wide**2)) / unit), float(np.sum(np.abs(wide)) / unit)


def hostile_updates(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=size)
    growing = np.geomspace(1e-12, 1.0, size)
    return {
        "all equal": np.ones(size),
        "normal": normal,
        "one large": np.concatenate([[2.0**12], np.full(size - 1, 0.4)]),
        "the large first": growing[::-1],
        "the large last": growing,
        "subnormal": np.full(size, 1e-39),
        "near the largest": normal * 1e17,
    }


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in hostile_updates(2)),
        *(("one large", dtype) for dtype in ("float16", "bfloat16", "float64")),
    ],
)
def test_no_update_exceeds_the_clip_norm(compiled, name, dtype):
    import tensorflow as tf

    from tff_dp.noise import Grid, clip_l1, clip_l2

    grid = Grid.of(1.0)
    update = tf.cast(tf.constant(hostile_updates(MIDDLE)[name]), dtype)
    update = tf.where(tf.math.is_finite(update), update, tf.zeros_like(update))  # float16's range
    for clip, norm in ((clip_l2, 0), (clip_l1, 1)):
        clipped = compiled(lambda part, clip=clip: clip([part[:5], part[5:]], CLIP, grid).parts)
        found = norms(clipped(update), grid, CLIP)[norm]
        assert found <= 1
        if float(tf.norm(tf.cast(update, tf.float64), ord=2 - norm)) > CLIP:
            # Truncation costs up to a step a coordinate, which add up in an L1 norm.
            assert found > 1 - 2**-13 - norm * MIDDLE / grid.steps


@pytest.mark.full
def test_a_hundred_million_weights_do_not_exceed_the_clip_norm(compiled):
    """The self-test's tests have TensorFlow's own clipping as the planted defect."""
    import tensorflow as tf

    from tff_dp.noise import Grid, clip_l2

    grid = Grid.of(1.0)
    # Squares of the others are below the roundoff of a float32 that holds that of the first.
    update = tf.concat([[4096.0], tf.fill([100_000_000], 0.24)], 0)
    found, _ = norms(compiled(lambda u: clip_l2([u], CLIP, grid).parts)(update), grid, CLIP)
    assert 1 - 2**-12 < found <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_an_update_without_a_finite_norm_is_zeros(compiled, bad):
    import tensorflow as tf

    from tff_dp.noise import Grid, clip_l1, clip_l2

    update = tf.constant([1.0, bad, -2.0] * 2000)
    for clip in (clip_l2, clip_l1):
        found = compiled(lambda u, clip=clip: clip([u[:1], u[1:]], CLIP, Grid.of(1.0)))(update)
        if abs(bad) != 1e30 or clip is clip_l2:  # whose square overflows float32
            assert not any(np.any(part) for part in found.parts)


def test_small_clip_norms_clip(compiled):
    """Squares of small float32 numbers underflow: nothing was clipped below 1e-19."""
    import tensorflow as tf

    from tff_dp.noise import Grid, clip_l2

    grid = Grid.of(1.0)
    for size in (1, 10_000):
        update = tf.fill([size], 1e-9)
        found = compiled(lambda u: clip_l2([u], 1e-10, grid).parts)(update)
        assert 1 - 2**-13 < norms(found, grid, 1e-10)[0] <= 1


def test_truncation_makes_nothing_larger(compiled):
    import tensorflow as tf

    from tff_dp.noise import Grid, clip_l2

    grid = Grid(4)  # coarse, so that rounding shows
    update = np.random.default_rng(3).normal(size=200).astype(np.float32)
    update *= CLIP / np.linalg.norm(update) * 0.99
    (found,) = compiled(lambda u: clip_l2([u], CLIP, grid).parts)(tf.constant(update))
    exact = update.astype(np.float64) / CLIP * grid.steps
    assert np.array_equal(found, np.trunc(exact))
    assert np.linalg.norm(found) < grid.steps
    assert np.linalg.norm(np.round(exact)) != np.linalg.norm(found)  # what to nearest would give


def test_an_update_within_the_clip_norm_is_kept_to_float32(compiled):
    import tensorflow as tf

    from tff_dp.noise import Grid, clip_l2

    grid = Grid.of(1.0)
    update = np.random.default_rng(1).normal(size=10_000).astype(np.float32)
    update *= np.float32(0.9 * CLIP / np.linalg.norm(update))
    (found,) = compiled(lambda u: clip_l2([u], CLIP, grid).parts)(tf.constant(update))
    restored = np.asarray(found) / grid.steps * CLIP
    np.testing.assert_allclose(restored, update, rtol=3e-7, atol=CLIP / grid.steps)


def test_what_is_taken_off_the_clip_norm_is_more_than_roundoff_can_do():
    from tff_dp.noise import clipping

    unit = 2.0**-24
    # A block's sum, the scale in float32, and the product; an L1 norm has the whole error of its sum.
    assert (clipping._BLOCK - 1 + 2) * unit / (1 - clipping._BLOCK * unit) < clipping.MARGIN / 20


@pytest.mark.parametrize(
    "z",
    [0.0, 1e-9, 1.0, 3.7, 2.0**20, 1e9, *(math.nextafter(2.0**n, math.inf) for n in range(10, 30))],
)
def test_the_grid_leaves_room_for_noise_and_sums(z):
    from tff_dp.noise import Grid

    grid = Grid.of(z)
    assert grid.log_steps <= 38
    assert z * grid.steps <= 2**50
    assert grid.log_steps == 38 or z * grid.steps > 2**48


# --- Aggregators ----------------------------------------------------------------------------------


def total(aggregator, updates, m=1.0) -> np.ndarray:
    return np.asarray(aggregator(updates), np.float64) * m


@pytest.fixture(params=["scan", "vmap", "plain"])
def fast(request, tff):
    strategy = "scan" if request.param == "plain" else request.param
    with execution.fast(strategy, xla=request.param != "plain") as context:
        yield context


def test_sums_do_not_depend_on_the_order_of_clients(fast):
    """In float32 they do, by more than one client may move them."""
    rng = np.random.default_rng(0)
    updates = [*(rng.normal(size=3) * 10.0 ** rng.uniform(-6, 0, size=3) for _ in range(256))]
    aggregator = Aggregator(
        build_aggregator(GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0), 1.0), 3
    )
    first = aggregator(updates)
    for seed in range(3):
        shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(len(updates))]
        assert np.array_equal(aggregator(shuffled), first)
    assert not np.array_equal(
        functools.reduce(np.add, np.float32(updates)),
        functools.reduce(np.add, np.float32(updates[::-1])),
    )


def test_one_of_many_clients_moves_the_sum_by_no_more_than_the_clip_norm(tff):
    """After 8192 ones, the roundoff of each later addend is another than after 8191."""
    one, small = np.ones(1, np.float32), np.full(1, 2.0**-11 * 1.001, np.float32)
    others = [one] * 8191 + [small] * 8193
    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0)
    with execution.fast("scan", xla=False):
        process = build_aggregator(mechanism, 1.0).create(tff.types.TensorType(np.float32, [1]))
        state = process.initialize()
        sums = [float(process.next(state, cohort).result[0]) for cohort in ([one, *others], others)]
    assert abs(sums[0] - sums[1]) <= 1 + 2.0**-10  # a step of the released float32
    assert sums[1] == pytest.approx(8191 + 8193 * 2.0**-11, rel=1e-4)
    by_float32 = [float(functools.reduce(np.add, cohort)[0]) for cohort in ([one, *others], others)]
    assert abs(by_float32[0] - by_float32[1]) > 1.9


RELEASING = [
    GaussianMechanism(clip_norm=CLIP, noise_multiplier=1.3),
    LaplaceMechanism(clip_norm=CLIP, noise_multiplier=1.3),
    TreeMechanism(clip_norm=CLIP, noise_multiplier=1.3),
    BandedMechanism(clip_norm=CLIP, noise_multiplier=1.3, bands=3),
    LocalGaussianMechanism(clip_norm=CLIP, noise_multiplier=1.3),
    AdaptiveGaussianMechanism(noise_multiplier=1.3, initial_clip_norm=CLIP),
]


@pytest.mark.parametrize("mechanism", RELEASING, ids=lambda mechanism: type(mechanism).__name__)
def test_what_is_released_is_a_whole_number_of_steps_whatever_the_data(tff, mechanism):
    """An attack on the low bits of a sum finds none: every release is on the public grid."""
    m = 20.0
    log = 33 if isinstance(mechanism, BandedMechanism) else 38
    step = CLIP / 2.0**log / m
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        step = float(np.float32(CLIP)) / 2.0**log / m
    process = build_aggregator(mechanism, m, 4).create(tff.types.TensorType(np.float64, [50]))
    rng = np.random.default_rng(0)
    with execution.fast(xla=False):
        state = process.initialize()
        for _ in range(3):
            updates = [rng.normal(size=50) * 10.0 ** -rng.integers(0, 9) for _ in range(7)]
            output = process.next(state, updates)
            if not isinstance(mechanism, AdaptiveGaussianMechanism):  # whose step moves
                state = output.state
            steps = np.asarray(output.result) / step
            assert np.abs(steps).max() > 2**20
            np.testing.assert_allclose(steps, np.round(steps), rtol=2**-50, atol=0)
            assert not np.allclose(steps * 1.1, np.round(steps * 1.1), rtol=2**-50, atol=0)


def test_adaptive_clipping_stops_at_its_floor_and_its_ceiling(tff):
    """All-zero updates took the clip norm to 7.8e-22 and then to 0, and the results to NaN."""

    def clip_after(update, **changes) -> float:
        mechanism = AdaptiveGaussianMechanism(
            noise_multiplier=0.1, initial_clip_norm=0.1, clip_learning_rate=5.0, **changes
        )
        aggregator = Aggregator(build_aggregator(mechanism, 20.0), 2)
        for _ in range(40):
            result = aggregator([update] * 20)
        assert np.isfinite(result).all()
        return float(aggregator.output.measurements["dp_query_metrics"]["clip"])

    with execution.fast(xla=False):
        assert clip_after(np.zeros(2)) == pytest.approx(1e-10)
        assert clip_after(np.zeros(2), min_clip_norm=0.01) == pytest.approx(0.01)
        assert clip_after(np.full(2, 1e9), max_clip_norm=0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_clip_norm": 0.2}, r"initial_clip_norm=0\.1.*\[0\.2, 1e\+10\]"),
        ({"max_clip_norm": 0.05}, r"initial_clip_norm=0\.1.*\[1e-10, 0\.05\]"),
        ({"min_clip_norm": 0.0}, r"min_clip_norm=0\.0.*\[1e-10, 1e\+10\]"),
        ({"max_clip_norm": math.inf}, r"max_clip_norm=inf.*\[1e-10, 1e\+10\]"),
    ],
)
def test_bounds_of_the_adaptive_clip_norm(changes, message):
    with pytest.raises(ArgumentError, match=message):
        AdaptiveGaussianMechanism(noise_multiplier=1.0, **changes)


@pytest.mark.parametrize("s_b", [1e12, 2.0**39])
def test_noise_of_a_count_as_large_as_is_allowed_leaves_numbers(tff, s_b):
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=1.0, clipped_count_stddev=s_b)
    with execution.fast(xla=False):
        aggregator = Aggregator(build_aggregator(mechanism, 20.0), 2)
        for _ in range(3):
            assert np.isfinite(aggregator([np.ones(2)])).all()
    with pytest.raises(ArgumentError, match=r"clipped_count_stddev=2000000000000.*\(0, 1e12\]"):
        dataclasses.replace(mechanism, clipped_count_stddev=2e12).check(20.0)


@pytest.mark.parametrize("z", [1e-14, 1e-9, 1e9])
def test_very_little_and_very_much_laplace_noise(tff, z):
    mechanism = LaplaceMechanism(clip_norm=CLIP, noise_multiplier=z)
    with execution.fast(xla=False):
        found = Aggregator(build_aggregator(mechanism, 1.0), 1000)([np.zeros(1000)])
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 100 * z * CLIP + CLIP / 2**37
    assert np.abs(found).max() > z * CLIP


def test_updates_of_integers_are_refused(tff):
    factory = build_aggregator(GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0), 2.0)
    with pytest.raises(ArgumentError, match=r"dtype='int32'.*floating-point"):
        factory.create(tff.types.TensorType(np.int32, [2]))
