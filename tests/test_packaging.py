"""The wheel from outside the checkout, the locks, and the script that makes the environment."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tff_dp import _compat

ROOT = pathlib.Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(out),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert tops == {"tff_dp", f"tff_dp-{importlib.metadata.version('tff_dp')}.dist-info"}
        assert "tff_dp/py.typed" in archive.namelist()


def test_the_wheel_works_from_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        # Keep the checkout, which the editable install puts on the path, out of it.
        "sys.path = [p for p in sys.path if p != sys.argv[2]]\n"
        "import tff_dp; print(tff_dp.__file__)\n"
        "plan = tff_dp.PrivacyPlan(mechanism=tff_dp.GaussianMechanism(clip_norm=1, noise_multiplier=1),"
        " population=1000, cohort=10, rounds=10, delta=1e-5)\n"
        "print(plan.epsilon())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(target), str(ROOT)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, epsilon = done.stdout.splitlines()
    assert pathlib.Path(where).is_relative_to(target)
    assert epsilon.startswith("epsilon 0.")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_and_hashes_every_package_and_names_no_address(lock):
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|index-url|find-links", text)
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", block), block
        assert "--hash=sha256:" in block, block


def test_the_locks_hold_the_tested_versions_and_agree_with_each_other():
    pinned = [
        dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in LOCKS
    ]
    for name, prefixes in _compat.TESTED.items():
        assert pinned[0][name].startswith(prefixes), name
    assert pinned[0].items() <= pinned[1].items()


def test_the_docs_explain_every_override_and_placeholder():
    text = (ROOT / "docs" / "stack.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for override in settings["tool"]["uv"]["override-dependencies"]:
        name = re.match(r"[A-Za-z0-9._-]+", override).group()
        assert f"`{name}`" in text, name
    for placeholder in _compat._PLACEHOLDERS:
        assert placeholder.lacks in text


def run_script(tmp_path: pathlib.Path, *arguments: str, **environment: str):
    """Runs a copy of ./run in a folder of its own, so that no environment of the checkout is touched."""
    for name in ("run", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return subprocess.run(
        [str(tmp_path / "run"), *arguments],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def fake_python(tmp_path: pathlib.Path, name: str, body: str) -> str:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_run_says_which_python_it_needs_and_what_it_found(tmp_path):
    old = fake_python(tmp_path, "python-old", "echo 3.10")
    broken = fake_python(tmp_path, "python-broken", "exit 1")
    done = run_script(tmp_path, "true", TFF_DP_PYTHON=f"{broken} {old}")
    assert done.returncode == 2
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "python-old=3.10" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_run_names_the_package_that_a_python_without_venv_needs(tmp_path):
    bare = fake_python(
        tmp_path, "python-bare", 'case "$2" in *ensurepip*) exit 1;; esac; echo 3.12'
    )
    done = run_script(tmp_path, "true", TFF_DP_PYTHON=bare)
    assert done.returncode == 2
    assert "python3.12-venv" in done.stderr


def test_run_starts_at_once_where_the_environment_fits_the_lock(tmp_path):
    never = fake_python(tmp_path, "python-never", "echo interpreter started >&2; exit 1")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "requirements-dev.lock", tmp_path)
    stamp = subprocess.run(
        "cksum < requirements-dev.lock", shell=True, cwd=tmp_path, capture_output=True, check=True
    )
    (tmp_path / ".venv" / ".lock-stamp").write_bytes(stamp.stdout)
    fake_python(tmp_path, ".venv/bin/tool", 'echo "tool $*"')
    done = run_script(tmp_path, "tool", "a b", TFF_DP_PYTHON=never)
    assert (done.stdout, done.stderr) == ("tool a b\n", "")
