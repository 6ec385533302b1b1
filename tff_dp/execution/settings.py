"""How a context runs computations."""

from __future__ import annotations

import dataclasses

import numpy as np

from tff_dp.execution import cohorts, devices, randomness, words


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
      resident: The arrays that stay on the device.
    """

    strategy: str = "auto"
    xla: bool | None = None
    seed: int | None = None
    random_bits: str = "philox"
    places: devices.Places = dataclasses.field(default_factory=lambda: devices.choose("auto"))
    calls: int = 0
    resident: cohorts.Resident = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.resident = cohorts.Resident(self.places.resident_bytes)

    def root(self) -> np.ndarray:
        """Returns the root key of the next call, uint64 [2]."""
        self.calls += 1
        return randomness.root(self.seed, self.calls)

    def words(self, count: int) -> np.ndarray:
        """Returns the random words of the call whose root key was last drawn, int64 [count]."""
        return words.of_call(count, self.seed, self.calls)
