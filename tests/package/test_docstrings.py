"""Docstrings say what the signature says.

Every public function, method and class of tff_dp is read from the source, without importing it: the
names under "Args:" are the parameters, in their order; there is a section "Returns:" or "Yields:"
if something is returned; "Raises:" names each class that the body raises, itself or by a validator
of `_checks`. Rules that keep this from being noise:

- A section that an override does not have is that of the method that it overrides.
- A property needs a docstring and no section. A function without parameters needs no "Returns:" if
  its docstring begins with "Returns" or "Yields".
- The fields of a dataclass and the parameters of `__init__` are explained under "Args:" or
  "Attributes:" of the class; inherited fields, in the class that declares them. Other special
  methods need no docstring.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import pathlib
import re

import pytest

import tff_dp
from tff_dp import errors

PACKAGE = pathlib.Path(tff_dp.__file__).parent

# Modules and packages whose docstrings are not complete yet. This list may only shrink: an entry
# without a fault fails.
NOT_YET = {
    "execution",
}

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
_HEADER = re.compile(r"^(\w[\w ]*):\s*$")
_ENTRY = re.compile(r"^  (?! )(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*):")


def sections(docstring: str) -> dict[str, str]:
    """Returns the text under each header of a docstring whose indentation is already removed."""
    found: dict[str, list[str]] = {}
    current = None
    for line in docstring.splitlines():
        header = _HEADER.match(line)
        if header:
            current = found.setdefault(header.group(1), [])
        elif line and not line.startswith(" "):
            current = None
        elif current is not None:
            current.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def entries(text: str) -> list[str]:
    """Returns the names that a section explains, in order; `a, b: ...` explains both."""
    names = []
    for line in text.splitlines():
        entry = _ENTRY.match(line)
        if entry:
            names += [name.lstrip("*") for name in entry.group("names").split(", ")]
    return names


@dataclasses.dataclass
class Class:
    """One class of the package: its definition and where it stands."""

    module: str
    node: ast.ClassDef

    @property
    def bases(self) -> list[str]:
        return [name for base in self.node.bases if (name := _last_name(base))]

    def method(self, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return node
        return None

    @property
    def is_record(self) -> bool:
        """Whether the annotated names of the class body are parameters."""
        decorators = {_last_name(d) for d in self.node.decorator_list}
        return "dataclass" in decorators or "NamedTuple" in self.bases or "Config" in self.bases

    @property
    def fields(self) -> list[str]:
        """The public fields that this class declares itself."""
        if not self.is_record:
            return []
        names = []
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                annotation = ast.unparse(node.annotation)
                if "ClassVar" not in annotation and not node.target.id.startswith("_"):
                    names.append(node.target.id)
        return names


def _last_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _own_nodes(function: ast.AST) -> list[ast.AST]:
    """Returns the nodes of a body without those of functions, classes and lambdas inside it."""
    found: list[ast.AST] = []
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        found.append(node)
        waiting += ast.iter_child_nodes(node)
    return found


def raised(function: ast.AST) -> set[str]:
    """Returns the classes that a body raises itself, directly or by a validator of `_checks`."""
    names = {
        _last_name(node.exc)
        for node in _own_nodes(function)
        if isinstance(node, ast.Raise) and node.exc is not None
    }
    found = {name for name in names if name and name[:1].isupper()} - {"NotImplementedError"}
    own = _own_nodes(function)
    # What a validator raises inside of a `try` may be caught there.
    tried = {
        id(inner)
        for node in own
        if isinstance(node, ast.Try) and node.handlers
        for statement in node.body
        for inner in ast.walk(statement)
    }
    if any(_is_check(node) for node in own if id(node) not in tried):
        found.add("ArgumentError")
    return found


def _is_check(node: ast.AST) -> bool:
    """Whether a node calls one of the validators of `tff_dp._checks`, which raise ArgumentError."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "_checks"
        and node.func.attr != "brief"
    )


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> list[str]:
    arguments = function.args
    names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
    if is_method and "staticmethod" not in {_last_name(d) for d in function.decorator_list}:
        names = names[1:]
    names += [arguments.vararg.arg] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    names += [arguments.kwarg.arg] if arguments.kwarg else []
    return [name for name in names if not name.startswith("_")]


