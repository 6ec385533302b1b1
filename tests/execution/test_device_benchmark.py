"""The benchmark for devices: rounds prepared here run where there is JAX alone, and are checked there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import _device, _exports, gpu
from benchmarks._workloads import WORKLOADS
from tests.support.paths import ROOT


@pytest.mark.heavy
@pytest.mark.slow
def test_rounds_are_prepared_measured_and_checked(jax_python, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def called(python, *arguments):
        return subprocess.run(
            [python, "-m", "benchmarks.gpu", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
        )

    rounds = tmp_path / "rounds"
    made = called(sys.executable, "prepare", rounds, "--workloads", "W1")
    assert made.returncode == 0, made.stderr[-3000:]
    run = ("run", rounds, "--workloads", "W1", "--rounds", "3")
    done = called(jax_python, *run, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [(one["workload"], one["system"]) for one in found] == [
        ("W1, DP", "exported, vmap of 4"),
        ("W1, DP", "exported, scan"),
        ("W1", "exported, vmap of 4"),
    ]
    assert all(one["memory_bytes"] > 0 for one in found)
    chosen = [case for case in _exports.cases() if case.workload == "W1"]
    assert gpu.table(found, chosen) in done.stdout

    # Planted: the round is run with another key than the expected one was.
    (path,) = rounds.glob("W1-dp-1.json")
    expected = json.loads(path.read_text(encoding="utf-8"))
    expected["key"][0] ^= 1
    path.write_text(json.dumps(expected), encoding="utf-8")
    wrong = called(jax_python, *run)
    assert wrong.returncode == 1
    assert [
        json.loads(line.partition(": ")[2])["system"]
        for line in wrong.stdout.splitlines()
        if line.startswith("wrong: ")
    ] == ["exported, scan"]


def test_a_difference_is_measured_by_what_training_moves():
    """Under noise that moves every one of a million weights, training a little too much is found."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=10**6) / 1000
    step, noise = rng.normal(size=10**6) / 1000, rng.normal(size=10**6)  # of norms 1 and 1000
    own = _exports.projections([before])
    expected = {
        "projections": _exports.projections([before + step + noise]),
        "moved": _exports.movement(_exports.projections([before + step]), own),
    }
    bound = _device.tolerance(WORKLOADS["W6"])
    for factor, is_right in ((1.0, True), (1.001, True), (1.1, False)):
        found = _exports.projections([before + factor * step + noise])
        assert (_device.difference(found, expected) <= bound) == is_right
    other = _exports.projections([before + step + rng.permutation(noise)])
    assert _device.difference(other, expected) > 100 * bound


@pytest.mark.parametrize("strategy", ["scan", "vmap"])
def test_rounds_in_tensorflow_are_measured(tff, strategy):
    found = _device.measure_tensorflow(strategy, WORKLOADS["W1"], True, 2, 60.0)
    assert (found["system"], found["rounds"]) == (f"TensorFlow, {strategy}", 2)
    assert found["clients_a_second"] == pytest.approx(4 / found["seconds"])


CASES = [
    _exports.Case(workload="W2", private=True, side_by_side=8),
    _exports.Case(workload="W3", private=True, side_by_side=1),
]


def test_what_failed_stands_in_the_table():
    failed = {
        "workload": "W2, DP",
        "system": "exported, vmap of 8",
        "error": "Boom: no memory\nmore",
    }
    rows = gpu.table([failed], CASES).splitlines()
    assert rows[2].startswith("| W2, DP | exported, vmap of 8 | failed: Boom: no memory |")
    assert rows[3] == "| W3, DP | exported, scan |" + " not run yet |" * 8


def test_ratios_are_of_the_same_workload():
    numbers = {"clients_a_second": 9.0, "busy": 71.2, "memory_bytes": 3 << 20, "difference": None}
    measured = [
        {"workload": "W3, DP", "system": "exported, scan", "seconds": 0.5, **numbers},
        {"workload": "W2, DP", "system": "pfl", "seconds": 7.0, **numbers},
        {"workload": "W3, DP", "system": "PyTorch", "seconds": 1.0, **numbers},
        {"workload": "W3, DP", "system": "pfl", "seconds": 2.0, **numbers},
    ]
    rows = gpu.table(measured, CASES).splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| W2, DP", "exported, vmap of 8"],
        ["| W2, DP", "pfl"],
        ["| W3, DP", "exported, scan"],
        ["| W3, DP", "PyTorch"],
        ["| W3, DP", "pfl"],
    ]
    assert rows[2] == "| W3, DP | exported, scan | 0.5 | 9 | 71 % | 3 |  | 2 | 4 |  |"


def test_the_page_has_a_row_for_each_round_and_the_command_that_measures_them():
    page = (ROOT / gpu.PAGE).read_text(encoding="utf-8")
    part = re.search(r"<!-- gpu -->\n(.*?)<!-- end of gpu -->", page, re.DOTALL)[1]
    planned = gpu.table([], _exports.cases()).splitlines()
    found = [line for line in part.splitlines() if line.startswith("|")]
    assert found[:2] == planned[:2]
    rows = {tuple(line.split(" | ")[:2]) for line in found}
    assert {tuple(line.split(" | ")[:2]) for line in planned} <= rows
    commands = re.findall(r"^(?:\./run )?python -m benchmarks\.gpu (.*)$", page, re.MULTILINE)
    prepare, run = (gpu.parser().parse_args(shlex.split(command)) for command in commands)
    assert (prepare.command, run.command, run.write) == ("prepare", "run", True)
    assert prepare.folder == run.folder


def test_all_workloads_and_numbers_side_by_side_are_planned():
    """W8 has clients of different sizes; W4 and W5 do not run side by side."""
    widths = {}
    for case in _exports.cases():
        widths.setdefault(case.workload, set()).add(case.side_by_side)
    assert widths == {
        **{name: {1, 8, 50} for name in ("cifar_shape", "W2")},
        **{name: {1, 8, 64} for name in ("W3", "W6")},
        **{"W1": {1, 4}, "W7": {1, 8, 20}, "W4": {1}, "W5": {1}},
    }
