"""What the tests read of the package's source: its modules, and what they import."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import tff_dp

PACKAGE = pathlib.Path(tff_dp.__file__).parent


class Import(NamedTuple):
    """An import of a module.

    Attributes:
      name: The module's full name.
      in_function: Whether it stands in a function.
      is_for_types: Whether it stands under `if TYPE_CHECKING`, and is never run.
    """

    name: str
    in_function: bool
    is_for_types: bool


def modules(package: pathlib.Path = PACKAGE) -> dict[str, pathlib.Path]:
    """Returns the files of a package by the full names of their modules."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path, known: dict[str, pathlib.Path]) -> list[Import]:
    """Returns what a file imports, wherever in it.

    Args:
      path: The file.
      known: The modules of its package. `from a import b` imports `a.b` if that is one of these, or if
        nothing is known of `a`, and else `a`.
    """
    own = next(name for name, each in known.items() if each == path)
    found = []
    for node, *where in _walk(ast.parse(path.read_text(encoding="utf-8")), False, False):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert isinstance(node, ast.ImportFrom)
            base = node.module or ""
            if node.level:
                package = own if path.name == "__init__.py" else own.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                base = ".".join(filter(None, [package, base]))
            parts = [f"{base}.{alias.name}" for alias in node.names]
            names = [part if part in known or base not in known else base for part in parts]
        found += [Import(name, *where) for name in names]
    return found


def _walk(
    node: ast.AST, in_function: bool, for_types: bool
) -> Iterator[tuple[ast.stmt, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function, for_types
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield from _walk(child, in_function or inside, for_types or types)
