"""A case: plain data that renders to a program."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run: a kind of program and its parameters.

    Attributes:
      kind: A key of `kinds.KINDS`.
      parameters: Of numbers, strings, lists and dictionaries alone, so that they can be stored.
      settings: Keys of `running.SETTINGS`, each with how the data come, if it matters ("scan@arrays").
    """

    kind: str
    parameters: dict[str, Any]
    settings: tuple[str, ...]

    def dumps(self) -> str:
        """Returns it as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def loads(cls, text: str) -> Case:
        """Returns the case of a text."""
        held = json.loads(text)
        return cls(held["kind"], held["parameters"], tuple(held["settings"]))

    def but(self, **parameters: Any) -> Case:
        """Returns the case with other parameters."""
        return dataclasses.replace(self, parameters={**self.parameters, **parameters})


def chosen(rng: np.random.Generator, options: Any) -> Any:
    """Returns one of some options (for a dictionary: a key, by its weights)."""
    if isinstance(options, dict):
        weights = np.array(list(options.values()), float)
        return list(options)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    return options[int(rng.integers(len(options)))]


def array_source(value: Any, dtype: str) -> str:
    """Returns the source of a numpy array."""
    text = repr(value).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({text}, {dtype})"
