"""Finds the runner of a TFF computation in this process, or the reason why there is none."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.errors import ArgumentError
from tff_dp.execution import arguments, marked_noise, unplaced, unplaced_runner, values
from tff_dp.execution.round import account, fused, runner

tff = _compat.tff.load()

# From the id of a computation to a weak reference to it and to its runner, or its `NoForm`. This is
# not a weak dictionary because TFF hashes a computation by serializing it, which takes longer than
# running a small one.
_runners: dict[int, tuple[weakref.ref[Any], Any]] = {}


@dataclasses.dataclass(eq=False)
class NoForm:
    """The reason why a computation does not run in this process.

    Attributes:
      reason: The reason, in words.
      warned: Whether the user has been warned that it runs on stock TFF.
    """

    reason: str
    warned: bool = False


def refused_on_stock(found: NoForm) -> str:
    """Words the refusal of a computation with a plan's noise that only stock TFF could run.

    Args:
      found: Why the computation does not run in this process.

    Returns:
      The message.
    """
    return marked_noise.refusal(
        "the computation has no form that runs in this process, and stock TFF has TensorFlow seed random "
        f"operations, with 32 bits or by the clock; the obstacle is: {found.reason}",
        "Change the computation so that this obstacle is gone.",
    )


def noise_bits(comp: Any, settings: Any) -> marked_noise.NoiseBits:
    """Tells where a computation's noise gets its random bits.

    Args:
      comp: A `tff.Computation`.
      settings: The settings of the context.

    Returns:
      The source of the bits. A computation with a plan's noise that only stock TFF could run has an
      obstacle.
    """
    found = runner_of(comp)
    if not isinstance(found, NoForm):
        told: marked_noise.NoiseBits = found.noise_bits(settings)
        return told
    if not marked_noise.is_marked(comp):
        return marked_noise.NoiseBits(marked_noise.NONE, marked=False)
    return marked_noise.NoiseBits(marked_noise.NONE, marked=True, obstacle=refused_on_stock(found))


def runner_of(comp: Any) -> Any:
    """Returns the runner of a computation, which is made at the first call and kept with it.

    Args:
      comp: A `tff.Computation`.

    Returns:
      A function of (argument, settings) that runs the computation; a `NoForm` if it cannot run in
      this process.
    """
    key = id(comp)
    held = _runners.get(key)
    if held is None or held[0]() is not comp:
        found = _compile(comp)
        held = weakref.ref(comp, lambda _: _runners.pop(key, None)), found
        _runners[key] = held
    return held[1]


@tf_compat.one_stack_trace()
def _compile(comp: Any) -> Any:
    parameter, result = comp.type_signature.parameter, comp.type_signature.result
    try:
        if tff.types.contains(result, lambda part: isinstance(part, tff.SequenceType)):
            return NoForm("it returns a sequence")
        if not unplaced.has_placements(comp.type_signature):
            graph = comp if unplaced.is_graph(comp) else unplaced.as_graph(comp)
            return unplaced_runner.LocalRunner(graph, comp.type_signature)
        if parameter is None and isinstance(result, tff.FederatedType):
            initialize = tff.backends.mapreduce.get_state_initialization_computation(comp)
            return unplaced_runner.LocalRunner(initialize, comp.type_signature)
        if not unplaced.has_clients(comp):
            return unplaced_runner.LocalRunner(unplaced.as_graph(comp), comp.type_signature)
        return _Round(comp)
    except Exception as error:  # TFF's compiler raises many kinds
        return NoForm(f"{type(error).__name__}: {str(error)[:200]}")


class _Round:
    """A computation over clients, in the form (server state, clients' data) -> (state, output)."""

    def __init__(self, comp: Any) -> None:
        parameter = comp.type_signature.parameter
        self._names, types, server, clients = _placements(parameter)
        self._whole = arguments.Argument("the argument", parameter)
        named = [
            arguments.Argument(name, part)
            for name, part in zip(_told(self._names), types, strict=True)
        ]
        self._server = {i: named[i] for i in server}
        self._clients = {i: named[i] for i in clients}
        try:
            form = _form_of(comp)
            skip, self._wrapped = 0, False
        except Exception:  # it is not in that form, but a wrapper around it may be
            if not self._clients:
                raise
            wrapped = _wrapper(comp, types, server, clients)
            form = _form_of(wrapped)
            self._wrapped = True
            skip = values.count_tensors(form.prepare.type_signature.parameter)
        self._runner = runner.RoundRunner(form, comp.type_signature.result, skip)

    @property
    def runner(self) -> Any:
        """The `RoundRunner` of the computation."""
        return self._runner

    def account(self, settings: Any) -> str:
        """Describes how the computation runs."""
        return account.account_of(self._runner, settings)

    def noise_bits(self, settings: Any) -> marked_noise.NoiseBits:
        """Returns where the noise of the computation gets its random bits."""
        found: marked_noise.NoiseBits = self._runner.noise_bits(settings)
        return found

    def iterate(self, state: Any, cohorts: Sequence[Any], settings: Any) -> Any:
        """Runs successive rounds, with as many of them in a graph call as is possible.

        Returns the state after the last round and the other results of each. If only the first
        rounds could be fused, these are the state and the results after those. None if none could
        be.
        """
        if self._wrapped or list(self._server) != [0] or list(self._clients) != [1]:
            return None
        flat = self._server[0].flat(state)
        for cohort in cohorts:
            self._clients[1].clients(cohort)
        marked_noise.refuse(self.noise_bits(settings))
        at_once = fused.most_at_once(self._runner, settings, len(cohorts))
        if at_once < 2:
            return None
        outputs: list[Any] = []
        for first in range(0, len(cohorts), at_once):
            some = cohorts[first : first + at_once]
            done = fused.iterate(self._runner, flat, some, settings)
            if done is None and not outputs:
                return None
            if done is None:  # the remaining rounds cannot be one graph
                return state, outputs
            state, more = done
            outputs += more
            flat = self._server[0].flat(state)
        return state, outputs

    def __call__(self, arg: Any, settings: Any) -> Any:
        parts = [arg] if self._names is None else self._whole.parts(arg)
        state = [leaf for i, argument in self._server.items() for leaf in argument.flat(parts[i])]
        if self._wrapped and not self._server:
            state = [0]  # the wrapper's state, which is not used
        data = [argument.clients(parts[i]) for i, argument in self._clients.items()]
        return self._runner(state, data[0] if len(data) == 1 else self._zipped(data), settings)

    def _zipped(self, data: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        counts = [len(part) for part in data]
        if len(set(counts)) > 1:
            names = _told(self._names)
            told = ", ".join(
                f"{names[i]} has {count}" for i, count in zip(self._clients, counts, strict=True)
            )
            raise ArgumentError(
                f"The arguments differ in their clients: {told}. Pass as many entries in each."
            )
        return list(zip(*data, strict=True))


def _told(names: Sequence[str | None] | None) -> list[str]:
    """Returns the names of arguments in messages; `names` is None for a single argument."""
    if names is None:
        return ["the argument"]
    return [name or f"argument {i}" for i, name in enumerate(names)]


def _form_of(comp: Any) -> Any:
    """Returns a computation's MapReduce form, with its graphs as they were traced.

    TFF would have TensorFlow optimize each graph, which takes most of the time and rewrites loops
    and branches in the style of TensorFlow 1. Graphs are optimized anyway where they run.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return tff.backends.mapreduce.get_map_reduce_form_for_computation(comp, grappler_config=config)


def _placements(
    parameter: Any,
) -> tuple[list[str | None] | None, list[Any], list[int], list[int]]:
    """Returns the arguments' names (None for a single one), their types, and where they are placed.

    The last two lists hold the positions of the server's and of the clients' arguments.
    """
    single = isinstance(parameter, tff.FederatedType)
    named = [(None, parameter)] if single else list(tff.structure.to_elements(parameter))
    types = [part for _, part in named]
    if not all(isinstance(part, tff.FederatedType) for part in types):
        raise NotImplementedError("it has an argument without one placement")
    server = [i for i, part in enumerate(types) if part.placement is tff.SERVER]
    clients = [i for i in range(len(types)) if i not in server]
    return None if single else [name for name, _ in named], types, server, clients


def _wrapper(comp: Any, types: list[Any], server: list[int], clients: list[int]) -> Any:
    """Returns a computation that has a MapReduce form: it also returns the server's arguments."""
    state_type = tff.FederatedType(
        tff.StructType([types[i].member for i in server]) if server else np.int32, tff.SERVER
    )
    members = [types[i].member for i in clients]
    data_type = tff.FederatedType(
        members[0] if len(members) == 1 else tff.StructType(members), tff.CLIENTS
    )

    @tff.federated_computation(state_type, data_type)
    def wrapped(state: Any, data: Any) -> Any:
        given: list[Any] = [None] * len(types)
        for place, i in enumerate(server):
            given[i] = state[place]
        for place, i in enumerate(clients):
            given[i] = data if len(clients) == 1 else data[place]
        result = comp(*given)
        if not isinstance(comp.type_signature.result, tff.FederatedType):
            result = tff.federated_zip(result)
        return state, result

    return wrapped
