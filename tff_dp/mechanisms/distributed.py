"""Distributed mechanisms: each client adds a share of the noise, under secure aggregation of integers."""

from __future__ import annotations

import abc
import dataclasses
import math
import statistics
import struct
from typing import ClassVar

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms.base import Mechanism, check_clip, check_noise

_LARGEST_SCALE = 1e6  # TFF's limit: beyond it 32-bit integers overflow, without a gain in accuracy
_LEEWAY = 1e-5  # TFF's tolerance for float32 rounding in its norm checks, in clip norms
_INT32 = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The integers that clients send: one for each coordinate of the rotated, scaled and rounded update.

    Attributes:
      clients: n, the number of clients that each add a share of the noise.
      padded_dimension: The number of coordinates that a client sends: the dimension, padded to the
        next power of two for the rotation.
      bits: b; sums are taken modulo 2^b.
      scale: The number of grid steps in one clip norm.
      l2_sensitivity: The largest L2 norm of a client's integers without noise, in grid steps. It
        includes the rounding.
      l1_sensitivity: The largest L1 norm of a client's integers without noise, in grid steps.
      local_stddev: The standard deviation of a client's share of the noise, in grid steps.
    """

    clients: int
    padded_dimension: int
    bits: int
    scale: float
    l2_sensitivity: float
    l1_sensitivity: int
    local_stddev: float

    @property
    def message_bits(self) -> int:
        """The number of bits that a client sends in a round, without those of the protocol itself."""
        return self.bits * self.padded_dimension


def grid_of(
    *,
    noise_multiplier: float,
    clients: float,
    dimension: int,
    bits: int,
    beta: float,
    modclip_prob: float,
) -> Grid:
    """Returns the grid that TFF's aggregator chooses, for updates of clip norm 1.

    Source: arXiv:2102.06387, section 4, and TFF's `DistributedDpSumFactory`, which computes the
      same values.

    Args:
      noise_multiplier: z, without unit; >= 0.
      clients: n, a whole number >= 1.
      dimension: As `DistributedMechanism`.
      bits: As `DistributedMechanism`.
      beta: As `DistributedMechanism`.
      modclip_prob: As `DistributedMechanism`.

    Returns:
      The grid, with the sensitivities and the noise in its steps.

    Raises:
      ArgumentError: An argument is outside its bound, or there is no such grid; the message says
        what to change.
    """
    check_noise(noise_multiplier)
    _check_grid(dimension, bits, beta, modclip_prob)
    n = _checks.real("clients_per_round", clients, "[1, inf)")
    if n != int(n):
        raise ArgumentError(
            f"clients_per_round={clients!r}: expected a whole number. The noise of a round is the sum of "
            "as many shares. Use FixedSizeSampler or FullParticipation."
        )
    padded = 1 << (int(dimension) - 1).bit_length()
    deviations = -statistics.NormalDist().inv_cdf(modclip_prob / 2)
    room = 4.0**bits - n * deviations**2
    if 2.0**bits < n or room <= 0:
        raise ArgumentError(
            f"bits={bits} is too few for the sum over {n:g} clients: expected at least "
            f"{math.ceil(math.log2(max(n, math.sqrt(n) * deviations)))}. Take more bits or fewer clients "
            "a round."
        )
    # The range of a coordinate covers `deviations` standard deviations of the sum of the updates,
    # which the rotation spreads evenly over the coordinates, and of the noise.
    spread = 2 * deviations * math.sqrt(n**2 / padded + noise_multiplier**2)
    scale = min(math.sqrt(room) / spread, _LARGEST_SCALE)
    if scale <= 1:
        raise ArgumentError(
            f"bits={bits} makes a grid coarser than the clip norm, for {n:g} clients, "
            f"noise_multiplier={noise_multiplier:g} and dimension={dimension}: rounding would drown the "
            "updates, whatever the noise. Take more bits, less noise or fewer clients a round."
        )
    l2 = (_inflated_norm(1 / scale, padded, beta) + _LEEWAY) * scale
    l1 = math.ceil(l2 * min(math.sqrt(padded), l2))  # of integers: each is at most its square
    if l1 >= _INT32:
        raise ArgumentError(
            f"dimension={dimension} is too large for bits={bits} at "
            f"noise_multiplier={noise_multiplier:g}: the L1 norm of a client's integers, up to {l1}, "
            "overflows 32 bits. Take fewer bits."
        )
    return Grid(
        clients=int(n),
        padded_dimension=padded,
        bits=int(bits),
        scale=scale,
        l2_sensitivity=l2,
        l1_sensitivity=l1,
        local_stddev=noise_multiplier / math.sqrt(n) * scale,
    )


def _inflated_norm(step: float, dimension: int, beta: float) -> float:
    """Returns the largest L2 norm of a vector of norm 1 after rounding (theorem 1 of the source).

    Args:
      step: gamma, the grid's step, in clip norms.
      dimension: The number of coordinates.
      beta: The parameter of conditional rounding; 0 for rounding that is never repeated.
    """
    width = step * math.sqrt(dimension)  # no coordinate moves by more than a step
    (beta,) = struct.unpack("f", struct.pack("f", beta))  # rounded to float32, as in TFF
    if beta == 0:
        return 1 + width
    deviation = math.sqrt(2 * math.log(1 / beta))
    return min(1 + width, math.sqrt(1 + width**2 / 4 + deviation * step * (1 + width / 2)))


def _check_grid(dimension: int, bits: int, beta: float, modclip_prob: float) -> None:
    _checks.integer(
        "dimension", dimension, "[1, inf)", "It is the number of the model's trainable parameters."
    )
    _checks.integer("bits", bits, "[1, 22]", "TFF's aggregator computes them in float32.")
    _checks.real(
        "beta",
        beta,
        "[0, 0.95]",
        "It bounds the probability that a rounding has to be repeated, which is given up after 1000; "
        "exp(-0.5) is customary, and 0 never repeats.",
    )
    _checks.real(
        "modclip_prob",
        modclip_prob,
        "[1e-30, 0.5]",
        "It is how often a coordinate of the sum may wrap around.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedMechanism(Mechanism):
    """The base class of distributed mechanisms, whose clients each add a share of the noise.

    Args:
      clip_norm: As for `DistributedSkellamMechanism`.
      noise_multiplier: As for `DistributedSkellamMechanism`.
      dimension: As for `DistributedSkellamMechanism`.
      bits: As for `DistributedSkellamMechanism`.
      beta: As for `DistributedSkellamMechanism`.
      modclip_prob: As for `DistributedSkellamMechanism`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    limits = (
        "tuning on the same data, other runs on it, clients that drop out or withhold their noise, and "
        "whoever sees more than the secure sums (here they are computed in this process; the noise is "
        "of integers, not from a cryptographic source)"
    )

    clip_norm: float
    noise_multiplier: float
    dimension: int
    bits: int = 20
    beta: float = 0.0
    modclip_prob: float = 1e-4

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm)
        check_noise(self.noise_multiplier)
        _check_grid(self.dimension, self.bits, self.beta, self.modclip_prob)

    @property
    @abc.abstractmethod
    def tff_name(self) -> str:
        """The name of the mechanism in TFF."""

    def grid(self, clients_per_round: float) -> Grid:
        """Returns the grid of the integers that clients send.

        Args:
          clients_per_round: n, the number of clients in each round, a whole number >= 1.

        Returns:
          The grid, with the sensitivities and the noise in its steps.

        Raises:
          ArgumentError: There is no such grid.
        """
        return grid_of(
            noise_multiplier=self.noise_multiplier,
            clients=clients_per_round,
            dimension=self.dimension,
            bits=self.bits,
            beta=self.beta,
            modclip_prob=self.modclip_prob,
        )

    def check(self, clients_per_round: float) -> None:
        """Checks that there is a grid for a number of clients.

        Args:
          clients_per_round: n, the number of clients in each round.

        Raises:
          ArgumentError: There is no such grid.
        """
        self.grid(clients_per_round)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedSkellamMechanism(DistributedMechanism):
    """Skellam noise in shares that the clients add, before a secure sum of integers.

    What it protects: the whole contribution of one client to one round, against anyone who sees
    only the secure sums: the server need not be trusted with the updates or with the noise.

    Formal guarantee: an update is clipped to L2 norm C = `clip_norm`, rotated, scaled and rounded at
    random to integers, whose norms are at most those of `grid(n)`, since rounding increases them.
    Each of n clients adds the difference of two Poisson variables to each integer, and the sum of
    all shares is Skellam noise of n times a share's variance. Neighboring data sets differ in one
    client's update, which is zero in one of them (zero-out) or an arbitrary other one (replace-one:
    twice the sensitivities). In both, that client participates honestly, so that its own share of
    the noise counts. Noise that an adversary knows does not: k colluding clients leave (n - k) / n
    of the variance. Taking the sum modulo 2^b is post-processing; a coordinate that wraps around
    only reduces accuracy.

    Edge cases: an update with a NaN or an infinity counts as zero. A round with fewer than n
    clients has too little noise: it fails instead of releasing the sum, and a deployment's protocol
    must not tolerate dropouts at all. The noise consists of integers, so that attacks on
    floating-point noise do not apply. Clipping, rotation and scaling use floating point, and the
    sensitivities include a tolerance for their rounding. TFF seeds these draws from the clock,
    which `tff_dp.execution` replaces by entropy; a deployment on another runtime has to do the same
    (docs/privacy.md).

    Source: Agarwal, Kairouz and Liu, "The Skellam Mechanism for Differentially Private Federated
    Learning", arXiv:2110.04995, algorithm 1.

    Args:
      clip_norm: C, in units of the model's weights; > 0. Epsilon does not depend on it.
      noise_multiplier: z: the standard deviation of the sum of all shares over C, without unit; >= 0.
        Rounding increases the sensitivity, so that the effective noise multiplier is slightly below
        z.
      dimension: Trainable parameters of the model, in scalars; >= 1. A model with another number
        is refused.
      bits: b, the bits of a coordinate of the sum, and so of a client's message; in [1, 22].
      beta: Rounding is repeated until the norm is within a bound that a rounding exceeds with
        probability at most beta, which about halves the increase and adds a bias; in [0, 0.95], 0
        for no such condition.
      modclip_prob: The approximate probability that a coordinate of the sum wraps around; in
        [1e-30, 0.5].

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "skellam"

    @property
    def tff_name(self) -> str:
        """The name of the mechanism in TFF."""
        return "distributed_skellam"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedGaussianMechanism(DistributedMechanism):
    """Discrete Gaussian noise in shares that the clients add, before a secure sum of integers.

    What it protects, the formal guarantee and the edge cases are those of `DistributedSkellamMechanism`,
    except for the noise. Each of n clients adds a discrete Gaussian, whose standard deviation is
    rounded up to a whole number. The sum of n of them is not a discrete Gaussian but close to one;
    the accounting includes the difference (tau, negligible if a share's standard deviation is above
    2).

    Source: Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated
    Learning with Secure Aggregation", arXiv:2102.06387, algorithms 1 and 2.

    Args:
      clip_norm: As for `DistributedSkellamMechanism`.
      noise_multiplier: As for `DistributedSkellamMechanism`, before the rounding up.
      dimension: As for `DistributedSkellamMechanism`.
      bits: As for `DistributedSkellamMechanism`.
      beta: As for `DistributedSkellamMechanism`.
      modclip_prob: As for `DistributedSkellamMechanism`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "discrete-gaussian"

    @property
    def tff_name(self) -> str:
        """The name of the mechanism in TFF."""
        return "distributed_dgauss"
