"""Reports of the self-test, what it refuses, and its command."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest

import tff_dp
from tests.support.self_tests import ADAPTIVE, FIXED, a_plan, a_report
from tests.support.workers import workers
from tff_dp import cli, selftest
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import AdaptiveGaussianMechanism, GaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest import laws, self_test, suite


def test_a_report_says_what_was_measured_against_what():
    report = a_report(0.5, 1.5, math.nan, -math.inf)
    assert not report.passed
    assert report.failures == ("check 1", "check 2")
    assert report.false_positive == pytest.approx(4e-7)
    lines = report.text().splitlines()
    assert "GaussianMechanism" in lines[0]
    assert "20 clients expected" in lines[0]
    assert lines[1].split() == ["passed", "check", "0", "0.5", "at", "most", "1", "clients"]
    assert lines[2].startswith("FAILED  check 1")
    assert lines[2].endswith("worst: round 2")
    assert lines[-1].startswith("FAILED: 2 of 4 checks")
    assert "at most 4e-07" in lines[-1]
    assert a_report(0.5).text().splitlines()[-1].startswith("passed: all 1 checks")

    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["passed"] is False
    assert [check["measured"] for check in values["checks"]] == [0.5, 1.5, "nan", "-inf"]
    assert PrivacyPlan.from_dict(values["plan"]) == report.plan


def test_a_report_names_what_was_not_tested():
    report = dataclasses.replace(a_report(0.5), untested=("updates in float16: because",))
    assert "not tested: updates in float16: because" in report.text().splitlines()
    assert report.to_dict()["untested"] == ["updates in float16: because"]
    assert report.passed


@pytest.mark.parametrize(
    ("plan", "arguments", "message"),
    [
        (a_plan(FIXED.with_noise(0.0)), {}, r"noise_multiplier=0 .*\(0, inf\)"),
        (a_plan(dataclasses.replace(ADAPTIVE, clip_learning_rate=0.001)), {},
         r"clip_learning_rate=0.001.*\[0.01, inf\)"),
        (a_plan(ADAPTIVE, population=10**8, cohort=2e6, delta=1e-9, rounds=1), {},
         r"cohort=2000000.0.*\(0, 1000000\]"),
        (tff_dp.NoPrivacy(), {}, "plan=NoPrivacy.*PrivacyPlan"),
        (a_plan(), {"samples": 10}, r"samples=10 .*\[1000, 10000000\]"),
        (a_plan(), {"algorithms": ["FedProx"]}, "algorithms='FedProx'.*'FedAvg', 'FedSGD'"),
        (a_plan(), {"algorithms": []}, "algorithms=.*at least one"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_is_refused(plan, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        self_test(plan, **arguments)


def test_a_mechanism_without_a_law_is_refused_and_not_passed(monkeypatch):
    monkeypatch.delitem(laws._LAWS, AdaptiveGaussianMechanism)
    with pytest.raises(ArgumentError, match="has no self-test: expected one of GaussianMechanism"):
        self_test(a_plan(ADAPTIVE))


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main(["selftest", *arguments])
    except SystemExit as end:  # argparse's own
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def tested(monkeypatch) -> list[PrivacyPlan]:
    """The plans that the command has tested, without testing them: they pass up to z = 1."""
    plans = []

    def pretend(plan, thorough):
        plans.append((plan, thorough) if thorough else plan)
        return a_report(plan.mechanism.noise_multiplier)

    monkeypatch.setattr(suite, "self_test", pretend)
    return plans


def test_the_command_tests_the_plan_that_was_described(tff, capsys, tested):
    assert run(capsys)[0] == 0
    assert tested[-1].mechanism == GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)
    assert (tested[-1].population, tested[-1].clients_per_round) == (1000, 100)
    code, out, _ = run(
        capsys, "--mechanism", "adaptive", "--clip-norm", "0.3", "--noise-multiplier", "1.5",
        "--population", "500", "--cohort", "50", "--rounds", "7", "--delta", "1e-4",
        "--adjacency", "replace-one",
    )  # fmt: skip
    assert code == 1
    assert "FAILED" in out
    assert tested[-1] == PrivacyPlan(
        mechanism=AdaptiveGaussianMechanism(noise_multiplier=1.5, initial_clip_norm=0.3),
        population=500,
        cohort=50,
        rounds=7,
        delta=1e-4,
        adjacency="replace-one",
    )
    run(capsys, "--sampling", "full", "--population", "30", "--rounds", "2")
    assert tested[-1].sampler == tff_dp.FullParticipation()
    run(capsys, "--sampling-rate", "0.25")
    assert tested[-1].sampler == tff_dp.PoissonSampler(rate=0.25)
    run(capsys, "--sampling-rate", "0.25", "--thorough")
    assert tested[-1] == (tested[-2], True)


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_the_command_reads_a_plan_from_a_file(tff, capsys, tested, tmp_path, ending):
    plan = a_plan(dataclasses.replace(ADAPTIVE, clipped_count_stddev=2.0))
    path = tmp_path / f"plan.{ending}"
    values = plan.to_dict()
    if ending == "json":
        path.write_text(json.dumps(values))
    else:
        tables = {name: values.pop(name) for name in ("mechanism", "sampler")}
        given = {name: value for name, value in values.items() if value is not None}
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
        for table, content in tables.items():
            lines += [f"[{table}]"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in content.items()]
        path.write_text("\n".join(lines))
    code, out, err = run(capsys, "--plan", str(path), "--json")
    assert (code, err) == (0, "")
    assert tested == [plan]
    assert json.loads(out)["passed"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--plan", "{}/none.json"], 2, "cannot be read"),
        (["--plan", "{}/text.json"], 2, "cannot be read"),
        (["--plan", "{}/list.json"], 2, "holds no object"),
        (["--plan", "{}/empty.json"], 2, "missing"),
        (["--plan", "{}/empty.json", "--rounds", "3"], 2, "with --rounds"),
        (["--plan", "{}/empty.json", "--mechanism", "adaptive"], 2, "with --mechanism"),
        (["--noise-multiplier", "-1"], 2, "--noise-multiplier=-1.0"),
        (["--noise-multiplier", "0"], 2, "--noise-multiplier=0 "),
        (["--clip-norm", "0"], 2, "--clip-norm=0.0"),
        (["--population", "1"], 2, "--population=1"),
        (["--mechanism", "magic"], 2, "magic"),
        (["--mechanism", "adaptive", "--population", "100", "--cohort", "5"], 2, "(0, 0.5)"),
        (["--sampling", "fixed", "--adjacency", "add-remove"], 3, "FixedSizeSampler"),
    ],
)
def test_the_command_refuses_with_its_exit_code(tff, capsys, tmp_path, arguments, code, reason):
    for name, text in (("text", "plan"), ("list", "[]"), ("empty", "{}")):
        (tmp_path / f"{name}.json").write_text(text)
    found, out, err = run(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert (found, out) == (code, "")
    assert reason in err


@pytest.mark.slow
@pytest.mark.heavy
def test_the_command_is_quiet_and_leaves_no_process_behind():
    before = workers(os.getpid())
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tff_dp import cli; sys.exit(cli.main())",
            "selftest",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 29 + 1
    assert all(line.startswith("passed") for line in lines[1:])
    assert lines[-1] == (
        "passed: all 29 checks. A correct implementation fails with probability at most 3e-07."
    )
    assert workers(os.getpid()) == before


def test_the_package_offers_the_self_test():
    assert tff_dp.self_test is selftest.self_test
