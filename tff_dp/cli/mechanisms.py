"""The mechanisms of the command line, and the options for their fields."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import inspect
import operator
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tff_dp import mechanisms
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import Mechanism, Unit

_NOISE = "noise_multiplier"  # a field of every mechanism, set by --noise-multiplier


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a mechanism that an option sets.

    Attributes:
      name: The name of the field. That of the option has hyphens in place of underscores.
      parse: A function from the option's text to the value.
      metavar: The placeholder for the value in the help.
      is_needed: Whether the field has no default.
      text: The help of the option, with its default.
    """

    name: str
    parse: Callable[[str], Any]
    metavar: str
    is_needed: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """A mechanism of the command line.

    Attributes:
      name: The value of --mechanism that selects it.
      mechanism: The class.
      fields: The fields that have options, without the noise multiplier and the clip norm.
      clip: The field that --clip-norm sets; None if there is none.
    """

    name: str
    mechanism: type[Mechanism]
    fields: tuple[Field, ...]
    clip: str | None

    @property
    def of_records(self) -> bool:
        """Whether the mechanism protects records."""
        return self.mechanism.unit is Unit.RECORD

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that options set."""
        return tuple(field.name for field in self.fields)

    @property
    def needed(self) -> tuple[str, ...]:
        """The names of the fields with options that have no default."""
        return tuple(field.name for field in self.fields if field.is_needed)

    def made(
        self, noise_multiplier: float, values: Mapping[str, Any], clip_norm: float | None = None
    ) -> Mechanism:
        """Makes the mechanism.

        Args:
          noise_multiplier: z, without unit.
          values: Values of fields by name. A value of None stands for the default; other names are
            ignored.
          clip_norm: C, in units of the model's weights. None for the field's default, or 1 if it
            has none, which is sufficient for accounting.

        Returns:
          The mechanism.

        Raises:
          ArgumentError: A value is outside its bound.
        """
        given = {name: values[name] for name in self.names if values.get(name) is not None}
        if self.clip is not None:
            (field,) = (f for f in dataclasses.fields(self.mechanism) if f.name == self.clip)  # type: ignore[arg-type]
            if clip_norm is not None or _is_needed(field):
                given[self.clip] = 1.0 if clip_norm is None else clip_norm
        try:
            return self.mechanism(noise_multiplier=noise_multiplier, **given)  # type: ignore[call-arg]
        except ArgumentError:
            raise
        except Exception as error:  # whatever a user's class raises
            raise ArgumentError(
                f"--mechanism={self.name!r} cannot be made: {type(error).__name__}: {error}. Change its "
                "options, or what its __post_init__ requires."
            ) from error


@functools.cache
def own_kinds() -> Mapping[str, Kind]:
    """Returns the mechanisms of tff_dp that have a command name, by that name in alphabetical order."""
    found = {}
    for each in mechanisms.__all__:
        value = getattr(mechanisms, each)
        name = vars(value).get("command_name") if isinstance(value, type) else None
        if name is not None:
            found[name] = _kind(name, value)
    return dict(sorted(found.items()))


def kind_of(name: str) -> Kind:
    """Looks up a mechanism by its value of --mechanism.

    Args:
      name: The command name of a mechanism of tff_dp, or "package.module:Class" for a user's
        mechanism, whose module is imported.

    Returns:
      The mechanism and its options.

    Raises:
      ArgumentError: There is no such mechanism, or a required field has no option.
    """
    own = own_kinds().get(name)
    return _loaded(name) if own is None else own


def options_of(kinds: Iterable[Kind]) -> dict[str, tuple[Field, tuple[str, ...]]]:
    """Collects the options of several mechanisms.

    Args:
      kinds: The mechanisms. If they share a field, the first one determines how its option is read.

    Returns:
      From the name of each field to the field and the names of the mechanisms that have it.
    """
    found: dict[str, tuple[Field, tuple[str, ...]]] = {}
    for kind in kinds:
        for field in kind.fields:
            first, names = found.get(field.name, (field, ()))
            if first.text.startswith("As for"):  # its text refers to that of another mechanism
                first = dataclasses.replace(first, text=field.text)
            found[field.name] = first, (*names, kind.name)
    return found


def reference_in(words: Iterable[str]) -> str | None:
    """Finds the user's mechanism in a command line, which has to be known before options are parsed.

    Args:
      words: The words of the command line.

    Returns:
      The value of --mechanism if it has the form "package.module:Class"; otherwise None.
    """
    scan = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    scan.add_argument("--mechanism")
    try:
        found: str | None = scan.parse_known_args(list(words))[0].mechanism
    except argparse.ArgumentError:  # the complete parser reports it with more detail
        return None
    return found if found is not None and ":" in found else None


def import_module(name: str, option: str) -> types.ModuleType:
    """Imports a user's module. The working directory is added to the end of the search path.

    Args:
      name: The name of the module.
      option: The option that names it, for the message.

    Returns:
      The module.

    Raises:
      ArgumentError: The module cannot be imported, for whatever reason.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # at the end, so that no file here shadows an installed module
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the module raises
        raise ArgumentError(
            f"{option} cannot be imported: {type(error).__name__}: {error}. Expected a module that is "
            f"installed, or lies in {here}."
        ) from error


