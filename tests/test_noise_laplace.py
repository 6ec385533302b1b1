"""Integer Laplace noise: the law of its digits in high precision, bit patterns, and draws."""

from __future__ import annotations

import functools
import importlib
import math

import mpmath
import numpy as np
import pytest
from noise import is_laplace

SCALES = [0.3, 1.0, 77.7, 2.0**30, 2.0**50]


@pytest.fixture(scope="module")
def module():
    return importlib.import_module("tff_dp.noise.laplace")  # the package has a function of its name


@pytest.fixture(params=["plain", "XLA"])
def compiled(request):
    import tensorflow as tf

    return functools.partial(tf.function, jit_compile=request.param == "XLA")


def probabilities(module, scale: float) -> list[mpmath.mpf]:
    return [mpmath.mpf(high * 2**63 + low) / 2**126 for high, low in module.thresholds(scale)]


@pytest.mark.parametrize("scale", SCALES)
def test_the_digits_make_a_geometric_law(module, scale):
    """P(k) = (1 - d) d^k with d = exp(-1 / scale), to 2^-60 relative, where k is at all likely."""
    with mpmath.workprec(300):
        digits = probabilities(module, scale)
        decay = mpmath.exp(-1 / mpmath.mpf(scale))
        rng = np.random.default_rng(0)
        largest = min(2 ** len(digits) - 1, int(69 * scale))  # beyond lies 2^-100
        numbers = {0, 1, largest, *(int(n) for n in rng.exponential(scale, 50) if n <= largest)}
        for number in numbers:
            law = mpmath.mpf(1)
            for place, one in enumerate(digits):
                law *= one if number >> place & 1 else 1 - one
            error = law / ((1 - decay) * decay**number) - 1
            assert abs(error) < mpmath.mpf(2) ** (-60 if number <= 40 * scale else -24)
        # What the digits that are left out would have had.
        left = mpmath.exp(-(mpmath.mpf(2) ** len(digits)) / scale)
        assert left < mpmath.mpf(2) ** -125


def test_a_digit_is_one_below_its_threshold_only(module, compiled):
    scale = 2.0
    table = module.thresholds(scale)
    assert table[1] == divmod(int(mpmath.floor(2**126 / (1 + mpmath.e))), 2**63) or (
        abs(
            sum(a * b for a, b in zip(table[1], (2**63, 1), strict=True)) / 2**126
            - 1 / (1 + math.e)
        )
        < 1e-15
    )
    floors = compiled(functools.partial(module._floors, scale=scale))
    none = np.full([2, len(table), 1], 2**63 - 1)
    plus, minus = np.array([0]), np.array([-1])
    assert floors(none, plus).numpy().tolist() == [0]
    assert floors(none, minus).numpy().tolist() == [-1]
    for place, (high, low) in enumerate(table):
        for words, expected in (((high, low), 0), ((high, low - 1), 1), ((high - 1, 2**63 - 1), 1)):
            if min(words) < 0:
                continue
            bits = none.copy()
            bits[:, place, 0] = words
            assert floors(bits, plus).numpy().tolist() == [expected << place]
            assert floors(bits, minus).numpy().tolist() == [-1 - (expected << place)]
    everything = floors(np.zeros([2, len(table), 1], np.int64), plus).numpy()
    assert everything.tolist() == [2 ** len(table) - 1]


@pytest.mark.parametrize("scale", [50.0, 2.0**30])
def test_draws_have_the_law(compiled, scale):
    from tff_dp.noise import laplace

    draws = compiled(lambda: laplace([2, 10_000], scale))().numpy()
    assert draws.dtype == np.int64
    spread = draws.ravel() + np.random.default_rng(0).uniform(0, 1, draws.size)
    assert is_laplace(spread, scale)
    for factor in (2 / 3, 3 / 2):  # negative controls
        assert not is_laplace(factor * spread, scale)


def test_no_noise_is_no_noise_and_too_much_is_refused():
    from tff_dp.noise import laplace

    assert not laplace([3], 0.0).numpy().any()
    for scale in (-1.0, 2.0**51, math.nan):
        with pytest.raises(ValueError, match=r"scale=.*\[0, 2\^50\]"):
            laplace([3], scale)
