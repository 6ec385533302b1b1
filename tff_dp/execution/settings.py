"""The settings of a context: how it runs computations."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tff_dp.cluster.pool import Pool
from tff_dp.execution import devices
from tff_dp.execution.cohort.references import ByReference
from tff_dp.execution.cohort.resident import Resident
from tff_dp.execution.graph import random_words, randomness
from tff_dp.execution.round import compile_policy
from tff_dp.execution.round.backend import Backend


@dataclasses.dataclass(eq=False)
class Settings:
    """How a context runs computations; see `fast`.

    Attributes:
      strategy: See `fast`.
      xla: See `fast`.
      seed: See `fast`.
      random_bits: See `fast`.
      places: The devices.
      calls: The number of calls that have drawn a root key.
      expected: The total number of rounds that are expected; None if it is not known.
      backend: Takes the in-process backend of a computation, and returns the backend that runs its
        rounds of several blocks.
      pool: The workers of a cluster, which run the parts of cohorts; None for this process alone.
      resident: The arrays that stay on the device between rounds, or what makes references to arrays.
    """

    strategy: str = "auto"
    xla: bool | None = None
    seed: int | None = None
    random_bits: str = "auto"
    places: devices.Places = dataclasses.field(default_factory=lambda: devices.choose("auto"))
    calls: int = 0
    expected: int | None = None
    backend: Callable[[Backend], Backend] = lambda here: here
    pool: Pool | None = None
    resident: Resident | ByReference = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        here = Resident(self.places.resident_bytes)
        self.resident = here if self.pool is None else ByReference(here)
        self._trained: weakref.WeakKeyDictionary[Any, compile_policy.Trained] = (
            weakref.WeakKeyDictionary()
        )

    @contextlib.contextmanager
    def run_of(self, rounds: int) -> Iterator[None]:
        """Makes the calls of a block a run with a known number of rounds, counted separately.

        Otherwise two runs with the same seed in one context could differ in their last digits,
        since the second one would find XLA's graphs in use.

        Args:
          rounds: The number of rounds; >= 1.

        Yields:
          Nothing.
        """
        before = self.expected, self._trained
        self.expected, self._trained = rounds, weakref.WeakKeyDictionary()
        try:
            yield
        finally:
            self.expected, self._trained = before

    @property
    def compiles_at_once(self) -> bool:
        """Whether XLA compiles clients when they first occur: if it was asked for, or on a GPU."""
        return bool(self.xla) or self.places.on_gpu

    def trained(self, runner: Any) -> compile_policy.Trained:
        """Returns the record of what the clients of a computation have trained on in this context.

        Args:
          runner: The runner of the computation.

        Returns:
          The record, which is made at the first call. Within `run_of`, it is that of the run.
        """
        found = self._trained.get(runner)
        if found is None:
            found = self._trained[runner] = compile_policy.Trained(self.compiles_at_once)
        return found

    def root(self) -> np.ndarray:
        """Returns the root key of the next call, uint64 [2].

        Each call of this method counts as one call of a computation. With a seed, the key follows
        from the seed and the count.
        """
        self.calls += 1
        return randomness.root(self.seed, self.calls)

    def words(self, count: int) -> np.ndarray:
        """Returns the random words of the call whose root key was drawn last.

        Args:
          count: The number of words.

        Returns:
          The words, int64 [count].

        Raises:
          StackError: The package `cryptography` is missing.
        """
        return random_words.of_call(count, self.seed, self.calls)
