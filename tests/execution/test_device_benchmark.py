"""The benchmark for devices: rounds prepared here run where there is JAX alone, and are checked there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks import gpu
from tests.support.paths import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


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
    assert [one["system"] for one in found] == [f"exported, {n} at once" for n in (4, 1, 4)]
    assert gpu.table(found) in done.stdout

    # Planted: a result that is not the expected one.
    (path, *_) = sorted(rounds.glob("*.json"))
    expected = json.loads(path.read_text(encoding="utf-8"))
    expected["projections"][0][0] += 1.0
    path.write_text(json.dumps(expected), encoding="utf-8")
    assert called(jax_python, *run).returncode == 1


def test_what_failed_stands_in_the_table():
    failed = {
        "workload": "W2, DP",
        "system": "exported, 8 at once",
        "error": "Boom: no memory\nmore",
    }
    assert "| W2, DP | exported, 8 at once | failed: Boom: no memory |" in gpu.table([failed])
