"""The mistakes in a configuration, each with the key and the line at fault."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NoReturn

from tff_dp.cli.configs.source import Source
from tff_dp.errors import AccountingError, ArgumentError


@dataclasses.dataclass
class Mistakes:
    """Collects mistakes.

    Args:
      source: The configuration.
    """

    source: Source
    _found: list[tuple[tuple[str, ...], str]] = dataclasses.field(default_factory=list)
    _only_accounting: bool = dataclasses.field(default=True, init=False)

    def add(self, path: Sequence[str], message: str) -> None:
        """Adds a mistake.

        Args:
          path: The keys that lead to the value at fault.
          message: What is wrong with it, beginning with the value, and what to do.
        """
        self._only_accounting = False
        self._add(path, message)

    def add_error(self, path: Sequence[str], error: Exception) -> None:
        """Adds the message of an error.

        Args:
          path: The keys that lead to the value at fault. If the message begins with the last of
            them, or with an argument of another name, that name is replaced by the path.
          error: The error.
        """
        self._only_accounting &= isinstance(error, AccountingError)
        self._add(path, str(error) or type(error).__name__)

    def has(self, path: Sequence[str]) -> bool:
        """Says whether a value, or something in it, is at fault.

        Args:
          path: The keys that lead to the value.

        Returns:
          True if there is a mistake there.
        """
        return any(wrong[: len(path)] == tuple(path) for wrong, _ in self._found)

    def take(self, other: Mistakes, without: Sequence[str]) -> None:
        """Takes the mistakes that another collection has found in the same configuration.

        Args:
          other: The other collection.
          without: The last keys of the values whose mistakes are left out.
        """
        for path, text in other._found:
            if path[-1] not in without:
                self._only_accounting &= other._only_accounting
                self._found.append((path, text))

    def raise_all(self) -> None:
        """Raises one error for all mistakes.

        Raises:
          ArgumentError: There are mistakes.
          AccountingError: There are mistakes, and all of them are combinations for which no valid
            accounting is known.
        """
        if self._found:
            self._raise()

    def _raise(self) -> NoReturn:
        texts = sorted((text for _, text in self._found), key=_line)
        count = len(texts)
        head = f"{self.source.name} has {count} {'mistake' if count == 1 else 'mistakes'}:"
        kind = AccountingError if self._only_accounting else ArgumentError
        raise kind("\n  ".join([head, *texts]))

    def _add(self, path: Sequence[str], message: str) -> None:
        key = ".".join(path)
        name, equals, rest = message.partition("=")
        if equals and name.replace("_", "").isalnum() and path and name in (path[-1], ""):
            message = f"{key}={rest}"
        elif key and not message.startswith(key):
            message = f"{key}: {message}"
        found = tuple(path), f"{self.source.where(path)}: {message}"
        if found not in self._found:
            self._found.append(found)


def _line(text: str) -> int:
    """Returns the number of the line at which a mistake stands; that of others is 0."""
    where = re.match(r"[^\n]*?:(\d+): ", text)
    return int(where[1]) if where else 0
