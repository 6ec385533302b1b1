"""The cases: what is run, the epsilon that is got wrong, and the proof that it is too small.

`inputs` describe what is run, by these keys:

- noise: "gaussian" or "laplace"; noise_multiplier: z, its deviation (for Laplace noise its scale) on a
  round's sum, over the clip norm; population, N; delta.
- sampling: "poisson" (each with probability rate), "fixed_size" (cohort of them, without
  replacement, anew in each round), "full" (all), "shuffled" (batches of a new random order of all in
  each epoch), "fixed_order" (the same batches in each epoch); rounds, epochs or steps; adjacency:
  "add_or_remove_one", "replace_one" or "zero_out", of unit (clients if it is not there).
- Whatever is peculiar to the case has a key of its own, which `question` explains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """A case as it is written down here; `make.made` computes the rest.

    Attributes:
      name: Short and unique.
      question: What is run, and which epsilon is asked for.
      mistake: How the wrong epsilon comes about, with its formula.
      proof: The two data sets and the event or statistic of the lower bound.
      source: Where it is explained.
      seen: Where somebody made or nearly made the mistake, as repository, file and commit, or issue;
        or that no public instance is known.
      inputs: What is run.
      wrong: The wrong epsilon.
      lower_bound: A proven lower bound on epsilon.
    """

    name: str
    question: str
    mistake: str
    proof: str
    source: str
    seen: str
    inputs: Mapping[str, Any]
    wrong: Callable[[], float]
    lower_bound: Callable[[], float]


BASE = {
    "noise": "gaussian", "noise_multiplier": 1.0, "population": 1000, "sampling": "poisson",
    "rate": 0.01, "rounds": 1000, "delta": 1e-5, "adjacency": "add_or_remove_one",
}  # fmt: skip
FIXED = {
    "noise": "gaussian", "noise_multiplier": 1.0, "population": 1000, "sampling": "fixed_size",
    "cohort": 10, "rounds": 1000, "delta": 1e-5, "adjacency": "replace_one",
}  # fmt: skip
FULL = {
    "noise": "gaussian", "noise_multiplier": 1.0, "population": 1000, "sampling": "full",
    "rounds": 1, "delta": 1e-5, "adjacency": "add_or_remove_one",
}  # fmt: skip
EXACT = "Exact: the client moves the sum of known others by one clip norm along one direction."
OTHERS_AGREE = (
    "Everybody else's update is +C. The client's is -C in one data set and +C in the other, whose sums "
    "are then constant: a round that has the client is moved by 2 C, with probability cohort / N."
)
KNOWN_SUM = "All others send zeros; the client moves the sum by C in the rounds that it is in."