def _gives_something(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    if function.returns is not None:
        return ast.unparse(function.returns) not in ("None", "NoReturn", "Never")
    return any(
        isinstance(node, ast.Yield | ast.YieldFrom)
        or (isinstance(node, ast.Return) and node.value is not None)
        for node in _own_nodes(function)
    )


class Reader:
    """Reads a package and collects what is wrong with its docstrings."""

    def __init__(self, package: pathlib.Path):
        self.package = package
        self.trees = {
            path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
            for path in sorted(package.rglob("*.py"))
        }
        self.classes: dict[str, Class] = {}
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, Class(module, node))
        self.exceptions = {
            name
            for name, value in {**vars(builtins), **vars(errors)}.items()
            if isinstance(value, type) and issubclass(value, BaseException)
        } | {name for name in self.classes if self._is_exception(name)}
        self.faults: list[str] = []

    def read(self) -> list[str]:
        for module, tree in self.trees.items():
            self._body(module, tree.body, None)
        return self.faults

    def _body(self, module: str, body: list[ast.stmt], owner: Class | None) -> None:
        for node in body:
            if isinstance(node, ast.If | ast.Try):
                self._body(module, node.body, owner)
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                inner = Class(module, node)
                self._class(inner)
                self._body(module, node.body, inner)
            elif isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef
            ) and not node.name.startswith("_"):
                self._function(module, node, owner)

    def _ancestors(self, owner: Class) -> list[Class]:
        found: list[Class] = []
        waiting = list(owner.bases)
        while waiting:
            base = self.classes.get(waiting.pop(0))
            if base is not None and base not in found and base.node is not owner.node:
                found.append(base)
                waiting += base.bases
        return found

    def _is_exception(self, name: str) -> bool:
        above = [
            name,
            *(b for c in self._ancestors(self.classes[name]) for b in [c.node.name, *c.bases]),
        ]
        above += self.classes[name].bases
        return any(n == "Exception" or n.endswith(("Error", "Warning")) for n in above[1:])

    def _function(
        self, module: str, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: Class | None
    ) -> None:
        where = f"{module}: {owner.node.name}.{node.name}" if owner else f"{module}: {node.name}"
        decorators = {_last_name(d) for d in node.decorator_list}
        if decorators & {"setter", "deleter", "overload"}:
            return
        own = ast.get_docstring(node) or ""
        chain = [own]
        if owner:
            overridden = [c.method(node.name) for c in self._ancestors(owner)]
            chain += [ast.get_docstring(m) or "" for m in overridden if m is not None]
        if not any(chain):
            self.faults.append(f"{where}: no docstring")
            return
        parts: dict[str, str] = {}
        for text in reversed(chain):
            parts |= sections(text)
        first = next(text for text in chain if text)
        is_property = bool(decorators & {"property", "cached_property"})
        parameters = _parameters(node, owner is not None)
        self._compare(where, "Args", entries(parts.get("Args", "")), parameters)
        said = {"Returns", "Yields"} & set(parts)
        if is_property:
            pass
        elif not _gives_something(node):
            if said & set(sections(own)):
                self.faults.append(f"{where}: Returns, and nothing is returned")
        elif not said and (parameters or not first.startswith(("Returns ", "Yields "))):
            self.faults.append(f"{where}: no Returns")
        self._raises(where, parts, raised(node))

    def _class(self, owner: Class) -> None:
        where = f"{owner.module}: {owner.node.name}"
        docstring = ast.get_docstring(owner.node) or ""
        if not docstring:
            self.faults.append(f"{where}: no docstring")
            return
        parts = sections(docstring)
        told = entries(parts.get("Args", "")) + entries(parts.get("Attributes", ""))
        start = owner.method("__init__")
        raises = [
            m for name in ("__init__", "__post_init__", "__new__") if (m := owner.method(name))
        ]
        expected = owner.fields
        if start is not None:
            expected = _parameters(start, True)
            extra = sections(ast.get_docstring(start) or "")
            told += entries(extra.get("Args", ""))
            parts = {**extra, **parts}
        inherited = {name for base in self._ancestors(owner) for name in self._told(base)}
        attributes = set(entries(parts.get("Attributes", "")))
        missing = [n for n in expected if n not in told and n not in inherited]
        strange = [
            n for n in told if n not in expected and n not in inherited and n not in attributes
        ]
        if missing:
            self.faults.append(f"{where}: Args without {', '.join(missing)}")
        if strange:
            self.faults.append(f"{where}: Args has {', '.join(strange)}, which is no parameter")
        self._raises(where, parts, set().union(*map(raised, raises)))

    def _told(self, owner: Class) -> list[str]:
        parts = sections(ast.get_docstring(owner.node) or "")
        return owner.fields + entries(parts.get("Args", "")) + entries(parts.get("Attributes", ""))

    def _compare(self, where: str, section: str, told: list[str], expected: list[str]) -> None:
        missing = [name for name in expected if name not in told]
        strange = [name for name in told if name not in expected]
        if missing:
            self.faults.append(f"{where}: {section} without {', '.join(missing)}")
        if strange:
            self.faults.append(
                f"{where}: {section} has {', '.join(strange)}, which is no parameter"
            )
        if not missing and not strange and told != expected:
            self.faults.append(f"{where}: {section} in another order than the signature")

    def _raises(self, where: str, parts: dict[str, str], needed: set[str]) -> None:
        told = entries(parts.get("Raises", ""))
        if "Raises" in parts and not told:
            self.faults.append(f"{where}: Raises names no class")
        unknown = [name for name in told if name not in self.exceptions]
        if unknown:
            self.faults.append(f"{where}: Raises has {', '.join(unknown)}, which is no exception")
        if missing := sorted(needed - set(told)):
            self.faults.append(f"{where}: Raises without {', '.join(missing)}")


