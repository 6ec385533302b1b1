"""Runs several successive rounds, in one graph call where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tff_dp import _compat
from tff_dp._arrays import arrays_of
from tff_dp.errors import ArgumentError
from tff_dp.execution import compilation, lock, values

tff = _compat.tff.load()


def iterate(computation: Any, state: Any, cohorts: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Runs successive rounds, as one graph call where that is possible.

    A small round's work takes less time than calling it from Python does. Rounds that are one graph
    call pay for a single call. This is possible under `fast`, if every cohort comes from the same
    `Clients` (`Clients.cohort`) and is one group of clients whose last batches have one size.
    Otherwise the rounds run one at a time.

    Args:
      computation: From (state, the cohort's data) to a structure whose first element is the next
        state, such as `next` of a process.
      state: The state before the first round.
      cohorts: The data of each round's clients.

    Returns:
      The state after the last round, and a list of what each round returned beside its state: the
      second element of the result if there are two, otherwise a tuple of the others.

    Raises:
      ArgumentError: The computation does not return a structure, which begins with the next state.
      ComputationError: A client's computation fails; no state is returned then.
    """
    result = computation.type_signature.result
    if not isinstance(result, tff.StructType) or not len(result):
        raise ArgumentError(
            f"computation returns {str(result)[:100]}: expected a structure whose first element is the "
            "next state. Pass a process's next."
        )
    stack = tff.framework.get_context_stack()
    synchronous = getattr(stack.current, "synchronous", None)
    if synchronous is not None:  # calls would return references
        with stack.install(synchronous):
            return _iterate(computation, state, cohorts, synchronous.settings)
    return _iterate(computation, state, cohorts, getattr(stack.current, "settings", None))


def _iterate(
    computation: Any, state: Any, cohorts: Sequence[Any], settings: Any
) -> tuple[Any, list[Any]]:
    outputs: list[Any] = []
    if settings is not None and all(arrays_of(cohort) is not None for cohort in cohorts):
        with lock.lock:
            runner: Any = compilation.runner_of(computation)
            if hasattr(runner, "iterate"):
                fused: tuple[Any, list[Any]] | None = runner.iterate(state, cohorts, settings)
                if fused is not None:
                    state, outputs = fused
    for cohort in cohorts[len(outputs) :]:
        state, *rest = values.fields_of(computation(state, cohort))
        outputs.append(rest[0] if len(rest) == 1 else tuple(rest))
    return state, outputs
