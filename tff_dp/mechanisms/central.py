"""Mechanisms of a trusted server, which noises the sum of clipped updates; the unit is a client."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from tff_dp import _checks
from tff_dp.mechanisms.base import (
    LARGEST_CLIP_NORM,
    SMALLEST_CLIP_NORM,
    Mechanism,
    check_clip,
    check_noise,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMechanism(Mechanism):
    """Gaussian noise on the sum of updates that are clipped to a fixed L2 norm.

    What it protects: the whole contribution of one client to one round.

    Formal guarantee: every update is scaled to L2 norm at most C = `clip_norm`, so that adding or
    removing one client moves the sum by at most C. Noise N(0, (z C)^2) on each coordinate, z =
    `noise_multiplier`, makes the round the Gaussian mechanism of noise multiplier z. The noised sum is
    divided by the public expected number of clients, never by the number that participated.

    Edge cases: an update with a NaN or an infinity, or whose norm overflows, counts as zero; an empty
    round still gets its noise and is still charged.

    Source: McMahan et al., "Learning Differentially Private Recurrent Language Models",
    arXiv:1710.06963, algorithm 1, with the fixed-denominator estimator of its section 3.

    Args:
      clip_norm: C, in units of the model's weights; > 0.
      noise_multiplier: z, without unit; >= 0.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "gaussian"

    clip_norm: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm)
        check_noise(self.noise_multiplier)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveGaussianMechanism(Mechanism):
    """Gaussian noise with a clip norm that tracks a quantile of the updates' norms, privately.

    What it protects: the whole contribution of one client to one round, both its update and the bit
    that says whether the update was clipped.

    Formal guarantee: a round releases the noised sum (noise multiplier z_v) and the noised count of
    unclipped clients (standard deviation s_b, on bits shifted by 1/2, hence sensitivity 1/2). Together
    they are one Gaussian mechanism of noise multiplier z = `noise_multiplier` where
    z^-2 = z_v^-2 + (2 s_b)^-2. The accounting uses z; the noise added to the updates has z_v > z.

    Edge cases: z must be below 2 s_b, since no z_v exists otherwise. With the default s_b = 0.05 m
    this excludes small cohorts (m <= 10 z); the error is raised before training starts.

    Source: Andrew et al., "Differentially Private Learning with Adaptive Clipping",
    arXiv:1905.03871, theorem 1.

    Args:
      noise_multiplier: z, the total, without unit; >= 0.
      initial_clip_norm: The first round's clip norm, in units of the model's weights; > 0.
      target_quantile: The share of clients that are to stay unclipped; in [0, 1].
      clip_learning_rate: Rate of the geometric update of the clip norm, without unit; >= 0.
      clipped_count_stddev: s_b, in clients; > 0, or None for 0.05 times the expected clients a round.
      min_clip_norm: A lower bound on the clip norm, in units of the model's weights, since updates
        of zeros would otherwise shrink it to zero; in [1e-10, `initial_clip_norm`].
      max_clip_norm: An upper bound on the clip norm; in [`initial_clip_norm`, 1e10].

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "adaptive"
    clip_field: ClassVar[str | None] = "initial_clip_norm"

    noise_multiplier: float
    initial_clip_norm: float = 0.1
    target_quantile: float = 0.5
    clip_learning_rate: float = 0.2
    clipped_count_stddev: float | None = None
    min_clip_norm: float = SMALLEST_CLIP_NORM
    max_clip_norm: float = LARGEST_CLIP_NORM

    def __post_init__(self) -> None:
        check_noise(self.noise_multiplier)
        check_clip("initial_clip_norm", self.initial_clip_norm)
        check_clip("min_clip_norm", self.min_clip_norm)
        check_clip("max_clip_norm", self.max_clip_norm)
        _checks.real(
            "initial_clip_norm",
            self.initial_clip_norm,
            f"[{self.min_clip_norm:g}, {self.max_clip_norm:g}]",
            "It starts between min_clip_norm and max_clip_norm.",
        )
        _checks.real("target_quantile", self.target_quantile, "[0, 1]")
        _checks.real("clip_learning_rate", self.clip_learning_rate, "[0, inf)")
        if self.clipped_count_stddev is not None:
            _checks.real("clipped_count_stddev", self.clipped_count_stddev, "(0, inf)")

    def count_stddev(self, clients_per_round: float) -> float:
        """Returns s_b, the standard deviation of the noise on the count of unclipped clients.

        Args:
          clients_per_round: m, the public expected number of clients a round.

        Returns:
          s_b, in clients: `clipped_count_stddev`, or 0.05 m where that is None.
        """
        if self.clipped_count_stddev is not None:
            return self.clipped_count_stddev
        return 0.05 * clients_per_round

    def value_noise_multiplier(self, clients_per_round: float) -> float:
        """Returns z_v, the noise multiplier on the updates alone.

        Args:
          clients_per_round: m, the public expected number of clients a round.

        Returns:
          z_v >= z, without unit; 0 where z is 0.

        Raises:
          ArgumentError: As `check`.
        """
        self.check(clients_per_round)
        if self.noise_multiplier == 0:
            return 0.0
        # (z^-2 - b^-2)^(-1/2), b = 2 s_b, in a form that neither cancels as z nears b nor overflows.
        z, b = self.noise_multiplier, 2 * self.count_stddev(clients_per_round)
        return float(z / math.sqrt((1 - z / b) * (1 + z / b)))

    def check(self, clients_per_round: float) -> None:
        """Checks that the noise on the count leaves a part of the privacy budget for the updates.

        Args:
          clients_per_round: m, the public expected number of clients a round.

        Raises:
          ArgumentError: z is at least 2 s_b, or s_b is outside (0, 1e12].
        """
        s_b = self.count_stddev(clients_per_round)
        _checks.real(
            "clipped_count_stddev",
            s_b,
            "(0, 1e12]",
            "By default it is 0.05 of the clients expected a round; integer noise has to hold it.",
        )
        if self.noise_multiplier > 0:
            _checks.real(
                "noise_multiplier",
                self.noise_multiplier,
                f"(0, {float(2 * s_b)!r})",
                f"The bound is twice clipped_count_stddev={s_b:g}, which by default is 0.05 of the "
                f"{clients_per_round:g} clients expected a round. Take more clients a round, a larger "
                "clipped_count_stddev, or GaussianMechanism with a fixed clip_norm.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerLayerGaussianMechanism(Mechanism):
    """Gaussian noise on the sum of updates, with a separate clip norm for each tensor.

    What it protects: the whole contribution of one client to one round.

    Formal guarantee: tensor l of an update is scaled to L2 norm at most C_l, so that the whole update
    has L2 norm at most C = sqrt(C_1^2 + ... + C_L^2). Noise N(0, (z C)^2) on each coordinate makes the
    round the Gaussian mechanism of noise multiplier z, as clipping the whole update to C would.

    Edge cases: those of `GaussianMechanism`. A model whose number of trainable tensors differs from
    the number of clip norms is refused.

    Source: McMahan et al., "Learning Differentially Private Recurrent Language Models",
    arXiv:1710.06963, section 2.3 (per-layer clipping; equal norms are C / sqrt(L)).

    Args:
      clip_norms: C_1 to C_L, one for each trainable weight tensor in the model's order, in units of the
        weights; each > 0.
      noise_multiplier: z, without unit; >= 0.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "per-layer"
    clip_field: ClassVar[str | None] = None

    clip_norms: tuple[float, ...]
    noise_multiplier: float

    def __post_init__(self) -> None:
        _checks.instance("clip_norms", self.clip_norms, (tuple, list), "Give one a weight tensor.")
        _checks.integer("len(clip_norms)", len(self.clip_norms), "[1, inf)")
        for number, clip_norm in enumerate(self.clip_norms):
            check_clip(f"clip_norms[{number}]", clip_norm)
        object.__setattr__(self, "clip_norms", tuple(float(norm) for norm in self.clip_norms))
        check_noise(self.noise_multiplier)

    @property
    def clip_norm(self) -> float:
        """C, the largest L2 norm that one whole update may have."""
        return math.hypot(*self.clip_norms)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaplaceMechanism(Mechanism):
    """Laplace noise on the sum of updates that are clipped to a fixed L1 norm.

    What it protects: the whole contribution of one client to one round.

    Formal guarantee: every update is scaled to L1 norm at most C = `clip_norm`. Independent noise of
    density exp(-|x| / (z C)) / (2 z C) on each coordinate makes a round in which all clients
    participate (1/z, 0)-differentially private.

    Edge cases: those of `GaussianMechanism`. An L1 norm grows with the number of weights, where an L2
    norm does not: for all but small models a Gaussian is the better mechanism.

    Source: Dwork, McSherry, Nissim and Smith, "Calibrating Noise to Sensitivity in Private Data
    Analysis" (TCC 2006), proposition 1.

    Args:
      clip_norm: C, an L1 norm, in units of the model's weights; > 0.
      noise_multiplier: z, the noise's scale (its standard deviation over sqrt(2)) over C; >= 0.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "laplace"

    clip_norm: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm, "L1")
        check_noise(self.noise_multiplier)
