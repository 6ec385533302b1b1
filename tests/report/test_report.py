"""Reports: what they claim, what they refuse to claim, and what they need."""

from __future__ import annotations

import copy
import dataclasses
import html.parser
import importlib.resources
import json
import math
import re
import subprocess
import sys

import pytest

from tests.support.run_folders import NAME, RunFolder, plan_of
from tests.support.schemas import violations
from tff_dp import (
    DistributedSkellamMechanism,
    FixedSizeSampler,
    FullParticipation,
    GaussianMechanism,
    LocalGaussianMechanism,
    PrivateMetric,
    RecordGaussianMechanism,
)
from tff_dp.accounting.report import format_epsilon
from tff_dp.charges import Charges
from tff_dp.errors import ArgumentError, LedgerError
from tff_dp.ledger import Ledger
from tff_dp.report import page_of, report_of, verify_report, write_report
from tff_dp.report.charts import chart, ticks
from tff_dp.report.words import percent

SCHEMA = json.loads(
    importlib.resources.files("tff_dp.report").joinpath("schema.json").read_text("utf-8")
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return RunFolder(tmp_path / "run", plan_of()).install(monkeypatch)


def claim_of(path, monkeypatch, plan, **arguments) -> dict:
    return report_of(RunFolder(path, plan, **arguments).install(monkeypatch).path)["claim"]


def test_the_claim_has_the_figures_of_the_ledger(folder):
    claim = report_of(folder.path)["claim"]
    plan = plan_of()
    charges = Charges().with_run(plan, 13)
    profile = charges.profile()
    assert claim["private"]
    assert claim["guarantee"]["epsilon"] == charges.spent().epsilon
    assert claim["guarantee"]["delta"] == plan.delta
    assert claim["guarantee"]["mu"] == profile.mu
    assert claim["guarantee"]["advantage"] == profile.advantage
    for test in claim["guarantee"]["membership"]:
        rate = test["false_positive_rate"]
        assert test["true_positive_rate"] == profile.true_positive_rate(rate)
        assert rate < test["true_positive_rate"] < 1
    assert claim["accounting"]["accountants"] == dict(charges.spent().values)
    assert claim["rounds"] == {
        "planned": 40,
        "completed": 12,
        "charged": 13,
        "charged_by_this_run": 13,
        "drawn_again": 1,
    }
    assert claim["delta_times_units"] == pytest.approx(0.1)
    (described,) = claim["plans"]
    assert described["clip_norm"] == 0.5
    assert described["denominator"] == 50
    assert described["noise_multiplier"] == 1.2
    assert described["sampling_rate"] == 0.05
    head = json.loads((folder.path / "ledger.jsonl.head").read_text())
    assert claim["ledger"] == {"charges": 13, "head_hash": head["hash"]}


def seeded_cohorts(folder):
    folder.found.config["arguments"]["seeded"] = True


def another_seeded_run(folder):
    other = plan_of(mechanism=GaussianMechanism(clip_norm=0.5, noise_multiplier=3.0))
    with Ledger(folder.path / "ledger.jsonl", other) as book:
        book.charge(1, 2, coins="a hash of a seed")


def seeded_noise(folder):
    folder.found.config["openings"][0]["noise_seeded"] = True


def no_ledger(folder):
    folder.found.ledger = None


def other_ledger(folder):
    folder.found.config["openings"][0]["run"] = "0" * 32


def other_plan(folder):
    folder.found.config["arguments"]["privacy"] = plan_of(delta=1e-5).to_dict()


def more_rounds(folder):
    folder.found.round_number = 14


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (seeded_cohorts, "cohorts came from a seed"),
        (another_seeded_run, "Cohorts that the ledger has charges for came from a seed"),
        (seeded_noise, "noise came from a seed"),
        (no_ledger, "no ledger"),
        (other_ledger, "the ledger or the plan is not the one of this run"),
        (other_plan, "the ledger or the plan is not the one of this run"),
        (more_rounds, "13 rounds of this run"),
    ],
)
def test_what_breaks_the_guarantee_is_marked_on_the_page_and_in_the_data(folder, change, reason):
    change(folder)
    report = report_of(folder.path)
    claim, page = report["claim"], page_of(report)
    assert not claim["private"]
    assert any(reason in each for each in claim["reasons"])
    assert claim["guarantee"]["epsilon"] == claim["guarantee"]["mu"] == "inf"
    assert {t["true_positive_rate"] for t in claim["guarantee"]["membership"]} == {1.0}
    assert "<strong>NOT PRIVATE</strong>" in page
    assert "<strong>epsilon" not in page
    assert [*violations(report, SCHEMA)] == []


