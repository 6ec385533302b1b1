"""The sensitivity of all nodes of a binary tree over the rounds to one client."""

from __future__ import annotations

import functools

import numpy as np

# The most elements that the exact search may compute, in about a second. Otherwise an upper bound
# is used.
_LARGEST_SEARCH = 4e8


@functools.lru_cache(maxsize=1024)
def tree_sensitivity_squared(
    rounds: int,
    max_participations: int,
    min_separation: int,
    restart_every: int | None = None,
    *,
    quick: bool = False,
) -> float:
    """Returns the largest sum, over the nodes, of the squared number of participations below a node.

    The nodes are the complete ones: rounds (j w, (j + 1) w] for every power of two w. A client
    whose updates have a norm of at most 1 changes all nodes together by at most the square root of
    this sum, in L2 norm.

    Source: Kairouz et al., arXiv:2103.00039, appendix D.2.

    Args:
      rounds: T, the number of rounds; the sum is 0 without any.
      max_participations: The largest number of rounds in which one client participates; >= 1.
      min_separation: The smallest difference between two of these rounds; >= 1.
      restart_every: The number of rounds after which a new tree begins; None for one tree. The
        separation between participations in different trees is ignored, which gives an upper bound.
      quick: Whether an upper bound is enough, which is usually within a few percent.

    Returns:
      The sum. It is exact for a single tree, unless the exact search would take long; otherwise it
      is slightly larger.
    """
    if rounds < 1:
        return 0.0
    period = min(restart_every or rounds, rounds)
    trees, rest = divmod(rounds, period)
    most = min(max_participations, _possible(rounds, min_separation))
    if trees == 1 and not rest:
        if quick or _is_long(rounds, most, min_separation):
            return _bound_by_levels(rounds, most, min_separation)
        return float(_search(rounds, most, min_separation)[-1])
    if quick or trees * most * _possible(period, min_separation) > _LARGEST_SEARCH:
        return _bound_of_trees(trees, period, rest, most, min_separation)
    total = np.zeros(1)
    for size in [period] * trees + [rest] * (rest > 0):
        total = _joined(total, _by_participations(size, min_separation))[: most + 1]
    return float(total[-1])


def _possible(rounds: int, separation: int) -> int:
    return -(-rounds // separation)


def _is_long(rounds: int, most: int, separation: int) -> bool:
    """Says whether the exact search would take longer than about a second."""
    half = 1 << max(rounds.bit_length() - 2, 0)
    pairs = (min(most, _possible(half, separation)) + 1) ** 2 / 2
    steps = pairs * separation
    return steps * separation**2 > _LARGEST_SEARCH or steps > _LARGEST_SEARCH / 4e3


@functools.lru_cache(maxsize=256)
def _by_participations(rounds: int, separation: int) -> np.ndarray:
    """Returns the largest sum of one tree for each allowed number of participations, from 0 on."""
    most = _possible(rounds, separation)
    if _is_long(rounds, most, separation):
        return np.array([_bound_by_levels(rounds, count, separation) for count in range(most + 1)])
    return _search(rounds, most, separation)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns, for each total number of participations, the largest sum of two trees that share them."""
    best = np.full(len(first) + len(second) - 1, -np.inf)
    for count, value in enumerate(second):
        here = best[count : count + len(first)]
        np.maximum(here, first + value, out=here)
    return best


def _bound_of_trees(trees: int, period: int, rest: int, most: int, separation: int) -> float:
    """Returns an upper bound for several trees, the last of which may be smaller.

    No tree exceeds its own largest sum. And no participation adds more than the largest sum per
    participation of a whole tree, of which a smaller tree is a part.
    """
    by_tree = sum(
        count * _bound_by_levels(size, min(most, _possible(size, separation)), separation)
        for count, size in ((trees, period), (1, rest))
    )
    return min(by_tree, most * _best_share(period, separation))


@functools.lru_cache(maxsize=256)
def _best_share(rounds: int, separation: int) -> float:
    """Returns the largest sum per participation of a tree."""
    counts = range(1, _possible(rounds, separation) + 1)
    return max(_bound_by_levels(rounds, count, separation) / count for count in counts)


def _bound_by_levels(rounds: int, most: int, separation: int) -> float:
    """Returns the sum if participations could be assigned to nodes independently on each level."""
    total, width = 0, 1
    while width <= rounds:
        nodes = rounds // width
        left = min(most, -(-nodes * width // separation))
        under_one = min(most, -(-width // separation))
        full = min(nodes, left // under_one) if under_one else 0
        rest = left - full * under_one if full < nodes else 0
        total += full * under_one**2 + rest**2
        width *= 2
    return float(total)


# The exact search joins adjacent complete subtrees. A subtree with c participations is described by
# V[c][a, b], the largest sum within it if at least a rounds precede the first participation and at
# least b rounds follow the last one; values above separation - 1 need not be distinguished. If x
# rounds follow the last participation of one subtree and y precede the first of the next, both can
# be joined if x + y >= separation - 1.

_Table = dict[int, np.ndarray]


def _search(rounds: int, most: int, separation: int) -> np.ndarray:
    complete: dict[int, _Table] = {1: {1: np.full([separation, separation], -np.inf)}}
    complete[1][1][0, 0] = 1.0
    width = 1
    while 4 * width <= rounds:
        table = _side_by_side(complete[width], complete[width], width, most)
        complete[2 * width] = {count: value + count**2 for count, value in table.items()}
        width *= 2
    # No rounds have to precede the first participation of the leftmost subtree: one row is enough.
    row = {1: complete[1][1][:1]}
    width = 1
    while 2 * width <= rounds:
        table = _side_by_side(row, complete[width], width, most)
        row = {count: value + count**2 for count, value in table.items()}
        width *= 2
    for bit in reversed(range(width.bit_length() - 1)):
        if rounds >> bit & 1:
            row = _side_by_side(row, complete[1 << bit], 1 << bit, most)
    best = [0.0] + [float(row[count][0, 0]) for count in sorted(row)]
    return np.maximum.accumulate(best)


def _side_by_side(left: _Table, right: _Table, width: int, most: int) -> _Table:
    """Returns the table of two adjacent subtrees, the second of a given width, without a common node."""
    separation = next(iter(right.values())).shape[0]
    shape = next(iter(left.values())).shape
    shifted = np.maximum(np.arange(separation) - width, 0)  # rounds that an empty subtree supplies
    table: _Table = {}

    def better(count: int, value: np.ndarray) -> None:
        table[count] = np.maximum(table[count], value) if count in table else value

    for count, value in left.items():
        better(count, value[:, shifted])
    for count, value in right.items():
        better(count, value[shifted[: shape[0]]])
    for first, before in left.items():
        for second, after in right.items():
            if first + second > most:
                continue
            value = np.full(shape, -np.inf)
            for slack in range(separation):
                np.maximum(
                    value,
                    before[:, slack, None] + after[separation - 1 - slack][None, :],
                    out=value,
                )
            if np.isfinite(value).any():
                better(first + second, value)
    return table
