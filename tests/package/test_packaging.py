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
from packaging.requirements import Requirement

from tests.support.paths import ROOT
from tff_dp import _compat
from tff_dp._compat.tff import placeholders

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-cuda.lock")
# Scripts that are tested must not touch the environment in which the tests run.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("TFF_DP_")}


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
        lock = archive.read("tff_dp/_compat/requirements.lock")
        assert lock == (ROOT / "requirements.lock").read_bytes()
        assert "tff_dp/report/style.css" in archive.namelist()


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
    for name, prefixes in _compat.stack.TESTED.items():
        assert pinned[0][name].startswith(prefixes), name
    assert pinned[0].items() <= pinned[1].items()


def blocks_of(lock: str) -> dict[str, str]:
    """Returns what a lock has of each package: version, markers and hashes, without who needs it."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    named: dict[str, str] = {}
    for block in blocks:  # a package may have a version for each Python
        name = block.partition("==")[0]
        named[name] = named.get(name, "") + block.strip() + "\n"
    return named


def test_the_lock_for_gpus_is_that_of_development_and_the_packages_of_nvidia():
    development, cuda = blocks_of("requirements-dev.lock"), blocks_of("requirements-cuda.lock")
    more = set(cuda) - set(development)
    assert {name: block for name, block in cuda.items() if name not in more} == development
    assert all(name.startswith("nvidia-") for name in more)
    # What TensorFlow itself asks for, and what tells how busy a card is.
    asked = [Requirement(text) for text in importlib.metadata.requires("tensorflow")]
    of_cuda = [
        each for each in asked if each.marker and each.marker.evaluate({"extra": "and-cuda"})
    ]
    of_cuda = [each for each in of_cuda if not each.marker.evaluate({"extra": ""})]
    assert len(of_cuda) > 5
    assert more == {each.name for each in of_cuda} | {"nvidia-ml-py"}
    for each in of_cuda:
        version = re.match(r"\S+==(\S+)", cuda[each.name])[1]
        assert each.specifier.contains(version), (each.name, version)


def test_the_overrides_keep_the_libraries_of_cuda_in_the_lock_for_gpus_alone():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    of_tensorflow = [
        Requirement(text)
        for text in settings["tool"]["uv"]["override-dependencies"]
        if Requirement(text).name == "tensorflow"
    ]
    for extra, extras in (("", set()), ("cuda", {"and-cuda"})):
        (override,) = [each for each in of_tensorflow if each.marker.evaluate({"extra": extra})]
        assert override.extras == extras
        assert str(override.specifier) == "==2.21.*"


def test_the_docs_explain_every_override_and_placeholder():
    text = (ROOT / "docs" / "stack.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for override in settings["tool"]["uv"]["override-dependencies"]:
        name = re.match(r"[A-Za-z0-9._-]+", override).group()
        assert f"`{name}`" in text, name
    for placeholder in placeholders.PLACEHOLDERS:
        assert placeholder.lacks in text


def run_script(
    tmp_path: pathlib.Path, *arguments: str, cwd: pathlib.Path | None = None, **environment: str
):
    """Runs a copy of ./run in a folder of its own, so that no environment of the checkout is touched."""
    for name in ("run", "requirements-dev.lock", "requirements-cuda.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return subprocess.run(
        [str(tmp_path / "run"), *arguments], cwd=cwd,
        env=CLEAN | environment, capture_output=True, text=True, check=False,
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


def made_environment(
    tmp_path: pathlib.Path,
    folder: str = ".venv",
    lock: str = "requirements-dev.lock",
    **tools: str,
) -> None:
    """Makes what ./run takes for an environment that fits the lock, with fake tools in it."""
    (tmp_path / folder / "bin").mkdir(parents=True)
    shutil.copy(ROOT / lock, tmp_path)
    stamp = subprocess.run(
        f"cksum < {lock}", shell=True, cwd=tmp_path, capture_output=True, check=True
    )
    (tmp_path / folder / ".lock-stamp").write_bytes(stamp.stdout)
    for name, body in tools.items():
        fake_python(tmp_path, f"{folder}/bin/{name}", body)


def test_run_starts_at_once_where_the_environment_fits_the_lock(tmp_path):
    never = fake_python(tmp_path, "python-never", "echo interpreter started >&2; exit 1")
    made_environment(tmp_path, tool='echo "tool $*"')
    done = run_script(tmp_path, "tool", "a b", TFF_DP_PYTHON=never)
    assert (done.stdout, done.stderr) == ("tool a b\n", "")


def test_the_site_has_an_environment_of_its_own_and_its_warnings_are_not_silenced(tmp_path):
    made_environment(
        tmp_path,
        ".venv-docs",
        "requirements-docs.lock",
        mkdocs='echo "[$*] $PWD"; mkdir -p build; echo links > build/external-links.txt',
    )
    done = run_script(tmp_path, "docs", cwd="/")
    assert done.stdout.splitlines()[0] == f"[build --strict] {tmp_path}"
    assert done.stdout.splitlines()[-1] == "links"
    assert not (tmp_path / ".venv").exists()
    assert run_script(tmp_path, "docs", "--quiet").returncode == 2
    fake_python(tmp_path, ".venv-docs/bin/mkdocs", "exit 1")
    assert run_script(tmp_path, "docs").returncode == 1


def test_run_takes_the_environment_for_gpus_where_it_is_asked_for(tmp_path):
    never = fake_python(tmp_path, "python-never", "exit 1")
    made_environment(tmp_path, tool="echo development")
    made_environment(tmp_path, ".venv-cuda", "requirements-cuda.lock", tool="echo cuda")
    made_environment(tmp_path, "mine", "requirements-cuda.lock", tool="echo mine")

    def told(**variables: str) -> str:
        done = run_script(tmp_path, "tool", TFF_DP_PYTHON=never, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert told() == told(TFF_DP_CUDA="0") == told(TFF_DP_CUDA="") == "development"
    assert told(TFF_DP_CUDA="1") == "cuda"
    assert told(TFF_DP_CUDA="1", TFF_DP_VENV=str(tmp_path / "mine")) == "mine"
    done = run_script(tmp_path, "tool", TFF_DP_CUDA="yes")
    assert done.returncode == 2
    assert "TFF_DP_CUDA=yes is neither 0 nor 1" in done.stderr.splitlines()[0]


def test_run_makes_an_environment_anew_that_is_that_of_the_other_lock(tmp_path):
    """An environment is for the lock that it was made of, whatever its folder is called."""
    made_environment(tmp_path, tool="echo development")
    broken = fake_python(tmp_path, "python-broken", "exit 1")
    venv = str(tmp_path / ".venv")
    done = run_script(tmp_path, "tool", TFF_DP_CUDA="1", TFF_DP_VENV=venv, TFF_DP_PYTHON=broken)
    assert done.returncode == 2
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr  # it looked for one, to make it


def test_the_command_that_makes_locks_makes_all_of_them(tmp_path):
    uv = 'echo "$*" >> "$ROOT/calls"'
    made_environment(tmp_path, uv=uv)
    done = run_script(tmp_path, "lock", ROOT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("lock ")
    written = {call.rpartition(" ")[2]: call for call in calls[1:]}
    assert set(written) >= {*LOCKS}
    assert all(written[lock].startswith("export ") for lock in LOCKS)
    assert [lock for lock, call in written.items() if "--extra cuda" in call] == [LOCKS[2]]


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_run_tells_its_commands_without_an_environment(tmp_path, word):
    done = run_script(tmp_path, word)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("quickstart", "test", "fuzz", "lint", "docs", "lock", "interpreters", "CMD"):
        assert f"./run {command}" in done.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no command is given"),
        (["--hlep"], "no option --hlep"),
        (["no-such-command", "a"], "no command no-such-command"),
    ],
)
def test_run_ends_with_code_2_and_its_commands_where_it_cannot_tell_what_is_meant(
    tmp_path, arguments, reason
):
    made_environment(tmp_path)
    done = run_script(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr.splitlines()[0]
    assert "./run quickstart" in done.stderr


def test_paths_on_the_command_line_are_those_of_the_caller(tmp_path):
    made_environment(tmp_path, python='echo "$PWD"; printf "[%s]" "$@"; echo', tool="pwd")
    (tmp_path / "tests").mkdir()
    here = tmp_path / "elsewhere" / "tests"
    here.mkdir(parents=True)
    (here / "test_x.py").touch()

    def told(*arguments: str) -> list[str]:
        return run_script(tmp_path, *arguments, cwd=here).stdout.splitlines()

    assert told("tool") == [str(here)]
    assert told("python", "x.py") == [str(here), "[x.py]"]
    assert told("quickstart", "--out", "new") == [
        str(here), "[-P][-m][experiments][linear_regression][--out][new]",
    ]  # fmt: skip
    assert told("fuzz", "--out", "new") == [str(here), "[-P][-m][tests.fuzz][--out][new]"]
    # Tests run in the checkout, whose settings are pytest's; the caller's files are found all the same.
    where, arguments = told(
        "test", "-x", "test_x.py::test_it", "-k", "test_x.py", "--junitxml=a/b.xml", "no_file"
    )
    assert where == str(tmp_path)
    assert arguments == (
        f"[-m][pytest][-m][not slow and not full][-x][{here}/test_x.py::test_it][-k][test_x.py]"
        f"[--junitxml={here}/a/b.xml][no_file]"
    )
    assert told("test", "--full")[1] == "[-m][pytest][-n][2][--dist][worksteal]"
    assert told("test", "--slow")[1] == "[-m][pytest][-n][2][--dist][worksteal][-m][not full]"


def test_tests_run_in_two_processes_unless_a_single_one_or_another_number_is_asked_for(tmp_path):
    made_environment(tmp_path, python='printf "[%s]" "$@"')
    (tmp_path / "test_x.py").touch()
    two, path = (
        "[-m][pytest][-n][2][--dist][worksteal][-m][not slow and not full]",
        tmp_path / "test_x.py",
    )

    def told(*arguments: str) -> str:
        return run_script(tmp_path, "test", *arguments, cwd=tmp_path).stdout

    assert told() == two
    assert told("test_x.py", "-x") == f"{two}[{path}][-x]"
    assert told("-k", "a::b.py") == f"{two}[-k][a::b.py]"
    assert (
        told("test_x.py::test_it[a::b]")
        == f"[-m][pytest][-m][not slow and not full][{path}::test_it[a::b]]"
    )
    # pytest takes the last of several.
    assert told("-n", "0") == f"{two}[-n][0]"


def test_run_works_by_a_link_to_it(tmp_path):
    made_environment(tmp_path, tool="echo found")
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "tff"
    link.symlink_to(tmp_path / "run")
    run_script(tmp_path, "tool")
    done = subprocess.run(
        [str(link), "tool"], env=CLEAN, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("found\n", 0)


def test_run_finds_interpreters_on_the_path_and_with_pyenv(tmp_path):
    on_path, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    for folder, name, version in (
        (on_path, "python3.13", ""),  # a shim of a version that is switched off
        (on_path, "python3.12", "3.12"),
        (pyenv / "versions" / "3.13.2" / "bin", "python3", "3.13"),
        (pyenv / "versions" / "3.12.9" / "bin", "python3", "3.12"),
        (pyenv / "versions" / "3.9.1" / "bin", "python3", "3.9"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        fake_python(folder, name, f"echo {version}" if version else "exit 127")
    environment = {
        "PATH": f"{on_path}:/usr/bin:/bin",
        "PYENV_ROOT": str(pyenv),
        "TFF_DP_PYTHON": "",
    }
    done = run_script(tmp_path, "interpreters", **environment)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found["3.13"] == str(pyenv / "versions/3.13.2/bin/python3")
    assert found["3.12"] == str(on_path / "python3.12")
    assert set(found) <= {"3.11", "3.12", "3.13"}  # 3.11 may be the machine's own


_FAKE_RUN = """#!/bin/sh
echo "$TFF_DP_VENV $*" >> calls
case "$1 ${TFF_DP_VENV##*-}" in
    "interpreters ") echo "3.13 /fake/python3.13"; echo "3.12 /fake/python3.12" ;;
    "python 3.12") echo "pip: no network"; exit 1 ;;
    "python ") echo MAIN ;;
    "test 3.13") exit CODE ;;
