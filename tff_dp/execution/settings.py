"""How a context runs computations."""

from __future__ import annotations

import dataclasses

import numpy as np

from tff_dp.execution import cohorts, devices, randomness


@dataclasses.dataclass(eq=False)
class Settings:
    """How a context runs computations; see `fast`.

    Attributes:
      strategy: See `fast`.
      xla: See `fast`.
      seed: See `fast`.
      places: The devices.
      calls: How many calls have drawn a key.
      resident: The arrays that stay on the device.
    """

    strategy: str = "auto"
    xla: bool | None = None
    seed: int | None = None
    places: devices.Places = dataclasses.field(default_factory=lambda: devices.choose("auto"))
    calls: int = 0
    resident: cohorts.Resident = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.resident = cohorts.Resident(self.places.resident_bytes)

    def root(self) -> np.ndarray:
        """Returns the root key of the next call, uint64 [2]."""
        self.calls += 1
        return randomness.root(self.seed, self.calls)
