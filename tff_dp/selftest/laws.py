"""The assumptions of each mechanism's accounting, which a self-test checks by measurement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tff_dp import _checks
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    Mechanism,
    PerLayerGaussianMechanism,
    TreeMechanism,
)
from tff_dp.mechanisms.registry import LAWS
from tff_dp.mechanisms.strategy import banded_strategy

Parts = Sequence[np.ndarray] | np.ndarray  # one array for each tensor of a model's weights
Leaves = Mapping[str, Any]  # everything that a round returns except the weights, by path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """The assumptions of the accounting about one mechanism's sensitivity and noise.

    Attributes:
      size: A function from the mechanism and a change of the sum of updates to the size of the
        change, where 1 is the largest that the accounting allows one client in the first round. It
        must be a norm: twice the change has twice the size.
      clip: A function from the mechanism and the leaves of a state to the clip norm of the next
        round.
      noise: A function from the mechanism, m and the round's clip norm to the distribution of the
        noise on one coordinate of the sum: a frozen distribution of SciPy, continuous and symmetric
        about 0.
      covariance: A function from the mechanism, a number of rounds, and the number of rounds of the
        plan to the covariance of the noise of the first rounds, in units of the variance of
        `noise`: [rounds, rounds]. By default the identity, for independent noise; any other
        covariance requires Gaussian noise.
      derived: A function from the mechanism, m and the clip norm of the next round to the values
        besides the weights that depend on clients: a mapping from ends of paths to values. Values
        that are missing here must not depend on any client.
      kept: Parts of the paths to noise that the state stores for later rounds, which is not
        compared.
      by_clients: Whether each client adds its own noise, and the server none.
      unit: A function from `noise` to its standard deviation or scale.
      reach: A lower bound on the largest noise that a coordinate can have, in units of `unit`.
      clip_norms: A function from the mechanism to its clip norms, in units of the weights. Updates
        in floating-point formats that cannot represent these are not tested.

    Raises:
      ArgumentError: `by_clients` is no boolean.
    """

    size: Callable[[Any, Parts], float]
    clip: Callable[[Any, Leaves], float]
    noise: Callable[[Any, float, float], Any]
    covariance: Callable[[Any, int, int], np.ndarray] = lambda _, rounds, planned: np.eye(rounds)
    derived: Callable[[Any, float, float], Mapping[str, float]] = lambda *_: {}
    kept: Sequence[str] = ()
    by_clients: bool = False
    unit: Callable[[Any], float] = lambda noise: float(noise.std())
    reach: float = 13.1  # sqrt(2 ln 2^125) = 13.16, less what a block of the grid takes
    clip_norms: Callable[[Any], Sequence[float]] = lambda mechanism: (float(mechanism.clip_norm),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_clients", _checks.flag("by_clients", self.by_clients))


def l2_norm(parts: Parts) -> float:
    """Returns the L2 norm over all tensors.

    Args:
      parts: One array for each tensor, of any numeric dtype.

    Returns:
      The norm, computed in float64.
    """
    return math.sqrt(sum(float(np.sum(np.square(np.float64(part)))) for part in parts))


def l1_norm(parts: Parts) -> float:
    """Returns the L1 norm over all tensors.

    Args:
      parts: One array for each tensor, of any numeric dtype.

    Returns:
      The norm, computed in float64.
    """
    return sum(float(np.sum(np.abs(np.float64(part)))) for part in parts)


def _clip_norm(mechanism: Any, leaves: Leaves) -> float:
    del leaves  # the clip norm is constant
    return float(mechanism.clip_norm)


def _gaussian_noise(mechanism: Any, m: float, clip: float) -> Any:
    del m  # this is the noise on the sum, before the division by m
    return stats.norm(scale=mechanism.noise_multiplier * clip)


def _laplace_noise(mechanism: Any, m: float, clip: float) -> Any:
    del m
    return stats.laplace(scale=mechanism.noise_multiplier * clip)


def _largest_layer(mechanism: PerLayerGaussianMechanism, parts: Parts) -> float:
    return max(
        l2_norm([part]) / clip_norm
        for part, clip_norm in zip(parts, mechanism.clip_norms, strict=True)
    )


def _tree_covariance(mechanism: TreeMechanism, rounds: int, planned: int) -> np.ndarray:
    """Returns the covariance of the increments of a tree's noise, node by node from the definition.

    The noise of the running sum of t rounds is the sum of the nodes that correspond to the bits of
    t. The estimate of a node is the mean of its own noise and the sum of its children's estimates,
    weighted by inverse variances.
    """
    period = min(mechanism.restart_every or planned, planned)
    height = period.bit_length()
    size = rounds << height  # one column for each node; some remain unused

    def estimate(first: int, level: int) -> np.ndarray:
        row = np.zeros(size)
        weight = 1 / (2 - 0.5**level)
        row[(first << height) + level] = weight if level else 1.0
        if level:
            half = 1 << (level - 1)
            children = estimate(first, level - 1) + estimate(first + half, level - 1)
            row += (1 - weight) * children
        return row

    grown, before = [], np.zeros(size)
    for done in range(rounds):
        start, length = done - done % period, done % period + 1
        now, at = np.zeros(size), start
        for level in reversed(range(height)):
            if length >> level & 1:
                now, at = now + estimate(at, level), at + (1 << level)
        grown.append(now - before)
        before = np.zeros(size) if length == period else now
    return np.array(grown) @ np.array(grown).T


def _banded_covariance(mechanism: BandedMechanism, rounds: int, planned: int) -> np.ndarray:
    strategy = np.zeros([rounds, rounds])
    for offset, coefficient in enumerate(banded_strategy(mechanism.bands, planned)[:rounds]):
        strategy += coefficient * np.eye(rounds, k=-offset)
    inverse = np.linalg.inv(strategy)
    return np.asarray(inverse @ inverse.T)


def _in_l2(mechanism: Any, parts: Parts) -> float:
    return l2_norm(parts) / float(mechanism.clip_norm)


def _in_l1(mechanism: Any, parts: Parts) -> float:
    return l1_norm(parts) / float(mechanism.clip_norm)


# Paths in a state of tff_dp's query, and of tensorflow-privacy's, which a process of `build=` may
# use.
_CLIPS = ("query_state/clip_norm", "sum_state/l2_norm_clip")


def _adaptive_clip(mechanism: AdaptiveGaussianMechanism, leaves: Leaves) -> float:
    del mechanism
    (clip,) = (v for path, v in leaves.items() if path.endswith(_CLIPS))
    return float(clip)


def _adaptive_derived(
    mechanism: AdaptiveGaussianMechanism, m: float, clip: float
) -> Mapping[str, float]:
    return {
        "query_state/clip_norm": clip,
        "dp_query_metrics/clip": clip,
        # State of tensorflow-privacy's own query.
        "sum_state/l2_norm_clip": clip,
        "sum_state/stddev": clip * mechanism.value_noise_multiplier(m),
        "quantile_estimator_state/current_estimate": clip,
    }


GAUSSIAN_LAW = Law(size=_in_l2, clip=_clip_norm, noise=_gaussian_noise)
"""Updates clipped to L2 norm `clip_norm`, and fresh Gaussian noise of `noise_multiplier` times that."""
LAPLACE_LAW = Law(
    size=_in_l1,
    clip=_clip_norm,
    noise=_laplace_noise,
    unit=lambda noise: float(noise.kwds["scale"]),
    reach=85.0,  # ln 2^124 = 85.9: digits go on as long as their probability is above 2^-124
)
"""Updates clipped to L1 norm `clip_norm`, and fresh Laplace noise of that scale."""
_LAWS: dict[type[Mechanism], Law] = {
    GaussianMechanism: GAUSSIAN_LAW,
    AdaptiveGaussianMechanism: Law(
        size=lambda mechanism, parts: l2_norm(parts) / mechanism.initial_clip_norm,
        clip=_adaptive_clip,
        noise=lambda mechanism, m, clip: stats.norm(
            scale=mechanism.value_noise_multiplier(m) * clip
        ),
        derived=_adaptive_derived,
        clip_norms=lambda mechanism: (mechanism.initial_clip_norm,),
    ),
    PerLayerGaussianMechanism: dataclasses.replace(
        GAUSSIAN_LAW, size=_largest_layer, clip_norms=lambda mechanism: mechanism.clip_norms
    ),
    LaplaceMechanism: LAPLACE_LAW,
    TreeMechanism: dataclasses.replace(
        GAUSSIAN_LAW, covariance=_tree_covariance, kept=("/secret_levels/", "/secret_total/")
    ),
    BandedMechanism: dataclasses.replace(
        GAUSSIAN_LAW, covariance=_banded_covariance, kept=("/secret_history/",)
    ),
    LocalGaussianMechanism: dataclasses.replace(GAUSSIAN_LAW, by_clients=True),
    LocalLaplaceMechanism: dataclasses.replace(LAPLACE_LAW, by_clients=True),
}


def law_of(mechanism: Mechanism) -> Law:
    """Returns the law of a mechanism.

    Args:
      mechanism: The mechanism. The law is looked up by its exact class.

    Returns:
      The law.

    Raises:
      ArgumentError: The mechanism has no law, or the registered function does not return one.
    """
    law = LAWS.find("mechanism", mechanism, _LAWS)
    if not isinstance(law, Law):  # a registered function, which is called when the law is needed
        law = law()
    remedy = f"The function that register_law was given for {type(mechanism).__name__} returns it."
    return _checks.instance("law", law, Law, remedy)
