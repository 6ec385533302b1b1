"""Mechanisms without a trusted server: each client noises its own update before it sends it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tff_dp.mechanisms.base import Mechanism, check_clip, check_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalGaussianMechanism(Mechanism):
    """Gaussian noise that each client adds to its own update, clipped to a fixed L2 norm.

    What it protects: what a client's update reveals about its data, against everybody else,
    including the server and anyone who reads the traffic.

    Formal guarantee: a client sends its update, scaled to L2 norm at most C = `clip_norm`, plus noise
    N(0, (z C)^2) on each coordinate. Two data sets of the client move the update by at most 2 C, so that
    one report is the Gaussian mechanism of noise multiplier z / 2, and the reports of all rounds in
    which it participates compose. Participation itself is not hidden, and sampling does not amplify
    privacy against an adversary who sees the reports.

    Edge cases: an update without a finite norm counts as zero, and is noised as any other. The
    average contains the noise of all clients: z C / sqrt(m) for each coordinate, sqrt(m) times what
    a trusted server would add.

    Source: Kasiviswanathan et al., "What Can We Learn Privately?", arXiv:0803.0924, definition 2.2; the
    Gaussian mechanism as in Balle and Wang, arXiv:1805.06530.

    Args:
      clip_norm: C, in units of the model's weights; > 0.
      noise_multiplier: z, of one client's noise, without unit; >= 0.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "local-gaussian"

    clip_norm: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm)
        check_noise(self.noise_multiplier)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalLaplaceMechanism(Mechanism):
    """Laplace noise that each client adds to its own update, clipped to a fixed L1 norm.

    What it protects: as `LocalGaussianMechanism`.

    Formal guarantee: a client sends its update, scaled to L1 norm at most C = `clip_norm`, plus
    independent noise of density exp(-|x| / (z C)) / (2 z C) on each coordinate. Two data sets of the
    client move the update by at most 2 C in L1 norm: one report is (2/z, 0)-differentially private, and
    the reports of all rounds in which it participates compose.

    Edge cases: as `LocalGaussianMechanism`, and an L1 norm grows with the number of weights.

    Source: Kasiviswanathan et al., "What Can We Learn Privately?", arXiv:0803.0924, definition 2.2;
    Dwork et al. (TCC 2006), proposition 1.

    Args:
      clip_norm: C, an L1 norm, in units of the model's weights; > 0.
      noise_multiplier: z, the scale of one client's noise over C; >= 0.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "local-laplace"

    clip_norm: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm, "L1")
        check_noise(self.noise_multiplier)
