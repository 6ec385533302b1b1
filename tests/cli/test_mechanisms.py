"""The command line's mechanisms: options from the fields, and mechanisms of users."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from typing import ClassVar

import pytest

import tff_dp
from tests.support.command_line import found, run
from tests.support.paths import ROOT
from tests.support.toys import PartsSampler, RepeatedMechanism
from tff_dp import accounting, cli, mechanisms
from tff_dp.cli.mechanisms import RESERVED, own_kinds
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import Mechanism
from tff_dp.sampling import FullParticipation

TOY = "tests.support.toys:RepeatedMechanism"
HERE = __name__
FULL = ["--sampling", "full", "--rounds", "10", "--delta", "1e-5", "--population", "1000"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Help whose words are not broken at hyphens."""
    monkeypatch.setenv("COLUMNS", "400")


def commands() -> dict[str, argparse.ArgumentParser]:
    (subcommands,) = (a for a in cli._parser()._actions if a.dest == "command")
    return subcommands.choices


# --- Options from the fields ----------------------------------------------------------------------


def test_every_mechanism_is_there_and_every_field_is_an_option():
    concrete = {
        value
        for value in map(mechanisms.__dict__.get, mechanisms.__all__)
        if isinstance(value, type) and issubclass(value, Mechanism)
    } - {Mechanism, mechanisms.DistributedMechanism}
    assert {kind.mechanism for kind in own_kinds().values()} == concrete
    for command in ("epsilon", "calibrate", "selftest"):
        dests = {action.dest for action in commands()[command]._actions}
        for kind in own_kinds().values():
            fields = {field.name for field in dataclasses.fields(kind.mechanism)}
            assert fields - dests <= {kind.clip}, kind.name


def test_names_that_mean_something_else_are_no_fields(capsys):
    of_fields = {name for kind in own_kinds().values() for name in kind.names}
    together = ("epsilon", "calibrate", "selftest", "ledger")  # commands with options of mechanisms
    dests = {action.dest for name in together for action in commands()[name]._actions}
    assert dests - of_fields <= RESERVED
    answer = found(capsys, "calibrate", "--noise-multiplier", "50", "--target-epsilon", "2",
                   "--sampling", "full", "--delta", "1e-5")  # fmt: skip
    assert answer.keys() - of_fields <= RESERVED
    assert not RESERVED & of_fields


def test_the_help_says_whose_an_option_is_what_it_means_and_its_default(capsys):
    code, out, _ = run(capsys, "epsilon", "--help")
    text = " ".join(out.split())
    assert code == 0
    for part in (
        "--restart-every N of tree: Rounds after which a new tree begins, >= 1;",
        "--dimension N of discrete-gaussian, skellam: Trainable parameters of the model",
        "--target-quantile X of adaptive: The share of clients that are to stay unclipped;",
        "(default: 0.5)",
        "package.module:Class",
    ):
        assert part in text
    assert "As for" not in text
    assert "`" not in text


