"""Plain dictionaries from frozen dataclasses and back, for TOML files, logs and reports."""

from __future__ import annotations

import dataclasses
import enum
import numbers
import operator
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from tff_dp.errors import ArgumentError


def is_own(kind: type) -> bool:
    """Returns whether a class is one of tff_dp itself, and not a user's."""
    return kind.__module__ == "tff_dp" or kind.__module__.startswith("tff_dp.")


def name_of(kind: type) -> str:
    """Returns the name under which a class is stored.

    Args:
      kind: The class.

    Returns:
      The bare name of a class of tff_dp, such as "GaussianMechanism"; of a user's class the module as
      well, such as "package.module:Class", so that it never stands for one of tff_dp.
    """
    return kind.__name__ if is_own(kind) else f"{kind.__module__}:{kind.__qualname__}"


class Config:
    """Mixin for frozen, keyword-only dataclasses: `to_dict` and `from_dict`.

    A dictionary holds only what JSON and TOML know, and names its class under "type" (see `name_of`), so
    that `Config.from_dict` restores any of them, nested ones included.

    Attributes:
      derived: Properties that follow from the fields, which a dictionary states as well and the
        constructor accepts and checks.
      stored_as: The names under which a dictionary has fields that were renamed, by the name now: the
        hashes in ledgers depend on them. `from_dict` takes both.

    Raises:
      ArgumentError: A class is defined that pretends to be one of tff_dp.
    """

    derived: ClassVar[tuple[str, ...]] = ()
    stored_as: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _classes: ClassVar[dict[str, type[Config]]] = {}  # those of tff_dp, by name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if is_own(cls) and Config._classes.setdefault(cls.__name__, cls) is not cls:
            raise ArgumentError(
                f"class {cls.__name__} is outside its bound: {cls.__module__} has the name of a class "
                "that tff_dp has already, and plans that name it would be read as another one. Give "
                "the class another name, and leave its __module__ as it is."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary of plain values, with the class's name under "type"."""
        names = [*_fields(type(self)), *self.derived]
        return {"type": name_of(type(self))} | {
            self.stored_as.get(name, name): _plain(getattr(self, name)) for name in names
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Restores an object from `to_dict`.

        No module is imported for it: whoever reads what a user's class has written imports that
        class's module first.

        Args:
          values: Field names to values. "type" may be left out where the method is called on the
            class itself.

        Returns:
          An object of the class that "type" names, checked as its constructor checks it.

        Raises:
          ArgumentError: An unknown or ambiguous type, an unknown or missing field, or a value outside
            its bounds.
        """
        values = dict(values)
        is_named = "type" in values or not _is_concrete(cls)
        name = values.pop("type", name_of(cls))
        target: type[Config] | None = cls
        if is_named:
            target = _named(name) if isinstance(name, str) else None
        if target is None or not issubclass(target, cls):
            raise ArgumentError(_unknown(name, cls))
        now = {stored: name for name, stored in target.stored_as.items()}
        twice = [stored for stored in now if stored in values and now[stored] in values]
        if twice:
            raise ArgumentError(
                f"{name} has {now[twice[0]]!r} twice, also as {twice[0]!r}: expected one of them."
            )
        values = {now.get(key, key): value for key, value in values.items()}
        known = {*_fields(target), *target.derived}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ArgumentError(
                f"{name} has no field {unknown[0]!r}: expected one of {', '.join(sorted(known))}."
            )
        restored = {key: _restored(value) for key, value in values.items()}
        try:
            return target(**restored)
        except TypeError as error:  # a field without default is missing
            raise ArgumentError(f"{name}: {error}.") from None


def _is_concrete(kind: type[Config]) -> bool:
    return dataclasses.is_dataclass(kind)


def _fields(kind: type[Config]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]


def _foreign(kind: type[Config] = Config) -> Iterator[type[Config]]:
    """Yields the users' dataclasses that still exist. Python's own list of them does not keep them."""
    for each in kind.__subclasses__():
        if not is_own(each) and _is_concrete(each):
            yield each
        yield from _foreign(each)


def _named(name: str) -> type[Config] | None:
    """Returns the dataclass that a name stands for, or None.

    A bare name is a class of tff_dp. Only where there is none is it a user's class: files that older
    versions wrote have the bare names of those, too.

    Raises:
      ArgumentError: The name stands for several classes of users.
    """
    own = Config._classes.get(name)
    if own is not None:
        return own if _is_concrete(own) else None
    found = [*dict.fromkeys(k for k in _foreign() if name in (name_of(k), k.__name__))]
    if len(found) > 1:  # a class that was defined again has only the name left, if anything
        found = [kind for kind in found if _is_current(kind)] or found
    if len(found) > 1:
        listed = ", ".join(sorted({name_of(kind) for kind in found}))
        raise ArgumentError(
            f"type={name!r} is ambiguous: there are {len(found)} classes of that name ({listed}). Name "
            'one as "package.module:Class", and define each class once, at the top of its module.'
        )
    return found[0] if found else None


def _is_current(kind: type) -> bool:
    """Returns whether a class is what its module has under its name now."""
    try:
        return operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__]) is kind
    except (KeyError, AttributeError):
        return False


def _unknown(name: Any, cls: type[Config]) -> str:
    """Returns the message for a name that stands for no dataclass of a kind."""
    own = [k for k in Config._classes.values() if _is_concrete(k)]
    known = sorted(name_of(kind) for kind in (*own, *_foreign()) if issubclass(kind, cls))
    module = name.partition(":")[0] if isinstance(name, str) and ":" in name else None
    remedy = f" Import {module} first, which defines the class." if module else ""
    return (
        f"type={name!r} is unknown here: expected one of {', '.join(dict.fromkeys(known))}.{remedy}"
    )


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping) and "type" in value:
        return Config.from_dict(value)
    if isinstance(value, list | tuple):
        return tuple(_restored(each) for each in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's scalars, too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value
