"""What all mechanisms have in common."""

from __future__ import annotations

import abc
import dataclasses
import enum
from typing import ClassVar

from tff_dp import _checks
from tff_dp.config import Config

SMALLEST_CLIP_NORM, LARGEST_CLIP_NORM = 1e-10, 1e10


class Unit(enum.Enum):
    """Whose contribution is protected as a whole."""

    CLIENT = "client"
    RECORD = "record"


class Mechanism(Config, abc.ABC):
    """How one client's update is bounded, and how the sum is noised, at a known noise multiplier.

    A mechanism is a frozen, keyword-only dataclass of plain values. What it costs, how it is computed and
    how it is tested are looked up by its exact class: `tff_dp.accounting.register_round`,
    `tff_dp.mechanisms.register_aggregator` and `tff_dp.mechanisms.register_law` add these for a class of
    your own.

    Attributes:
      limits: What the mechanism's epsilon does not cover, in words.
      unit: Whose contribution it protects.
      command_name: What the command line calls the mechanism; None for one that it does not offer by a
        short name.
      clip_field: The field that the command line's --clip-norm sets, if there is one: epsilon does not
        depend on it.
      noise_multiplier: z, the total noise over the sensitivity, without unit; >= 0. A field of every
        mechanism.
    """

    limits: ClassVar[str] = "tuning on the same data, and other runs on it"
    unit: ClassVar[Unit] = Unit.CLIENT
    command_name: ClassVar[str | None] = None
    clip_field: ClassVar[str | None] = "clip_norm"

    noise_multiplier: float

    def check(self, clients_per_round: float) -> None:
        """Raises ArgumentError if the mechanism cannot work with so many expected clients a round."""

    def with_noise(self, noise_multiplier: float) -> Mechanism:
        """Returns the same mechanism with another total noise multiplier."""
        return dataclasses.replace(self, noise_multiplier=noise_multiplier)  # type: ignore[type-var]


def check_noise(noise_multiplier: float) -> None:
    """Raises ArgumentError unless a noise multiplier is in [0, 1e9], which integer noise can have."""
    _checks.real(
        "noise_multiplier",
        noise_multiplier,
        "[0, 1e9]",
        "It is the noise's standard deviation over the clip norm; 0 adds none and gives no privacy.",
    )


def check_clip(name: str, clip_norm: float, norm: str = "L2") -> None:
    """Raises ArgumentError unless a clip norm is in the range in which float32 holds squared norms."""
    _checks.real(
        name,
        clip_norm,
        f"[{SMALLEST_CLIP_NORM:g}, {LARGEST_CLIP_NORM:g}]",
        f"It is the largest {norm} norm that one update may have; far outside this range, squares of "
        "float32 numbers underflow or overflow. Scale the model's weights or the learning rate.",
    )
