"""Noise that rounds share, in whole numbers: what is released is a function of noised whole numbers.

The releases are computed a second time, from the noised numbers alone and in Python's integers. Were a
part of the noise rounded apart from the sums, they would differ in the last bit.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from tff_dp.mechanisms.strategy import banded_strategy

WIDTH = 3  # coordinates


@pytest.fixture
def correlated(monkeypatch):
    """The module, with the draws of noise recorded in `drawn`."""
    from tff_dp.aggregation import correlated

    drawn: list[list[int]] = []
    real = correlated.gaussian

    def recorded(shape, stddev):
        found = real(shape, stddev)
        drawn.append([int(value) for value in np.ravel(found.numpy())])
        return found

    monkeypatch.setattr(correlated, "gaussian", recorded)
    return correlated, drawn


def integers(rng: random.Random) -> list[int]:
    return [rng.randrange(-(2**45), 2**45) for _ in range(WIDTH)]


def tree_is_post_processing(module, drawn, period: int, rounds: int) -> bool:
    """Returns whether running sums are the estimates from the noised sums of complete nodes."""
    rng = random.Random(0)
    tree = module.TreeNoise(2.0**36, period)
    state, sums, same = tree.initial([[WIDTH]]), [], True
    for number in range(rounds):
        if number % period == 0:
            levels: list = [None] * (period.bit_length() + 1)
            running = [0] * WIDTH
        sums.append(integers(rng))
        drawn.clear()
        (noise,), state = tree.next(state, [[WIDTH]])
        running = [a + b + int(c) for a, b, c in zip(running, sums[-1], noise.numpy(), strict=True)]
        estimate, level = None, 0
        while True:  # up the levels whose nodes are complete with this round
            leaves = sums[number + 1 - 2**level : number + 1]
            noised = [
                sum(column) + drawn[level][i] for i, column in enumerate(zip(*leaves, strict=True))
            ]
            if estimate is None:
                estimate = noised
            else:
                children = [a + b for a, b in zip(levels[level - 1], estimate, strict=True)]
                weight = 1 / (2 - 2.0**-level)
                estimate = [
                    c + int(np.round(weight * float(o - c)))
                    for c, o in zip(children, noised, strict=True)
                ]
                levels[level - 1] = None
            if not number % period >> level & 1:
                break
            level += 1
        levels[level] = estimate
        held = [node for node in levels if node is not None]
        same = same and [sum(column) for column in zip(*held, strict=True)] == running
    return same


@pytest.mark.parametrize(("period", "rounds"), [(1, 3), (2, 5), (4, 9), (7, 14), (8, 16)])
def test_a_tree_releases_a_function_of_its_noised_nodes(correlated, period, rounds):
    assert tree_is_post_processing(*correlated, period, rounds)


def test_a_node_whose_parts_are_rounded_apart_is_caught(correlated, monkeypatch):
    """A planted defect: w o and (1 - w) c are rounded each for itself; exact sums do not cancel."""
    import tensorflow as tf

    module, drawn = correlated

    def apart(self, buffer, occupied, shape):
        rows, node, rising = [], None, tf.constant(True)
        for level in range(self._height):
            own = module.gaussian(shape, self._stddev)
            if node is None:
                node = own
            else:
                weight = 1 / (2 - 2.0**-level)
                children = tf.cast(buffer[level - 1] + node, tf.float64)
                parts = (weight * tf.cast(own, tf.float64), (1 - weight) * children)
                node = tf.add_n([tf.cast(tf.round(part), tf.int64) for part in parts])
            here = tf.where(occupied[level], tf.zeros_like(node), node)
            rows.append(tf.where(rising, here, buffer[level]))
            rising = tf.logical_and(rising, occupied[level])
        return tf.stack(rows)

    monkeypatch.setattr(module.TreeNoise, "_with_leaf", apart)
    assert not tree_is_post_processing(module, drawn, 8, 16)


@pytest.mark.parametrize(
    ("bands", "rounds", "z"),
    [(1, 5, 1.0), (3, 12, 1e-9), (3, 12, 1e9), (20, 60, 1.0), (200, 220, 2.0**20)],
)
def test_bands_release_a_function_of_what_the_strategy_noises(correlated, bands, rounds, z):
    module, drawn = correlated
    grid = module.banded_grid(z)
    noise = module.BandedNoise(z * grid.steps, banded_strategy(bands, rounds))
    strategy = noise._coefficients
    # The norm of a column, which is the sensitivity in units of 2^-16.
    assert 2**32 * (1 - 2**-10) < sum(s * s for s in strategy) <= 2**32
    assert z * grid.steps * 2**16 <= 2**50
    rng, state = random.Random(0), noise.initial([[WIDTH]])
    sums: list[list[int]] = []
    releases: list[list[int]] = []
    for number in range(rounds):
        sums.append(integers(rng))
        drawn.clear()
        (added,), state = noise.next(state, [[WIDTH]])
        reach = range(min(len(strategy), number + 1))
        noised = [
            sum(strategy[j] * sums[number - j][i] for j in reach) + drawn[0][i]
            for i in range(WIDTH)
        ]
        solved = [
            (
                noised[i]
                - sum(strategy[j] * releases[number - j][i] for j in reach if j)
                + strategy[0] // 2
            )
            // strategy[0]
            for i in range(WIDTH)
        ]
        releases.append([a + int(b) for a, b in zip(sums[-1], added.numpy(), strict=True)])
        assert releases[-1] == solved
        assert np.abs(added.numpy()).max() < 2**58  # far from the end of 64 bits