@pytest.mark.parametrize(
    ("mechanism", "options", "made"),
    [
        ("adaptive", ["--clipped-count-stddev", "20"],
         {"noise_multiplier": 8.0, "clipped_count_stddev": 20.0}),
        ("per-layer", ["--clip-norms", "0.5,2"],
         {"noise_multiplier": 8.0, "clip_norms": (0.5, 2.0)}),
        ("skellam", ["--dimension", "100", "--bits", "18", "--beta", "0.5"],
         {"noise_multiplier": 8.0, "clip_norm": 1.0, "dimension": 100, "bits": 18, "beta": 0.5}),
    ],
)  # fmt: skip
def test_options_are_the_fields_of_the_mechanism(capsys, mechanism, options, made):
    answer = found(
        capsys, "epsilon", "--mechanism", mechanism, "--noise-multiplier", "8", *options, *FULL
    )
    plan = tff_dp.PrivacyPlan(
        mechanism=own_kinds()[mechanism].mechanism(**made),
        population=1000, rounds=10, delta=1e-5, sampler=FullParticipation(),
    )  # fmt: skip
    assert answer["epsilon"] == plan.epsilon().epsilon
    for name in options[::2]:
        assert name[2:].replace("-", "_") in answer


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--mechanism", "per-layer", *FULL],
         "missing for epsilon: --clip-norms (--mechanism per-layer)"),
        (["--mechanism", "per-layer", "--clip-norms", "1,x", *FULL], "'1,x' is no list of numbers"),
        (["--mechanism", "adaptive", "--target-quantile", "2", *FULL],
         "--target-quantile=2.0 is outside its bound"),
        (["--target-quantile", "0.5", *FULL],
         "--target-quantile 0.5 does not belong to --mechanism gaussian"),
        (["--beta", "0.5", "--mechanism", "tree", *FULL], "--beta 0.5 does not belong"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named_as_options(capsys, arguments, reason):
    code, out, err = run(capsys, "epsilon", "--noise-multiplier", "1", *arguments)
    assert (code, out) == (2, "")
    assert reason in err


def test_a_clip_norm_is_refused_where_the_mechanism_has_none(capsys):
    arguments = ["--mechanism", "per-layer", "--clip-norms", "1,1", "--clip-norm", "2"]
    code, _, err = run(capsys, "selftest", *arguments)
    assert code == 2
    assert "--clip-norm 2.0 does not belong to --mechanism per-layer" in err


def test_an_abbreviation_is_no_option(capsys):
    """`--clip-norm` is an option, and was once the beginning of another one."""
    for words in (["--noise", "1"], ["--clip-norms-", "1"], ["--target", "1"]):
        code, _, err = run(capsys, "epsilon", "--mechanism", "gaussian", *words, *FULL)
        assert code == 2
        assert "unrecognized arguments" in err


def test_bounds_of_an_adaptive_clip_norm_come_with_the_first_one(capsys):
    arguments = ["--mechanism", "adaptive", "--noise-multiplier", "1", *FULL]
    code, _, err = run(capsys, "epsilon", *arguments, "--min-clip-norm", "1")
    assert code == 2
    assert "--clip-norm, by default 0.1 is outside its bound" in err
    code, _, err = run(capsys, "epsilon", *arguments, "--min-clip-norm", "1", "--clip-norm", "2")
    assert (code, err) == (0, "")


def test_an_element_is_named_with_its_option(capsys):
    arguments = ["--mechanism", "per-layer", "--noise-multiplier", "1", *FULL]
    code, _, err = run(capsys, "epsilon", *arguments, "--clip-norms=-1,2")
    assert code == 2
    assert "--clip-norms[0]=-1.0 is outside its bound" in err


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("epsilon", ["--noise-multiplier", "1"]),
        ("calibrate", ["--target-epsilon", "2"]),
    ],
)
def test_what_no_plan_accepts_has_no_answer(capsys, command, arguments):
    arguments += [
        "--rounds",
        "10",
        "--population",
        "1000",
        "--cohort",
        "50",
        "--mechanism",
        "adaptive",
    ]
    code, out, err = run(capsys, command, *arguments, "--clipped-count-stddev", "0.01")
    assert (code, out) == (2, "")
    assert "noise_multiplier" in err.replace("-", "_")
    assert run(capsys, command, *arguments)[0] == 0