@functools.cache
def _loaded(reference: str) -> Kind:
    option = f"--mechanism={reference!r}"
    module, _, path = reference.partition(":")
    expected = (
        "Expected package.module:Class, where Class derives from tff_dp.mechanisms.Mechanism."
    )
    if not module or not path:
        raise ArgumentError(f"{option} is no mechanism. {expected}")
    try:
        found = operator.attrgetter(path)(import_module(module, option))
    except AttributeError as error:
        raise ArgumentError(f"{option} is not there: {error}. {expected}") from None
    if not isinstance(found, type) or not issubclass(found, Mechanism):
        raise ArgumentError(f"{option} is {found!r}. {expected}")
    if not hasattr(found, "__dataclass_fields__") or inspect.isabstract(found):
        raise ArgumentError(f"{option} is no dataclass that can be made. {expected}")
    return _kind(reference, found)


def _kind(name: str, mechanism: type[Mechanism]) -> Kind:
    fields = {f.name: f for f in dataclasses.fields(mechanism) if f.init}  # type: ignore[arg-type]
    clip = mechanism.clip_field if mechanism.clip_field in fields else None
    try:
        hints = typing.get_type_hints(mechanism)
    except NameError as error:  # in an annotation
        raise ArgumentError(
            f"--mechanism={name!r} has a field whose type cannot be read: {error}. Import what the "
            "annotations name where the class is defined."
        ) from None
    if _NOISE not in fields:
        raise ArgumentError(f"--mechanism={name!r} has no field {_NOISE}: every mechanism has one.")
    texts, found = _texts(mechanism), []
    for field in fields.values():
        if field.name in (_NOISE, clip):
            continue
        parsed = _parsed(hints[field.name])
        if field.name not in RESERVED and parsed is not None:
            parse, metavar = parsed
            text = field.metadata.get("help", texts.get(field.name, ""))
            default = field.default
            if default is not dataclasses.MISSING and default is not None:
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                text = f"{text} (default: {shown})"
            found.append(
                Field(
                    name=field.name,
                    parse=parse,
                    metavar=metavar,
                    is_needed=_is_needed(field),
                    text=text.strip(),
                )
            )
        elif _is_needed(field):
            why = f"is {hints[field.name]}, which no option holds"
            if field.name in RESERVED:
                why = "has a name that the command line has another meaning for"
            raise ArgumentError(
                f"--mechanism={name!r} has a field {field.name} that {why}: expected a number, a "
                "text, yes or no, or a tuple of numbers. Write the plan into a file, for tff-dp selftest "
                "--plan, or call tff_dp.accounting."
            )
    return Kind(name, mechanism, tuple(found), clip)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _texts(mechanism: type[Mechanism]) -> dict[str, str]:
    """Returns the entries of the Args section in a class's docstring, by name."""
    lines = (inspect.getdoc(mechanism) or "").splitlines()
    found: dict[str, str] = {}
    name = None
    for line in lines[lines.index("Args:") + 1 :] if "Args:" in lines else []:
        if line and not line.startswith(" "):
            break
        start = re.match(r"  (\w+): (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name is not None:
            found[name] += f" {line.strip()}"
    return {key: text.replace("`", "").strip() for key, text in found.items()}


def _parsed(annotation: Any) -> tuple[Callable[[str], Any], str] | None:
    """Returns the parser of a type's values and their placeholder; None if no option can hold them."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation, *more) = (a for a in typing.get_args(annotation) if a is not types.NoneType)
        return None if more else _parsed(annotation)
    if typing.get_origin(annotation) is tuple:
        part, *more = typing.get_args(annotation)
        if more != [...] or part not in (int, float):
            return None
        return (counts if part is int else numbers), "X1,X2,..."
    known: dict[Any, tuple[Callable[[str], Any], str]] = {
        int: (whole, "N"),
        float: (float, "X"),
        str: (str, "TEXT"),
        bool: (flag, "yes|no"),
    }
    return known.get(annotation)


def whole(text: str) -> int:
    """Parses a whole number.

    Args:
      text: The value of an option.

    Returns:
      The number.

    Raises:
      ArgumentTypeError: The text is not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no whole number: expected digits alone, such as 1000"
        ) from None


def counts(text: str) -> tuple[int, ...]:
    """Parses whole numbers that are separated by commas.

    Args:
      text: The value of an option.

    Returns:
      The numbers.

    Raises:
      ArgumentTypeError: The text is not such a list.
    """
    return _list_of(int, text, "whole numbers", "each client's number of records", "400,1000,300")


def numbers(text: str) -> tuple[float, ...]:
    """Parses numbers that are separated by commas.

    Args:
      text: The value of an option.

    Returns:
      The numbers.

    Raises:
      ArgumentTypeError: The text is not such a list.
    """
    return _list_of(float, text, "numbers", "numbers", "0.5,1")


def _list_of(
    kind: Callable[[str], Any], text: str, what: str, expected: str, example: str
) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of {what}: expected {expected}, separated by commas, such as {example}"
        ) from None


def flag(text: str) -> bool:
    """Parses a yes or no.

    Args:
      text: The value of an option.

    Returns:
      True for "yes", False for "no".

    Raises:
      ArgumentTypeError: The text is neither.
    """
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return text == "yes"


RESERVED = frozenset(
    {
        # Other options.
        *("adjacency", "clip_norm", "cohort", "command", "cycle", "delta", "json", "max_dimension"),
        *(
            "max_participations",
            "mechanism",
            "min_separation",
            "modules",
            "noise_multiplier",
            "plan",
        ),
        *("population", "records", "rounds", "sampling", "sampling_rate", "target_epsilon"),
        *("thorough", "help", "version", "file"),
        # Names in the output, besides the fields.
        *(
            "accountants",
            "arithmetic_delta",
            "arithmetic_epsilon",
            "epsilon",
            "found",
            "lower_bound",
        ),
        *("refused", "reported", "unit"),
    }
)
"""Names of fields that cannot have an option, since the command line uses them otherwise."""
