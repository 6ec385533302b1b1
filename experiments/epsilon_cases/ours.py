"""What tff_dp says of each case: an example of the function that the command takes.

The keys of inputs are explained in `definition`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import tff_dp
from experiments.epsilon_cases import wrong
from tff_dp.errors import AccountingError
from tff_dp.sampling import Sampler

_SAMPLERS: dict[str, Callable[[Mapping[str, Any]], Sampler]] = {
    "poisson": lambda inputs: tff_dp.PoissonSampler(rate=inputs["rate"]),
    "fixed_size": lambda inputs: tff_dp.FixedSizeSampler(size=inputs["cohort"]),
    "full": lambda inputs: tff_dp.FullParticipation(),
    # No amplification: a client participates once in each epoch.
    "shuffled": lambda inputs: tff_dp.FullParticipation(),
    "fixed_order": lambda inputs: tff_dp.FullParticipation(),
}


def epsilon(inputs: Mapping[str, Any]) -> float:
    """Returns a valid epsilon of what a case's mechanism releases.

    Args:
      inputs: Of a case.

    Returns:
      An upper bound on epsilon.

    Raises:
      NotImplementedError: tff_dp refuses the mechanism, for the reason in the message.
    """
    for fact, reason in _REFUSED.items():
        if fact in inputs:
            raise NotImplementedError(reason)
    if "records_of_a_client" in inputs:
        return _of_a_group(inputs)
    plan_rounds = inputs.get("epochs", inputs.get("steps", inputs.get("rounds", 1)))
    is_laplace = inputs["noise"] == "laplace"
    kind = tff_dp.LaplaceMechanism if is_laplace else tff_dp.GaussianMechanism
    try:
        plan = tff_dp.PrivacyPlan(
            mechanism=kind(clip_norm=1.0, noise_multiplier=_noise(inputs)),
            population=inputs["population"],
            sampler=_SAMPLERS[inputs["sampling"]](inputs),
            adjacency=inputs["adjacency"].replace("_", "-"),
            rounds=plan_rounds * inputs.get("runs", 1),
            delta=inputs["delta"],
        )
    except AccountingError as error:
        raise NotImplementedError(str(error)) from error
    return float(plan.epsilon().epsilon)


def _of_a_group(inputs: Mapping[str, Any]) -> float:
    """Returns the epsilon of a client with k records: k epsilon, at a delta k e^((k - 1) epsilon) delta.

    Source: Vadhan, "The Complexity of Differential Privacy" (2017), lemma 2.2.
    """
    records = inputs["records_of_a_client"]
    of_a_record = {key: v for key, v in inputs.items() if key != "records_of_a_client"}
    found = math.inf
    for exponent in range(0, 40):
        delta = inputs["delta"] / records * math.exp(-exponent / 2)
        each = epsilon(of_a_record | {"delta": delta})
        if records * delta * math.exp((records - 1) * each) <= inputs["delta"]:
            found = min(found, records * each)
    return found


_REFUSED = {
    "unnoised_count": "every released count has noise and an event of its own",
    "largest_noise": "noise is drawn as whole numbers, exactly, and has no largest value",
    "divided_by": "averages are divided by the public expected number of clients",
}


def _noise(inputs: Mapping[str, Any]) -> float:
    """Returns the deviation of the noise over the largest change of the sum by one unit."""
    z: float = inputs["noise_multiplier"]
    z /= inputs.get("largest_weight", 1.0)
    if "bit_noise" in inputs:  # two Gaussian releases together
        update, bit = wrong.shared_noise(z, inputs["bit_noise"]), inputs["bit_noise"]
        z = (update**-2 + (inputs["bit_change"] / bit) ** 2) ** -0.5
    if "releases" in inputs:
        z /= inputs["releases"] ** 0.5
    if "noise_of_a_client" in inputs:  # independent shares add up in variance
        z = inputs["noise_of_a_client"] * inputs["reporting_clients"] ** 0.5
    return z
