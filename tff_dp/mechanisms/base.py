"""The base class of mechanisms, and checks of their common fields."""

from __future__ import annotations

import abc
import dataclasses
import enum
from typing import ClassVar

from tff_dp import _checks
from tff_dp.config import Config

SMALLEST_CLIP_NORM, LARGEST_CLIP_NORM = 1e-10, 1e10


class Unit(enum.Enum):
    """The unit of privacy: what is protected as a whole, a client or a single record."""

    CLIENT = "client"
    RECORD = "record"


class Mechanism(Config, abc.ABC):
    """How a client's update is bounded and how the sum is noised, at a given noise multiplier.

    A mechanism is a frozen, keyword-only dataclass of plain values. Its accounting, its aggregator
    and its self-test are looked up by its exact class. For a class of your own, register them with
    `tff_dp.accounting.register_round`, `tff_dp.mechanisms.register_aggregator` and
    `tff_dp.mechanisms.register_law`.

    Attributes:
      limits: A phrase that lists what the mechanism's epsilon does not cover.
      unit: The unit of privacy that it protects.
      command_name: The short name of the mechanism on the command line; None if it has none.
      clip_field: The field that --clip-norm sets on the command line, on which epsilon does not
        depend; None if there is none.
      noise_multiplier: z, the scale of the total noise divided by the sensitivity, without unit; >=
        0. A field of every mechanism.
    """

    limits: ClassVar[str] = "tuning on the same data, and other runs on it"
    unit: ClassVar[Unit] = Unit.CLIENT
    command_name: ClassVar[str | None] = None
    clip_field: ClassVar[str | None] = "clip_norm"

    noise_multiplier: float

    def check(self, clients_per_round: float) -> None:
        """Checks that the mechanism supports a number of clients; by default it supports any.

        Args:
          clients_per_round: m, the public expected number of clients a round.

        Raises:
          ArgumentError: In a mechanism that overrides this method: it does not support this number.
        """

    def with_noise(self, noise_multiplier: float) -> Mechanism:
        """Returns a copy of the mechanism with another noise multiplier.

        Args:
          noise_multiplier: z, of the total noise, without unit; >= 0.

        Returns:
          A mechanism of the same class.

        Raises:
          ArgumentError: The noise multiplier is outside its bound.
        """
        return dataclasses.replace(self, noise_multiplier=noise_multiplier)  # type: ignore[type-var]


def check_noise(noise_multiplier: float) -> None:
    """Checks a noise multiplier.

    Args:
      noise_multiplier: z, without unit. The largest noise that fits into integers has 1e9.

    Raises:
      ArgumentError: It is outside [0, 1e9].
    """
    _checks.real(
        "noise_multiplier",
        noise_multiplier,
        "[0, 1e9]",
        "It is the noise's standard deviation over the clip norm; 0 adds none and gives no privacy.",
    )


def check_clip(name: str, clip_norm: float, norm: str = "L2") -> None:
    """Checks a clip norm. Far outside of the range, squares of float32 numbers underflow or overflow.

    Args:
      name: The name of the field, for the message.
      clip_norm: C, in units of the model's weights.
      norm: The kind of norm, for the message.

    Raises:
      ArgumentError: It is outside [1e-10, 1e10].
    """
    _checks.real(
        name,
        clip_norm,
        f"[{SMALLEST_CLIP_NORM:g}, {LARGEST_CLIP_NORM:g}]",
        f"It is the largest {norm} norm that one update may have; far outside this range, squares of "
        "float32 numbers underflow or overflow. Scale the model's weights or the learning rate.",
    )
