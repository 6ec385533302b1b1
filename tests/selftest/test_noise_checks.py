"""The statistical checks of the self-test: held to their rates, and what they see."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tests.support.self_tests import ADAPTIVE, CLIP, M
from tff_dp.selftest import (
    influence,
    noise,
)


def simulated(rng, cells=4, n=256) -> dict[str, np.ndarray]:
    return {str(number): rng.normal(size=n) for number in range(cells)}


@pytest.mark.parametrize(
    "check", [noise.size_check, noise.shape_check, noise.reuse_check, noise.apart_check]
)
def test_a_statistical_check_fails_no_more_often_than_it_says(monkeypatch, check):
    # At a rate that can be counted; the bounds are the same functions of it at 1e-7.
    rate, runs = 0.1, 600
    monkeypatch.setattr(noise, "FALSE_POSITIVE", rate)
    rng = np.random.default_rng(5)
    failures = sum(not check("", simulated(rng)).passed for _ in range(runs))
    assert failures <= stats.binom.isf(1e-6, runs, rate)
    if check is noise.size_check:  # which is exact but for the split over cells
        assert failures >= stats.binom.ppf(1e-6, runs, rate / 2)


@pytest.mark.parametrize("factor", [0.5, 2 / 3, 0.95, 1.05, 3 / 2])
def test_noise_of_another_size_is_seen(factor):
    cells = simulated(np.random.default_rng(6), cells=16, n=10_000)  # as a self-test has by default
    assert noise.size_check("", cells).passed
    scaled = {name: factor * scores for name, scores in cells.items()}
    assert not noise.size_check("", scaled).passed
    if abs(factor - 1) > 0.1:  # then one of the cells, or the noise on the count, is enough
        assert not noise.size_check("", cells | {"3": scaled["3"]}).passed
        count = np.random.default_rng(7).normal(size=noise._COUNTS)
        assert noise.size_check("", {"": count}).passed
        assert not noise.size_check("", {"": factor * count}).passed


@pytest.mark.parametrize(
    "reuse",
    [
        lambda a, b: (a, a),
        lambda a, b: (a, -a),
        lambda a, b: (a, np.roll(a, 137)),  # shifted
        lambda a, b: (a, np.concatenate([a[:2500], b[2500:]])),  # a quarter of it
        lambda a, b: (np.tile(a[:100], 100), b),  # in one cell
        lambda a, b: (a, (a + 3 * b) / math.sqrt(10)),  # mixed in
    ],
)
def test_noise_that_is_used_twice_is_seen(reuse):
    first, second = np.random.default_rng(8).normal(size=[2, 10_000])
    assert noise.reuse_check("", {"a": first, "b": second}).passed
    used = dict(zip("ab", reuse(first, second), strict=True))
    assert not noise.reuse_check("", used).passed


def test_a_count_with_the_updates_noise_in_it_is_seen():
    count, other = np.random.default_rng(9).normal(size=[2, noise._COUNTS])
    assert noise.apart_check("", {"the count": count, "tensor 1": other}).passed
    assert not noise.apart_check("", {"the count": count, "tensor 1": count}).passed
    again = np.repeat(count[::2], 2)
    assert not noise.apart_check("", {"the count": again, "tensor 1": other}).passed


@pytest.mark.parametrize("law", [stats.norm(scale=3.0), stats.laplace(scale=0.2)])
def test_scores_of_a_law_are_normal_and_those_of_another_are_not(law):
    sample = law.rvs(size=20_000, random_state=np.random.default_rng(10))
    right = {"": noise.normal_scores(law, sample)}
    assert noise.size_check("", right).passed
    assert noise.shape_check("", right).passed
    for factor in (2 / 3, 3 / 2):
        wrong = {"": noise.normal_scores(law, factor * sample)}
        assert not noise.size_check("", wrong).passed
        assert not noise.shape_check("", wrong).passed


def test_scores_are_exact_for_a_normal_law_and_finite_for_any_noise():
    values = np.array([0.0, -0.1, 2.0, -300.0])
    np.testing.assert_allclose(noise.normal_scores(stats.norm(scale=0.1), values), 10 * values)
    odd = np.array([np.nan, np.inf, -np.inf, 1e300])
    assert np.isfinite(noise.normal_scores(stats.laplace(), odd)).all()
    for values in (odd, np.zeros(8)):
        cells = {"": noise.normal_scores(stats.norm(), values)}
        assert not noise.size_check("", cells).passed


def test_the_count_is_read_off_the_clip_norm():
    mechanism = dataclasses.replace(ADAPTIVE, target_quantile=0.3, clip_learning_rate=0.5)
    share = (7 - 2) / M / 2 + 0.5  # 7 clients within the clip norm, 2 beyond it, shifted by 1/2
    after = CLIP * math.exp(-0.5 * (share - 0.3))
    assert influence.count_of(mechanism, M, CLIP, after) == pytest.approx((7 - 2) / 2)