def unconverted(fault: str) -> str | None:
    """Returns the entry of NOT_YET that a fault belongs to, as a module or as one of a package."""
    module = fault.split(":")[0]
    return next((e for e in NOT_YET if module == f"{e}.py" or module.startswith(f"{e}/")), None)


@pytest.fixture(scope="module")
def faults() -> list[str]:
    return Reader(PACKAGE).read()


def test_docstrings_say_what_the_signatures_say(faults):
    assert [fault for fault in faults if unconverted(fault) is None] == []


def test_the_list_of_modules_that_are_not_converted_only_shrinks(faults):
    with_faults = {unconverted(fault) for fault in faults}
    assert sorted(NOT_YET - with_faults) == [], "remove these from NOT_YET"


# --- Planted faults -------------------------------------------------------------------------------

GOOD = '''
"""A module."""

import dataclasses


class Base:
    """A base.

    Args:
      size: The size, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, start: int, *, stop: int = 0) -> bytes:
        """Reads bytes.

        Args:
          start: The first byte.
          stop: The byte after the last.

        Returns:
          The bytes.

        Raises:
          ValueError: There are none.
        """
        if start:
            raise ValueError(start)
        return b""

    @property
    def length(self) -> int:
        """The length, in bytes."""
        return self.size


class Derived(Base):
    """A derived class."""

    def read(self, start: int, *, stop: int = 0) -> bytes:
        """Reads bytes faster."""
        return b""


@dataclasses.dataclass
class Record:
    """A record.

    Attributes:
      name: The name.
      sizes: The sizes, in bytes.

    Raises:
      TypeError: The name is no string.
    """

    name: str
    sizes: list[int]
    _hidden: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(self.name)


def count() -> int:
    """Returns the number of records."""
    return 0


def write(*parts: bytes, **options: str) -> None:
    """Writes.

    Args:
      *parts: What to write.
      **options: How.
    """


def numbers(most: int):
    """Counts.

    Args:
      most: How far.

    Yields:
      The numbers.
    """
    yield from range(most)


def _private(anything):
    return anything
'''


