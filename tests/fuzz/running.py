"""Programs on stock TFF and in the fast context."""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tff_dp import _compat, execution
from tff_dp.errors import ComputationError

# Each way in which `execution.fast` runs a cohort: a name, and the arguments.
SETTINGS: dict[str, dict[str, Any]] = {
    "call": {"strategy": "call"},
    "scan": {"strategy": "scan", "xla": False},
    "scan-xla": {"strategy": "scan", "xla": True},
    "vmap": {"strategy": "vmap", "xla": False},
    "vmap-xla": {"strategy": "vmap", "xla": True},
    "auto": {"strategy": "auto"},
}


@dataclasses.dataclass
class Outcome:
    """What a program came to.

    Attributes:
      value: Its results, unless there is an error.
      error: What it raised, in words, or None.
      refused: Whether it has no form that runs in this process (`strict=True` refuses it by name).
      how: What `explain` says of the computation, if anything.
    """

    value: Any = None
    error: str | None = None
    refused: bool = False
    how: str = ""


class ProgramError(Exception):
    """A program cannot be built, on whatever context."""


class Program:
    """A program from its source.

    Args:
      source: It defines `INPUTS`, a structure of numpy arrays; `run(inputs, feed)`, which returns results
        and runs computations in the context in effect; `FEEDS`, ways to give the data, of which the first
        is that of stock TFF; and `COMPUTATION`, the computation or process that it is about.

    Raises:
      ProgramError: It cannot be built.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        name = f"<case {hash(source):x}>"
        # TensorFlow looks up the lines of functions that it traces.
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        self._names: dict[str, Any] = {"__name__": "case"}
        try:
            with quiet():
                exec(compile(source, name, "exec"), self._names)
        except Exception as error:
            raise ProgramError(f"{type(error).__name__}: {error}") from error

    @property
    def inputs(self) -> Any:
        """Its inputs."""
        return self._names["INPUTS"]

    @property
    def feeds(self) -> tuple[str, ...]:
        """Ways to give the data."""
        return tuple(self._names["FEEDS"])

    def run(self, inputs: Any, feed: str) -> Any:
        """Returns its results in the context in effect."""
        return self._names["run"](inputs, feed)

    def explanation(self) -> str:
        """Returns how it runs in the context in effect."""
        return execution.explain(self._names["COMPUTATION"])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves out warnings: a fuzz makes many on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Stock:
    """Stock TFF, started anew when its worker has ended."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._context: Any = None

    def __call__(self, program: Program, inputs: Any) -> Outcome | None:
        """Returns what a program comes to on stock TFF, or None if that ends the worker."""
        if self._context is None:
            self._context = self._stack.enter_context(
                execution.stock(install=False, unkeyed_noise=True)
            )
        outcome = attempt(self._context, program, inputs, program.feeds[0])
        if outcome.error and any(sign in outcome.error for sign in _GONE):
            self.close()
            return None
        return outcome

    def close(self) -> None:
        """Ends the worker."""
        self._stack.close()
        self._context = None


# What errors say when the worker has ended.
_GONE = (
    "Socket closed",
    "UNAVAILABLE",
    "failed to connect",
    "Connection refused",
    "Connection reset",
)


def attempt(context: Any, program: Program, inputs: Any, feed: str) -> Outcome:
    """Returns what a program comes to in a context."""
    stack = _compat.tff.load().framework.get_context_stack()
    with quiet(), stack.install(context):
        try:
            value = program.run(inputs, feed)
        except ComputationError as error:
            return Outcome(
                error=_told(error), refused="no form that runs in this process" in str(error)
            )
        except Exception as error:
            return Outcome(error=_told(error))
        return Outcome(value=value)


def _told(error: Exception) -> str:
    text = str(error)
    details = re.search(r'details = "(.*?)"\n', text, re.DOTALL)  # what stock TFF's worker says
    return f"{type(error).__name__}: {(details[1] if details else text)[:600]}"


# From a context to the context that is run in its place: tests plant differences so.
Wrapper = Callable[[Any], Any]


def fast(program: Program, setting: str, feed: str, wrapper: Wrapper | None = None) -> Outcome:
    """Returns what a program comes to in the fast context.

    Args:
      program: The program.
      setting: A key of `SETTINGS`.
      feed: One of the program's.
      wrapper: What to do to the context before.
    """
    with execution.fast(**SETTINGS[setting], device="cpu", strict=True) as context:
        outcome = attempt(wrapper(context) if wrapper else context, program, program.inputs, feed)
        try:
            with quiet():
                outcome.how = program.explanation()
        except Exception as error:
            outcome.how = f"explain failed: {_told(error)}"
    return outcome
