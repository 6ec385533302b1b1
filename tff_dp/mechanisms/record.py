"""The mechanism of clients that noise their own local steps; the unit is one record of one client."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tff_dp import _checks
from tff_dp.mechanisms.base import Mechanism, Unit, check_clip, check_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordGaussianMechanism(Mechanism):
    """DP-SGD in each client's local steps: Poisson batches, clipped per-example gradients, noise.

    What it protects: one record (example) of one client, against the server and all other clients.
    Each client adds its own noise, so that everything it sends is private; nobody else has to be
    trusted. This is for a few clients with many records each, such as hospitals ("cross-silo").

    Formal guarantee: in each of the L = `local_steps` steps of a round, each of the client's n records is
    in the batch independently with probability q = B / n, B = `batch_size`. The gradient of each
    record in the batch, over all trainable weights, is scaled to L2 norm at most C = `clip_norm`, so that
    adding or removing one record moves their sum by at most C. Noise N(0, (z C)^2) on each coordinate,
    z = `noise_multiplier`, makes the step the Poisson-subsampled Gaussian mechanism of rate q and noise
    multiplier z; T rounds are T L of them. The noised sum is divided by B, never by how many records
    the batch has. The optimizer's steps, the change of the weights and everything that the server
    computes from it are post-processing. The numbers of records n are public.

    The implementation uses integers: each gradient is converted to float32 or float64, clipped to
    C (1 - 2^-15), and truncated to a grid of 2^-38 C (coarser above z = 2^12). Sums are exact, and
    the noise is a whole number of steps. So the bound holds exactly, for weights of any dtype.

    Edge cases: a gradient with a NaN or an infinity counts as zero, and so may one with parts above
    1.8e19, whose squares overflow in float32. An empty batch still takes its noised step. A record that
    occurs twice in a client's data is two records, and so is a person's second record, at the same or at
    another client.

    Source: Abadi et al., "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1,
    whose lot size is B; Noble, Bellet and Dieuleveut, "Differentially Private Federated Learning on
    Heterogeneous Data", arXiv:2111.09278, for clients that take such steps.

    Args:
      clip_norm: C, the largest L2 norm of one example's gradient, in units of the loss over those of
        the model's weights; > 0.
      noise_multiplier: z, without unit; >= 0.
      batch_size: B, the expected examples in a batch; a whole number >= 1, at most each client's
        number of records.
      local_steps: L, the steps that each client takes in a round; >= 1.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    unit: ClassVar[Unit] = Unit.RECORD
    command_name: ClassVar[str | None] = "dp-sgd"

    clip_norm: float
    noise_multiplier: float
    batch_size: int
    local_steps: int = 1

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm)
        check_noise(self.noise_multiplier)
        _checks.integer(
            "batch_size", self.batch_size, "[1, inf)", "It is the expected examples in a batch."
        )
        _checks.integer(
            "local_steps", self.local_steps, "[1, inf)", "It is a client's steps in each round."
        )
