"""Processes that are kept for runs that differ in no graph: in the seed, say, or in the noise multiplier.

Composing a process, compiling its computations and tracing their graphs takes a small run longer than
its rounds do. None of it can be freed entirely, either: TensorFlow keeps what XLA has compiled, and parts
of what has been traced, until Python ends.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tff_dp.aggregation import scale_structure, with_scale
from tff_dp.algorithms import Algorithm
from tff_dp.model import BoundModel
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.process import compose, parameters

_MOST = 4  # processes
_MOST_WEIGHTS = 1 << 26  # of the models of all of them: a process holds its model
_kept: collections.OrderedDict[Any, tuple[Any, int]] = collections.OrderedDict()
_lock = threading.Lock()


class _ForeignError(Exception):
    """What a process depends on is not all known by values."""


def process_for(
    model: BoundModel, *, algorithm: Algorithm, privacy: PrivacyPlan | NoPrivacy
) -> tuple[Any, Callable[[Any], Any]]:
    """Returns a process as `build_process` composes it, one that is kept if there is one.

    It is known by the graph of the model's training step, the names and types of the data, the algorithm
    and the plan. Under a plan whose noise multiplier can be apart from the graph, that is in the
    process's state.

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
    # An algorithm of somebody else may have a state of its own, in which no noise could be replaced.
    if plan is not None and plan.unit is Unit.CLIENT and not plan.metrics and is_own(algorithm):
        structure = scale_structure(plan.update_mechanism)
    scaled = structure is not None

    def with_noise(state: Any) -> Any:
        if plan is None or not scaled:
            return state
        aggregator = with_scale(state.aggregator, plan.update_mechanism)
        return state._replace(aggregator=aggregator)

    with _lock:
        key = _key(model, algorithm, privacy, structure)
        if key is None:
            return compose(model, algorithm, privacy, scaled=scaled), with_noise
        if plan is not None:
            plan.check_dimension(parameters(model))
        if key not in _kept:
            process = compose(model, algorithm, privacy, scaled=scaled)
            weights = sum(int(np.size(w)) for part in model.initial_weights for w in part)
            _kept[key] = process, weights
        _kept.move_to_end(key)
        process, _ = _kept[key]
        while len(_kept) > _MOST or sum(count for _, count in _kept.values()) > _MOST_WEIGHTS:
            _kept.popitem(last=False)
        return process, with_noise


def _key(
    model: BoundModel, algorithm: Algorithm, privacy: PrivacyPlan | NoPrivacy, structure: Any
) -> Any:
    """Returns what a process is known by; None for one that is not kept."""
    try:
        parts = [_value(algorithm)]
        if isinstance(privacy, PrivacyPlan) and structure is not None:
            parts.append((_value(structure), _value(privacy.clients_per_round)))
        else:
            parts.append(_value(privacy))
    except _ForeignError:
        return None
    digests = [model.fingerprint()]
    if isinstance(privacy, PrivacyPlan) and privacy.unit is Unit.RECORD:
        digests.append(model.fingerprint(examples=1))  # clients take the gradients one by one
    if None in digests:
        return None
    return (*digests, repr(model.input_spec), *parts)


def is_own(value: Any) -> bool:
    """Tells whether a value's class is one of tff_dp's own, so that its fields are all it consists of.

    Args:
      value: Any object.

    Returns:
      Whether it is.
    """
    return type(value).__module__.startswith("tff_dp.")


def _value(value: Any) -> Any:
    """Returns a value by type and content: 1 and 1.0 may make other graphs.

    Raises:
      _ForeignError: It is, or holds, an object of somebody's own class, whose content says nothing.
    """
    kind = type(value)
    if dataclasses.is_dataclass(value) and is_own(value):
        fields = [
            (field.name, _value(getattr(value, field.name))) for field in dataclasses.fields(value)
        ]
        return (kind, *fields)
    if isinstance(value, tuple):
        return (kind, *map(_value, value))
    if value is None or isinstance(value, enum.Enum) or kind in (bool, int, float, str):
        return kind, repr(value)
    if isinstance(value, np.generic):
        return kind, value.tobytes()
    raise _ForeignError
