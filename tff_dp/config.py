"""Conversion of frozen dataclasses to plain dictionaries and back, for TOML files, logs and reports."""

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
    """Checks whether a class is defined in tff_dp, as opposed to user code.

    Args:
      kind: The class.

    Returns:
      True if its module is part of tff_dp, False otherwise.
    """
    return kind.__module__ == "tff_dp" or kind.__module__.startswith("tff_dp.")


def name_of(kind: type) -> str:
    """Returns the name under which a class is stored.

    Args:
      kind: The class.

    Returns:
      The bare name of a class of tff_dp, such as "GaussianMechanism". For a user's class, the name
      includes the module, such as "package.module:Class", so that it cannot be mistaken for one of
      tff_dp.
    """
    return kind.__name__ if is_own(kind) else f"{kind.__module__}:{kind.__qualname__}"


class Config:
    """Mixin for frozen, keyword-only dataclasses: `to_dict` and `from_dict`.

    A dictionary holds only types that JSON and TOML can represent. It names its class under "type"
    (see `name_of`), so that `Config.from_dict` can restore objects of any such class, including
    nested ones.

    Attributes:
      derived: The names of properties that follow from the fields. A dictionary contains them as
        well; the constructor accepts and checks them.
      stored_as: For fields that have been renamed, a mapping from the current name to the name in
        dictionaries, on which the hashes in ledgers depend. `from_dict` accepts both names.

    Raises:
      ArgumentError: A subclass is defined whose module claims to be part of tff_dp, with the name
        of an existing class of tff_dp.
    """

    derived: ClassVar[tuple[str, ...]] = ()
    stored_as: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _classes: ClassVar[dict[str, type[Config]]] = {}  # the classes of tff_dp, by name

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

        No module is imported: to restore an object of a user's class, import the module of the
        class first.

        Args:
          values: A mapping from field names to values. "type" may be left out if the method is
            called on the class itself.

        Returns:
          An object of the class that "type" names. Its constructor has checked the values.

        Raises:
          ArgumentError: The type is unknown or ambiguous, a field is unknown or missing, or a value
            is outside its bounds.
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
    """Yields users' dataclasses; `__subclasses__` refers to them weakly and keeps none alive."""
    for each in kind.__subclasses__():
        if not is_own(each) and _is_concrete(each):
            yield each
        yield from _foreign(each)


def _named(name: str) -> type[Config] | None:
    """Returns the dataclass with a name, or None.

    A bare name denotes a class of tff_dp. Only if there is none may it denote a user's class: files
    from older versions contain bare names of these as well.

    Raises:
      ArgumentError: Several classes of users have the name.
    """
    own = Config._classes.get(name)
    if own is not None:
        return own if _is_concrete(own) else None
    # The class of a script or notebook is another module's, once it has been moved there.
    names = {name, name.removeprefix("__main__:")}
    found = [*dict.fromkeys(k for k in _foreign() if names & {name_of(k), k.__name__})]
    if len(found) > 1:  # keep the current definition of a class that was defined again
        found = [kind for kind in found if _is_current(kind)] or found
    if len(found) > 1:
        listed = ", ".join(sorted({name_of(kind) for kind in found}))
        raise ArgumentError(
            f"type={name!r} is ambiguous: there are {len(found)} classes of that name ({listed}). Name "
            'one as "package.module:Class", and define each class once, at the top of its module.'
        )
    return found[0] if found else None


def _is_current(kind: type) -> bool:
    """Returns whether the name of a class still refers to this class in its module."""
    try:
        return operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__]) is kind
    except (KeyError, AttributeError):
        return False


def _unknown(name: Any, cls: type[Config]) -> str:
    """Returns the error message for a name that does not denote a subclass of `cls`."""
    own = [k for k in Config._classes.values() if _is_concrete(k)]
    known = sorted(name_of(kind) for kind in (*own, *_foreign()) if issubclass(kind, cls))
    module = name.partition(":")[0] if isinstance(name, str) and ":" in name else None
    remedy = f" Import {module} first, which defines the class." if module else ""
    if module == "__main__":
        remedy = (
            " It was defined in a script or notebook: define it here as well, or move it into a module "
            "and import that."
        )
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
    if isinstance(value, numbers.Integral):  # including NumPy scalars
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value
