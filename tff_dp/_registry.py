"""Registries from classes to functions or values, which other packages can extend."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from tff_dp.config import is_own, name_of
from tff_dp.errors import ArgumentError

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """The entries that have been registered for users' classes, by exact class.

    A subclass does not inherit the entry of its parent: what holds for a mechanism need not hold
    for one that overrides a part of it. The entries of tff_dp's own classes are in separate tables,
    which cannot be changed from outside.

    Args:
      base: The class from which all registered classes derive.
      what: What an entry is, for messages, such as "accounting".
      by: The name of the public function that adds entries, for messages.
    """

    def __init__(self, base: type, what: str, by: str) -> None:
        self._base, self._what, self._by = base, what, by
        self._entries: dict[type, _T] = {}
        self._lock = threading.Lock()

    def check(self, kind: Any) -> None:
        """Checks that an entry can be added for a class.

        Args:
          kind: A frozen dataclass that derives from the base class, is not abstract, is not one of
            tff_dp's own classes, and has no entry yet.

        Raises:
          ArgumentError: The class does not meet one of these conditions.
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
        params = vars(kind).get("__dataclass_params__")  # not inherited from its parent
        if params is None or not params.frozen or not params.eq:
            raise ArgumentError(
                f"{self._by}: {name} is not a frozen dataclass: expected "
                f"@dataclasses.dataclass(frozen=True, kw_only=True) on class {name}. Plans are compared, "
                "hashed and stored by the fields."
            )
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        unread = [field.name for field in fields if not field.init or field.name == "type"]
        if unread:
            raise ArgumentError(
                f"{self._by}: {name} has a field {unread[0]!r} that could not be read back from a "
                "stored plan: expected fields that the constructor takes, none of them named type. "
                "Make it a property."
            )
        if kind in self._entries:
            raise ArgumentError(
                f"{self._by}: {name_of(kind)} has its {self._what} already, and it cannot be replaced: "
                "plans may depend on it. Add it once, where the class is defined."
            )

    def add(self, kind: type, entry: _T) -> None:
        """Adds the entry of a class.

        Args:
          kind: The class; see `check` for the conditions.
          entry: Its entry.

        Raises:
          ArgumentError: No entry can be added for the class; see `check`. Nothing is added then.
        """
        with self._lock:
            self.check(kind)
            self._entries[kind] = entry

    def find(self, name: str, value: Any, own: Mapping[type, _T]) -> _T:
        """Looks up the entry of the exact class of a value.

        Args:
          name: The name of the argument, for the message.
          value: The object whose class is looked up.
          own: The table of tff_dp's own classes, which is searched first.

        Returns:
          The entry.

        Raises:
          ArgumentError: The class has no entry. The message names the function that adds one.
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
