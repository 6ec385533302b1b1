"""Mechanisms whose noise is correlated over rounds, so that much of it cancels in the running sum.

The model after t rounds depends on the sum of all updates so far. With independent noise that sum
contains the noise of t rounds; here later rounds cancel a part of the earlier noise. The releases
are a linear map of the updates plus independent Gaussian noise (a matrix mechanism), so that a run
is one Gaussian mechanism, even if updates depend on earlier releases (Denisov et al.,
arXiv:2202.08312, theorem 2.1). Its sensitivity follows from how often, and at what distance, a
client participates.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tff_dp import _checks
from tff_dp.mechanisms.base import Mechanism, check_clip, check_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeMechanism(Mechanism):
    """Tree aggregation: the running sum of clipped updates from noisy nodes of a binary tree (DP-FTRL).

    What it protects: the whole contribution of one client to all rounds in which it participates.

    Formal guarantee: every update is scaled to L2 norm at most C = `clip_norm`. Each node of a binary
    tree over the rounds gets noise N(0, (z C)^2) once. The running sum is composed of nodes (with
    the estimator of least variance from the completed nodes), and the result of a round is its
    increment. A client that participates in c rounds under a node moves it by at most c C: the run
    is the Gaussian mechanism of noise multiplier z / sqrt(the largest sum of c^2 over all nodes),
    for the number of rounds and the participation that the sampler enforces. Neighbors are zero-out
    (the client's updates are zeros) or replace-one (twice the sensitivity); sampling amplifies
    nothing.

    Edge cases: those of `GaussianMechanism`. The noise of a node is drawn when it is released, and
    never stored as a seed: using a state twice gives two independent draws. The state of a learning
    process contains the noise of released nodes, in fields named `secret_...`. Together with the
    released results it reveals the exact sums, so that it has to be kept as secret as the data.

    Source: Kairouz et al., "Practical and Private (Deep) Learning without Sampling or Shuffling",
    arXiv:2103.00039, appendix D; the estimator is Honaker's, its appendix B.

    Args:
      clip_norm: C, in units of the model's weights; > 0.
      noise_multiplier: z, of one node, without unit; >= 0.
      restart_every: Rounds after which a new tree begins, >= 1; None for one tree over all rounds.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "tree"

    clip_norm: float
    noise_multiplier: float
    restart_every: int | None = None

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm)
        check_noise(self.noise_multiplier)
        if self.restart_every is not None:
            _checks.integer("restart_every", self.restart_every, "[1, inf)", "It counts rounds.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedMechanism(Mechanism):
    """Banded matrix factorization (DP-BandMF): correlated noise that partly cancels in later rounds.

    What it protects: the whole contribution of one client to all rounds in which it participates.

    Formal guarantee: every update is scaled to L2 norm at most C = `clip_norm`. Round t releases its sum
    plus z C w_t, where S w = g, g is independent N(0, 1), and the strategy S is a lower triangular
    Toeplitz matrix with b = `bands` bands whose columns have norm at most 1. Rounds that lie b or more
    apart share no row of S: k participations at such distances are one Gaussian mechanism of noise
    multiplier z / sqrt(k). Under `CyclicPoissonSampler` with a cycle of at least b rounds, T rounds cost
    what ceil(T / cycle) rounds of the Poisson-sampled Gaussian do. `bands=1` is independent noise.

    Edge cases: those of `GaussianMechanism`. The state of a learning process holds the noise of released
    rounds, in a field named `secret_history`, and is as secret as the data. The strategy is the best of
    its kind for the mean squared error of the running sums over the plan's rounds, which server SGD
    without momentum follows; the guarantee holds for any server optimizer.

    Source: Choquette-Choo et al., "(Amplified) Banded Matrix Factorization", arXiv:2306.08153, theorem 4
    and algorithm 2; Toeplitz strategies: McKenna, arXiv:2405.15913, section 4.

    Args:
      clip_norm: C, in units of the model's weights; > 0.
      noise_multiplier: z, without unit; >= 0.
      bands: b >= 1, at most the number of rounds between two participations of a client.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    command_name: ClassVar[str | None] = "banded"

    clip_norm: float
    noise_multiplier: float
    bands: int

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm)
        check_noise(self.noise_multiplier)
        _checks.integer("bands", self.bands, "[1, inf)", "1 is independent noise.")
