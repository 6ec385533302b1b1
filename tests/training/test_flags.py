"""Flags are booleans: "no" and 1 would count as true.

The public API is walked, so that a new flag without a check fails here.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pathlib
import re

import numpy as np
import pytest

import tff_dp
from tests.support.tables import slow
from tff_dp import _checks, _compat
from tff_dp.errors import ArgumentError, StackError

PACKAGE = pathlib.Path(tff_dp.__file__).parent


class Nothing:
    """In place of an argument that a function needs: flags are checked before it is used."""

    def __repr__(self) -> str:
        return "NOTHING"


def public_modules():
    """Yields the modules and packages whose names have no underscore, and that say what is public."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if any(part.startswith("_") for part in name.split(".")):
            continue
        # Aggregators import TensorFlow Federated: they are parts of processes, and have no flags.
        if "\n__all__ =" in path.read_text(encoding="utf-8") and "aggregation" not in parts:
            yield importlib.import_module(name)


def is_flag(parameter: inspect.Parameter) -> bool:
    return re.fullmatch(r"bool( \| None)?", str(parameter.annotation)) is not None


def methods_of(cls: type):
    """Yields the constructor and the public methods of a class, with how each is called."""
    if "__init__" in vars(cls) or dataclasses.is_dataclass(cls):
        yield cls.__name__, cls, inspect.signature(cls)
    for name, member in inspect.getmembers_static(cls):
        if name.startswith("_"):
            continue
        if isinstance(member, classmethod | staticmethod):
            yield (
                f"{cls.__name__}.{name}",
                getattr(cls, name),
                inspect.signature(getattr(cls, name)),
            )
        elif inspect.isfunction(member):
            bound = functools.partial(member, Nothing())
            yield f"{cls.__name__}.{name}", bound, inspect.signature(member)


def public_callables():
    """Yields the name, the callable and the signature of everything public."""
    seen = set()
    for module in public_modules():
        for name in module.__all__:
            if name == "tff":
                continue
            value = getattr(module, name)
            if id(value) in seen or getattr(value, "__module__", "").split(".")[0] != "tff_dp":
                continue
            seen.add(id(value))
            if inspect.isclass(value):
                yield from methods_of(value)
            elif callable(value):
                yield name, value, inspect.signature(value)


def public_flags():
    return [
        (f"{name}({parameter.name})", function, signature, parameter)
        for name, function, signature in public_callables()
        for parameter in signature.parameters.values()
        if is_flag(parameter)
    ]


FLAGS = public_flags()


def call(function, signature, flag, value):
    """Calls a function with a flag, and with nothing for whatever else it needs."""
    needed = {
        p.name: Nothing()
        for p in signature.parameters.values()
        if p.default is p.empty
        and p.name != "self"
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    for other in signature.parameters.values():
        if other.name in needed and is_flag(other):
            needed[other.name] = False
    given = needed | {flag.name: value}
    positional = [
        given.pop(p.name)
        for p in signature.parameters.values()
        if p.kind is p.POSITIONAL_ONLY and p.name in given
    ]
    result = function(*positional, **given)
    if hasattr(result, "__enter__"):
        with result:
            pass
    return result


def complaint(function, signature, flag, value) -> str:
    """Returns what a function says to a flag and nothing else: of the other arguments, or of none."""
    try:
        call(function, signature, flag, value)
    except Exception as error:
        return str(error)
    return ""


def test_the_walk_finds_the_flags_that_are_known():
    names = {name for name, *_ in FLAGS}
    known = {
        "fit(shuffle)",
        "fit(release_metrics)",
        "fit(disjoint_data)",
        "fit(progress)",
        "fast(xla)",
        "fast(strict)",
        "install(strict)",
        "current_or_fast(xla)",
        "federated_context(install)",
        "stock(unkeyed_noise)",
        "from_frame(allow_nonfinite)",
        "dirichlet(allow_nonfinite)",
        "Clients(allow_empty)",
        "Clients.cohort(shuffle)",
        "Clients.load(mmap)",
        "self_test(thorough)",
        "Charges(unbounded)",
    }
    assert known <= names


@pytest.fixture
def no_stack(monkeypatch):
    """TFF is not to be imported: a flag is checked before."""

    def never():
        raise StackError("TFF was asked for.")

    monkeypatch.setattr(_compat.tff, "load", never)
    monkeypatch.setattr("tff_dp._compat.tff.worker_process.Worker", NoWorker)


class NoWorker:
    """In place of stock TFF's worker, which takes a second to start, and computes nothing here."""

    stub = None

    def __init__(self, *_, **__):
        pass

    def wait_until_ready(self):
        pass

    def close(self):
        pass


@pytest.mark.parametrize(
    ("name", "function", "signature", "flag"),
    # Each flag of stock TFF's context starts its worker.
    [slow(*f) if f[0].startswith("stock(") else f for f in FLAGS],
    ids=[f[0] for f in FLAGS],
)
def test_every_public_flag_takes_truth_values_and_nothing_else(
    no_stack, name, function, signature, flag
):
    del name
    expected = "True, False or None" if "None" in str(flag.annotation) else "True or False"
    for value in ("no", "", 1, 0, 1.0, [True], np.array([True]), np.array(True), Nothing()):
        with pytest.raises(ArgumentError) as refusal:
            call(function, signature, flag, value)
        message = str(refusal.value)
        assert message.startswith(
            f"{flag.name}={value!r} is outside its bound: expected {expected}."
        )
    if "None" not in str(flag.annotation):
        with pytest.raises(ArgumentError, match=rf"^{flag.name}=None .* expected True or False"):
            call(function, signature, flag, None)
    for value in (True, False, np.True_, np.False_):
        assert not complaint(function, signature, flag, value).startswith(f"{flag.name}=")


def test_a_flag_without_a_check_would_be_noticed():
    def unchecked(*, loud: bool = False) -> bool:
        return bool(loud)

    signature = inspect.signature(unchecked)
    assert [p.name for p in signature.parameters.values() if is_flag(p)] == ["loud"]
    assert call(unchecked, signature, signature.parameters["loud"], "no") is True


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_a_flag_comes_back_as_a_bool(value):
    for check in (_checks.flag, _checks.optional_flag):
        assert type(check("f", value)) is bool
        assert check("f", value) == value
    assert _checks.optional_flag("f", None) is None


def test_a_refused_flag_names_the_remedy():
    with pytest.raises(ArgumentError, match=r"^f=2 is outside its bound.*False\. Say which\.$"):
        _checks.flag("f", 2, "Say which.")
