"""What the accounting of each mechanism takes for granted: what a self-test measures against."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import AdaptiveGaussianMechanism, GaussianMechanism, Mechanism

Parts = Sequence[np.ndarray] | np.ndarray  # what belongs to a model's weights, an array a tensor
Leaves = Mapping[str, Any]  # what a round returns beside the weights, by path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """A mechanism's part of the contract.

    Attributes:
      size: From the mechanism and a move of the sum of updates, the move's size, where 1 is the largest
        that the accounting allows one client in the first round. A norm: twice the move has twice the
        size.
      clip: From the mechanism and the leaves of a state, the clip norm of the next round.
      noise: From the mechanism, m and the round's clip norm, the distribution of the noise on one
        coordinate of the sum: a frozen distribution of SciPy, continuous and symmetric about 0.
      covariance: From the mechanism and a number of rounds, the covariance of their noises, in units of
        `noise`: [rounds, rounds]. The identity, which is the default, for noise that is fresh in each
        round; anything else needs a Gaussian.
      derived: From the mechanism, m and the clip norm of the next round, what depends on clients beside
        the weights: ends of paths to values. What is missing here must not depend on any client.
    """

    size: Callable[[Any, Parts], float]
    clip: Callable[[Any, Leaves], float]
    noise: Callable[[Any, float, float], Any]
    covariance: Callable[[Any, int], np.ndarray] = lambda _, rounds: np.eye(rounds)
    derived: Callable[[Any, float, float], Mapping[str, float]] = lambda *_: {}


def l2_norm(parts: Parts) -> float:
    """Returns the L2 norm over all tensors, in float64."""
    return math.sqrt(sum(float(np.sum(np.square(np.float64(part)))) for part in parts))


def _adaptive_clip(mechanism: AdaptiveGaussianMechanism, leaves: Leaves) -> float:
    del mechanism
    (clip,) = (v for path, v in leaves.items() if path.endswith("sum_state/l2_norm_clip"))
    return float(clip)


def _adaptive_derived(
    mechanism: AdaptiveGaussianMechanism, m: float, clip: float
) -> Mapping[str, float]:
    return {
        "sum_state/l2_norm_clip": clip,
        "sum_state/stddev": clip * mechanism.value_noise_multiplier(m),
        "quantile_estimator_state/current_estimate": clip,
        "dp_query_metrics/clip": clip,
    }


_LAWS: dict[type[Mechanism], Law] = {
    GaussianMechanism: Law(
        size=lambda mechanism, parts: l2_norm(parts) / mechanism.clip_norm,
        clip=lambda mechanism, leaves: mechanism.clip_norm,
        noise=lambda mechanism, m, clip: stats.norm(scale=mechanism.noise_multiplier * clip),
    ),
    AdaptiveGaussianMechanism: Law(
        size=lambda mechanism, parts: l2_norm(parts) / mechanism.initial_clip_norm,
        clip=_adaptive_clip,
        noise=lambda mechanism, m, clip: stats.norm(
            scale=mechanism.value_noise_multiplier(m) * clip
        ),
        derived=_adaptive_derived,
    ),
}


def law_of(mechanism: Mechanism) -> Law:
    """Returns a mechanism's law.

    Raises:
      ArgumentError: The mechanism has none.
    """
    law = _LAWS.get(type(mechanism))
    if law is None:
        known = ", ".join(kind.__name__ for kind in _LAWS)
        raise ArgumentError(f"mechanism={mechanism!r} has no self-test: expected one of {known}.")
    return law
