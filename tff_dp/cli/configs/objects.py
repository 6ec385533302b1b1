"""Plans, mechanisms, samplers, algorithms and optimizers of a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_dp import algorithms, mechanisms, optimizers, plan, sampling
from tff_dp.cli.configs.inputs import imported
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.tables import refuse_unknown
from tff_dp.config import Config, is_own
from tff_dp.errors import ArgumentError

# Values that are inside of most bounds, with which the check goes on after a mistake.
_HARMLESS: Mapping[str, Any] = {"cohort": 1, "delta": 1e-9, "noise_multiplier": 1.0}
# The classes of objects, by the names of the fields that hold them.
_BASES: Mapping[str, type[Config]] = {
    "mechanism": mechanisms.Mechanism,
    "sampler": sampling.Sampler,
    "metrics": mechanisms.PrivateMetric,
}


def build(
    values: Any,
    base: type[Config],
    path: Sequence[str],
    mistakes: Mistakes,
    *,
    default: type[Config] | None = None,
    make: Callable[..., Any] | None = None,
    more: Sequence[str] = (),
) -> Any:
    """Makes an object of a table, such as a mechanism, and of the tables in it.

    All mistakes of the table are found: after a wrong value the check goes on with a harmless one
    in its place.

    Args:
      values: The table. Its key "type" names the class: one of tff_dp, or "package.module:Class",
        whose module is imported.
      base: The class of which the object has to be.
      path: The keys that lead to the table.
      mistakes: Where to add what is wrong.
      default: The class if there is no "type"; by default, "type" is required.
      make: A function to call in place of the class.
      more: Keys that the table may have besides, for messages.

    Returns:
      The object; None if there are mistakes.
    """
    if not isinstance(values, Mapping):
        mistakes.add(path, f"{path[-1]}={values!r} is outside its bound: expected a table.")
        return None
    kind = _kind(values, base, path, mistakes, default)
    if kind is None:
        return None
    parameters = inspect.signature(kind).parameters
    refuse_unknown(values, ["type", *parameters, *more], path, mistakes)
    given = {
        name: _inner(value, (*path, name), mistakes)
        for name, value in values.items()
        if name in parameters
    }
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            mistakes.add((*path, name), f"missing: {kind.__name__} has no default for it.")
            given[name] = _harmless(parameter)
    for name in given:
        if mistakes.has((*path, name)):
            given[name] = _harmless(parameters[name])
    return _made(make or kind, given, parameters, path, mistakes)


def _made(
    make: Callable[..., Any],
    given: dict[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    path: Sequence[str],
    mistakes: Mistakes,
) -> Any:
    replaced: set[str] = set()
    while True:
        try:
            found = make(**given)
            return None if mistakes.has(path) else found
        except ArgumentError as error:
            name = str(error).partition("=")[0].partition("[")[0]
            if name in replaced or (name in given and mistakes.has((*path, name))):
                return None  # the value that failed is not that of the configuration
            if name not in given:
                if not mistakes.has(path) or not replaced:
                    mistakes.add_error(path, error)
                return None
            mistakes.add_error((*path, name), error)
            replaced.add(name)
            given[name] = _harmless(parameters[name])


def _harmless(parameter: inspect.Parameter) -> Any:
    if parameter.name in _HARMLESS:
        return _HARMLESS[parameter.name]
    if parameter.default is not inspect.Parameter.empty:
        return parameter.default
    if parameter.name == "mechanism":
        return mechanisms.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)
    return 1


def _inner(value: Any, path: tuple[str, ...], mistakes: Mistakes) -> Any:
    """Returns the value of a field, with objects in place of the tables in it."""
    name = next(part for part in reversed(path) if not part.isdigit())
    if isinstance(value, Mapping):
        base = optimizers.Optimizer if name.endswith("optimizer") else _BASES.get(name, Config)
        only = mechanisms.PrivateMetric if base is mechanisms.PrivateMetric else None
        return build(value, base, path, mistakes, default=only)
    if isinstance(value, list):
        return tuple(
            _inner(each, (*path, str(place)), mistakes) for place, each in enumerate(value)
        )
    return value


def _kind(
    values: Mapping[str, Any],
    base: type[Config],
    path: Sequence[str],
    mistakes: Mistakes,
    default: type[Config] | None,
) -> type[Config] | None:
    known = _names(base)
    name = values.get("type", default and default.__name__)
    if name is None:
        mistakes.add((*path, "type"), f"missing: expected one of {', '.join(known)}.")
        return None
    if isinstance(name, str) and name in known:
        found = known[name]
    elif isinstance(name, str) and ":" in name:
        found = imported(name, (*path, "type"), mistakes)
        if found is None:
            return None
    else:
        found = None
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        mistakes.add(
            (*path, "type"),
            f"type={name!r} is unknown here: expected one of {', '.join(known)}, or "
            '"package.module:Class", a class of your own.',
        )
        return None
    return found


def _names(base: type[Config]) -> dict[str, type[Config]]:
    """Returns the public classes of tff_dp that derive from a class, by name."""
    return {
        name: each
        for module in (plan, mechanisms, sampling, algorithms, optimizers)
        for name, each in vars(module).items()
        if isinstance(each, type)
        and issubclass(each, base)
        and is_own(each)
        and not inspect.isabstract(each)
        and hasattr(each, "__dataclass_fields__")
        and not name.startswith("_")
    }
