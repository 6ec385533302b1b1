"""What is wrong with a case, if anything."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from tests.fuzz import comparing, kinds, known, running
from tests.fuzz.cases import Case

_PERTURBED = 8  # runs of stock TFF on perturbed inputs, where results differ


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with a case.

    Attributes:
      setting: A key of `running.SETTINGS`.
      feed: How the data came.
      kind: "difference", "error here" (stock TFF runs), or "no error here" (stock TFF fails).
      told: What differs, in words.
      how: What `explain` says.
    """

    setting: str
    feed: str
    kind: str
    told: str
    how: str = ""

    @property
    def asked(self) -> str:
        """The entry of a case's settings that asks for its setting and feed."""
        return f"{self.setting}@{self.feed}"


class Examiner:
    """Runs cases on stock TFF and in the fast context.

    Args:
      wrapper: What to do to each fast context before; for planted differences.
      stock: What runs stock TFF, which stays with whoever has made it; by default, one of its own.

    Attributes:
      counts: How many cases, comparisons and so on there have been.
    """

    def __init__(
        self, wrapper: running.Wrapper | None = None, *, stock: running.Stock | None = None
    ) -> None:
        self._stock = stock or running.Stock()
        self._is_own = stock is None
        self._wrapper = wrapper
        self.counts: collections.Counter[str] = collections.Counter()

    def close(self) -> None:
        """Ends what it has started."""
        if self._is_own:
            self._stock.close()

    def faults(self, case: Case, *, first_only: bool = False) -> list[Fault]:
        """Returns what is wrong with a case.

        Args:
          case: The case.
          first_only: Whether to stop at the first fault.
        """
        self.counts["programs, smaller ones included"] += 1
        self.counts[f"programs: {case.kind}"] += 1
        try:
            program = running.Program(kinds.source(case))
        except running.ProgramError:
            self.counts["not built"] += 1
            return []
        expected = self._stock(program, program.inputs)
        if expected is None:
            self.counts["ends stock TFF's worker"] += 1
            return []
        if expected.error:
            self.counts["cases with an error on stock TFF"] += 1
        found = []
        gave_way: set[str] = set()  # feeds for which clients do not run side by side
        for asked in case.settings:
            setting, _, feed = asked.partition("@")
            feed = feed or program.feeds[0]
            if setting == "vmap-xla" and feed in gave_way:
                continue  # as scan-xla again
            outcome = running.fast(program, setting, feed, self._wrapper)
            if setting == "vmap" and "vmap" not in _ran_by(outcome.how):
                gave_way.add(feed)
            fault = self._fault(program, setting, feed, outcome, expected)
            if fault:
                found.append(fault)
                if first_only:
                    break
        return found

    def _fault(
        self,
        program: running.Program,
        setting: str,
        feed: str,
        outcome: running.Outcome,
        expected: running.Outcome,
    ) -> Fault | None:
        if outcome.refused:
            self.counts["refused: no form"] += 1
            return None
        self.counts["comparisons"] += 1
        self.counts[f"ran by {_ran_by(outcome.how)}"] += 1
        if outcome.error and expected.error:
            return None
        if outcome.error:
            return Fault(setting, feed, "error here", outcome.error, outcome.how)
        if expected.error:
            if known.reason(program.source, expected.error):
                self.counts["known differences"] += 1
                return None
            return Fault(setting, feed, "no error here", expected.error, outcome.how)
        told = comparing.difference(outcome.value, expected.value)
        if told is None:
            return None
        if known.reason(program.source, told):
            self.counts["known differences"] += 1
            return None
        if self._is_roundoff(program, outcome.value, expected.value):
            self.counts["amplified roundoff"] += 1
            return None
        return Fault(setting, feed, "difference", told, outcome.how)

    def _is_roundoff(self, program: running.Program, actual: Any, expected: Any) -> bool:
        near = []
        for seed in range(_PERTURBED):
            outcome = self._stock(program, comparing.perturb(program.inputs, seed))
            if outcome is not None and outcome.error is None:
                near.append(outcome.value)
        return bool(near) and comparing.is_roundoff(actual, expected, near)


def _ran_by(how: str) -> str:
    """Returns the strategy that `explain` names, in short."""
    for strategy in ("scan", "vmap", "call"):
        for xla in ("with XLA", "without XLA"):
            if f"strategy {strategy}, {xla}" in how:
                return f"{strategy} {xla}"
    return "call" if "call" in how else "one graph" if "one graph" in how else "another way"