def test_without_noise_or_without_a_plan_nothing_is_private(tmp_path, monkeypatch):
    silent = plan_of(mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0))
    for number, (plan, reason) in enumerate([(silent, "no noise"), (None, "no privacy plan")]):
        folder = RunFolder(tmp_path / str(number), plan).install(monkeypatch)
        report = report_of(folder.path)
        assert not report["claim"]["private"]
        assert reason in report["claim"]["reasons"][0]
        assert "NOT PRIVATE" in page_of(report)
        assert [*violations(report, SCHEMA)] == []
        assert "epsilon so far" not in page_of(report).lower()


def test_a_seed_of_cohorts_matters_only_if_epsilon_relies_on_sampling(tmp_path, monkeypatch):
    full = plan_of(
        mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=20.0),
        cohort=None,
        sampler=FullParticipation(),
    )
    folder = RunFolder(tmp_path / "run", full).install(monkeypatch)
    seeded_cohorts(folder)
    claim = report_of(folder.path)["claim"]
    assert claim["private"]
    assert claim["randomness"]["cohorts_seeded"]


@pytest.mark.parametrize(
    ("plan", "setting", "unit"),
    [
        (plan_of(), "central", "client"),
        (
            plan_of(mechanism=LocalGaussianMechanism(clip_norm=1.0, noise_multiplier=30.0)),
            "local",
            "client",
        ),
        (
            plan_of(
                mechanism=DistributedSkellamMechanism(
                    clip_norm=1.0, noise_multiplier=8.0, dimension=100, bits=20
                ),
                cohort=None,
                sampler=FixedSizeSampler(size=50),
            ),
            "distributed",
            "client",
        ),
        (
            plan_of(
                mechanism=RecordGaussianMechanism(
                    clip_norm=1.0, noise_multiplier=1.5, batch_size=10
                ),
                population=None,
                cohort=None,
                records=(400, 300),
            ),
            "local",
            "record",
        ),
    ],
    ids=["central", "local", "distributed", "record"],
)
def test_setting_trust_and_unit_follow_from_the_mechanism(
    tmp_path, monkeypatch, plan, setting, unit
):
    folder = RunFolder(tmp_path / "run", plan).install(monkeypatch)
    report = report_of(folder.path)
    claim = report["claim"]
    assert (claim["setting"], claim["unit"]) == (setting, unit)
    assert claim["private"]
    assert [*violations(report, SCHEMA)] == []
    assert claim["units"] == (400 if unit == "record" else 1000)
    page = page_of(report)
    assert "nan" not in re.sub(r"<style>.*</style>", "", page, flags=re.S).lower()


@pytest.mark.slow
def test_what_is_covered_depends_on_the_metrics_and_on_other_runs(tmp_path, monkeypatch):
    plan = plan_of(metrics=(PrivateMetric(name="loss", clip_value=5.0),))
    folder = RunFolder(tmp_path / "run", plan).install(monkeypatch)
    claim = report_of(folder.path)["claim"]
    assert any("released with noise: loss" in each for each in claim["covered"])
    assert any("plain sums" in each for each in claim["not_covered"])
    for record in folder.found.records:
        record["metrics_private"] = record["metrics"] is not None
    assert not any("plain sums" in each for each in report_of(folder.path)["claim"]["not_covered"])
    alone = claim["guarantee"]["epsilon"]
    other = dataclasses.replace(
        plan, mechanism=GaussianMechanism(clip_norm=0.5, noise_multiplier=2.0)
    )
    with Ledger(folder.path / "ledger.jsonl", other) as book:
        book.charge(1, 20)
    claim = report_of(folder.path)["claim"]
    assert claim["guarantee"]["epsilon"] > alone
    assert len(claim["plans"]) == 2
    assert claim["rounds"]["charged"] == 33
    assert any("other runs in the ledger" in each for each in claim["not_covered"])


