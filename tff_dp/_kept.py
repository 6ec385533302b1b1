"""Processes that are kept for runs that differ in no graph: in the seed, say, or in the noise multiplier.

Composing a process, compiling its computations and tracing their graphs takes a small run longer than
its rounds do. None of it can be freed entirely, either: TensorFlow keeps what XLA has compiled, and parts
of what has been traced, until Python ends.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from tff_dp.aggregation import scale_structure, with_scale
from tff_dp.algorithms import Algorithm
from tff_dp.model import BoundModel
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.process import compose, parameters

_MOST = 4  # processes
_MOST_PARAMETERS = 1 << 26  # of the models of all of them: a process holds its model
_kept: collections.OrderedDict[Any, tuple[Any, int]] = collections.OrderedDict()


def process_for(
    model: BoundModel, *, algorithm: Algorithm, privacy: PrivacyPlan | NoPrivacy
) -> tuple[Any, Callable[[Any], Any]]:
    """Returns a process as `build_process` composes it, one that is kept if there is one.

    It is known by the graph of the model's training step, the algorithm and the plan. Under a plan whose
    noise multiplier can be apart from the graph, it is in the process's state.

    Args:
      model: As for `build_process`.
      algorithm: As for `build_process`.
      privacy: As for `build_process`.

    Returns:
      The process, whose initial state has weights of some model of the kind; and a function that gives
      its states the plan's noise, without which nothing holds that is said of the plan.

    Raises:
      ArgumentError: As for `build_process`.
      ModelError: As for `build_process`.
    """
    plan = privacy if isinstance(privacy, PrivacyPlan) else None
    structure = None
    if plan is not None and plan.unit is Unit.CLIENT and not plan.metrics:
        structure = scale_structure(plan.update_mechanism)
    scaled = structure is not None

    def with_noise(state: Any) -> Any:
        if plan is None or not scaled:
            return state
        aggregator = with_scale(state.aggregator, plan.update_mechanism)
        return state._replace(aggregator=aggregator)

    fingerprint = model.fingerprint()
    if fingerprint is None:
        return compose(model, algorithm, privacy, scaled=scaled), with_noise
    graph: Any = privacy
    if plan is not None and scaled:
        plan.check_dimension(parameters(model))
        graph = structure, plan.clients_per_round
    key = fingerprint, type(algorithm), algorithm, graph
    if key not in _kept:
        process = compose(model, algorithm, privacy, scaled=scaled)
        _kept[key] = process, parameters(model)
    _kept.move_to_end(key)
    process, _ = _kept[key]
    while len(_kept) > _MOST or sum(count for _, count in _kept.values()) > _MOST_PARAMETERS:
        _kept.popitem(last=False)
    return process, with_noise
