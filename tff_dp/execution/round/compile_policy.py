"""When XLA's compilation of a kind of clients is repaid, and so when it is begun and used.

XLA takes one to three seconds of a core for a graph, and saves 0.1 to 0.3 ms with each batch that a
client trains on (benchmarks/starting.py). Rounds therefore begin without it. A kind of clients,
which is what one graph of static shapes can hold, is compiled beside the rounds, and used once it
has trained on about as many batches as repay that. Whoever knows how many rounds there will be has
it compiled from the beginning on, or not at all.

What runs when is a function of the calls alone, never of how long anything takes: otherwise two
runs with the same seed would differ in their last digits.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable

USED_FROM = 1 << 12
"""Batches that clients of a kind have trained on, after which XLA's graph is used."""
_BEGUN_FROM = 1 << 11  # after which it is begun, where the number of rounds is not known
_WORTH = 1 << 14
"""Batches in all rounds, below which it is not begun where their number is known; as many in one round
repay the compilation within the round, which then does not wait for anything."""
_AFTER = 3  # rounds that come without anything beside them
_SHARE = 0.5  # of a cohort's batches: for a few clients, the call of a graph eats up its gain
_KINDS_AT_ONCE = 2  # kinds that are compiled when they are first met, where XLA was asked for


class Trained:
    """What the clients of a computation have trained in a context, by kind.

    Args:
      at_once: Whether the first kinds are compiled when they are met.
    """

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._batches: collections.Counter[Hashable] = collections.Counter()
        self._rounds = 0
        self._in_round: collections.Counter[Hashable] = collections.Counter()  # as far as it is met
        self._begun: set[Hashable] = set()
        self._used: set[Hashable] = set()
        self._largest: Hashable | None = None  # kind of the last cohort that is worth a graph

    def meets(self, rounds: int = 1) -> None:
        """Notes that rounds of a cohort begin, whose kinds `uses` is asked about next."""
        self._rounds += rounds
        self._in_round.clear()
        self._largest = None

    def uses(self, kind: Hashable, batches: int, of: int, rounds: int = 1) -> bool:
        """Notes what clients of a kind train on; returns whether XLA's graph is used for them.

        Args:
          kind: What a graph of static shapes holds.
          batches: What they train on in a round, or in the part of it that is met.
          of: What the whole cohort, or that part of it, trains on.
          rounds: How many rounds are alike.
        """
        before = self._batches[kind]
        self._batches[kind] += batches * rounds
        self._in_round[kind] += batches
        if kind in self._used:
            return True
        large = batches > 0 and batches >= _SHARE * of
        enough = large and before >= USED_FROM
        if self._at_once:
            enough = enough or len(self._used) < _KINDS_AT_ONCE
        else:
            enough = (enough and kind in self._begun) or (large and self._in_round[kind] >= _WORTH)
        if enough:
            self._used.add(kind)
        elif large:
            self._largest = kind
        return enough

    def used(self, kind: Hashable) -> bool:
        """Returns whether XLA's graph is used for clients of a kind, and notes nothing."""
        return kind in self._used

    def due(self, expected: int | None) -> Hashable | None:
        """Returns the kind of the last cohort that is to be compiled from now on, beside the rounds.

        Args:
          expected: How many rounds are expected in all; None if that is not known.
        """
        if self._at_once or self._largest is None or self._rounds < _AFTER:
            return None
        kind = self._largest
        if kind in self._begun:
            return None
        if expected is None and self._batches[kind] < _BEGUN_FROM:
            return None
        if expected is not None and expected * self._in_round[kind] < _WORTH:
            return None
        self._begun.add(kind)
        return kind
