"""Mechanisms of clients that each add a share of the noise, under secure aggregation of integers."""

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

_LARGEST_SCALE = 1e6  # TFF's: beyond it 32-bit integers overflow, and rounding errors gain nothing
_LEEWAY = 1e-5  # TFF's, in clip norms: what its norm checks allow for rounding in float32
_INT32 = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The integers that clients send: one for each coordinate of the rotated, scaled and rounded update.

    Attributes:
      clients: n, whose shares make up the noise.
      padded_dimension: Coordinates that a client sends: the next power of two, for the rotation.
      bits: b: sums are taken modulo 2^b.
      scale: Steps of the grid to one clip norm.
      l2_sensitivity: The largest L2 norm of a client's integers without its noise, rounding included.
      l1_sensitivity: The largest L1 norm of them.
      local_stddev: Standard deviation of a client's share of the noise, in steps of the grid.
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
        """How many bits a client sends in a round, before what the secure aggregation protocol adds."""
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

    Source: arXiv:2102.06387, section 4, and `DistributedDpSumFactory` of TFF, whose numbers these are.

    Args:
      noise_multiplier: z, without unit; >= 0.
      clients: n, a whole number >= 1.
      dimension: As `DistributedMechanism`.
      bits: As `DistributedMechanism`.
      beta: As `DistributedMechanism`.
      modclip_prob: As `DistributedMechanism`.

    Raises:
      ArgumentError: There is no such grid: the error says what to change.
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
    # Some deviations of the sum of the updates, spread evenly by the rotation, and of its noise fit in.
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
    """Returns the largest L2 norm that a vector of norm 1 has after rounding; theorem 1 of the source.

    Args:
      step: gamma, the grid's step, in clip norms.
      dimension: Coordinates.
      beta: Of conditional rounding; 0 for rounding that is never repeated.
    """
    width = step * math.sqrt(dimension)  # no coordinate moves by more than a step
    (beta,) = struct.unpack("f", struct.pack("f", beta))  # in float32, as TFF has it
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
    """What the mechanisms of clients that share the noise have in common; the arguments are theirs."""

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
        """What TFF calls the mechanism."""

    def grid(self, clients_per_round: float) -> Grid:
        """Returns the integers that so many clients a round send, sensitivities and noise included.

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
        """Raises ArgumentError if so many clients have no grid."""
        self.grid(clients_per_round)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedSkellamMechanism(DistributedMechanism):
    """Skellam noise in shares that the clients add, before a secure sum of integers.

    What it protects: the whole contribution of one client to one round, against whoever sees nothing
    but the secure sums: the server need not be trusted with updates, nor with noise.

    Formal guarantee: an update is clipped to L2 norm C = `clip_norm`, rotated, scaled and rounded at
    random to integers, whose norms are at most those of `grid(n)`: rounding inflates them. Each of n
    clients adds the difference of two Poisson variables to each integer, and the sum of all shares is
    Skellam noise of n times a share's variance. Neighbouring data sets differ in one client's update,
    which is zeros in one of them (zero-out) or anything else (replace-one: twice the sensitivities).
    In both, that client takes part, honestly, so that its own share of the noise counts. Noise that an
    adversary knows does not: k colluding clients leave (n - k) / n of the variance. Sums modulo 2^b are
    computed from the sum, and so cost no privacy; a coordinate that wraps around costs accuracy.

    Edge cases: an update with a NaN or an infinity counts as zero. A round of fewer than n clients has
    too little noise: it raises instead of releasing the sum, and a deployment's protocol must not
    tolerate drop-outs at all. The noise is of integers, so that attacks on floating-point noise find
    nothing; clipping, rotation and scaling are in floating point, and the sensitivities have leeway for
    their rounding. TFF seeds these draws by the clock, which `tff_dp.execution` replaces by entropy; a
    deployment on another runtime has to do so, too (docs/privacy.md).

    Source: Agarwal, Kairouz and Liu, "The Skellam Mechanism for Differentially Private Federated
    Learning", arXiv:2110.04995, algorithm 1.

    Args:
      clip_norm: C, in units of the model's weights; > 0. Epsilon does not depend on it.
      noise_multiplier: z: the standard deviation of the sum of all shares over C, without unit; >= 0.
        Rounding makes the noise worth a little less than z.
      dimension: Trainable parameters of the model, in scalars; >= 1. Another model is refused.
      bits: b, of a coordinate of the sum, and so of a client's message; in [1, 22].
      beta: Rounding is repeated until the norm is no larger than all but a share beta of roundings
        give, which halves its inflation and biases it; in [0, 0.95], 0 for no such condition.
      modclip_prob: About how often a coordinate of the sum may wrap around; in [1e-30, 0.5].

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "skellam"

    @property
    def tff_name(self) -> str:
        """What TFF calls the mechanism."""
        return "distributed_skellam"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedGaussianMechanism(DistributedMechanism):
    """Discrete Gaussian noise in shares that the clients add, before a secure sum of integers.

    What it protects, the formal guarantee and the edge cases are those of `DistributedSkellamMechanism`,
    but for the noise. Each of n clients adds a discrete Gaussian, whose standard deviation is rounded up
    to a whole number. The sum of n of them is no discrete Gaussian, though close to one; how close is
    accounted for (tau, negligible where a share's standard deviation is above 2).

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
        """What TFF calls the mechanism."""
        return "distributed_dgauss"
