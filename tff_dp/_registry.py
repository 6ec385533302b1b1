"""Tables of what belongs to a class, which other packages can add to."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from tff_dp.config import is_own, name_of
from tff_dp.errors import ArgumentError

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """What users' classes have been given, by exact class.

    A subclass has nothing of its parent's: what holds for a mechanism need not hold for one that
    overrides a part of it. The classes of tff_dp have tables of their own beside this one, which nobody
    can change from outside.

    Args:
      base: The class that all of them derive from.
      what: What each has here, for messages, such as "accounting".
      by: The name of the function that adds to this table.
    """

    def __init__(self, base: type, what: str, by: str) -> None:
        self._base, self._what, self._by = base, what, by
        self._entries: dict[type, _T] = {}
        self._lock = threading.Lock()

    def check(self, kind: Any) -> None:
        """Raises ArgumentError unless something can be added for a class.

        Args:
          kind: A frozen dataclass that derives from the base, is none of tff_dp's own, can be made, and
            has nothing here yet.
        """
        base, name = self._base.__name__, getattr(kind, "__qualname__", repr(kind))
        if not isinstance(kind, type) or not issubclass(kind, self._base):
            raise ArgumentError(
                f"{self._by}: {kind!r} is outside its bound: expected a class that derives from {base}."
            )
        if is_own(kind):
            raise ArgumentError(
                f"{self._by}: {name} is a class of tff_dp, whose {self._what} cannot be changed. "
                f"Derive a class of your own from {base}."
            )
        if inspect.isabstract(kind):
            missing = ", ".join(sorted(kind.__abstractmethods__))  # type: ignore[attr-defined]
            raise ArgumentError(f"{self._by}: {name} is abstract: expected it to define {missing}.")
        params = vars(kind).get("__dataclass_params__")  # its own, not its parent's
        if params is None or not params.frozen or not params.eq:
            raise ArgumentError(
                f"{self._by}: {name} is not a frozen dataclass: expected "
                f"@dataclasses.dataclass(frozen=True, kw_only=True) on class {name}. Plans are compared, "
                "hashed and stored by the fields."
            )
        if kind in self._entries:
            raise ArgumentError(
                f"{self._by}: {name_of(kind)} has its {self._what} already, and it cannot be replaced: "
                "plans may depend on it. Add it once, where the class is defined."
            )

    def add(self, kind: type, entry: _T) -> None:
        """Adds what a class has.

        Args:
          kind: The class; see `check`.
          entry: What it has.

        Raises:
          ArgumentError: As `check`. Nothing is added then.
        """
        with self._lock:
            self.check(kind)
            self._entries[kind] = entry

    def find(self, name: str, value: Any, own: Mapping[type, _T]) -> _T:
        """Returns what the exact class of a value has.

        Args:
          name: Name of the argument, for the message.
          value: The object whose class is looked up.
          own: The table of tff_dp's classes.

        Raises:
          ArgumentError: The class has nothing; the message names the function that adds it.
        """
        kind = type(value)
        tables = (own, self._entries)
        for table in tables:
            if kind in table:
                return table[kind]
        known = ", ".join(each.__name__ for table in tables for each in table)
        parent = next((p for p in kind.__mro__[1:] if any(p in table for table in tables)), None)
        why = f" That of {parent.__name__} is not taken: it may not hold here." if parent else ""
        raise ArgumentError(
            f"{name}={value!r} has no {self._what}: expected one of {known}.{why} For a class of your "
            f"own, {self._by} adds it."
        )
