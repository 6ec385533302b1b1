"""What imports what: no circles, TensorFlow at the top where it is needed and nowhere else."""

from __future__ import annotations

import graphlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.support.source import PACKAGE, imports, modules

HEAVY = ("tensorflow", "tensorflow_federated", "tensorflow_privacy", "keras", "tf_keras")

# Modules that import TensorFlow or what brings it in a function, by what they import there. Each is part
# of something that works without TensorFlow, which its import takes seconds for.
IN_FUNCTIONS = {
    "tff_dp._compat.keras": {
        "tensorflow",
        "tf_keras",
    },  # of models, whose Keras is imported by then
    "tff_dp.algorithms.fed_avg": {"tff_dp.algorithms.adjustable"},
    "tff_dp.algorithms.fed_prox": {"tff_dp.algorithms.proximal"},  # descriptions are plain data
    "tff_dp.data._elements": {"tensorflow"},  # data sets are one source of clients among others
    "tff_dp.data.clients": {"tensorflow"},  # clients are made of arrays, and accounted for
    "tff_dp.data.cohort": {"tensorflow"},
    # These import a module of tff_dp that imports TFF.
    "tff_dp._compat.tff.finder": {"tff_dp._compat.tff.setup"},
    "tff_dp._compat.tff.loading": {"tff_dp._compat.tff.setup"},
    "tff_dp.selftest": {"tff_dp.selftest.suite"},  # the command refuses wrong plans before that
    "tff_dp.selftest.command": {"tff_dp.selftest.suite"},
    # It says how far it came: what takes seconds to import is imported between what it says.
    # Callbacks are made after the model, whose Keras is imported by then.
    "tff_dp.cli.configs.around": {"tff_dp.training.refused_callbacks"},
    # Workers set the environment first, which TensorFlow reads when it is imported.
    "tff_dp.cluster.worker": {"tensorflow", "tff_dp._compat.tensorflow", "tff_dp._copies"},
    # They make a model first, from what a configuration says, or look for a GPU.
    "tff_dp.cli.devices": {"tensorflow", "tff_dp.execution"},
    "tff_dp.cli.training_check": {"tensorflow", "keras", "tff_dp.execution.devices"},
}
# What works without TensorFlow: plans, data, accounting, and the command.
LIGHT = (
    "tff_dp",
    "tff_dp.accounting",
    "tff_dp.algorithms",
    "tff_dp.charges",
    "tff_dp.cli",
    "tff_dp.data",
    "tff_dp.ledger",
    "tff_dp.mechanisms",
    "tff_dp.optimizers",
    "tff_dp.plan",
    "tff_dp.provenance",
    "tff_dp.runs",
    "tff_dp.sampling",
    "tff_dp.selftest.command",
    "tff_dp.selftest.testable",
    "tff_dp.report",
)


