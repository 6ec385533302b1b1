"""Private and version-dependent names of other packages stand in `tff_dp._compat` alone."""

from __future__ import annotations

import ast
import pathlib
import pkgutil
from collections.abc import Iterator

import dp_accounting
import pytest

from tests.support.source import PACKAGE, modules

# Packages whose modules below these are their own affair.
PRIVATE_MODULES = (
    "tensorflow_federated.python",
    "tensorflow_federated.proto",
    "tensorflow_privacy",  # of which TFF's loading decides whether it can be imported at all
    "tensorflow.python",
    "tensorflow.compiler",
    "tensorflow.core",
    "keras.src",
    "tf_keras.src",
    "tf_keras.__internal__",
    *(
        f"dp_accounting.{package.name}.{module.name}"
        for package in pkgutil.iter_modules(dp_accounting.__path__)
        if package.ispkg
        for module in pkgutil.iter_modules([f"{dp_accounting.__path__[0]}/{package.name}"])
    ),
    *(
        f"dp_accounting.{module.name}"
        for module in pkgutil.iter_modules(dp_accounting.__path__)
        if not module.ispkg
    ),
)
# By what modules are usually called where they are imported.
ALIASES = {"tf": "tensorflow", "tff": "tensorflow_federated", "pld": "dp_accounting.pld"}
# Public in spite of their looks.
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


def is_private(name: str) -> bool:
    """Returns whether a name has one underscore in front."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.AST) -> set[str]:
    """Returns the private names that a file defines: functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in ("self", "cls")
        ):
            found.add(node.attr)
    return found


def dotted(node: ast.AST) -> str:
    """Returns a chain of attributes with its first name in full, or nothing."""
    if isinstance(node, ast.Attribute):
        first = dotted(node.value)
        return f"{first}.{node.attr}" if first else ""
    return ALIASES.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    """Returns whether a name is one of the given ones, or below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def foreign_names(source: str, of_package: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yields the private names of other packages in a file.

    Args:
      source: Its text.
      of_package: Private names that other files of our package define: methods that a class has from
        its base, and names of modules of ours.
    """
    tree = ast.parse(source)
    own = own_names(tree)
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tff_dp"
        for alias in node.names
    }
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (where + name for name in names if is_below(name, PRIVATE_MODULES))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (where + name for name in names if is_below(name, PRIVATE_MODULES))
            if module.split(".")[0] != "tff_dp":
                yield from (where + a.name for a in node.names if is_private(a.name))
        elif isinstance(node, ast.Attribute):
            if is_below(dotted(node), PRIVATE_MODULES):
                yield where + dotted(node)
            elif is_private(node.attr) and node.attr not in own | NAMED_TUPLES:
                base = ast.unparse(node.value)
                is_ours = base in {"self", "cls", "super()"} | ours
                if not (is_ours and node.attr in of_package):
                    yield where + ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
            "delattr",
            "operator.attrgetter",
            "importlib.import_module",
            "monkeypatch.setattr",
        ):
            for argument in node.args:
                name = argument.value if isinstance(argument, ast.Constant) else None
                if not isinstance(name, str):
                    continue
                if is_private(name) and name not in own | NAMED_TUPLES:
                    yield f"{where}{name!r}"
                if is_below(name, PRIVATE_MODULES):
                    yield f"{where}{name!r}"


def violations(package: pathlib.Path) -> list[str]:
    """Returns the private names of other packages in the files of a package outside `_compat`."""
    texts = {path: path.read_text(encoding="utf-8") for path in modules(package).values()}
    of_package = frozenset(
        name for text in texts.values() for name in own_names(ast.parse(text)) if is_private(name)
    )
    return [
        f"{path.relative_to(package)}, {name}"
        for path, text in texts.items()
        if path.relative_to(package).parts[0] != "_compat"
        for name in foreign_names(text, of_package)
    ]


def test_private_names_of_other_packages_are_in_compat_alone():
    assert violations(PACKAGE) == []


def test_compat_has_such_names():
    """Else the test above would pass for a check that finds nothing."""
    for name in ("tff/internals", "tensorflow", "keras", "dp_accounting", "tensorflow_privacy"):
        text = (PACKAGE / "_compat" / f"{name}.py").read_text(encoding="utf-8")
        assert list(foreign_names(text)), name


@pytest.mark.parametrize(
    "source",
    [
        "from tensorflow_federated.python.common_libs import structure",
        "import tensorflow_federated.python.core.impl.types.placements",
        "from tensorflow_federated import python",
        "def f():\n    from tensorflow_federated.python.core.backends import mapreduce",
        "import tensorflow_federated as tff\ntff.python.core",
        "import importlib\nimportlib.import_module('tensorflow_federated.python.core')",
        "from keras.src.losses import loss",
        "from keras import src",
        "import keras\nkeras.src.losses.loss",
        "import tf_keras.src.engine",
        "import tf_keras\ntf_keras.__internal__.layers.BaseRandomLayer",
        "import tensorflow_privacy as tfp",
        "from tensorflow_privacy.privacy.dp_query import dp_query",
        "from dp_accounting.pld import pld_pmf",
        "from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType",
        "from dp_accounting.rdp import rdp_privacy_accountant",
        "from dp_accounting import privacy_accountant",
        "from dp_accounting import pld\npld.privacy_loss_distribution.from_gaussian_mechanism(1)",
        "import dp_accounting\ndp_accounting.pld.pld_pmf.DensePLDPmf",
        "from tensorflow.python.framework import op_def_registry",
        "from tensorflow.compiler.tf2xla.python import xla",
        "import tensorflow as tf\ntf.python.framework",
        "def f(model):\n    return model._flatten_layers()",
        "def f(function):\n    return function._call_flat([])",
        "def f(outputs, mask):\n    outputs._keras_mask = mask",
        "def f(outputs):\n    return getattr(outputs, '_keras_mask', None)",
        "def f(model):\n    return hasattr(model, '_is_compiled')",
        "def f(accountant):\n    return accountant._orders",
        "class Reference(Theirs):\n    async def get_value(self):\n        return await self._task",
        "from scipy.stats import _continuous_distns",
    ],
)
def test_a_planted_use_of_a_private_name_is_caught(tmp_path, source):
    (tmp_path / "_compat").mkdir()
    (tmp_path / "_compat" / "keras.py").write_text(source)
    (tmp_path / "model.py").write_text(source)
    found = violations(tmp_path)
    assert found
    assert all(each.startswith("model.py, line ") for each in found)


@pytest.mark.parametrize(
    "source",
    [
        "import tensorflow_federated as tff\ntff.structure.Struct\ntff.types.to_type",
        "import keras\nkeras.losses.Loss\nimport tf_keras\ntf_keras.layers",
        "from dp_accounting import GaussianDpEvent, pld, rdp\npld.PLDAccountant\nrdp.compute_epsilon",
        "class A:\n    def f(self, b):\n        self._own = 1\n        return b._own",
        "def f(state):\n    return state._replace(a=1), state.__class__",
        "from tff_dp import accounting\naccounting._curve",
        "class B(A):\n    def f(self):\n        return super()._curve()",
    ],
)
def test_public_and_own_names_are_nothing_to_report(tmp_path, source):
    (tmp_path / "model.py").write_text(source)
    (tmp_path / "accounting.py").write_text("def _curve():\n    pass")
    assert violations(tmp_path) == []
