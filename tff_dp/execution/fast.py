"""TFF computations in this process's TensorFlow, instead of stock TFF's worker process.

A round is split by TFF's own compiler into its MapReduce form: `prepare` (server), `work` (a client),
`zero`, `accumulate`, `report` (the sum over clients) and `update` (server), each one TensorFlow graph.
They are imported once and called: no serialisation, no second process, and the device that TensorFlow
has. Clipping lands in `work`, noise in the server's parts; their meaning is not touched.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from tff_dp import _compat
from tff_dp.errors import ComputationError
from tff_dp.execution.stock import is_managed, stock

# From a computation to the function that runs it here, or None where stock TFF must.
_runners: weakref.WeakKeyDictionary[Any, Callable[[Any], Any] | None] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def fast() -> Iterator[Any]:
    """Runs the TFF computations of a `with` block in this process.

    Computations without placement, `initialize`, and rounds that have a MapReduce form without secure
    sums run here; any other falls back to stock TFF, with one warning a computation that says why.

    Yields:
      The execution context, a `tff.framework.SyncContext`.

    Raises:
      StackError: TFF cannot be imported.
      ComputationError: A client's computation fails; raised by the call, and names the client.
    """
    tff = _compat.load_tff()
    with contextlib.ExitStack() as stack:
        context = _make_context(tff, stack)
        with tff.framework.get_context_stack().install(context):
            yield context


@contextlib.contextmanager
def current_or_fast() -> Iterator[Any]:
    """Keeps the execution context that is installed, or runs the block under `fast()`.

    The context that TFF installs when it is imported counts as none.

    Yields:
      The execution context in effect.
    """
    from tensorflow_federated.python.core.impl.execution_contexts import sync_execution_context

    current = _compat.load_tff().framework.get_context_stack().current
    if is_managed(current) or not isinstance(current, sync_execution_context.SyncExecutionContext):
        yield current
    else:
        with fast() as context:
            yield context


def _make_context(tff: Any, stack: contextlib.ExitStack) -> Any:
    fallback: list[Any] = []

    class FastContext(tff.framework.SyncContext):  # type: ignore[misc]
        """See `fast`."""

        def invoke(self, comp: Any, arg: Any) -> Any:
            if comp not in _runners:
                _runners[comp] = _compile(comp)
            runner = _runners[comp]
            if runner is not None:
                return runner(arg)
            if not fallback:  # the worker starts only if something needs it
                fallback.append(stack.enter_context(stock(install=False)))
            return fallback[0].invoke(comp, arg)

    return FastContext()


def _compile(comp: Any) -> Callable[[Any], Any] | None:
    """Returns the function that runs a computation here; warns and returns None where none can."""
    from tensorflow_federated.python.core.backends import mapreduce
    from tensorflow_federated.python.core.impl.types import type_analysis

    tff = _compat.load_tff()
    parameter, result = comp.type_signature.parameter, comp.type_signature.result
    try:
        if type_analysis.contains(result, lambda part: isinstance(part, tff.SequenceType)):
            raise NotImplementedError("sequences are not returned in this process yet")
        if not type_analysis.contains_federated_types(comp.type_signature):
            return _LocalComputation(comp)
        if parameter is None and isinstance(result, tff.FederatedType):
            initialize = mapreduce.get_state_initialization_computation(comp)
            return _LocalComputation(initialize, comp.type_signature)
        return _Round(mapreduce.get_map_reduce_form_for_computation(comp), comp.type_signature)
    except Exception as error:  # TFF's compiler raises many kinds
        warnings.warn(
            f"A computation runs on stock TFF, because it has no form that runs in this process: "
            f"{type(error).__name__}: {str(error)[:200]}. Its type is {str(comp.type_signature)[:100]}.",
            RuntimeWarning,
            stacklevel=4,
        )
        return None


class _LocalComputation:
    """A computation that is one TensorFlow graph."""

    def __init__(self, comp: Any, type_signature: Any = None) -> None:
        from tff_dp.execution import graphs

        self._graph = graphs.ImportedGraph(comp)
        self._type = type_signature or comp.type_signature

    def __call__(self, arg: Any) -> Any:
        from tff_dp.execution import values

        parameter = self._type.parameter
        arguments = [] if parameter is None else list(values.flatten(arg, parameter))
        tensors = iter(self._graph(arguments))
        return values.in_containers(values.unflatten(tensors, self._type.result), self._type.result)


class _Round:
    """A round in MapReduce form: from (server state, clients' data) to (new state, output)."""

    def __init__(self, form: Any, type_signature: Any) -> None:
        from tff_dp.execution import graphs, values

        _, *secure = form.work.type_signature.result
        if any(values.count_tensors(part) for part in secure):
            raise NotImplementedError("secure sums are not run in this process yet")
        self._type = type_signature
        self._parts = {
            name: graphs.ImportedGraph(getattr(form, name))
            for name in ("prepare", "work", "zero", "accumulate", "report", "update")
        }

    def __call__(self, arg: Any) -> Any:
        from tff_dp.execution import values

        state_type, data_type = self._type.parameter
        state = list(values.flatten(arg[0], state_type))
        prepare, work, zero, accumulate, report, update = self._parts.values()
        common = prepare(state)
        total = zero([])
        clients = list(arg[1])
        for position, client in enumerate(clients):
            data = list(values.flatten(client, data_type.member))
            try:
                total = accumulate([*total, *work([*data, *common])])
            except Exception as error:
                raise ComputationError(
                    f"The computation of client {position} (of {len(clients)} in the cohort, from 0) "
                    f"failed: {error}"
                ) from error
        tensors = iter(update([*state, *report(total)]))
        result = self._type.result
        return values.in_containers(values.unflatten(tensors, result), result)
