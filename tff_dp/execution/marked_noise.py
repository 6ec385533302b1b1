"""The noise of privacy plans: how it is marked, and why it must have keyed random bits to run."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from tff_dp import _checks, _compat
from tff_dp.errors import ComputationError

tff = _compat.tff.load()

# The random operations of a plan's noise are created under a name scope of this name, which TFF
# preserves. A test checks that it equals `tff_dp.noise.words.SCOPE`, which cannot be imported here:
# this package imports nothing of tff_dp above the lowest layer.
NOISE_SCOPE = "tff_dp_noise"

PHILOX = (
    "Philox4x32-10, no cryptographic generator, keyed in each call with 128 bits from the operating "
    "system's entropy"
)
CLOCKS = "; random numbers of 63 bits stand in for each clock by which TFF would seed a draw"
AES_CTR = (
    "AES-256 in counter mode, keyed in each call with 256 bits from the operating system's entropy"
)
SEEDED = "a seed that was given to the execution context: not private"
NONE = "no noise"
_REMEDY = "Noise that others could guess protects nobody, so the computation was not run."
# From a computation's id to a weak reference to it and whether it is marked; see `compilation`.
_marked: dict[int, tuple[weakref.ref[Any], bool]] = {}


@dataclasses.dataclass(frozen=True)
class NoiseBits:
    """Where the random bits of a computation's noise come from.

    Attributes:
      source: The source, in words.
      marked: Whether the computation holds noise of a privacy plan.
      obstacle: Why the computation is refused, as a message; None if it may run. A seed is no
        obstacle: then `source` says that the result is not private.

    Raises:
      ArgumentError: `marked` is no truth value.
    """

    source: str
    marked: bool
    obstacle: str | None = None

    def __post_init__(self) -> None:
        _checks.flag("marked", self.marked)


def is_marked(computation: Any) -> bool:
    """Tells whether a computation holds noise of a privacy plan, without running or compiling it.

    Args:
      computation: A `tff.Computation`.

    Returns:
      Whether the name scope of a plan's noise occurs in it.
    """
    key = id(computation)
    held = _marked.get(key)
    if held is None or held[0]() is not computation:
        proto = tff.framework.serialize_computation(computation)
        found = NOISE_SCOPE.encode() in proto.SerializeToString()
        held = weakref.ref(computation, lambda _: _marked.pop(key, None)), found
        _marked[key] = held
    return held[1]


def noise_bits(computation: Any) -> NoiseBits:
    """Tells where the noise of a computation gets its random bits in the context in effect.

    Args:
      computation: A `tff.Computation`, such as `next` of a process.

    Returns:
      The source of the bits, or the reason why the computation is refused.
    """
    context = tff.framework.get_context_stack().current
    told = getattr(context, "noise_bits", None)
    if told is not None:
        found: NoiseBits = told(computation)
        return found
    if not is_marked(computation):
        return NoiseBits(NONE, marked=False)
    why = (
        f"the execution context, {type(context).__name__}, has TensorFlow seed random operations, with "
        "32 bits or by the clock"
    )
    return NoiseBits(NONE, marked=True, obstacle=refusal(why, "Run it in tff_dp.execution.fast()."))


def refusal(why: str, remedy: str) -> str:
    """Words the refusal of a computation whose noise cannot be keyed.

    Args:
      why: The reason, a clause without its period.
      remedy: What the user can do, a whole sentence.

    Returns:
      The message.
    """
    return f"The noise of a privacy plan cannot be drawn as it must be: {why}. {_REMEDY} {remedy}"


def refuse(found: NoiseBits) -> None:
    """Refuses a computation whose noise cannot get its random bits as it must.

    Args:
      found: Where its noise gets its random bits.

    Raises:
      ComputationError: `found` has an obstacle.
    """
    if found.obstacle:
        raise ComputationError(found.obstacle)