# --- Mechanisms of users --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields(Mechanism):
    """A mechanism with a field of each kind that an option can hold.

    Args:
      noise_multiplier: z.
      bits: Here a fraction, and 100 % of another meaning than elsewhere.
      is_fast: Whether
        it is fast.
      weights: Some numbers.
      inner: What no option can hold, and may be left out.
    """

    clip_field: ClassVar[str | None] = None

    noise_multiplier: float
    bits: float
    is_fast: bool = False
    weights: tuple[float, ...] = (1.0,)
    name: str | None = dataclasses.field(default=None, metadata={"help": "a name of its own"})
    inner: tuple[PartsSampler, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reserved(Mechanism):
    """A field whose value would stand where an epsilon is printed."""

    noise_multiplier: float
    epsilon: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nested(Mechanism):
    """A field that no option can hold."""

    noise_multiplier: float
    inner: PartsSampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unread(Mechanism):
    """A field of a type that is nowhere."""

    noise_multiplier: float
    inner: Nowhere  # noqa: F821


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noiseless(Mechanism):
    """A mechanism without noise."""

    clip_norm: float


accounting.register_round(Fields, accounting.GaussianRound, draws_per_coordinate=1)


def test_a_users_mechanism_is_accounted_for_by_its_fields(capsys):
    flags = ("--mechanism", TOY, "--noise-multiplier", "8", "--releases", "3", *FULL)
    answer = found(capsys, "epsilon", *flags)
    mechanism = RepeatedMechanism(clip_norm=1.0, noise_multiplier=8.0, releases=3)
    plan = tff_dp.PrivacyPlan(
        mechanism=mechanism, population=1000, rounds=10, delta=1e-5, sampler=FullParticipation()
    )
    assert answer["epsilon"] == plan.epsilon().epsilon
    assert (answer["mechanism"], answer["releases"]) == (TOY, 3)
    _, out, _ = run(capsys, "epsilon", *flags)
    assert f"{TOY}, noise multiplier 8.0, releases 3" in out
    calibrated = found(
        capsys, "calibrate", f"--mechanism={TOY}", "--target-epsilon", "2", "--releases", "3", *FULL
    )
    assert 1.99 < calibrated["epsilon"] <= 2.0
    assert calibrated["noise_multiplier"] == plan.calibrated(2.0).mechanism.noise_multiplier
    _, out, _ = run(capsys, "epsilon", "--mechanism", TOY, "--help")
    assert f"of {TOY}: R, how often a sum is released; >= 1. (default: 2)" in " ".join(out.split())


def test_fields_of_each_kind_are_read_and_of_other_kinds_left_out(capsys):
    flags = ["--mechanism", f"{HERE}:Fields", "--noise-multiplier", "8", *FULL]
    answer = found(capsys, "epsilon", *flags, "--bits", "0.5", "--is-fast", "yes", "--weights", "1,2.5",
                   "--name", "N")  # fmt: skip
    assert [answer[name] for name in ("bits", "is_fast", "weights", "name")] == [
        0.5, True, [1.0, 2.5], "N"
    ]  # fmt: skip
    # Elsewhere --bits is a whole number.
    assert run(capsys, "epsilon", "--bits", "0.5")[0] == 2
    _, out, _ = run(capsys, "epsilon", *flags, "--help")
    text = " ".join(out.split())
    for part in (
        "Here a fraction, and 100 % of another",
        ": Whether it is fast.",
        ": a name of its own",
    ):
        assert part in text
    assert "--inner" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--mechanism", TOY, "--releases", "0", *FULL], 2, "--releases=0"),
        (["--mechanism", TOY, "--releases", "x", *FULL], 2, "'x' is no whole number"),
        (["--mechanism", TOY, "--bands", "3", *FULL], 2, "--bands 3 does not belong to --mechanism"),
        (["--mechanism", TOY, "--records", "3,4", *FULL], 2, "--records 3,4 does not belong to"),
        (["--mechanism", f"{HERE}:Fields", *FULL], 2, f"--bits (--mechanism {HERE}:Fields)"),
        (["--releases", "3", *FULL], 2, "--releases"),
        (["--mechanism", TOY, "--sampling", "separated", "--min-separation", "2", "--cohort", "3",
          *FULL[2:]], 3, "MinSeparationSampler"),
        (["--mechanism", f"{HERE}:Reserved"], 2, "a field epsilon that has a name"),
        (["--mechanism", f"{HERE}:Nested"], 2, "a field inner that is"),
        (["--mechanism", f"{HERE}:Unread"], 2, "cannot be read: name 'Nowhere' is not defined"),
        (["--mechanism", f"{HERE}:Noiseless"], 2, "has no field noise_multiplier"),
        (["--mechanism", f"{HERE}:PartsSampler"], 2, "derives from tff_dp.mechanisms.Mechanism"),
        (["--mechanism", f"{HERE}:Nothing"], 2, "is not there"),
        (["--mechanism", "no_such_module:Class"], 2, "cannot be imported: ModuleNotFoundError"),
        (["--mechanism", ":Class"], 2, "Expected package.module:Class"),
        (["--mechanism", "tff_dp.mechanisms:Mechanism"], 2, "no dataclass that can be made"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_users_mechanism_is_said(capsys, arguments, code, reason):
    answer, out, err = run(capsys, "epsilon", "--noise-multiplier", "8", *arguments)
    assert (answer, out) == (code, "")
    assert reason in err


def test_a_mechanism_without_accounting_is_refused_with_what_registers_it(capsys):
    code, _, err = run(
        capsys, "epsilon", "--noise-multiplier", "8",
        "--mechanism", "tests.mechanisms.test_extension:New", *FULL,
    )  # fmt: skip
    assert code == 2
    assert "has no accounting" in err
    assert "tff_dp.accounting.register_round adds it" in err


def test_a_selftest_and_a_ledger_are_told_of_the_modules_of_their_plans(tmp_path):
    plan = tff_dp.PrivacyPlan(
        mechanism=RepeatedMechanism(clip_norm=0.5, noise_multiplier=8.0),
        population=1000, rounds=10, delta=1e-5, sampler=PartsSampler(),
    )  # fmt: skip
    with tff_dp.Ledger(tmp_path / "ledger", plan) as ledger:
        ledger.charge(1)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    program = (
        "import json, sys\n"
        "from tff_dp import cli\n"
        "from tff_dp.selftest import command\n"
        "command.run = lambda plan, **_: print(plan.mechanism.releases) or 0\n"
        "own = ['--import', 'tests.support.toys']\n"
        "for command in (['ledger', 'ledger'], ['selftest', '--plan', 'plan.json']):\n"
        "    print(cli.main(command))\n"
        "for command in (['ledger', 'ledger'], ['selftest', '--plan', 'plan.json']):\n"
        "    print(cli.main([*command, *own]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # other packages install a package `tests`, too
    )  # fmt: skip
    assert done.stderr.count("Import tests.support.toys first") == 2
    out = done.stdout.splitlines()
    assert out[:2] == ["1", "2"]
    assert out[-3:] == ["0", "2", "0"]
    assert "1 charged" in done.stdout


def test_a_module_in_the_folder_of_the_call_is_found(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from tff_dp import accounting, mechanisms\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Mine(mechanisms.Mechanism):\n"
        "    noise_multiplier: float\n"
        "    clip_norm: float\n"
        "accounting.register_round(Mine, accounting.GaussianRound, draws_per_coordinate=1)\n"
    )
    program = "import sys; from tff_dp import cli; sys.path.remove(''); sys.exit(cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "epsilon", "--mechanism", "mine:Mine", "--noise-multiplier", "8",
         *FULL, "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    gaussian = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=8.0),
        population=1000, rounds=10, delta=1e-5, sampler=FullParticipation(),
    )  # fmt: skip
    assert json.loads(done.stdout)["epsilon"] == gaussian.epsilon().epsilon


def test_a_module_that_fails_is_reported_with_its_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('of its own')\n")
    code, _, err = run(capsys, "epsilon", "--mechanism", "broken_module:Mine")
    assert code == 2
    assert "--mechanism='broken_module:Mine' cannot be imported: RuntimeError: of its own" in err
    with pytest.raises(ArgumentError, match="cannot be imported"):
        cli.mechanisms.import_module("broken_module", "--import")