def test_validation_is_outside_of_epsilon_and_private_validation_has_one_of_its_own(
    tmp_path, monkeypatch
):
    metrics = (PrivateMetric(name="loss", clip_value=5.0),)
    folder = RunFolder(tmp_path / "run", plan_of(metrics=metrics)).install(monkeypatch)

    def said() -> str:
        return " ".join(report_of(folder.path)["claim"]["not_covered"])

    def validated(source, private):
        for record in folder.found.records:
            record |= {
                "metrics_private": record["metrics"] is not None,
                "validation_source": source,
                "validation_private": private,
            }

    validated("data", False)
    assert "data of validation_data, which have to be public" in said()
    assert "held-out" not in said()
    validated("clients", False)
    assert "held-out clients that were released without noise" in said()
    # The curves of validation are warned of, although those of training are covered.
    assert not report_of(folder.path)["curves"]["metrics_private"]
    assert "come from validation: epsilon does not cover them" in page_of(report_of(folder.path))
    for record in folder.found.records:
        del record["validation"]
    assert report_of(folder.path)["curves"]["metrics_private"]
    validated("clients", True)
    with pytest.raises(LedgerError, match="has 0 evaluations, and the history of the run has 12"):
        report_of(folder.path)
    held_out = plan_of(population=200, delta=1e-3, cohort=20, metrics=metrics)
    with Ledger(folder.path / "validation.jsonl", held_out) as book:
        book.charge(1, 15)
    epsilon = format_epsilon(held_out.epsilon(15).epsilon)
    assert f"epsilon {epsilon} at delta 0.001 holds, for 15 evaluations alone" in said()
    assert "without noise" not in said()


def test_a_killed_run_reports_the_earlier_training_of_its_model_and_all_of_its_parts(folder):
    other = Charges().with_run(plan_of(population=300, delta=1e-3, cohort=30), 5)
    here = report_of(folder.path)["claim"]
    assert here["earlier_training"] == []
    with Ledger(folder.path / "ledger.jsonl", plan_of()) as book:
        own = book.all_charges
    # What the ledger has is of the same clients, and within the epsilon of the run.
    folder.found.config["carried"] = [[own.to_dict()], [other.to_dict()]]
    folder.found.result = None
    # Every part of the run says where its random bits came from.
    first = folder.found.config["openings"][0]
    folder.found.config["openings"].append({**first, "random_bits": "another source"})
    bits = report_of(folder.path)["claim"]["randomness"]["noise"]
    assert bits == f"{first['random_bits']}; in another part of the run, another source"
    (found,) = report_of(folder.path)["claim"]["earlier_training"]
    assert (found["epsilon"], found["rounds"]) == (other.spent().epsilon, 5)


def test_the_report_fits_its_schema_and_the_schema_finds_what_does_not(folder):
    report = report_of(folder.path)
    assert [*violations(report, SCHEMA)] == []
    for path, value in (
        (("claim", "guarantee", "epsilon"), -1.0),
        (("claim", "guarantee", "advantage"), 1.5),
        (("claim", "setting"), "anywhere"),
        (("claim", "private"), "yes"),
        (("claim", "unknown"), 1),
        (("format",), 2),
        (("curves", "rounds"), ["1"]),
    ):
        wrong = copy.deepcopy(report)
        inside = wrong
        for name in path[:-1]:
            inside = inside[name]
        inside[path[-1]] = value
        assert len([*violations(wrong, SCHEMA)]) == 1, path
    del report["claim"]["ledger"]
    assert [*violations(report, SCHEMA)] == ["$.claim.ledger is missing"]


def test_jsonschema_agrees(folder):
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(report_of(folder.path), SCHEMA, jsonschema.Draft202012Validator)


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.found += [v for k, v in attributes if k in ("src", "href", "srcset", "data", "action")]


def test_the_page_is_alone_and_everything_in_it_is_escaped(folder):
    folder.found.config["foreign_algorithm"] = NAME
    page = page_of(report_of(folder.path))
    parser = _Links()
    parser.feed(page)
    assert parser.found == ["data:,"]
    assert not parser.tags & {"script", "iframe", "img", "object", "b", "i"}
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert NAME not in page
    assert "&lt;b&gt;run &amp;" in page
    assert "default-src 'none'" in page


