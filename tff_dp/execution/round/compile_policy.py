"""When the time of an XLA compilation is repaid, and so when it is started and its result is used.

XLA takes one to three seconds of a core for a graph, and saves 0.1 to 0.3 ms for each batch that a
client trains on (benchmarks/starting.py). Rounds therefore start without it. A kind of clients is
what one graph of static shapes can hold. Its graph is compiled in the background while rounds run,
and is used once the kind has trained on about as many batches as repay the compilation. If the
number of rounds is known in advance, the compilation starts early, or never.

Which graph runs depends on the calls alone, never on how long anything takes: otherwise two runs
with the same seed would differ in their last digits.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable

USED_FROM = 1 << 12
"""The number of batches that a kind has trained on from which XLA's graph is used."""
# The number of batches from which compilation starts if the number of rounds is not known.
_BEGUN_FROM = 1 << 11
_WORTH = 1 << 14
"""If the number of rounds is known, compilation starts only if they have at least this many batches
in all. A single round of this many batches repays the compilation, and is compiled at once."""
_AFTER = 3  # the number of rounds before anything is compiled in the background
# The smallest share of a cohort's batches for which a kind gets a graph: for a few clients,
# calling another graph costs more than it saves.
_SHARE = 0.5
_KINDS_AT_ONCE = 2  # the number of kinds that are compiled at once if XLA was asked for


class Trained:
    """Counts what the clients of a computation have trained on in a context, by kind.

    Args:
      at_once: Whether the first kinds are compiled when they first occur.
    """

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._batches: collections.Counter[Hashable] = collections.Counter()
        self._rounds = 0
        # The batches of the current round's cohort, as far as it has been read.
        self._in_round: collections.Counter[Hashable] = collections.Counter()
        self._begun: set[Hashable] = set()
        self._used: set[Hashable] = set()
        self._largest: Hashable | None = None  # the last large kind without a graph

    def meets(self, rounds: int = 1) -> None:
        """Records that rounds of a cohort start. Calls of `uses` for the cohort's kinds follow.

        Args:
          rounds: The number of rounds; >= 1.
        """
        self._rounds += rounds
        self._in_round.clear()
        self._largest = None

    def uses(self, kind: Hashable, batches: int, of: int, rounds: int = 1) -> bool:
        """Records what the clients of a kind train on, and decides if XLA's graph is used for them.

        Args:
          kind: What a graph of static shapes can hold together.
          batches: The number of batches that these clients train on in a round, or in the part of
            the cohort that has been read.
          of: The number of batches of the whole cohort, or of that part of it.
          rounds: The number of rounds with these clients.

        Returns:
          Whether they run in XLA's graph. Once this is true of a kind, it remains true.
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
        """Tells whether XLA's graph is used for clients of a kind, without recording anything.

        Args:
          kind: What a graph of static shapes can hold together.

        Returns:
          Whether they run in XLA's graph.
        """
        return kind in self._used

    def due(self, expected: int | None) -> Hashable | None:
        """Determines whether a kind is to be compiled from now on, in the background of the rounds.

        Args:
          expected: The total number of rounds that are expected; None if that is not known.

        Returns:
          The kind of the last cohort that is to be compiled, which is then recorded as started;
          None if there is none.
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
