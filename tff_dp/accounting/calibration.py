"""The smallest noise that keeps a number of rounds within an epsilon."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from tff_dp import _checks
from tff_dp.accounting.accountants import rdp_epsilon, spend
from tff_dp.accounting.events import GaussianRound
from tff_dp.errors import AccountingError

_RELATIVE_TOLERANCE = 5e-4
_LARGEST_NOISE = 1e6
_SMALLEST_EPSILON = 1e-9


def calibrate_noise(
    one_round: GaussianRound, *, rounds: int, delta: float, target_epsilon: float
) -> float:
    """Returns the smallest noise multiplier whose reported epsilon is at most the target.

    Args:
      one_round: The round; its own noise multiplier is ignored.
      rounds: T >= 1.
      delta: In (0, 1).
      target_epsilon: In (0, 100].

    Returns:
      A noise multiplier within a relative 1e-3 above the smallest valid one: the search keeps the
      safe end of its bracket, so that `spend` at the result never exceeds the target.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: No noise reaches the target, or no accountant applies.
    """
    rounds = _checks.integer("rounds", rounds, "[1, inf)")
    delta = _checks.real("delta", delta, "(0, 1)")
    target = _checks.real("target_epsilon", target_epsilon, "(0, 100]")

    def at(z: float) -> GaussianRound:
        return dataclasses.replace(one_round, noise_multiplier=z)

    def excess(z: float) -> float:
        """Log of the reported epsilon over the target: nearly linear in log z, positive if unsafe."""
        try:
            epsilon = spend(at(z), rounds, delta).epsilon
        except AccountingError:  # too little noise for any accountant
            return math.inf
        return math.log(max(epsilon, _SMALLEST_EPSILON) / target)

    high = _safe_start(at, rounds, delta, target)
    while excess(high) > 0:
        high *= 2
        if high > _LARGEST_NOISE:
            spend(at(high), rounds, delta)  # raises with the reason where no accountant applies
            raise AccountingError(
                f"target_epsilon={target!r} is not reached with noise_multiplier up to "
                f"{_LARGEST_NOISE:g}. Take fewer rounds, a lower sampling rate or a larger target."
            )
    low = high / 1.5
    while excess(low) <= 0:
        high, low = low, low / 1.5
    return _smallest_safe(excess, low, high)


def _safe_start(
    at: Callable[[float], GaussianRound], rounds: int, delta: float, target: float
) -> float:
    """Returns a noise multiplier not far above the answer, by RDP, which is fast and never below."""
    z = 1.0
    try:
        while rdp_epsilon(at(z), rounds, delta) > target and z < _LARGEST_NOISE:
            z *= 1.5
    except AccountingError:  # RDP does not apply to this sampler and adjacency
        z = 8.0
    return z


def _smallest_safe(excess: Callable[[float], float], low: float, high: float) -> float:
    """Returns the safe end of a bracket of relative width `_RELATIVE_TOLERANCE` around the root.

    False position: `excess` is nearly a straight line in log z, and each evaluation may cost a privacy
    loss distribution, so the steps aim just past the estimated root, on the side of the farther end:
    the bracket closes from both sides within a few steps. Where `excess` jumps (epsilon reaches 0, or
    the noise is too small for an accountant) the line misleads: two poor steps are followed by a
    halving.
    """
    f_low, f_high = excess(low), excess(high)  # f_low > 0 >= f_high, throughout
    poor_steps = 0
    while (width := math.log(high / low)) > _RELATIVE_TOLERANCE:
        root = width * f_low / (f_low - f_high) if math.isfinite(f_low) else width / 2
        past = 0.4 * _RELATIVE_TOLERANCE
        step = root + past if width - root > root else root - past
        if poor_steps > 1 or not 0.1 * past < step < width - 0.1 * past:
            step = width / 2
        middle = low * math.exp(step)
        f_middle = excess(middle)
        if f_middle > 0:
            low, f_low = middle, f_middle
        else:
            high, f_high = middle, f_middle
        poor_steps = poor_steps + 1 if math.log(high / low) > 0.5 * width else 0
    return high
