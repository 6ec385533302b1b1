"""A cache of learning processes for runs with equal graphs, such as runs that differ only in the seed.

In a small run, composing a process, compiling its computations and tracing their graphs takes
longer than the rounds. The memory of this cannot be freed entirely, either: TensorFlow keeps
compiled code of XLA, and parts of traced graphs, until Python exits.
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

_MOST = 4  # largest number of processes in the cache
_MOST_WEIGHTS = 1 << 26  # largest number of weights in all their models, which processes hold
_kept: collections.OrderedDict[Any, tuple[Any, int]] = collections.OrderedDict()
_lock = threading.Lock()


class _ForeignError(Exception):
    """A process depends on an object that cannot be compared by value."""


def process_for(
    model: BoundModel,
    *,
    algorithm: Algorithm,
    privacy: PrivacyPlan | NoPrivacy,
    adjustable: bool = False,
) -> tuple[Any, Callable[[Any], Any]]:
    """Returns a process as `build_process` composes it, from the cache if possible.

    The key of the cache consists of the graph of the model's training step, the names and types of
    the data, the algorithm and the plan. If the noise multiplier of the plan can be part of the
    state (see `scale_structure`), it is not part of the key.

    Args:
      model: As for `build_process`.
      algorithm: As for `build_process`.
      privacy: As for `build_process`.
      adjustable: Whether the learning rate of the clients is in the state, as for `compose`.

    Returns:
      The process, and a function that sets the plan's noise multiplier in a state. The initial
      state of the process may have the weights and the noise multiplier of an earlier run: the
      guarantee of the plan holds only for states to which the function has been applied.

    Raises:
      ArgumentError: As for `build_process`.
      ModelError: As for `build_process`.
    """
    plan = privacy if isinstance(privacy, PrivacyPlan) else None
    structure = None
    # The state of a user's algorithm may have another structure, in which the noise cannot be set.
    if plan is not None and plan.unit is Unit.CLIENT and not plan.metrics and is_own(algorithm):
        structure = scale_structure(plan.update_mechanism)
    scaled = structure is not None

    def with_noise(state: Any) -> Any:
        if plan is None or not scaled:
            return state
        aggregator = with_scale(state.aggregator, plan.update_mechanism)
        return state._replace(aggregator=aggregator)

    def build() -> Any:
        return compose(model, algorithm, privacy, scaled=scaled, adjustable=adjustable)

    with _lock:
        key = _key(model, algorithm, privacy, structure, adjustable)
        if key is None:
            return build(), with_noise
        if plan is not None:
            plan.check_dimension(parameters(model))
        if key not in _kept:
            process = build()
            weights = sum(int(np.size(w)) for part in model.initial_weights for w in part)
            _kept[key] = process, weights
        _kept.move_to_end(key)
        process, _ = _kept[key]
        while len(_kept) > _MOST or sum(count for _, count in _kept.values()) > _MOST_WEIGHTS:
            _kept.popitem(last=False)
        return process, with_noise


def _key(
    model: BoundModel,
    algorithm: Algorithm,
    privacy: PrivacyPlan | NoPrivacy,
    structure: Any,
    adjustable: bool = False,
) -> Any:
    """Returns the key of a process in the cache; None if the process must not be cached."""
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
        digests.append(
            model.fingerprint(examples=1)
        )  # clients compute gradients of single examples
    if None in digests:
        return None
    return (*digests, repr(model.input_spec), adjustable, *parts)


def is_own(value: Any) -> bool:
    """Checks whether the class of a value is part of tff_dp, so that its fields determine its behavior.

    Args:
      value: Any object.

    Returns:
      True if the class is defined in tff_dp, False otherwise.
    """
    return type(value).__module__.startswith("tff_dp.")


def _value(value: Any) -> Any:
    """Returns a key of a value by type and content, since 1 and 1.0 may lead to different graphs.

    Raises:
      _ForeignError: It is, or contains, an object of a user's class, which may depend on more than
        its fields.
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