def import_circle(package: pathlib.Path) -> list[str]:
    """Returns modules of a package that import each other in a circle; none if there is no circle."""
    known = modules(package)
    graph = {
        name: {each.name for each in imports(path, known) if each.name in known} - {name}
        for name, path in known.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def brings_tensorflow(package: pathlib.Path) -> set[str]:
    """Returns the modules of a package whose import brings TensorFlow, by what stands at the top."""
    known = modules(package)
    # To import a module is to import the packages that it is in.
    at_top = {
        name: {
            each.name
            for each in imports(path, known)
            if not each.in_function and not each.is_for_types
        }
        | {name.rpartition(".")[0]}
        for name, path in known.items()
    }
    found: set[str] = set()
    while True:
        more = {
            name
            for name, imported in at_top.items()
            if any(each.split(".")[0] in HEAVY or each in found for each in imported)
        }
        if more == found:
            return found
        found = more


def in_functions(package: pathlib.Path) -> dict[str, set[str]]:
    """Returns what modules import in functions that brings TensorFlow."""
    known, heavy = modules(package), brings_tensorflow(package)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        for each in imports(path, known):
            top = each.name.split(".")[0]
            if each.in_function and (top in HEAVY or each.name in heavy):
                found.setdefault(name, set()).add(top if top in HEAVY else each.name)
    return found


def planted(folder: pathlib.Path, **files: str) -> pathlib.Path:
    """Returns a package of these files."""
    for name, text in {"__init__": "", **files}.items():
        path = folder / "planted" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder / "planted"


def test_no_two_modules_import_each_other():
    assert import_circle(PACKAGE) == []


@pytest.mark.parametrize(
    "second",
    [
        "from planted.first import name",
        "import planted.first",
        "from planted import first",
        "from . import first",
        "from .first import name",
        "def function():\n    from planted.first import name",
        "class A:\n    def method(self):\n        import planted.first as f",
        "def function():\n    from planted import third",
        "if TYPE_CHECKING:\n    from planted.first import Name",
    ],
)
def test_a_planted_circle_is_caught(tmp_path, second):
    package = planted(
        tmp_path, first="import planted.second", second=second, third="from . import first"
    )
    assert set(import_circle(package)) >= {"planted.first", "planted.second"}


def test_modules_that_import_one_way_are_no_circle(tmp_path):
    package = planted(
        tmp_path,
        first="import planted.second\nimport os",
        second="from planted import third",
        third="",
    )
    assert import_circle(package) == []


@pytest.mark.slow
def test_tensorflow_is_imported_in_functions_only_where_that_keeps_an_import_light():
    assert in_functions(PACKAGE) == IN_FUNCTIONS
    for name in IN_FUNCTIONS:  # else it gains nothing
        assert name not in brings_tensorflow(PACKAGE)


def test_a_planted_import_of_tensorflow_in_a_function_is_found(tmp_path):
    package = planted(
        tmp_path,
        first="def function():\n    import tensorflow as tf",
        second="import tensorflow as tf",
        third="class A:\n    def method(self):\n        from planted import second",
        fourth="from planted.second import tf\nimport numpy",
    )
    assert brings_tensorflow(package) == {"planted.second", "planted.fourth"}
    assert in_functions(package) == {
        "planted.first": {"tensorflow"},
        "planted.third": {"planted.second"},
    }


def test_what_works_without_tensorflow_imports_none():
    program = (
        "import importlib, json, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(json.dumps([name, [m for m in {HEAVY!r} if m in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[n, []] for n in LIGHT]


SIDE_EFFECTS = """
import json, os, sys, threading, warnings
before = dict(os.environ), list(sys.meta_path), threading.active_count(), list(sys.path_hooks)
filters = list(warnings.filters)
import tff_dp
import tff_dp  # again
changed = {k: v for k, v in os.environ.items() if before[0].get(k) != v}
found = [type(each).__name__ for each in sys.meta_path if each not in before[1]]
same = (threading.active_count(), list(sys.path_hooks), list(warnings.filters))
assert same == (*before[2:], filters)
assert before[0].keys() <= os.environ.keys()
print(json.dumps([changed, found]))
"""


@pytest.mark.parametrize("present", [False, True])
def test_importing_the_package_sets_two_variables_and_touches_no_file(tmp_path, present):
    cache = tmp_path / "cache"
    if present:  # with more in it than is kept
        cache.mkdir()
        done = run_side_effects(cache)
        folder = pathlib.Path(done[0]["TF_XLA_FLAGS"].partition("=")[2])
        folder.mkdir(mode=0o700)
        with (folder / "old").open("wb") as old:
            old.truncate((1 << 29) + 1)  # it takes no room
    before = sorted(os.walk(tmp_path))
    changed, found = run_side_effects(cache)
    assert list(changed) == ["TF_XLA_FLAGS", "TF_FORCE_GPU_ALLOW_GROWTH"]
    assert changed["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    flag, _, named = changed["TF_XLA_FLAGS"].partition("=")
    assert flag == "--tf_xla_persistent_cache_directory"
    assert pathlib.Path(named).parent == cache
    assert found == ["Finder"]
    assert sorted(os.walk(tmp_path)) == before


def run_side_effects(cache: pathlib.Path):
    """Returns the variables that importing tff_dp has set, and the finders that it has added."""
    ours = ("TF_XLA_FLAGS", "TF_FORCE_GPU_ALLOW_GROWTH")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [sys.executable, "-B", "-c", SIDE_EFFECTS],
        env={**environment, "TFF_DP_CACHE": str(cache), "HOME": str(cache.parent / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)