def found_in(tmp_path: pathlib.Path, text: str) -> list[str]:
    (tmp_path / "planted.py").write_text(text, encoding="utf-8")
    return Reader(tmp_path).read()


def test_a_module_with_complete_docstrings_has_no_faults(tmp_path):
    assert found_in(tmp_path, GOOD) == []


PLANTED = {
    "argument without an entry": (
        "          stop: The byte after the last.\n",
        "",
        ["planted.py: Base.read: Args without stop", "planted.py: Derived.read: Args without stop"],
    ),
    "entry without an argument": (
        "      **options: How.\n",
        "      **options: How.\n      flush: Whether to flush.\n",
        ["planted.py: write: Args has flush, which is no parameter"],
    ),
    "another order": (
        "          start: The first byte.\n          stop: The byte after the last.\n",
        "          stop: The byte after the last.\n          start: The first byte.\n",
        [
            "planted.py: Base.read: Args in another order than the signature",
            "planted.py: Derived.read: Args in another order than the signature",
        ],
    ),
    "no docstring": (
        '    """Returns the number of records."""\n',
        "",
        ["planted.py: count: no docstring"],
    ),
    "no docstring of a property": (
        '        """The length, in bytes."""\n',
        "",
        ["planted.py: Base.length: no docstring"],
    ),
    "no returns": (
        "        Returns:\n          The bytes.\n\n",
        "",
        ["planted.py: Base.read: no Returns", "planted.py: Derived.read: no Returns"],
    ),
    "no returns in a line": (
        "Returns the number of records.",
        "The number of records.",
        ["planted.py: count: no Returns"],
    ),
    "no yields": (
        "\n    Yields:\n      The numbers.\n",
        "",
        ["planted.py: numbers: no Returns"],
    ),
    "returns of nothing": (
        "      **options: How.\n",
        "      **options: How.\n\n    Returns:\n      Nothing.\n",
        ["planted.py: write: Returns, and nothing is returned"],
    ),
    "an exception without an entry": (
        "          ValueError: There are none.\n",
        "          KeyError: There are none.\n",
        ["planted.py: Base.read: Raises without ValueError"],
    ),
    "an exception that does not exist": (
        "          ValueError: There are none.\n",
        "          ValueError: There are none.\n          ValeuError: A slip.\n",
        [
            "planted.py: Base.read: Raises has ValeuError, which is no exception",
            "planted.py: Derived.read: Raises has ValeuError, which is no exception",
        ],
    ),
    "an override that raises more": (
        '        """Reads bytes faster."""\n',
        '        """Reads bytes faster."""\n        if stop:\n            raise OSError(stop)\n',
        ["planted.py: Derived.read: Raises without OSError"],
    ),
    "a validator's exception without an entry": (
        "    yield from range(most)\n",
        '    yield from range(_checks.integer("most", most, "[1, inf)"))\n',
        ["planted.py: numbers: Raises without ArgumentError"],
    ),
    "a field without an entry": (
        "      sizes: The sizes, in bytes.\n",
        "",
        ["planted.py: Record: Args without sizes"],
    ),
    "a class that raises without saying so": (
        "\n    Raises:\n      TypeError: The name is no string.\n",
        "",
        ["planted.py: Record: Raises without TypeError"],
    ),
    "an argument of a constructor without an entry": (
        "\n    Args:\n      size: The size, in bytes.\n",
        "",
        ["planted.py: Base: Args without size"],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_caught(name, tmp_path):
    old, new, expected = PLANTED[name]
    assert GOOD.count(old) == 1
    assert found_in(tmp_path, GOOD.replace(old, new)) == expected


def test_the_reader_sees_every_module_and_most_definitions():
    reader = Reader(PACKAGE)
    assert set(reader.trees) == {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")
    }
    seen = []
    reader._function = lambda module, node, owner: seen.append(node.name)
    reader.read()
    assert len(seen) > 500