esac
"""


@pytest.mark.parametrize(("main", "code"), [("3.11", 0), ("3.11", 1), ("3.12", 0)])
def test_ci_tests_every_interpreter_and_says_what_it_has_left_out(tmp_path, main, code):
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    script = tmp_path / "run"
    script.write_text(_FAKE_RUN.replace("CODE", str(code)).replace("MAIN", main))
    script.chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / ".ci" / "run")],
        env=CLEAN, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    said = done.stdout.splitlines()
    assert f"ci: Python {main}: all tests passed" in said
    of_313 = "FAILED" if code else "the tests of .ci/every_interpreter passed"
    assert f"ci: Python 3.13: {of_313}" in said
    if main == "3.11":
        assert any(
            line.startswith("ci: Python 3.12: SKIPPED") and line.endswith("pip: no network")
            for line in said
        )
    else:
        assert "ci: Python 3.11: SKIPPED, no interpreter was found" in said
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:3] == [" lint", " docs", " test --slow"]
    (again,) = [call for call in calls if "-3.13 test" in call]
    assert "tests/accounting/test_privacy_loss.py" in again


def test_what_ci_repeats_on_every_interpreter_is_there():
    lines = (ROOT / ".ci" / "every_interpreter").read_text().splitlines()
    files = [line for line in lines if not line.startswith("#")]
    assert len(files) == len(set(files)) > 10
    for name in files:
        assert (ROOT / name).is_file(), name
