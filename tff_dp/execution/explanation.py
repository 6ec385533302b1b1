"""Describes how computations run, and why."""

from __future__ import annotations

import textwrap
from typing import Any

from tff_dp import _compat
from tff_dp.errors import ArgumentError
from tff_dp.execution import compilation, lock, marked_noise
from tff_dp.execution.settings import Settings

tff = _compat.tff.load()

_PARTS = ("initialize", "next", "get_model_weights", "set_model_weights")


def explain(computation_or_process: Any) -> str:
    """Describes how a computation runs in the context in effect, and why.

    Args:
      computation_or_process: A `tff.Computation`, or a process with `initialize` and `next`.

    Returns:
      A few lines of text per computation. Outside of `fast` and `install`, they say how the
      computation would run with the default arguments of `fast`.

    Raises:
      ArgumentError: The argument is neither.
      StackError: TFF cannot be imported.
    """
    given = computation_or_process
    if isinstance(given, tff.Computation):
        named = [("computation", given)]
    else:
        named = [(name, getattr(given, name, None)) for name in _PARTS]
        named = [(name, c) for name, c in named if isinstance(c, tff.Computation)]
    if not named:
        raise ArgumentError(
            f"computation_or_process={type(given).__name__}: expected a tff.Computation or a process "
            "with initialize and next. Pass process, or process.next."
        )
    current = tff.framework.get_context_stack().current
    settings = getattr(current, "settings", None) or Settings()
    with lock.lock:
        accounts = [(name, _account(c, settings)) for name, c in named]
    return "\n".join(f"{name}: {textwrap.indent(a, '  ').strip()}" for name, a in accounts)


def _account(computation: Any, settings: Any) -> str:
    found = compilation.runner_of(computation)
    if isinstance(found, compilation.NoForm):
        if marked_noise.is_marked(computation):
            return f"not at all. {compilation.refused_on_stock(found)}"
        return (
            f"on stock TFF, because {found.reason}\n"
            "randomness: not keyed; TensorFlow seeds each operation itself, with 32 bits, and TFF some "
            "by the clock"
        )
    return str(found.account(settings))
