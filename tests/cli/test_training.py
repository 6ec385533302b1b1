"""`tff-dp train`, `resume`, `evaluate`, `report` and the examples of every help."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.support.command_line import found, run
from tests.support.paths import ROOT
from tff_dp import cli
from tff_dp.cli.commands import EXAMPLES
from tff_dp.runs import read_run

pytestmark = pytest.mark.heavy


@pytest.fixture
def here(tmp_path, monkeypatch, tff):
    """Returns an empty folder that commands run in; models of its configurations are its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("example_model", None)


def demo(capsys, *more: str) -> None:
    """Trains the example."""
    assert run(capsys, "train", "--example", "demo")[0] == 0
    code, out, err = run(capsys, "train", "demo/train.toml", "--set", "privacy.rounds=3", *more)
    assert (code, err) == (0, ""), err
    assert "client-level differential privacy: epsilon" in out


@pytest.mark.slow
@pytest.mark.parametrize("command", EXAMPLES)
def test_the_example_of_every_help_runs(command, here, capsys, monkeypatch):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    shown = [line.strip() for line in out.partition("example:\n")[2].splitlines()]
    assert shown == EXAMPLES[command]
    if command in ("selftest", "doctor"):  # these take long: their own tests run them
        for line in shown:
            cli._parser().parse_args(shlex.split(line)[1:])
        return
    for line in shown:
        code, out, err = run(capsys, *shlex.split(line)[1:])
        assert code == 0, (line, err)
        assert out


def test_a_run_is_trained_evaluated_reported_and_verified(here, capsys):
    demo(capsys)
    summary = read_run("demo/run")
    assert summary.round_number == 3
    assert summary.result["state"] == "finished"
    answer = found(capsys, "evaluate", "demo/run")
    assert answer["examples"] == 1440
    assert set(answer["metrics"]) == {"loss", "mean_absolute_error"}
    again = found(capsys, "evaluate", "demo/run", "--data", "demo/held_out.csv")
    assert again == answer
    code, out, _ = run(capsys, "evaluate", "demo/run", "--data", "demo/clients.csv")
    assert code == 0
    assert (
        "epsilon does not cover" not in out
    )  # it is said of the training data of the table [data]
    report = found(capsys, "report", "demo/run")
    assert report["private"]
    assert report["epsilon"] == summary.result["epsilon"]
    data = json.loads(pathlib.Path(report["data"]).read_text())
    assert data["claim"]["rounds"]["charged_by_this_run"] == 3
    assert data["curves"]["rounds"] == [1, 2, 3]
    assert found(capsys, "report", "demo/run", "--verify") == {
        "verified": True,
        "differences": [],
    }
    edited = pathlib.Path(report["data"])
    text = edited.read_text()
    epsilon = json.dumps(report["epsilon"])
    assert epsilon in text
    edited.write_text(text.replace(epsilon, "0.5"))
    code, out, _ = run(capsys, "report", "demo/run", "--verify")
    assert code == 1
    assert "claim.guarantee.epsilon: the report has 0.5, and the run folder gives" in out
    assert run(capsys, "report", "demo/run", "--out", "demo")[0] == 0
    assert pathlib.Path("demo/report.html").exists()