def test_a_report_is_written_and_verified_and_every_edit_of_it_is_found(folder):
    files = write_report(folder.path)
    assert verify_report(folder.path) == []
    text = files.data.read_text()
    report = json.loads(text)
    for path, value in (
        (("claim", "guarantee", "epsilon"), report["claim"]["guarantee"]["epsilon"] * 0.99),
        (("claim", "guarantee", "mu"), 0.1),
        (("claim", "guarantee", "membership"), []),
        (("claim", "accounting", "profile", "epsilons", 3), 0.2),
        (("claim", "rounds", "charged"), 12),
        (("claim", "reasons"), ["none"]),
        (("curves", "epsilon", 2), 0.0),
    ):
        wrong = json.loads(text)
        inside = wrong
        for name in path[:-1]:
            inside = inside[name]
        inside[path[-1]] = value
        files.data.write_text(json.dumps(wrong))
        found = [each.where for each in verify_report(folder.path)]
        where = ".".join(map(str, path)).replace(".3", "[3]").replace(".2", "[2]")
        assert where in found
        # The page shows the figures, so that it is not the page of the edited data any more.
        assert set(found) <= {where, "report.html"}
    files.data.write_text(text)
    files.page.write_text(files.page.read_text().replace("0.0001", "0.00001"))
    assert [each.where for each in verify_report(folder.path)] == ["report.html"]
    files.page.unlink()
    assert [each.where for each in verify_report(folder.path)] == ["report.html"]


def test_rounds_that_were_charged_later_and_another_stated_epsilon_are_found(folder):
    write_report(folder.path)
    folder.found.result["epsilon"] = 0.5
    assert [each.where for each in verify_report(folder.path)] == ["result.json: epsilon"]
    folder.found.result["epsilon"] = None
    with Ledger(folder.path / "ledger.jsonl", plan_of()) as book:
        book.charge(14)
    found = {each.where: each for each in verify_report(folder.path)}
    assert found["claim.ledger.charges"][1:] == ("13", "14")
    assert "claim.guarantee.epsilon" in found
    assert "claim.ledger.head_hash" in found


def test_a_report_that_is_not_there_or_not_one_is_refused(folder, tmp_path):
    with pytest.raises(ArgumentError, match=r"does not exist: .* tff-dp report RUN_DIR"):
        verify_report(folder.path)
    (folder.path / "report.json").write_text('{"tff_dp": "report", "format": 99}')
    with pytest.raises(ArgumentError, match="no report of format 1"):
        verify_report(folder.path)
    (folder.path / "report.json").write_text("{")
    with pytest.raises(ArgumentError, match="cannot be read"):
        verify_report(folder.path)
    with pytest.raises(ArgumentError, match=r"nowhere.* cannot be written: .* folder that exists"):
        write_report(folder.path, tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="run_dir=3"):
        write_report(3)


def test_a_run_without_a_round_has_a_report(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run", plan_of(), completed=0, charged=0).install(monkeypatch)
    report = report_of(folder.path)
    assert report["claim"]["private"]
    assert report["claim"]["guarantee"]["epsilon"] == 0
    assert [*violations(report, SCHEMA)] == []
    assert "No round has been completed" in page_of(report)


def test_bounds_are_rounded_up_and_never_above_one():
    for value, text in (
        (0.002341, "0.235"),
        (0.14, "14.0"),
        (0.999999, "100"),
        (1.0, "100"),
        (1e-9, "1.00e-7"),
        (0.0, "0"),
    ):
        shown = percent(value).replace("\N{NO-BREAK SPACE}%", "")
        assert float(shown) == pytest.approx(float(text))
        assert float(shown) / 100 >= value * (1 - 1e-15)


def test_charts_draw_what_they_can():
    assert "nothing to draw" in chart("t", [1.0], [("a", [None])], x_label="x", y_label="y")
    one = chart("t", [1.0], [("a", [math.nan])], x_label="x", y_label="y")
    assert "nothing to draw" in one
    for values in ([1.0, 1.0], [0.0, 0.0], [1e300, -1e300], [1e-300, 2e-300]):
        drawn = chart("<t>", [1.0, 2.0], [("<a>", values), ("b", values)], x_label="x", y_label="y")
        assert "nan" not in drawn
        assert "inf" not in drawn
        assert "&lt;a&gt;" in drawn
    log = chart("t", [1.0, 2.0], [("a", [0.0, 1e-9])], x_label="x", y_label="y", log_y=True)
    assert "<circle" in log
    many = chart("t", range(5000), [("a", [*range(5000)])], x_label="x", y_label="y")
    assert many.count(",") < 1000
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_reports_need_no_tensorflow():
    program = (
        "import sys, tff_dp.report\n"
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_federated') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
