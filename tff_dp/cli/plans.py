"""Plans in files."""

from __future__ import annotations

import json
import pathlib
import tomllib
from typing import Any

from tff_dp.errors import ArgumentError


def plan_values(path: str) -> dict[str, Any]:
    """Returns what a file says about a plan, for `PrivacyPlan.from_dict`.

    Args:
      path: A file with what `PrivacyPlan.to_dict` returns, as TOML if it ends in .toml, else as JSON.

    Raises:
      ArgumentError: The file cannot be read or holds no object.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except (OSError, ValueError) as error:  # both parsers raise kinds of ValueError
        raise ArgumentError(
            f"--plan={path!r} cannot be read: {error}. Expected what PrivacyPlan.to_dict returns, as "
            "JSON, or as TOML under a name that ends in .toml."
        ) from None
    if not isinstance(values, dict):
        raise ArgumentError(
            f"--plan={path!r} holds no object: expected that of PrivacyPlan.to_dict."
        )
    return values
