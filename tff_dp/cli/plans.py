"""Privacy plans in files."""

from __future__ import annotations

import json
import pathlib
import tomllib
from typing import Any

from tff_dp.errors import ArgumentError


def plan_values(path: str) -> dict[str, Any]:
    """Reads the dictionary of a plan from a file.

    Args:
      path: The path of a file that contains the result of `PrivacyPlan.to_dict`: as TOML if the
        name ends in .toml, otherwise as JSON.

    Returns:
      The dictionary, for `PrivacyPlan.from_dict`. Its values are not checked yet.

    Raises:
      ArgumentError: The file cannot be read, or does not contain an object.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except (OSError, ValueError) as error:  # both parsers raise subclasses of ValueError
        raise ArgumentError(
            f"--plan={path!r} cannot be read: {error}. Expected what PrivacyPlan.to_dict returns, as "
            "JSON, or as TOML under a name that ends in .toml."
        ) from None
    if not isinstance(values, dict):
        raise ArgumentError(
            f"--plan={path!r} holds no object: expected that of PrivacyPlan.to_dict."
        )
    return values
