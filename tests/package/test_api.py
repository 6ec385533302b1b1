"""The public surface, the layers, and what importing costs."""

from __future__ import annotations

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import tff_dp
from tff_dp import errors

PACKAGE = pathlib.Path(tff_dp.__file__).parent

# Each module may import from its own layer downwards only. Errors and checks are at the bottom.
LAYERS = [
    {
        "errors",
        "_checks",
        "_seeds",
        "_compat",
        "_arrays",
        "_caching",
        "_cuda_driver",
        "_disk",
        "_html",
        "_memory_growth",
        "_warnings",
    },
    {"_copies", "config", "noise", "_registry", "_why_no_gpu", "exported"},
    {"cluster"},
    {"data", "model", "execution", "optimizers"},
    {"sampling", "mechanisms", "algorithms"},
    {"aggregation", "accounting", "dp_sgd"},
    {"plan"},
    {"charges"},
    {"provenance"},
    {"ledger"},
    {"process", "runs"},
    {"training"},
    {"selftest", "report"},
    {"cli"},
]
# Within a layer, only these see each other.
SIBLINGS = {
    ("_checks", "errors"),
    ("_seeds", "_checks"),
    ("_compat", "errors"),
    ("_seeds", "errors"),
    ("_registry", "config"),
}


def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the first-level modules of tff_dp that a file imports, at the top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts[0] == "tff_dp":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            found |= {f"!{parts[0]}"} if parts[0] in ("models", "experiments") else set()
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "tff_dp" and len(parts) > 1:
                    found.add(parts[1])
                found |= {f"!{parts[0]}"} if parts[0] in ("models", "experiments") else set()
    return found


def layer_violations(package: pathlib.Path) -> list[str]:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    violations = []
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        if module not in level:
            violations.append(f"{module} is in no layer")
            continue
        for target in imported_modules(path) - {module, "tff"}:
            if target not in level:
                violations.append(f"{module} imports {target}")
            elif level[target] > level[module] or (
                level[target] == level[module] and (module, target) not in SIBLINGS
            ):
                violations.append(f"{module} (layer {level[module]}) imports {target}")
    return violations


def test_data_flows_one_way_through_the_layers():
    assert layer_violations(PACKAGE) == []


def test_the_layer_check_catches_an_upward_import_and_a_foreign_one(tmp_path):
    (tmp_path / "sampling.py").write_text("from tff_dp.training import fit\nimport models.linear\n")
    assert sorted(layer_violations(tmp_path)) == [
        "sampling (layer 4) imports training",
        "sampling imports !models",
    ]


def test_all_is_sorted_and_everything_in_it_is_there():
    assert tff_dp.__all__ == sorted({*tff_dp._HOMES, *tff_dp._MODULES, "__version__", "tff"})
    for name in set(tff_dp.__all__) - {"tff"}:
        assert getattr(tff_dp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tff_dp.nothing


def test_public_functions_and_classes_have_docstrings_with_their_arguments():
    for name in set(tff_dp.__all__) - {"tff", "__version__"}:
        value = getattr(tff_dp, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            for argument in inspect.signature(value).parameters:
                assert f"{argument}:" in value.__doc__, (name, argument)
            assert "Returns:" in value.__doc__, name
            assert "Raises:" in value.__doc__, name


def test_every_exception_is_one_of_ours_and_stands_in_the_tree_of_the_docstring():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    for cls in classes:
        assert issubclass(cls, tff_dp.TffDpError)
        assert cls.__name__ in errors.__doc__


def test_importing_the_package_and_the_accounting_imports_no_tensorflow():
    program = (
        "import sys, tff_dp; from tff_dp import PrivacyPlan, GaussianMechanism, accounting, data\n"
        "PrivacyPlan(mechanism=GaussianMechanism(clip_norm=1, noise_multiplier=1), population=100,"
        " cohort=10, rounds=5, delta=1e-4).epsilon()\n"
        "print([m for m in ('tensorflow', 'tensorflow_federated', 'keras') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_command_says_its_version_without_importing_anything_heavy():
    program = (
        "import sys; from tff_dp import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "print(code, [m for m in ('tensorflow', 'numpy', 'dp_accounting') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"tff-dp {tff_dp.__version__}", "0 []"]
