"""The experiments' command, and the main job on a small scale."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from experiments import __main__ as command
from experiments import _settings
from tff_dp.errors import ArgumentError


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    from experiments import linear_regression

    out = tmp_path_factory.mktemp("results") / "new" / "folder"
    settings = _settings.load("linear_regression", smoke=True)
    return linear_regression.main(settings, out), out


@pytest.mark.slow
@pytest.mark.heavy
def test_the_main_job_passes_its_own_check_and_writes_table_figures_and_plot(small_run):
    code, out = small_run
    assert code == 0
    results = json.loads((out / "results.json").read_text())
    # Full-batch steps with alpha by examples are gradient descent on the pooled data; equal alpha is
    # another objective, by several per cent on these clients.
    assert results["self_check_distance"]["examples"] < 0.005
    assert results["self_check_distance"]["uniform"] > 0.02
    errors = {(row["part"], row["setting"]): row["error"] for row in results["rows"]}
    epsilons = {(row["part"], row["setting"]): row["epsilon"] for row in results["rows"]}
    assert (
        errors["tutorial", "closed form, pooled data"] < errors["tutorial", "predict the mean"] / 10
    )
    assert errors["tutorial", "private, z = 10"] > 2 * errors["tutorial", "private, z = 0"]
    assert epsilons["tutorial", "private, z = 0"] == "inf"
    table = (out / "table.txt").read_text()
    assert "predict the mean" in table
    assert (out / "error_against_epsilon.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "config", "overrides", "message"),
    [
        ("linear", None, [], r"NAME='linear'.*expected one of .*linear_regression"),
        ("linear_regression", "missing.toml", [], r"--config='missing.toml' cannot be read"),
        ("linear_regression", None, ["rounds=3"], r"--set='rounds=3'.*section\.key=value"),
        ("linear_regression", None, ["tutorial.round=3"], r"tutorial\.rounds"),
        ("linear_regression", None, ["tutorial.rounds=three"], r"no TOML value"),
        ("linear_regression", None, ["tutorial.rounds=3.5"], r"tutorial\.rounds=3\.5.*like 100"),
        ("linear_regression", None, ["tutorial.rounds=true"], r"tutorial\.rounds=True.*like 100"),
        (
            "linear_regression",
            None,
            ["schools.target_epsilons=2.0"],
            r"target_epsilons=2\.0.*like \[",
        ),
        ("linear_regression", None, ['schools.target_epsilons=["a"]'], r"epsilons=\['a'\]"),
        ("linear_regression", None, ["tutorial={}"], r"--set='tutorial=\{\}'"),
    ],
)
def test_wrong_settings_are_named(name, config, overrides, message):
    with pytest.raises(ArgumentError, match=message):
        _settings.load(name, config, overrides)


def test_settings_of_a_file_are_the_experiments_own_with_other_values(tmp_path):
    own = _settings.load("linear_regression", None, [])
    path = tmp_path / "mine.toml"
    text = (
        (_settings.FOLDER / "linear_regression.toml")
        .read_text()
        .replace("rounds = 100", "rounds = 7")
    )
    path.write_text(text)
    found = _settings.load("linear_regression", str(path), ["schools.cohort=3"])
    assert (found["tutorial"]["rounds"], found["schools"]["cohort"]) == (7, 3)
    assert found["tutorial"] == own["tutorial"] | {"rounds": 7}
    path.write_text(text.replace("rounds = 7", "round = 7"))
    with pytest.raises(
        ArgumentError, match=r"lack tutorial\.rounds and have tutorial\.round besides"
    ):
        _settings.load("linear_regression", str(path), [])
    path.write_text("tutorial = 3\n")
    with pytest.raises(
        ArgumentError, match=r"lack schools\.batch_size.* and have tutorial besides"
    ):
        _settings.load("linear_regression", str(path), [])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


BAD = [
    (
        "tutorial.clip_norm=-1.0",
        "clip_norm=-1.0 is outside its bound: expected a number in [1e-10, 1e+10]",
    ),
    ("tutorial.noise_multipliers=[-1.0]", "noise_multiplier=-1.0 is outside its bound"),
    ("tutorial.delta=0.25", "delta=0.25 is outside its bound: expected a number in (0, 0.25)"),
    ("schools.cohort=161", "cohort=161 is outside its bound: expected a number in (0, 160]"),
    ("tutorial.client_sizes=[]", "population=0 is outside its bound"),
    ("tutorial.client_sizes=[8, 0, 8]", "empty"),
]


def check_refusal(code: int, said: str, message: str, out) -> None:
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(("override", "message"), BAD)
def test_bad_settings_end_the_command_with_one_line_and_code_2(
    tff, tmp_path, capfd, override, message
):
    out = tmp_path / "results"
    code = command.main(["linear_regression", "--set", override, "--out", str(out)])
    check_refusal(code, capfd.readouterr().err, message, out)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_process_of_its_own_says_no_more_though_it_imports_tensorflow(tmp_path):
    override, message = BAD[-1]  # which is found last, in the data
    out = tmp_path / "results"
    done = run("linear_regression", "--set", override, "--out", str(out))
    check_refusal(done.returncode, done.stderr, message, out)


def unwritable(folder):
    (folder / "file").write_text("mine")
    return [folder / "file", folder / "file" / "below", "/proc/results", "/dev/null", "a\0b"]


@pytest.mark.parametrize("number", range(5))
def test_a_folder_for_results_that_cannot_be_written_is_refused_before_the_work(
    tmp_path, capsys, number
):
    out = unwritable(tmp_path)[number]
    assert command.main(["linear_regression", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --out=")
    assert "cannot be written" in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_can_be_made_is_taken_and_not_made_yet(tmp_path):
    command.check_out(tmp_path / "new" / "folder")
    command.check_out(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_results_that_cannot_be_written_in_the_end_are_one_error(tff, tmp_path, monkeypatch):
    from experiments import linear_regression

    (tmp_path / "results.json").mkdir()  # as good as a full disk
    for name in ("_check_closed_form", "_run_tutorial", "_run_schools", "_table"):
        found = {"examples": 0.0, "uniform": 1.0} if name == "_check_closed_form" else ""
        monkeypatch.setattr(linear_regression, name, lambda *_, found=found: found)
    monkeypatch.setattr(linear_regression, "_as_json", lambda *_: "{}")
    settings = _settings.load("linear_regression", smoke=True)
    with pytest.raises(ArgumentError, match=r"out=.*could not be written.*the table above"):
        linear_regression.main(settings, tmp_path)


def test_an_unknown_experiment_ends_the_command_with_the_known_ones():
    done = run("nonsense")
    assert done.returncode == 2
    assert "linear_regression" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_checked_before_tensorflow_is_imported():
    program = (
        "import sys; from experiments import __main__ as command\n"
        "wrong = ('tutorial.clip_norm=-1.0', 'schools.cohort=161.0', 'schools.delta=true')\n"
        "print([command.main(['linear_regression', '--set', each]) for each in wrong],\n"
        "  'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{[2] * 3} False"
