"""JSON files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tff_dp import _disk

_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes plain values; a writer that dies leaves the file as it was.

    Args:
      path: The path of the file; its folder exists.
      value: Dictionaries with strings as keys, lists, strings, numbers, booleans and None. Numbers
        of NumPy and infinite numbers are allowed.

    Raises:
      OSError: The file cannot be written.
      TypeError: A value is none of these.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    _disk.replace(path, text.encode(), b"\n", mode=0o644)


def read_json(path: pathlib.Path) -> Any:
    """Reads what `write_json` has written.

    Args:
      path: The path of the file.

    Returns:
      The values; None if there is no file, or it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=_restored)
    except (OSError, ValueError):
        return None


def _plain(value: Any) -> Any:
    """Returns a value with numbers of Python, the infinite ones as {"float": "inf"}."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _restored(found: dict[str, Any]) -> Any:
    if found.keys() == {"float"} and found["float"] in _SPECIAL:
        return _SPECIAL[found["float"]]
    return found
