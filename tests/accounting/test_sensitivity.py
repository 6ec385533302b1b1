"""How far one client moves a tree: published values, every pattern, another implementation."""

from __future__ import annotations

import itertools

import pytest

from tff_dp.accounting import sensitivity
from tff_dp.accounting.sensitivity import tree_sensitivity_squared


def nodes(rounds: int) -> list[range]:
    """Returns the leaves below each complete node of a binary tree."""
    widths = [1 << level for level in range(rounds.bit_length())]
    return [range(j * w, (j + 1) * w) for w in widths for j in range(rounds // w)]


def patterns(rounds: int, most: int, separation: int):
    for count in range(1, most + 1):
        for rounds_of_client in itertools.combinations(range(rounds), count):
            gaps = itertools.pairwise(rounds_of_client)
            if all(b - a >= separation for a, b in gaps):
                yield rounds_of_client


def moved(trees: list[range], rounds_of_client: tuple[int, ...]) -> int:
    """Returns the squared L2 norm of all nodes for updates of norm 1, all in one direction."""
    return sum(sum(r in node for r in rounds_of_client) ** 2 for node in trees)


def by_all_patterns(rounds: int, most: int, separation: int) -> int:
    tree = nodes(rounds)
    return max(moved(tree, pattern) for pattern in patterns(rounds, most, separation))


# tensorflow-privacy's test, which counts the rounds in between: its separation is one less.
PUBLISHED = [(1, 8, 8, 4), (3, 4, 9, 11), (3, 3, 7, 9), (8, 3, 24, 88)]


@pytest.mark.parametrize(("most", "separation", "rounds", "expected"), PUBLISHED)
def test_published_values(most, separation, rounds, expected):
    assert tree_sensitivity_squared(rounds, most, separation) == expected


CASES = [
    (rounds, most, separation)
    for rounds in range(1, 13)
    for most in (1, 2, 3, 5)
    for separation in (1, 2, 3, 4, 7)
]


def test_no_pattern_moves_the_nodes_further_and_one_moves_them_as_far():
    for rounds, most, separation in CASES:
        expected = by_all_patterns(rounds, most, separation)
        assert tree_sensitivity_squared(rounds, most, separation) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rounds, most, separation: rounds.bit_length(),  # one participation
        lambda rounds, most, separation: min(most, -(-rounds // separation)) * rounds.bit_length(),
        lambda rounds, most, separation: tree_sensitivity_squared(rounds, most, separation + 1),
    ],
    ids=["one participation", "participations that share no node", "separation off by one"],
)
def test_wrong_sensitivities_are_caught(wrong):
    assert any(wrong(*case) < by_all_patterns(*case) for case in CASES)


def test_tensorflow_privacy_agrees(tff):
    from tensorflow_privacy.privacy.analysis import tree_aggregation_accountant as theirs

    for rounds, most, separation in [(20, 4, 5), (33, 5, 6), (64, 8, 8), (50, 3, 9), (17, 17, 1)]:
        expected = theirs._max_tree_sensitivity_square_sum(most, separation - 1, rounds)
        assert tree_sensitivity_squared(rounds, most, separation) == expected


def test_the_quick_bound_is_never_below_and_not_far_above():
    for rounds, most, separation in [*CASES, (1000, 10, 100), (1000, 100, 10), (700, 7, 90)]:
        exact = tree_sensitivity_squared(rounds, most, separation)
        quick = tree_sensitivity_squared(rounds, most, separation, quick=True)
        assert exact <= quick
        assert quick <= 1.07 * exact or rounds < 50


def test_what_would_take_long_is_bounded_from_above(monkeypatch):
    exact = tree_sensitivity_squared(300, 20, 14)
    monkeypatch.setattr(sensitivity, "_LARGEST_SEARCH", 1e3)
    tree_sensitivity_squared.cache_clear()
    assert exact <= tree_sensitivity_squared(300, 20, 14) <= 1.07 * exact
    tree_sensitivity_squared.cache_clear()
    # In every round there is one pattern only, and the bound is its value: sum of w^2 (T // w).
    assert tree_sensitivity_squared(1 << 12, 1 << 12, 1) == sum(
        4096 << level for level in range(13)
    )


def test_restarted_trees_add_up_and_share_the_participations():
    for rounds, most, separation, period in [
        (12, 3, 4, 4),
        (12, 5, 2, 5),
        (11, 2, 3, 4),
        (9, 9, 1, 3),
    ]:
        starts = range(0, rounds, period)
        trees = [
            range(start + node.start, start + node.stop)
            for start in starts
            for node in nodes(min(period, rounds - start))
        ]
        expected = max(moved(trees, each) for each in patterns(rounds, most, separation))
        found = tree_sensitivity_squared(rounds, most, separation, period)
        assert expected <= found <= 1.35 * expected  # separation across trees is left out
    # One participation a tree: four trees of four rounds, three nodes above each leaf.
    assert tree_sensitivity_squared(16, 4, 4, 4) == 4 * 3
    assert tree_sensitivity_squared(16, 2, 4, 4) == 2 * 3


def test_a_budget_search_may_ask_for_a_billion_rounds():
    in_every_round = tree_sensitivity_squared(1 << 30, 1 << 30, 1)
    assert in_every_round == sum((1 << 30 + level) for level in range(31))
    # A thousand million rounds in trees of 8, every client in each: 8 + 16 + 32 + 64 a tree.
    assert tree_sensitivity_squared(1 << 30, 1 << 30, 1, 8) == (1 << 27) * 120
    assert tree_sensitivity_squared(1 << 30, 1 << 30, 1, 8, quick=True) == (1 << 27) * 120
    # Participations that do not suffice for all trees: the best share of each, 120 / 8.
    assert tree_sensitivity_squared(1 << 30, 80, 1, 8, quick=True) == 80 * 15


def test_no_rounds_move_nothing():
    assert tree_sensitivity_squared(0, 1, 1) == 0
