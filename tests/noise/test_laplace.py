"""Integer Laplace noise: the law of its digits in high precision, bit patterns, and draws."""

from __future__ import annotations

import functools
import importlib
import math

import mpmath
import numpy as np
import pytest

from tests.support.noise import is_laplace

SCALES = [0.3, 1.0, 77.7, 2.0**30, 2.0**50]


@pytest.fixture(scope="module")
def module():
    return importlib.import_module("tff_dp.noise.laplace")  # the package has a function of its name


@pytest.fixture(params=["plain", "XLA"])
def compiled(request):
    import tensorflow as tf

    return functools.partial(tf.function, jit_compile=request.param == "XLA")


def probabilities(module, scale: float) -> list[mpmath.mpf]:
    """Returns each digit's probability as it is drawn: to as many words as are compared."""
    found = []
    for parts, count in module.thresholds(scale):
        units = sum(part << 62 * (2 - place) for place, part in enumerate(parts) if place < count)
        found.append(mpmath.mpf(units) / 2**186)
    return found


@pytest.mark.parametrize("scale", [*SCALES, 8.013e9, 2.133, 1e-3, 1e-14])
def test_the_digits_make_a_geometric_law(module, scale):
    """P(k) = (1 - d) d^k with d = exp(-1 / scale), to 2^-54 relative, where k is at all likely."""
    with mpmath.workprec(600):
        digits = probabilities(module, scale)
        decay = mpmath.exp(-1 / mpmath.mpf(scale))
        rng = np.random.default_rng(0)
        largest = min(2 ** len(digits) - 1, int(83 * scale))  # beyond lies 2^-120
        numbers = {0, *({1} if largest else ()), largest}
        numbers |= {int(n) for n in rng.exponential(scale, 50) if n <= largest}
        numbers |= {int(n) for n in rng.uniform(0, largest, 50)}
        for number in numbers:
            law = mpmath.mpf(1)
            for place, one in enumerate(digits):
                law *= one if number >> place & 1 else 1 - one
            error = law / ((1 - decay) * decay**number) - 1
            assert abs(error) < mpmath.mpf(2) ** -54
        # What the digits that are left out would have had.
        left = mpmath.exp(-(mpmath.mpf(2) ** len(digits)) / scale)
        assert left < mpmath.mpf(2) ** -123


def test_a_digit_is_one_below_its_threshold_only(module, compiled):
    scale = 2.0
    table = module.thresholds(scale)
    counts = [threshold.compared for threshold in table]
    assert counts == sorted(counts)
    assert set(counts) == {1, 2, 3}
    assert sum(counts) + 1 == module.words_of(scale)
    with mpmath.workprec(300):
        second = mpmath.mpf(sum(p << 62 * (2 - i) for i, p in enumerate(table[1].parts))) / 2**186
        assert abs(second * (1 + mpmath.e) - 1) < mpmath.mpf(2) ** -180
    starts = [sum(sum(c > part for c in counts) for part in range(of)) for of in range(3)]
    firsts = [next(i for i, c in enumerate(counts) if c > of) for of in range(3)]
    floors = compiled(functools.partial(module._floors, scale=scale))

    def drawn(place, parts, sign=0) -> int:
        bits = np.full([module.words_of(scale), 1], 2**62 - 1)  # no digit is 1
        for part, word in enumerate(parts[: counts[place]]):
            bits[starts[part] + place - firsts[part]] = word
        bits[-1] = sign
        (found,) = floors(bits).numpy().tolist()
        return found

    most = 2**62 - 1
    for place, (parts, count) in enumerate(table):
        one = 1 << place
        assert drawn(place, parts) == 0
        assert drawn(place, parts, -1) == -1
        for part in range(count):  # a word decides where those before it are as the threshold's
            if parts[part]:
                lower = [*parts[:part], parts[part] - 1, most, most]
                assert drawn(place, lower) == one
                assert drawn(place, lower, -1) == -1 - one
            if parts[part] < most:
                assert drawn(place, [*parts[:part], parts[part] + 1, 0, 0]) == 0
    everything = floors(np.zeros([module.words_of(scale), 1], np.int64)).numpy()
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
