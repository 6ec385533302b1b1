"""Integer Gaussian noise: its law to the last relative bit that is claimed, bit patterns, and counts.

The law is that of two parts, each of which is tested on its own: the double precision arithmetic of the
coarse part, against 60 digits; and what the fine part makes of an ideal coarse part, in exact arithmetic.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import special

from tests.support.noise import FALSE_POSITIVE, are_uncorrelated, has_standard_deviation, is_normal

LEAST, LARGEST = -(2**62), 2**62 - 1
ALL, NONE = -1, 0  # words of ones, and of zeros
END = math.sqrt(2 * 125 * math.log(2))  # of the radius: 13.16 standard deviations
FARTHEST = 11.6  # beyond it lies 2^-100 of a Gaussian
STDDEVS = [2.0**10, 1.999 * 2**10, 1.3 * 2**11, 2.0**30, 1.7 * 2**35, 2.0**50]


@pytest.fixture(scope="module")
def gaussian():
    return importlib.import_module(
        "tff_dp.noise.gaussian"
    )  # the package has a function of its name


@pytest.fixture(params=["plain", "XLA"])
def compiled(request):
    import tensorflow as tf

    return functools.partial(tf.function, jit_compile=request.param == "XLA")


# --- The coarse part ------------------------------------------------------------------------------


def random_words(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(LEAST, LARGEST, size=shape, endpoint=True)


def exact_sizes(column: np.ndarray) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """Returns a pair's absolute values and its radius, for the bits of a column of words."""
    high, low, angle = (int(word) % 2**62 for word in column.tolist())
    with mpmath.workprec(250):
        unit = mpmath.mpf(high) / 2**62 + (mpmath.mpf(low) + mpmath.mpf(1) / 2) / 2**124
        radius = mpmath.sqrt(-2 * mpmath.log(min(unit, mpmath.mpf(1))))
        turn = mpmath.pi / 2 * (angle % 2**61) / 2**61
        return radius * mpmath.cos(turn), radius * mpmath.sin(turn), radius


def test_the_coarse_part_is_right_to_a_few_roundoffs(gaussian, compiled):
    """The error that `roundoff` below takes for granted: 2^-50 of the radius r, and 2^-53 / r."""
    rng = np.random.default_rng(0)
    words = random_words(rng, 3, 4000)
    words[0, :200] >>= np.arange(200) % 62  # small numbers: far tails
    words[0, 200:250] = 0  # the low word alone
    words[1, 200:250] >>= np.arange(50)
    words[0, 250:260] = LARGEST - np.arange(10)  # near 1: small radii
    words[2, 260:300] = np.arange(40)  # and angles near the ends
    words[2, 300:340] = 2**61 - 1 - np.arange(40)
    found = compiled(gaussian._sizes)(words).numpy()
    for column, pair in zip(words.T, found.T, strict=True):
        *exact, radius = exact_sizes(column)
        for size, right in zip(pair, exact, strict=True):
            error = abs(mpmath.mpf(float(size)) - right)
            # Below 1, the unit interval has a roundoff of 2^-54, of which a small radius is the root.
            assert error <= radius * mpmath.mpf(2) ** -50 + mpmath.mpf(2) ** -53 / radius


def test_extreme_words_give_the_extreme_values(gaussian, compiled):
    def coarse(words, stddev=1000.0):
        return compiled(gaussian._coarse)(np.array(words, np.int64)[:, None], stddev).numpy()

    # No bit of the radius: the end of the tail, on one axis by an angle of zero.
    assert coarse([NONE, NONE, NONE]).tolist() == [math.floor(END * 1000), 0]
    assert coarse([NONE, NONE, LEAST]).tolist() == [-1 - math.floor(END * 1000), 0]
    assert coarse([NONE, NONE, 2**61]).tolist() == [math.floor(END * 1000), -1]
    # All bits of the angle but its signs: the other axis.
    first, second = coarse([NONE, NONE, 2**61 - 1])
    assert (first, second) == (0, math.floor(END * 1000))
    # All bits of the radius: nothing. The sign bits of the first two words do not count.
    assert coarse([LARGEST, LARGEST, NONE]).tolist() == [0, 0]
    assert coarse([ALL, ALL, NONE]).tolist() == [0, 0]
    assert coarse([LEAST, LEAST, NONE]).tolist() == coarse([NONE, NONE, NONE]).tolist()
    # One bit of the high word is 2^-62, and the low word has its part there.
    assert coarse([1, NONE, NONE], 2.0**50)[0] == pytest.approx(
        math.sqrt(2 * 62 * math.log(2)) * 2**50, rel=1e-15
    )
    assert coarse([1, NONE, NONE], 2.0**50)[0] > coarse([1, LARGEST, NONE], 2.0**50)[0]


