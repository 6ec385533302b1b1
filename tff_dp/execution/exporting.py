"""Writes a whole round as one StableHLO module, which JAX runs without TensorFlow or TFF."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _compat, exported
from tff_dp.errors import ArgumentError, ComputationError
from tff_dp.execution import compilation, context, lock, values
from tff_dp.execution.cohort.tables import Batching, Form
from tff_dp.execution.graph import traced
from tff_dp.execution.round import client_loop, noise_source, strategies, whole_round
from tff_dp.execution.round.programs import RoundPrograms
from tff_dp.execution.settings import Settings

tff = _compat.tff.load()

_PACKAGES = ("tff_dp", "tensorflow", "tensorflow-federated")
# The bits of an exported round's noise are drawn in the graph, from the round's key.
_SETTINGS = {"random_bits": "philox"}


def export(
    process: Any, cohort: exported.CohortShape, path: str | os.PathLike[str], state: Any = None
) -> None:
    """Writes a whole round of a process to a file: clients, aggregation, noise and server step.

    The file holds a StableHLO module of fixed shapes and a manifest, and no pickle. JAX runs it on
    a CPU, a GPU or a TPU, through `load_exported`; see `tff_dp.exported`. What is computed is the
    graph that `fast` runs, with the same numbers from equal keys, up to roundoff.

    No ledger goes with the file. Whoever runs it has to sample the cohorts as the plan says, and to
    charge the rounds; docs/exported.md shows how.

    Args:
      process: A learning process of TFF or of tff_dp: `next` takes (state, the clients' data sets)
        and returns a structure whose first element is the next state.
      cohort: The shape of the cohorts.
      path: The file. An older one is replaced.
      state: The state before the first round; None for that of `process.initialize()`.

    Raises:
      ArgumentError: The process has no such `next`, or its examples have no fixed shape.
      ComputationError: The round cannot be one module: an operation in it cannot be compiled by XLA
        or vectorized, or a string in the state changes; the message names it.
      OSError: The file cannot be written.
    """
    computation = getattr(process, "next", None)
    if not isinstance(computation, tff.Computation):
        raise ArgumentError(
            f"process={type(process).__name__} has no next: expected a learning process. Pass what "
            "build_process or tff.learning.algorithms returns."
        )
    if state is None:
        with context.current_or_fast():
            state = process.initialize()
    with lock.lock:
        whole = _Round(computation, cohort)
        with tf.device("/CPU:0"):
            module, manifest, numbers = whole.written(state)
    exported.write(path, manifest, module, numbers)


def restored_state(process: Any, manifest: exported.Manifest, state: Mapping[str, Any]) -> Any:
    """Returns a state of an exported round as the state of its process.

    Args:
      process: The process that was exported.
      manifest: What the exported round is.
      state: The state, by name, as `ExportedRound.step` returns it.

    Returns:
      The state, in the containers of its type, for `process.next` and `process.get_model_weights`.

    Raises:
      ArgumentError: The process is another one.
    """
    kind = process.next.type_signature.parameter[0].member
    given: dict[str, Any] = {name: np.asarray(value) for name, value in state.items()}
    given.update({name: text.encode() for name, text in manifest.texts.items()})
    if set(_paths(kind)) != set(given):
        raise ArgumentError(
            "state is not one of this process: expected the tensors "
            f"{', '.join(_paths(kind))}. Pass the process that was exported."
        )
    return values.Layout(kind).value([given[name] for name in _paths(kind)])


class _Round:
    """A round that is to be exported.

    Args:
      computation: From (state, the clients' data sets) to (next state, ...).
      cohort: The shape of the cohorts.

    Raises:
      ArgumentError: The computation has another form.
      ComputationError: It is known that the round cannot be one module.
    """

    def __init__(self, computation: Any, cohort: exported.CohortShape) -> None:
        parameter, result = computation.type_signature.parameter, computation.type_signature.result
        found = compilation.runner_of(computation)
        if isinstance(found, compilation.NoForm):
            raise ComputationError(f"The round cannot be exported, because {found.reason}.")
        if not _is_round(parameter, result):
            raise ArgumentError(
                f"process.next has the type {str(computation.type_signature)[:200]}: expected (state, "
                "a data set for each client) -> (next state, ...). Pass a learning process."
            )
        self._parts: RoundPrograms = found.runner.parts
        self._cohort = cohort
        self._state_type = parameter[0].member
        self._element_type = parameter[1].member.element
        self._result = _paths(result)
        self._shape = _shape_of(cohort)
        self._check()

    def _check(self) -> None:
        parts, by_side = self._parts, self._cohort.side_by_side > 1
        obstacle = (
            parts.obstacle
            or strategies.xla_obstacle(parts)
            or (by_side and parts.vmap_obstacle)
            or parts.server_xla_obstacle
        )
        if obstacle:
            raise ComputationError(f"The round cannot be exported: {obstacle}.")
        noise = noise_source.of_round(parts, Settings(**_SETTINGS))  # type: ignore[arg-type]
        if noise.obstacle:
            raise ComputationError(noise.obstacle)

    def written(self, state: Any) -> tuple[bytes, exported.Manifest, dict[str, np.ndarray]]:
        """Returns the module, its manifest, and the numbers of a state by name."""
        names = _paths(self._state_type)
        prepared = self._parts.programs["prepare"].tensors(
            values.Layout(self._state_type).flatten(state)
        )
        numbers = {n: t for n, t in zip(names, prepared, strict=True) if t.dtype != tf.string}
        manifest = exported.Manifest(
            cohort=self._cohort,
            state=tuple(_tensor(name, t.shape, t.dtype) for name, t in numbers.items()),
            data=self._data(),
            metrics=self._metrics(len(names)),
            texts=self._texts(names, prepared),
            left_out=tuple(name for name, dtype in self._results(len(names)) if dtype == tf.string),
            checks=(),
            made_by={name: importlib.metadata.version(name) for name in _PACKAGES},
        )
        module = self._module(manifest)
        # The messages are complete once the graph is written.
        complete = exported.Manifest(**{**vars(manifest), "checks": tuple(self._parts.checks)})
        return module, complete, {name: tensor.numpy() for name, tensor in numbers.items()}

    def _data(self) -> tuple[exported.Tensor, ...]:
        found = []
        for name, leaf in zip(
            _paths(self._element_type), values.leaves(self._element_type), strict=True
        ):
            shape, dtype = tf.TensorShape(leaf.shape), tf.as_dtype(leaf.dtype)
            if not shape.rank or shape[0] is not None or not shape[1:].is_fully_defined():
                raise ArgumentError(
                    f"The examples of a client have the field {name or 'of all'} {shape}: expected "
                    "batches [None, ...] of a fixed shape otherwise."
                )
            found.append(_tensor(name, shape[1:], dtype))
        return tuple(found)

    def _results(self, after: int) -> list[tuple[str, tf.DType]]:
        """Returns the names and data types of the results after the state."""
        return list(zip(self._result, self._parts.result_dtypes, strict=True))[after:]

    def _metrics(self, after: int) -> tuple[exported.Tensor, ...]:
        return tuple(
            _tensor(name, shape, dtype)
            for (name, dtype), shape in zip(
                self._results(after), self._parts.result_shapes[after:], strict=True
            )
            if dtype != tf.string
        )

    def _texts(self, names: Sequence[str], state: Sequence[tf.Tensor]) -> dict[str, str]:
        """Returns the strings of a state, by name, after checking that no round changes them."""
        before = {n: t for n, t in zip(names, state, strict=True) if t.dtype == tf.string}
        if not before:
            return {}

        @tf.function(autograph=False)
        def after(root: tf.Tensor) -> list[tf.Tensor]:
            found = whole_round.texts(self._parts, state, root)[: len(names)]
            return [text for text in found if text is not None]

        for (name, text), later in zip(
            before.items(), after(tf.zeros([2], tf.uint64)), strict=True
        ):
            if text.numpy() != later.numpy():
                raise ComputationError(
                    f"The round cannot be exported: the string {name} in the state changes from "
                    f"{text.numpy()!r} to {later.numpy()!r}, and XLA has no strings."
                )
        return {name: text.numpy().decode() for name, text in before.items()}

    def _module(self, manifest: exported.Manifest) -> bytes:
        """Writes the round as a StableHLO module, with the inputs and outputs of a manifest."""
        count, parts, shape = len(manifest.state), self._parts, self._shape

        def run(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            given, tensors = traced.split(flat, [count])
            results, status = whole_round.numbers_of(parts, shape, tensors, given, root, None)
            return [*status, *results]

        inputs = [tf.zeros(size, dtype) for size, dtype in manifest.inputs()]
        try:
            lowered = client_loop.jitted(run).experimental_get_compiler_ir(*inputs)  # type: ignore[attr-defined]
            module: bytes = lowered(stage="stablehlo_serialized")
            text: str = lowered(stage="stablehlo")
        except Exception as error:  # TensorFlow raises many kinds
            raise ComputationError(f"The round cannot be exported: {error}") from error
        found = _signature(text)
        if found != (len(inputs), len(manifest.outputs())):
            raise ComputationError(
                f"The round cannot be exported: XLA took {len(inputs)} inputs and "
                f"{len(manifest.outputs())} outputs for {found[0]} and {found[1]}. An input whose value "
                "decides on a shape is a constant to XLA, and a module would keep it."
            )
        return module


def _shape_of(cohort: exported.CohortShape) -> client_loop.Shape:
    full, remainder = divmod(cohort.examples, cohort.batch_size)
    width = cohort.side_by_side if cohort.side_by_side > 1 else 0
    return client_loop.Shape(
        Form("regular"),
        Batching(cohort.batch_size, remainder, full, cohort.epochs),
        width,
        xla=True,
        masked=bool(width),
    )


def _is_round(parameter: Any, result: Any) -> bool:
    """Tells whether a type is (state, a data set for each client) -> (next state, ...)."""
    return bool(
        isinstance(parameter, tff.StructType)
        and len(parameter) == 2
        and isinstance(parameter[0], tff.FederatedType)
        and parameter[0].placement is tff.SERVER
        and isinstance(parameter[1], tff.FederatedType)
        and parameter[1].placement is tff.CLIENTS
        and isinstance(parameter[1].member, tff.SequenceType)
        and isinstance(result, tff.StructType)
        and len(result) > 1
        and result[0] == parameter[0]
    )


def _paths(kind: Any) -> list[str]:
    """Returns the names of the leaves of a type: the names of the structures around each."""
    return [".".join(path) for path in _walk(kind)]


def _walk(kind: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(kind, tff.FederatedType):
        kind = kind.member
    if not isinstance(kind, tff.StructType):
        yield ()
        return
    for place, (name, part) in enumerate(tff.structure.to_elements(kind)):
        for path in _walk(part):
            yield (name or str(place), *path)


def _tensor(name: str, shape: Any, dtype: Any) -> exported.Tensor:
    return exported.Tensor(name, tuple(shape), tf.as_dtype(dtype).name)


def _signature(text: str) -> tuple[int, int]:
    """Returns the numbers of inputs and outputs of the main function of a module, in text form."""
    found = re.search(r"func\.func (?:public )?@main\((.*?)\)(?: -> (.*?))? \{\n", text, re.DOTALL)
    if found is None:
        return 0, 0
    results = found[2] or ""
    return found[1].count("%arg"), results.count("tensor<")
