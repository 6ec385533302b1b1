"""The names of JAX that tff_dp uses, of which some moved between versions.

JAX is used to run exported rounds (`tff_dp.exported`) and for nothing else. This module imports it
inside of its functions, so that whoever runs no exported round needs no JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tff_dp.errors import StackError

OLDEST = (0, 10)
"""The oldest version of JAX that reads the StableHLO that TensorFlow 2.21 writes."""


def load() -> Any:
    """Imports JAX.

    Returns:
      The module `jax`.

    Raises:
      StackError: JAX is missing or older than `OLDEST`.
    """
    oldest = ".".join(map(str, OLDEST))
    remedy = f"pip install 'jax>={oldest}' in an environment without TensorFlow Federated."
    try:
        import jax
        import jax.export
    except ImportError as error:
        raise StackError(f"An exported round is run by JAX, which is missing: {remedy}") from error
    if jax.__version_info__[:2] < OLDEST:
        raise StackError(
            f"JAX {jax.__version__} does not read exported rounds: expected >= {oldest}. Run: {remedy}"
        )
    return jax


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled module.

    Attributes:
      call: From the inputs to a list of the outputs, arrays of JAX on its default device. 64-bit integers
        stay 64-bit integers, whatever `jax_enable_x64` says.
      memory_bytes: What the inputs, the outputs and everything in between take on the device; None if JAX
        does not tell.
    """

    call: Callable[..., Any]
    memory_bytes: int | None


def compiled(
    module: bytes,
    inputs: Sequence[tuple[tuple[int, ...], str]],
    outputs: Sequence[tuple[tuple[int, ...], str]],
) -> Compiled:
    """Compiles a StableHLO module for JAX's default device.

    JAX has no public function that loads a module that JAX has not written. Its `Exported` is a
    plain dataclass, however: a function of the same inputs and outputs is exported, and its module
    exchanged.

    Args:
      module: The module, a portable artifact of StableHLO with one function of static shapes.
      inputs: The shape and the data type of each input.
      outputs: The shape and the data type of each output.

    Returns:
      The compiled module.

    Raises:
      StackError: JAX is missing or too old.
    """
    jax = load()

    def alike(*_: Any) -> list[Any]:
        return [jax.numpy.zeros(shape, dtype) for shape, dtype in outputs]

    with _x64(jax):
        given = [jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for shape, dtype in inputs]
        exported = jax.export.export(jax.jit(alike))(*given)
        exchanged = dataclasses.replace(
            exported,
            mlir_module_serialized=module,
            module_kept_var_idx=tuple(range(len(inputs))),
        )
        # Compiled here, and once: a call would compile again for numpy's arrays, JAX's, and each
        # device that these have been placed on.
        executable = jax.jit(exchanged.call).lower(*given).compile()

    def call(*arrays: Any) -> Any:
        with _x64(jax):
            return executable(*arrays)

    return Compiled(call, _memory_bytes(executable))


def _memory_bytes(executable: Any) -> int | None:
    sizes = executable.memory_analysis()
    if sizes is None:
        return None
    parts = ("argument", "output", "temp", "generated_code")
    total = sum(int(getattr(sizes, f"{part}_size_in_bytes")) for part in parts)
    return total - int(sizes.alias_size_in_bytes)


def _x64(jax: Any) -> Any:
    """Returns a context in which JAX keeps 64-bit numbers, for this thread alone."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()
