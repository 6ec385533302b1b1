"""Plain dictionaries from frozen dataclasses and back, for TOML files, logs and reports."""

from __future__ import annotations

import dataclasses
import enum
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from tff_dp.errors import ArgumentError


class Config:
    """Mixin for frozen, keyword-only dataclasses: `to_dict` and `from_dict`.

    A dictionary holds only what JSON and TOML know, and names its class under "type", so that
    `Config.from_dict` restores any of them, nested ones included.
    """

    _classes: ClassVar[dict[str, type[Config]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Config._classes[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary of plain values, with the class name under "type"."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__} | {
            name: _plain(value) for name, value in fields.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Restores an object from `to_dict`.

        Args:
          values: Field names to values. "type" may be left out where the method is called on the
            class itself.

        Returns:
          An object of the class that "type" names, checked as its constructor checks it.

        Raises:
          ArgumentError: An unknown type or field, a missing field, or a value outside its bounds.
        """
        values = dict(values)
        name = values.pop("type", cls.__name__)
        concrete = {k: v for k, v in Config._classes.items() if dataclasses.is_dataclass(v)}
        target: type[Config] | None = concrete.get(name) if isinstance(name, str) else None
        if target is None or not issubclass(target, cls):
            known = ", ".join(sorted(k for k, v in concrete.items() if issubclass(v, cls)))
            raise ArgumentError(f"type={name!r} is unknown here: expected one of {known}.")
        known_fields = {f.name for f in dataclasses.fields(target)}  # type: ignore[arg-type]
        unknown = sorted(values.keys() - known_fields)
        if unknown:
            raise ArgumentError(
                f"{name} has no field {unknown[0]!r}: expected one of {', '.join(sorted(known_fields))}."
            )
        restored = {key: _restored(value) for key, value in values.items()}
        try:
            return target(**restored)
        except TypeError as error:  # a field without default is missing
            raise ArgumentError(f"{name}: {error}.") from None


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
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
