"""Federated programs: computations that are called in coroutines and return references to values.

`tff.program` and `tff.learning.programs` require a `tff.program.FederatedContext`. TFF's own one,
`NativeFederatedContext`, wraps an asynchronous execution context. The one here wraps the context of
`fast`, whose calls run one after another in a thread of their own, so that the event loop continues
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tff_dp import _checks, _compat
from tff_dp._compat.tff import internals
from tff_dp.cluster import Cluster
from tff_dp.errors import ComputationError
from tff_dp.execution import marked_noise
from tff_dp.execution.context import FastContext, make_context

tff = _compat.tff.load()

_LEFT = (
    "The block of execution.federated_context() was left before this computation was run. Await its "
    "values within the block: values = await tff.program.materialize_value(...)."
)
_NO_LOOP = (
    "In the context of execution.federated_context(), computations are called in coroutines, and no "
    "event loop is running. Call this one in the coroutine that asyncio.run is given, or call it under "
    "execution.fast(), where calls return values."
)


@contextlib.contextmanager
def federated_context(
    strategy: str = "auto",
    device: str = "auto",
    *,
    xla: bool | None = None,
    strict: bool = False,
    seed: int | None = None,
    random_bits: str = "auto",
    workers: int | None = None,
    cluster: str | Cluster | None = None,
    install: bool = True,
) -> Iterator[Any]:
    """Runs the federated programs of a `with` block in this process.

    Programs are coroutines, such as `tff.learning.programs.train_model` and what is written with
    `tff.program`. They refuse to run under `fast()`, `install()` and `stock()`, whose calls return
    values. Here a call returns references at once, and their values are awaited
    (`tff.program.materialize_value`), as with TFF's `tff.program.NativeFederatedContext`. What a
    computation returns, how it draws random numbers and what is refused are as with `fast`.

    Calls run one after another in one thread, in the order in which their arguments are ready,
    while the event loop continues. If a call fails, the error is raised where its values are
    awaited. If the coroutine of a call is canceled, the call does not run; if it is running
    already, it runs to its end and its result is dropped. Leaving the block waits for the call that
    is running and drops those that have not started.

    `fit`, `iterate` and other functions of tff_dp that return values may be called in the block.
    They run in the calling thread and block the event loop, as any long function does.
    `train_model` charges no ledger and knows no privacy plan: if it trains a private process, the
    caller has to do the accounting.

    Args:
      strategy: See `fast`.
      device: See `fast`.
      xla: See `fast`.
      strict: See `fast`.
      seed: See `fast`. Calls take their keys in the order in which they run.
      random_bits: See `fast`.
      workers: See `fast`.
      cluster: See `fast`.
      install: Whether the context that is yielded is in effect in the block, for the thread that
        enters it. Otherwise it takes effect where the caller installs it
        (`tff.framework.set_default_context`).

    Yields:
      The context, a `tff.program.NativeFederatedContext`.

    Raises:
      ArgumentError: An argument is outside its bound.
      ClusterError: As with `fast`.
      StackError: As with `fast`.
      ComputationError: As with `fast`, raised where values are awaited; or a computation is called
        outside of coroutines, or was not awaited within the block.
    """
    _checks.optional_flag("xla", xla)
    _checks.flag("strict", strict)
    _checks.flag("install", install)
    with contextlib.ExitStack() as resources:
        context = make_context(
            resources,
            strategy,
            device,
            xla=xla,
            strict=strict,
            seed=seed,
            random_bits=random_bits,
            workers=workers,
            cluster=cluster,
        )
        executor = ThreadPoolExecutor(1, thread_name_prefix="tff_dp-calls")
        # Entered after `resources`, and so closed before them: stock TFF's worker must not end
        # while a call runs on it.
        with contextlib.closing(_Calls(executor)) as calls:
            federated = FastFederatedContext(context, calls)
            if install:
                with tff.framework.get_context_stack().install(federated):
                    yield federated
            else:
                yield federated


class _Calls:
    """Runs functions one after another in a thread, for coroutines that wait for the results."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._closed = False

    def close(self) -> None:
        """Waits for the call that is running, and drops the others."""
        self._closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Runs a function in the thread; returns what it returns, or raises what it raises."""
        if self._is_closed():
            raise ComputationError(_LEFT)
        future = self._executor.submit(function, *arguments)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            wanted = task is None or not task.cancelling()
            if wanted and self._is_closed() and future.cancelled():
                raise ComputationError(_LEFT) from None
            raise

    def _is_closed(self) -> bool:
        return self._closed


class _AsyncFastContext(tff.framework.AsyncContext):  # type: ignore[misc, name-defined]
    """The asynchronous version of `fast`'s context."""

    def __init__(self, context: FastContext, calls: _Calls) -> None:
        self._synchronous = context
        self._calls = calls

    async def invoke(self, comp: Any, arg: Any) -> Any:
        if asyncio.iscoroutine(arg):
            arg = await arg
        return await self._calls.call(self._synchronous.invoke, comp, arg)


