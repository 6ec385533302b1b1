"""The figures of a guarantee, computed from charges and plans alone."""

from __future__ import annotations

import math
from typing import Any

from tff_dp.accounting import FALSE_POSITIVE_RATES, EpsilonReport, PrivacyProfile
from tff_dp.charges import Charges


def figures_of(charges: Charges, spent: EpsilonReport) -> dict[str, Any]:
    """Computes everything that accountants say about charges.

    Args:
      charges: The charges; there may be none.
      spent: What they have spent together.

    Returns:
      Plain values: epsilon by each accountant, the profile, mu, the advantage, and the best tests
      of membership. Infinite values are "inf".
    """
    profile = charges.profile() if charges.runs else PrivacyProfile(epsilons=(0.0,), deltas=(0.0,))
    return {
        "epsilon": number(spent.epsilon),
        "accountant": spent.accountant,
        "accountants": {name: number(value) for name, value in spent.values.items()},
        "refused": dict(spent.refused),
        "delta": spent.delta,
        "rounds": spent.rounds,
        "lower_bound": None if spent.lower_bound is None else number(spent.lower_bound),
        "arithmetic_epsilon": spent.arithmetic_epsilon,
        "arithmetic_delta": spent.arithmetic_delta,
        "profile": {"epsilons": [*profile.epsilons], "deltas": [*profile.deltas]},
        **membership_of(profile),
    }


def membership_of(profile: PrivacyProfile) -> dict[str, Any]:
    """Computes what a profile says about tests of membership.

    Args:
      profile: The profile.

    Returns:
      mu, the smallest delta from which on it holds, the advantage, and the tests, as plain values.
    """
    return {
        "mu": number(profile.mu),
        "mu_from_delta": profile.deltas[0] if profile.is_private else None,
        "advantage": profile.advantage,
        "membership": [
            {
                "false_positive_rate": rate,
                "true_positive_rate": profile.true_positive_rate(rate),
            }
            for rate in FALSE_POSITIVE_RATES
        ],
    }


def number(value: float) -> float | str:
    """Converts a number for JSON, which cannot represent infinity.

    Args:
      value: The number.

    Returns:
      The number if it is finite, otherwise "inf".
    """
    return float(value) if math.isfinite(value) else "inf"
