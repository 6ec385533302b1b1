"""How a context runs computations."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tff_dp.execution import devices
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
      calls: How many calls have drawn a key.
      expected: How many rounds are expected in all; None if nobody has said.
      backend: From the in-process backend of a computation to the backend that its rounds of
        several blocks run in.
      resident: The arrays that stay on the device.
    """

    strategy: str = "auto"
    xla: bool | None = None
    seed: int | None = None
    random_bits: str = "auto"
    places: devices.Places = dataclasses.field(default_factory=lambda: devices.choose("auto"))
    calls: int = 0
    expected: int | None = None
    backend: Callable[[Backend], Backend] = lambda here: here
    resident: Resident = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.resident = Resident(self.places.resident_bytes)
        self._trained: weakref.WeakKeyDictionary[Any, compile_policy.Trained] = (
            weakref.WeakKeyDictionary()
        )

    @contextlib.contextmanager
    def run_of(self, rounds: int) -> Iterator[None]:
        """Makes the calls of the block a run of so many rounds, which counts on its own.

        Otherwise two runs of one seed in one context would differ in their last digits, by which of
        them finds XLA's graphs in use.
        """
        before = self.expected, self._trained
        self.expected, self._trained = rounds, weakref.WeakKeyDictionary()
        try:
            yield
        finally:
            self.expected, self._trained = before

    @property
    def compiles_at_once(self) -> bool:
        """Whether XLA compiles clients when they are first met: if asked for, or on a GPU."""
        return bool(self.xla) or self.places.on_gpu

    def trained(self, runner: Any) -> compile_policy.Trained:
        """Returns what the clients of a computation have trained in this context."""
        found = self._trained.get(runner)
        if found is None:
            found = self._trained[runner] = compile_policy.Trained(self.compiles_at_once)
        return found

    def root(self) -> np.ndarray:
        """Returns the root key of the next call, uint64 [2]."""
        self.calls += 1
        return randomness.root(self.seed, self.calls)

    def words(self, count: int) -> np.ndarray:
        """Returns the random words of the call whose root key was last drawn, int64 [count]."""
        return random_words.of_call(count, self.seed, self.calls)
