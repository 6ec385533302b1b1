"""A case of an operation, the arguments that cases are made of, and the list that they are added to."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

BFLOAT16 = tf.bfloat16.as_numpy_dtype
HALVES = (np.float16, BFLOAT16)
FLOATS = (np.float32, np.float64)
INTEGERS = (np.int32, np.int64, np.uint8)
NUMBERS = (*FLOATS, np.int32, np.int64)
ANY = (*FLOATS, np.int32, np.int64, np.uint8, np.bool_)


@dataclasses.dataclass(frozen=True)
class Case:
    """An operation, and what it is tried on.

    Attributes:
      op: The operation's name.
      function: Writes it, from tensors to a tensor or several.
      inputs: Its arguments, each time that it is tried.
      exact: Whether floats have to be equal to the last bit.
      relative: Whether each number is judged by its own size, rather than by the largest one's.
      least: The size by which numbers are judged at least.
      vectorized: Whether it is tried under `tf.vectorized_map` (if the table allows it).
      scale: By how much the tolerance is widened.
      rolled: Whether clients differ in where their numbers stand; otherwise in how large floats are.
    """

    op: str
    function: Callable[..., Any]
    inputs: tuple[tuple[Any, ...], ...]
    exact: bool = False
    relative: bool = False
    least: float = 0.0
    vectorized: bool = True
    scale: float = 1.0
    rolled: bool = True

    def vary(self, argument: Any, client: int) -> Any:
        """Returns an argument as a client has it."""
        if isinstance(argument, list):
            return [self.vary(part, client) for part in argument]
        argument = np.asarray(argument)
        if self.rolled:
            return np.roll(argument.ravel(), client).reshape(argument.shape)
        return (
            argument * argument.dtype.type(1 + client / 2)
            if argument.dtype.kind == "f"
            else argument
        )


def raw(op: str, *args: Any, **attributes: Any) -> Any:
    """Writes an operation with its inputs by position."""
    function = getattr(tf.raw_ops, op)
    names = inspect.signature(function).parameters
    return function(**dict(zip(names, args, strict=False)), **attributes)


def written(op: str, **attributes: Any) -> Callable[..., Any]:
    """Returns what writes an operation."""
    return lambda *args: raw(op, *args, **attributes)


# --- Arguments ---


def specials(dtype: Any) -> np.ndarray:
    """Returns numbers of a type, its extremes and what is no number among them."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.array([True, False, True, True, False])
    if kind in "iu":
        info = np.iinfo(dtype)
        some = [info.min, info.min + 1, -7, -3, -2, -1, 0, 1, 2, 3, 5, 100, info.max - 1, info.max]
        return np.array([n for n in some if info.min <= n <= info.max], dtype)
    info = tf.as_dtype(dtype)
    large = float(info.max) / 8
    some = [-large, -300.25, -7.5, -3.7, -2.5, -1.5, -1, -0.75, -0.5, -1e-3, -0.0]
    return np.array([-np.inf, *some, *(-n for n in reversed(some)), np.inf, np.nan], dtype)


def ordinary(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns numbers of moderate size, of which some are equal, and some zero."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "b":
        return rng.random(shape) < 0.6
    if np.dtype(dtype).kind in "iu":
        low = 0 if np.dtype(dtype).kind == "u" else -9
        return rng.integers(low, 10, shape).astype(dtype)
    return (np.round(rng.normal(size=shape) * 8) / 4).astype(dtype)


def uneven(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns floats whose sums and products round."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def spoiled(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns ordinary numbers of which some floats are not finite."""
    values = ordinary(dtype, shape, seed)
    if np.dtype(dtype).kind not in "biu" and values.size:
        places = np.random.default_rng(seed + 1).permutation(values.size)
        for place, value in zip(places, (np.nan, np.inf, -np.inf, -0.0), strict=False):
            values.flat[place] = value
    return values


def each(dtypes: Sequence[Any]) -> tuple[tuple[np.ndarray], ...]:
    """Returns the special values of each type, and none at all."""
    return tuple(
        argument
        for dtype in dtypes
        for argument in ((specials(dtype),), (np.zeros([0, 2], dtype),))
    )


def pairs(dtypes: Sequence[Any]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns each pair of special values of each type, a broadcast one, and none."""
    found = []
    for dtype in dtypes:
        a, b = (part.ravel() for part in np.meshgrid(specials(dtype), specials(dtype)))
        found += [(a, b), (a[:6].reshape(3, 2), b[4:6]), (np.zeros([0], dtype), a[:1])]
    return tuple(found)


def divisors(dtypes: Sequence[Any]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns pairs of integers of which the second is not zero; the smallest over -1 is undefined."""
    found = []
    for a, b in pairs(dtypes):
        kept = np.broadcast_to(b, np.broadcast_shapes(a.shape, b.shape)) != 0
        if a.dtype.kind == "i":
            kept &= ~((a == np.iinfo(a.dtype).min) & (b == -1))
        if a.shape == b.shape:
            found.append((a[kept], b[kept]))
    return tuple(found)


def shaped(*shapes: Sequence[int], dtypes: Sequence[Any] = FLOATS) -> tuple[tuple[Any, ...], ...]:
    """Returns ordinary and spoiled arguments of given shapes, for each type."""
    return tuple(
        tuple(make(dtype, shape, seed) for seed, shape in enumerate(shapes))
        for dtype in dtypes
        for make in ((ordinary, spoiled) if np.dtype(dtype).kind not in "biu" else (ordinary,))
    )


def finite(*shapes: Sequence[int], dtypes: Sequence[Any] = FLOATS) -> tuple[tuple[Any, ...], ...]:
    """Returns finite arguments of given shapes, for each type."""
    return tuple(
        tuple(uneven(dtype, shape, seed) for seed, shape in enumerate(shapes)) for dtype in dtypes
    )


# --- Cases ---

CASES: list[Case] = []


def add(op: str, inputs: Sequence[Sequence[Any]], function: Any = None, **options: Any) -> None:
    attributes = options.pop("attributes", {})
    CASES.append(
        Case(op, function or written(op, **attributes), tuple(map(tuple, inputs)), **options)
    )