def test_a_report_imports_no_tensorflow(here, capsys):
    demo(capsys, "--set", "train.rounds=1")
    program = (
        "import sys; from tff_dp import cli\n"
        "assert cli.main(['report', 'demo/run']) == 0\n"
        "assert cli.main(['report', 'demo/run', '--verify']) == 0\n"
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_federated') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_budget_that_allows_no_round_is_refused_and_another_one_is_taken(here, capsys):
    run(capsys, "train", "--example", "demo")
    code, _, err = run(capsys, "train", "demo/train.toml", "--set", "train.max_epsilon=0.01")
    assert code == 3
    assert "train.max_epsilon=0.01 allows no round" in err
    assert not pathlib.Path("demo/run/train.json").exists()
    assert run(capsys, "train", "demo/train.toml", "--set", "train.rounds=1")[0] == 0


def test_a_run_goes_on_with_more_rounds(here, capsys):
    demo(capsys, "--set", "train.rounds=1")
    code, out, _ = run(capsys, "resume", "demo/run", "--rounds", "3")
    assert code == 0
    assert "after 3 rounds" in out
    assert read_run("demo/run").round_number == 3
    code, _, err = run(capsys, "resume", "demo/run", "--rounds", "4")  # beyond the plan
    assert code == 3
    assert "rounds=4" in err


def test_an_interrupted_run_is_said_to_be_so(here, capsys, monkeypatch):
    from tff_dp.training.run import Run

    step = Run.step

    def interrupted(self):
        if self.round_number == 2:
            raise KeyboardInterrupt
        return step(self)

    assert run(capsys, "train", "--example", "demo")[0] == 0
    monkeypatch.setattr(Run, "step", interrupted)
    code, out, _ = run(capsys, "train", "demo/train.toml")
    assert code == 1
    assert "interrupted after 2 of 5 rounds" in out
    assert "tff-dp resume" in out
    monkeypatch.setattr(Run, "step", step)
    assert run(capsys, "resume", "demo/run")[0] == 0
    assert read_run("demo/run").round_number == 5


def test_a_seeded_and_a_plain_run_are_not_private(here, capsys):
    demo(capsys, "--set", "train.seed=3")
    answer = found(capsys, "report", "demo/run")
    assert not answer["private"]
    assert answer["epsilon"] == "inf"
    assert "NOT PRIVATE" in pathlib.Path(answer["page"]).read_text()
    config = pathlib.Path("demo/train.toml").read_text()
    plain = re.sub(r"\[privacy\].*?\n\n", '[privacy]\ntype = "NoPrivacy"\n\n', config, flags=re.S)
    pathlib.Path("demo/plain.toml").write_text(plain.replace("release_metrics = false", ""))
    overrides = ("--set", "train.run_dir='plain'", "--set", "train.rounds=2")
    code, out, err = run(capsys, "train", "demo/plain.toml", *overrides)
    assert code == 0, err
    assert "No differential privacy" in out
    code, out, _ = run(capsys, "report", "demo/plain")
    assert code == 0
    assert "NOT PRIVATE" in out
    data = json.loads(pathlib.Path("demo/plain/report.json").read_text())
    assert len(data["curves"]["metrics"]["loss"]) == 2
    assert run(capsys, "report", "demo/plain", "--verify")[0] == 0


def test_all_mistakes_are_reported_at_once_with_line_and_key_before_anything_is_made(here, capsys):
    run(capsys, "train", "--example", "demo")
    path = pathlib.Path("demo/train.toml")
    text = path.read_text()
    for old, new in (
        ('"example_model:build"', '"example_model:built"'),
        ('"clients.csv"', '"client.csv"'),
        ("clip_norm = 0.5", "clip_norm = -0.5"),
        ("rounds = 5", "rounds = 0"),
        ("learning_rate = 0.1", "learning_rate = 0"),
        ("batch_size = 8", "batch_sizes = 8"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    lines = text.splitlines()
    code, out, err = run(capsys, "train", "demo/train.toml", "--set", "train.epochs=0")
    assert (code, out) == (2, "")
    assert "has 7 mistakes" in err
    for key, part in (
        ("model.build", "built"),
        ("data.file", "client.csv"),
        ("privacy.mechanism.clip_norm", "clip_norm = -0.5"),
        ("privacy.rounds", "rounds = 0"),
        ("algorithm.client_optimizer.learning_rate", "learning_rate = 0"),
        ("train.batch_sizes", "batch_sizes"),
    ):
        number = next(place for place, line in enumerate(lines, 1) if part in line)
        assert f"demo/train.toml:{number}: {key}" in err, (key, err)
    assert "--set train.epochs=0: train.epochs=0 is outside its bound" in err
    assert not pathlib.Path("demo/run").exists()


def test_what_only_fit_can_refuse_has_its_line_and_leaves_no_folder(here, capsys):
    run(capsys, "train", "--example", "demo")
    for override, reason in (
        ("model.loss='nothing'", "model.loss"),
        ("train.rounds=50", "train.rounds=50"),
        ("train.batch_size=0", "train.batch_size=0"),
        ("privacy.max_dimension=2", "privacy.max_dimension=2"),
    ):
        code, _, err = run(capsys, "train", "demo/train.toml", "--set", override)
        assert code in (2, 3)
        assert f"--set {override}: {reason}" in err, err
        assert not pathlib.Path("demo/run").exists()
    run(capsys, "train", "demo/train.toml", "--set", "train.rounds=1")
    code, _, err = run(capsys, "train", "demo/train.toml")
    assert code == 2
    assert "holds a run already: go on with it by tff-dp resume" in err


def test_check_says_the_cost_and_trains_nothing(here, capsys):
    run(capsys, "train", "--example", "demo")
    code, out, _ = run(capsys, "train", "demo/train.toml", "--check")
    assert code == 0
    assert re.search(r"120 clients, 1440 examples.\nepsilon [34]\.\d+ at delta 0.001 after 5", out)
    assert not pathlib.Path("demo/run").exists()


def test_folders_that_are_no_runs_are_refused(here, capsys):
    for command, code, reason in (
        (["train"], 2, "CONFIG is missing"),
        (["train", "a.toml", "--example", "b"], 2, "expected one of them"),
        (["train", "none.toml"], 2, "cannot be read"),
        (["resume", "nowhere"], 2, "has no train.json"),
        (["evaluate", "nowhere"], 2, "has no train.json"),
        (["report", "nowhere"], 1, "nowhere"),
        (["report", "nowhere", "--verify"], 2, "does not exist"),
    ):
        got, out, err = run(capsys, *command)
        assert (got, out) == (code, ""), (command, err)
        assert reason in err
    pathlib.Path("broken").mkdir()
    pathlib.Path("broken/train.json").write_text('{"format": 9}')
    assert "cannot be read" in run(capsys, "resume", "broken")[2]
    demo(capsys)
    pathlib.Path("demo/run/model.keras").unlink()
    assert "tff-dp resume demo/run" in run(capsys, "evaluate", "demo/run")[2]
