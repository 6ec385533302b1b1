"""When two results are the same: the meaning of "stock TFF's numbers" (docs/execution.md)."""

from __future__ import annotations

import collections.abc
from typing import Any

import attrs
import numpy as np
import tree

RELATIVE = 2e-4  # of the largest value of a tensor
ABSOLUTE = 2e-5


def difference(actual: Any, expected: Any) -> str | None:
    """Returns in words how two results differ, or None if they are the same.

    Containers, data types, shapes, integers, strings and truth values have to be equal; floats to within
    `ABSOLUTE` plus `RELATIVE` times the tensor's largest finite value, and not-a-numbers and infinities
    have to be in the same places.

    Args:
      actual: The result to judge, a structure of arrays and scalars.
      expected: What it should be.
    """
    told = _other_containers(actual, expected, "the result")
    if told:
        return told
    found = zip(tree.flatten_with_path(actual), tree.flatten(expected), strict=True)
    for (path, a), b in found:
        told = _leaf_difference(np.asarray(a), np.asarray(b))
        if told:
            return f"at {'.'.join(map(str, path)) or 'the result'}: {told}"
    return None


def _other_containers(a: Any, b: Any, place: str) -> str | None:
    """Returns in words how two structures' containers differ, or None: `tree` takes any two mappings."""
    if not (tree.is_nested(a) or tree.is_nested(b)):
        return None
    if type(a) is not type(b):
        return f"at {place}: {type(a).__name__} {str(a)[:60]}, expected {type(b).__name__} {str(b)[:60]}"
    parts = _children(a), _children(b)
    if [name for name, _ in parts[0]] != [name for name, _ in parts[1]]:
        return f"at {place}: other names or lengths"
    for (name, part), (_, other) in zip(*parts, strict=True):
        told = _other_containers(part, other, f"{place}.{name}")
        if told:
            return told
    return None


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, collections.abc.Mapping):
        return list(value.items())
    if attrs.has(type(value)):
        return [(field.name, getattr(value, field.name)) for field in attrs.fields(type(value))]
    return list(enumerate(value))


def _leaf_difference(a: np.ndarray, b: np.ndarray) -> str | None:
    if a.dtype != b.dtype:
        return f"data type {a.dtype}, expected {b.dtype}"
    if a.shape != b.shape:
        return f"shape {a.shape}, expected {b.shape}"
    wrong = ~alike(a, b)
    if not wrong.any():
        return None
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f" first at {list(where)}" if where else ""
    return (
        f"{wrong.sum()} of {wrong.size} values differ,{place} {a[where]!r}, expected {b[where]!r}"
    )


def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns for each value of two arrays of one type and shape whether it is the same in both."""
    if a.dtype.kind not in "fc":
        return np.asarray(a == b)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(
            np.where(
                np.isfinite(b),
                np.abs(a - b) <= tolerance(b),
                (np.isnan(a) & np.isnan(b)) | (a == b),
            )
        )


def tolerance(expected: np.ndarray) -> float:
    """Returns how far floats may lie from an array's."""
    finite = np.abs(expected[np.isfinite(expected)])
    return ABSOLUTE + RELATIVE * float(finite.max(initial=0.0))


# How many times the change that one unit in the last place of the inputs brings about counts as roundoff:
# a strategy rounds in each operation, an input is perturbed once.
_AMPLIFIED = 30.0


def is_roundoff(actual: Any, expected: Any, perturbed: list[Any]) -> bool:
    """Returns whether two results differ by no more than stock TFF does from itself on nearby inputs.

    Args:
      actual: The result to judge.
      expected: Stock TFF's.
      perturbed: Stock TFF's on perturbed inputs, several.
    """
    leaves = [tree.flatten(each) for each in (actual, expected)]
    others = [tree.flatten(each) for each in perturbed]
    if any(len(other) != len(leaves[1]) for other in others):
        return False
    for i, (a, b) in enumerate(zip(*leaves, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype != b.dtype or a.dtype.kind in "SUO":
            return False
        near = [np.asarray(other[i]) for other in others]
        if a.shape != b.shape or any(n.shape != b.shape for n in near):
            # A shape that depends on values is roundoff if an ulp changes it, too.
            if a.shape in {n.shape for n in near}:
                continue
            return False
        if not _within(a, b, near):
            return False
    return True


def _within(a: np.ndarray, b: np.ndarray, near: list[np.ndarray]) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        off = ~alike(a, b)
        if a.dtype.kind not in "fciu":
            moved = np.any([n != b for n in near], axis=0)
            return bool((~off | moved).all())
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
        change = np.max([np.abs(n.astype(np.float64) - b.astype(np.float64)) for n in near], axis=0)
        # NaN on one side only stays a difference unless an ulp brings it about, too.
        appeared = np.any([np.isnan(n) != np.isnan(b) for n in near], axis=0)
    fine = ~off | (gap <= _AMPLIFIED * change) | appeared
    return bool(fine.all())


def perturb(inputs: Any, seed: int) -> Any:
    """Returns inputs with every float moved by up to two units in the last place, at random."""
    rng = np.random.default_rng(seed)

    def moved(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            return value
        steps = rng.integers(-2, 3, size=value.shape)
        toward = np.where(steps > 0, np.inf, -np.inf).astype(value.dtype)
        once = np.nextafter(value, toward)
        near = np.where(np.abs(steps) == 2, np.nextafter(once, toward), once)
        near = np.where(steps == 0, value, near)
        return np.where(np.isfinite(value), near, value).astype(value.dtype)

    return tree.map_structure(moved, inputs)
