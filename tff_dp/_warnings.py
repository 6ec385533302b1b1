"""Warnings that name the line of the user's program, however deep in tff_dp they arise."""

from __future__ import annotations

import inspect
import warnings

_PASSED = ("tff_dp", "contextlib")  # packages whose lines say nothing to the user


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns of something, at the nearest calling line outside of tff_dp.

    Args:
      message: The text.
      category: The class of the warning.
    """
    here = inspect.currentframe()
    level, frame = 2, here and here.f_back
    while frame is not None and frame.f_back is not None and _package(frame.f_globals) in _PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _package(scope: dict[str, object]) -> str:
    return str(scope.get("__name__", "")).partition(".")[0]