@pytest.mark.parametrize("log", [1, 5, 15, 16, 21, 22, 31, 32, 41])
def test_the_fine_part_is_the_sum_of_four_uniform_numbers(gaussian, compiled, log):
    each = 63 // log
    count = gaussian._words_of_fine(each)
    fine = compiled(functools.partial(gaussian._fine, log=log, in_word=each))
    ones = np.full([count, 1], ALL)
    assert fine(ones).numpy().tolist() == [4 * (2**log - 1)]
    assert fine(0 * ones).numpy().tolist() == [0]
    words = random_words(np.random.default_rng(log), count, 50)
    whole = [sum(int(w) % 2**63 << 63 * i for i, w in enumerate(column)) for column in words.T]
    expected = [
        sum(bits >> 63 * (n // each) + n % each * log & (2**log - 1) for n in range(4))
        for bits in whole
    ]
    assert fine(words).numpy().tolist() == expected
    # No two of the four share a bit.
    used = [63 * (n // each) + n % each * log for n in range(4)]
    assert all(b - a >= log for a, b in itertools.pairwise(used))
    assert used[-1] + log <= 63 * count


# --- The law --------------------------------------------------------------------------------------


def splines(distance: int, steps: int) -> mpmath.mpf:
    """Returns how likely the sum of four uniform numbers below `steps` is a number: in whole numbers."""
    ways = sum(
        (-1) ** k * math.comb(4, k) * math.comb(distance - k * steps + 3, 3)
        for k in range(5)
        if distance - k * steps >= 0
    )
    return mpmath.mpf(ways) / mpmath.mpf(steps) ** 4


def interval(low: mpmath.mpf, high: mpmath.mpf) -> mpmath.mpf:
    """Returns the mass of N(0, 1) between two numbers above 0, without cancellation in the tail."""
    root = mpmath.sqrt(2)
    return (mpmath.erfc(low / root) - mpmath.erfc(high / root)) / 2


def mass(low: mpmath.mpf, high: mpmath.mpf) -> mpmath.mpf:
    if low < 0 < high:
        return interval(mpmath.mpf(0), high) + interval(mpmath.mpf(0), -low)
    return interval(low, high) if low >= 0 else interval(-high, -low)


def shape_error(module, stddev: float, x: float, coarse_stddev: float | None = None) -> float:
    """Returns the relative error of the probability of the whole number at x standard deviations.

    Of an ideal coarse part with the fine part, beside the nearest integer of N(0, stddev^2).
    """
    log = module.block_log(stddev)
    steps, middle = 2**log, 2 - 3 * 2 ** (log - 1)
    number = round(x * stddev)
    with mpmath.workprec(400):
        own = mpmath.mpf(coarse_stddev or module.coarse_stddev(stddev))
        found = mpmath.mpf(0)
        # number = block * steps + fine + middle, with fine in [0, 4 (steps - 1)]
        for block in range((number - middle) // steps - 4, (number - middle) // steps + 2):
            distance = number - middle - block * steps
            if 0 <= distance <= 4 * (steps - 1):
                found += splines(distance, steps) * mass(block / own, (block + 1) / own)
        half = mpmath.mpf(1) / 2
        ideal = mass((number - half) / stddev, (number + half) / stddev)
        return float(found / ideal - 1)


def roundoff(module, stddev: float, x: float) -> float:
    """Returns what roundoff can do to the relative probability of the block at x.

    A block has two boundaries. One that is off by e moves at most e times the density there. For a size
    of radius r, e is 2^-50 r + 2^-53 / r. Given the size x, the mean of r is at most x + E|N(0, 1)|, and
    that of 1 / r is exp(x^2 / 4) K_0(x^2 / 4) / sqrt(2 pi), from the density r exp(-r^2 / 2) of the
    radius and 2 / (pi sqrt(r^2 - x^2)) of the size. The boundary at 0 is exact.
    """
    x = max(abs(x), 1 / module.coarse_stddev(stddev))
    inverse = special.k0e(x**2 / 4) / math.sqrt(2 * math.pi)
    error = 2**-50 * (x + math.sqrt(2 / math.pi)) + 2**-53 * inverse
    return 2 * error * module.coarse_stddev(stddev)


@pytest.mark.parametrize("stddev", STDDEVS)
def test_the_law_is_as_close_to_the_ideal_as_the_accounting_takes_it_to_be(gaussian, stddev):
    rng = np.random.default_rng(1)
    points = np.concatenate([np.linspace(0, FARTHEST, 100), rng.uniform(0, FARTHEST, 100)])
    errors = np.array([abs(shape_error(gaussian, stddev, x)) for x in points])
    whole = errors + np.array([roundoff(gaussian, stddev, x) for x in points])
    assert whole.max() <= gaussian.LARGEST_ERROR
    order = np.argsort(points)
    density = np.sqrt(2 / np.pi) * np.exp(-(points[order] ** 2) / 2)
    mean_square = np.trapezoid(whole[order] ** 2 * density, points[order])
    assert math.sqrt(mean_square) <= gaussian.MEAN_ERROR
    # Both draws of a pair at once: four boundaries, and a radius of root mean square sqrt(2).
    pair = 4 * 2**-50 * math.sqrt(2) * gaussian.coarse_stddev(stddev)
    assert pair <= math.sqrt(2) * gaussian.MEAN_ERROR


def test_the_law_is_symmetric(gaussian):
    for x in (0.5, 3.0, 8.0):
        right, left = (shape_error(gaussian, 2.0**30, sign * x) for sign in (1, -1))
        assert right == pytest.approx(left, rel=1e-6)


def test_a_coarse_part_of_the_wrong_size_is_seen(gaussian):
    """A planted defect: the fine part's variance is not taken off."""
    stddev = 2.0**30
    naive = stddev / 2 ** gaussian.block_log(stddev)
    assert abs(shape_error(gaussian, stddev, 5.0, naive)) > 2**-20


# --- Draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stddev", [0.4, 50.0, 1023.0, 1024.0, 2.0**30, 2.0**50])
def test_draws_have_the_law(compiled, stddev):
    from tff_dp.noise import gaussian

    draws = compiled(lambda: gaussian([2, 15_001], stddev))().numpy()
    assert draws.dtype == np.int64
    assert draws.shape == (2, 15_001)
    flat = draws.ravel().astype(float) + (0.5 if stddev < 1024 else 0.0)
    # Within an interval of a whole number any place is as good as another: made continuous, like N.
    flat += np.random.default_rng(0).uniform(-0.5, 0.5, flat.shape)
    if stddev > 10:
        assert has_standard_deviation(flat, stddev)
        assert is_normal(flat, stddev)
        for factor in (2 / 3, 3 / 2):  # negative controls
            assert not has_standard_deviation(factor * flat, stddev)
            assert not is_normal(factor * flat, stddev)
        # The two draws of a pair are 15,001 apart.
        assert are_uncorrelated(flat[:15_001], flat[15_001:])
        assert are_uncorrelated(flat[:15_001] ** 2, flat[15_001:] ** 2)
    else:  # the law of the floor, by chi-squared over its numbers
        counts = [np.sum(draws == number) for number in (-1, 0)]
        expected = math.erf(1 / stddev / math.sqrt(2)) / 2 * draws.size
        deviation = math.sqrt(expected)
        assert all(abs(count - expected) < 6 * deviation for count in counts)


def test_parts_of_a_draw_have_words_of_their_own(gaussian, monkeypatch):
    """The coarse and the fine part of some draws are those of words that are drawn apart."""
    import tensorflow as tf

    asked = []

    def recorded(shape):
        asked.append(random_words(np.random.default_rng(len(asked)), *shape))
        return tf.constant(asked[-1])

    monkeypatch.setattr(gaussian, "words", recorded)
    found = gaussian.gaussian([7], 2.0**30).numpy()
    log, each = gaussian.block_log(2.0**30), gaussian.uniforms_in_word(2.0**30)
    (coarse, fine) = asked
    assert coarse.shape == (3, 4)
    assert fine.shape == (gaussian._words_of_fine(each), 7)
    blocks = gaussian._coarse(coarse, gaussian.coarse_stddev(2.0**30)).numpy()[:7]
    spread = gaussian._fine(fine, log, each).numpy() + 2 - 3 * 2 ** (log - 1)
    assert found.tolist() == (blocks * 2**log + spread).tolist()


@pytest.mark.parametrize("first", [2.0**10, 2.0**25.5, 2.0**40.2, 2.0**42])
def test_a_scale_that_a_graph_is_given_draws_what_a_constant_one_draws(
    gaussian, compiled, monkeypatch, first
):
    """Bit by bit, from the same words: what is proven of the one holds for the other."""
    import tensorflow as tf

    def fixed(shape):
        return tf.constant(random_words(np.random.default_rng(shape), *shape))

    monkeypatch.setattr(gaussian, "words", fixed)
    in_word = gaussian.uniforms_in_word(first)
    traced = []

    @compiled
    def given(coarse, log):
        traced.append(1)
        return gaussian.scaled_gaussian([501], gaussian.Scale(coarse, log), in_word)

    alike = [s for s in (first * 1.7**k for k in range(12)) if s <= 2.0**50]
    alike = [s for s in alike if gaussian.uniforms_in_word(s) == in_word][:5]
    assert len(alike) > 1
    for stddev in alike:
        coarse, log = gaussian.Scale.of(stddev)
        found = given(tf.constant(coarse, tf.float64), tf.constant(log, tf.int64)).numpy()
        constant = compiled(functools.partial(gaussian.gaussian, [501], stddev))().numpy()
        assert found.tolist() == constant.tolist()
    assert len(traced) == 1  # one graph


def test_every_word_is_as_likely_as_any_other():
    """A word is a remainder of 64 random bits: the range has to divide 2^64, as 2^64 - 1 does not."""
    import tensorflow as tf

    from tff_dp.noise import words

    with tf.Graph().as_default() as graph:
        words.words([3])
    (draw,) = (node for node in graph.get_operations() if node.type == "RandomUniformInt")
    low, high = (int(tf.get_static_value(bound)) for bound in draw.inputs[1:])
    assert 2**64 % (high - low) == 0
    assert (low, high) == (-(2**62), 2**62)
    assert words.SCOPE in draw.name


def test_the_accounting_charges_for_this_law(gaussian):
    from tff_dp.accounting import arithmetic

    assert arithmetic.RMS_LOG_RATIO == gaussian.MEAN_ERROR
    assert arithmetic.LARGEST_LOG_RATIO == gaussian.LARGEST_ERROR


@pytest.mark.parametrize("stddev", [0.1, 1.0, 77.7, 1023.0])
def test_small_noise_is_the_floor_of_the_coarse_part_alone(gaussian, stddev):
    """Below 2^10 steps the law is off by the roundoff at two boundaries, which are wider apart."""
    assert gaussian.block_log(stddev) == 0
    assert gaussian.coarse_stddev(stddev) == stddev
    largest = max(roundoff(gaussian, stddev, x) for x in np.linspace(0, FARTHEST, 100))
    assert largest < gaussian.LARGEST_ERROR
    assert roundoff(gaussian, stddev, 1.0) < gaussian.MEAN_ERROR


def test_no_noise_is_no_noise_and_too_much_is_refused():
    from tff_dp.noise import gaussian

    assert not gaussian([3], 0.0).numpy().any()
    for stddev in (-1.0, 2.0**51, math.nan):
        with pytest.raises(ValueError, match=r"stddev=.*\[0, 2\^50\]"):
            gaussian([3], stddev)


@pytest.mark.full
def test_draws_go_beyond_the_end_of_tensorflows_own():
    """Of 1.2e9 draws, 16 are expected beyond 5.6781 standard deviations; none has probability 9e-8."""
    import tensorflow as tf

    from tff_dp.noise import gaussian

    count, repeats = 10_000_000, 120

    @tf.function(jit_compile=True)
    def beyond(sample):
        return tf.math.count_nonzero(tf.abs(sample) > 5.6781)

    def ours():
        return tf.cast(gaussian([count], 2.0**30), tf.float64) / 2.0**30

    found = sum(
        int(tf.function(lambda: beyond(ours()), jit_compile=True)()) for _ in range(repeats)
    )
    expected = count * repeats * math.erfc(5.6781 / math.sqrt(2))
    assert math.exp(-expected) < FALSE_POSITIVE
    assert 0 < found < expected + 6 * math.sqrt(expected)

    def bounded():  # planted: Box and Muller's transform of a uniform number that stops at 1e-7
        radius = tf.random.uniform([count], 1e-7, 1.0, tf.float64)
        angle = tf.random.uniform([count], 0.0, 2 * math.pi, tf.float64)
        return tf.sqrt(-2 * tf.math.log(radius)) * tf.cos(angle)

    assert sum(int(beyond(bounded())) for _ in range(repeats)) == 0