class FastFederatedContext(tff.program.NativeFederatedContext):  # type: ignore[misc, name-defined]
    """The context that `federated_context` yields.

    Args:
      context: The context of `fast` that runs the calls.
      calls: Runs them one after another in a thread.
    """

    def __init__(self, context: FastContext, calls: _Calls) -> None:
        self._awaited = _AsyncFastContext(context, calls)
        super().__init__(self._awaited)
        self._synchronous = context

    @property
    def is_seeded(self) -> bool:
        """Whether random numbers are drawn from a seed."""
        return self._synchronous.is_seeded

    @property
    def settings(self) -> Any:
        """The settings of the context: how it runs computations."""
        return self._synchronous.settings

    @property
    def synchronous(self) -> FastContext:
        """The same context in the form whose calls return values."""
        return self._synchronous

    def noise_bits(self, comp: Any) -> marked_noise.NoiseBits:
        """Tells where a computation's noise gets its random bits.

        Args:
          comp: A `tff.Computation`.

        Returns:
          The source of the bits, or the reason why the computation is refused.
        """
        return self._synchronous.noise_bits(comp)

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Starts a call of a computation, and returns references to the values that it will return.

        Args:
          comp: A `tff.Computation`.
          arg: Its argument, which may hold references; None if it has none.

        Returns:
          References, in the containers of the result's type. Awaiting their values raises what the
          call raises.

        Raises:
          ValueError: The result holds values that are placed at clients.
          ComputationError: No event loop is running.
        """
        result_type = comp.type_signature.result
        if not tff.program.contains_only_server_placed_data(result_type):
            raise ValueError(
                "Expected the result type of `comp` to contain only structures, server-placed "
                f"values, or tensors, found {result_type}."
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ComputationError(_NO_LOOP) from None
        task = asyncio.create_task(self._invoke(comp, arg))
        return tff.types.type_to_py_container(_references(task, result_type), result_type)

    async def _invoke(self, comp: Any, arg: Any) -> Any:
        if comp.type_signature.parameter is not None:
            arg = await _materialized(arg, comp.type_signature.parameter)
        return await self._awaited.invoke(comp, arg)


class _Reference(tff.program.NativeValueReference):  # type: ignore[misc, name-defined]
    """A part of what a task returns.

    TFF makes a task for each part. After a call has failed, asyncio would log a traceback for each
    of these tasks that nobody awaits: about a hundred per round, after the one that matters.
    """

    def __init__(self, task: Any, type_signature: Any, path: tuple[int, ...]) -> None:
        super().__init__(task, type_signature)
        self._whole = task
        self._path = path

    async def get_value(self) -> Any:
        value = await self._whole
        for index in self._path:
            value = tff.structure.from_container(value)[index]
        return value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Reference):
            return NotImplemented
        return self._whole is other._whole and self._path == other._path


def _references(task: Any, kind: Any, path: tuple[int, ...] = ()) -> Any:
    """Returns references to the parts of what a task returns, in a structure."""
    if isinstance(kind, tff.FederatedType):
        return _references(task, kind.member, path)
    if not isinstance(kind, tff.StructType):
        return _Reference(task, kind, path)
    parts = enumerate(tff.structure.to_elements(kind))
    return tff.structure.Struct([(n, _references(task, k, (*path, i))) for i, (n, k) in parts])


async def _materialized(value: Any, value_type: Any) -> Any:
    """Returns an argument with values in place of references; the clients' data are not changed.

    If each client has a structure, TFF would take the list of clients for one structure and
    truncate it to the structure's length.
    """
    if isinstance(value_type, tff.FederatedType) and value_type.placement is tff.CLIENTS:
        return value
    if isinstance(value_type, tff.StructType):  # several arguments, or a single structure
        kinds = tff.structure.to_elements(value_type)
        parts = tff.structure.from_container(value)
        found = [_materialized(part, kind) for part, (_, kind) in zip(parts, kinds, strict=True)]
        names = [name for name, _ in kinds]
        return tff.structure.Struct(zip(names, await asyncio.gather(*found), strict=True))
    return await internals.materialized(value, value_type)
