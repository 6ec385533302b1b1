"""The command line: golden values, exit codes, and what it refuses."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest

from tests.support.command_line import found, run
from tff_dp.accounting import accountants

ROUNDS = ["--rounds", "1000", "--delta", "1e-5"]
POISSON = ["--sampling-rate", "0.01", *ROUNDS]
FIXED = ["--sampling", "fixed", "--population", "1000", "--cohort", "10", *ROUNDS]
FULL = ["--sampling", "full", "--rounds", "100", "--delta", "1e-5"]


# Golden values: shared with test_accounting; the sources are named there.
@pytest.mark.parametrize(
    ("z", "arguments", "expected"),
    [
        ("1", POISSON, {"rdp": 2.101365, "pld": 1.828244}),
        ("1", FIXED, {"rdp": 20.987}),  # with the sensitivity doubled inside: 3.576 without
        ("10", FULL, {"rdp": 4.728507, "exact": 4.377178}),
        ("10", [*FULL, "--adjacency", "replace-one"], {"exact": 9.9973}),
    ],
    ids=["poisson", "fixed", "full", "replace-one"],
)
def test_golden_epsilon(capsys, z, arguments, expected):
    answer = found(capsys, "epsilon", "--noise-multiplier", z, *arguments)
    for name, value in expected.items():
        assert answer["accountants"][name] == pytest.approx(value, rel=1e-4)
    assert answer["epsilon"] == min(answer["accountants"].values())
    assert answer["noise_multiplier"] == float(z)
    assert answer["mechanism"] == "gaussian"
    assert answer["delta"] == 1e-5
    assert {"adjacency", "sampling"} <= set(answer)


def test_the_text_names_all_that_an_epsilon_depends_on(capsys):
    code, out, _ = run(
        capsys, "epsilon", "--mechanism", "gaussian", "--noise-multiplier", "1", *POISSON
    )
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "1.829, to report (by pld)" in lines["epsilon"]  # 1.8282: rounded up
    assert lines["by rdp"].endswith("2.102")
    assert lines["adjacency"].endswith("add-or-remove-one")
    assert "Poisson" in lines["sampling"]
    assert lines["unit"].split(maxsplit=1)[1].startswith("a client")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*FIXED, "--adjacency", "add-remove"], "FixedSizeSampler: expected 'replace-one'"),
        (["--sampling-rate", "0.01", "--rounds", "1000000", "--delta", "1e-5",
          "--adjacency", "replace-one"], "not computed: RDP epsilon"),
    ],
    ids=["fixed", "too little noise"],
)  # fmt: skip
def test_what_cannot_be_accounted_for_is_refused_with_code_3(capsys, arguments, reason):
    code, out, err = run(capsys, "epsilon", "--noise-multiplier", "0.3", *arguments)
    assert (code, out) == (3, "")
    assert reason in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["epsilon", *POISSON], "missing for epsilon: --noise-multiplier. See tff-dp epsilon --help"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "0.01", "--delta", "1e-5"],
         "missing for epsilon: --rounds. See"),
        (["epsilon", "--noise-multiplier", "1", *ROUNDS],
         "epsilon: --sampling-rate, or --cohort with --population (--sampling poisson). See"),
        (["epsilon", "--noise-multiplier", "1", "--cohort", "5", *ROUNDS],
         "missing for epsilon: --population (--cohort). See"),
        (["epsilon", "--noise-multiplier", "1", "--cohort", "5", *POISSON],
         "expected exactly one of them"),
        (["epsilon", "--noise-multiplier", "1", "--cohort", "50", "--population", "10", *ROUNDS],
         "--cohort=50"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "0.1", *FIXED], "have no rate"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "0.1", *FULL], "every client"),
        (["epsilon", "--noise-multiplier", "-1", *POISSON], "--noise-multiplier=-1.0"),
        (["epsilon", "--noise-multiplier", "nan", *POISSON], "--noise-multiplier=nan"),
        (["epsilon", "--noise-multiplier", "1", "--population", "1000", "--delta", "0.001",
          "--rounds", "1", "--cohort", "5"], "customary for 1000 clients"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "0.1", "--rounds", "1"],
         "missing for epsilon: --delta, or --population for the recommended one. See"),
        (["epsilon", "--noise-multiplier", "1", "--mechanism", "magic", *POISSON], "magic"),
        (["calibrate", "--target-epsilon", "2", "--noise-multiplier", "1", *POISSON],
         "nothing is left open"),
        (["calibrate", "--target-epsilon", "2", "--sampling-rate", "0.1", "--delta", "1e-5"],
         "--noise-multiplier, --rounds are left open"),
        (["calibrate", "--target-epsilon", "0", *POISSON], "--target-epsilon=0.0"),
        (["calibrate", "--target-epsilon", "2", "--noise-multiplier", "1", *ROUNDS],
         "missing for calibrate: --population (for a cohort to be found). See"),
        (["calibrate", *POISSON], "--target-epsilon"),
        (["spend"], "spend"),
    ],
)  # fmt: skip
def test_wrong_arguments_end_with_code_2_and_the_reason(capsys, arguments, reason):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert reason in err


def test_the_default_delta_is_the_recommended_one_and_below_one_over_n(capsys):
    answer = found(
        capsys, "epsilon", "--noise-multiplier", "1", "--population", "1000", "--cohort", "10",
        "--rounds", "1",
    )  # fmt: skip
    assert answer["delta"] == pytest.approx(1000**-1.1)
    assert answer["sampling_rate"] == 0.01


def test_calibrated_noise_is_safe_and_golden(capsys):
    answer = found(capsys, "calibrate", "--target-epsilon", "2", *POISSON)
    assert answer["found"] == "noise-multiplier"
    assert answer["noise_multiplier"] == pytest.approx(0.959240, rel=1e-3)
    assert answer["epsilon"] <= 2
    # The text has every digit: a rounded one could be less noise.
    _, out, _ = run(capsys, "calibrate", "--target-epsilon", "2", *POISSON)
    assert out.split()[2].rstrip(",") == repr(answer["noise_multiplier"])


def test_calibrated_rounds_and_cohort_spend_at_most_the_target(capsys):
    rounds = found(
        capsys, "calibrate", "--target-epsilon", "2", "--sampling", "full", "--delta", "1e-5",
        "--noise-multiplier", "20",
    )  # fmt: skip
    assert rounds["rounds"] == 100  # 1.993 at 100, as in the tutorial's table
    cohort = found(
        capsys, "calibrate", "--target-epsilon", "2", "--population", "10000",
        "--noise-multiplier", "1", *ROUNDS,
    )  # fmt: skip
    assert cohort["found"] == "cohort"
    assert cohort["epsilon"] <= 2
    more = ["--population", "10000", "--cohort", str(cohort["cohort"] + 1)]
    assert found(capsys, "epsilon", "--noise-multiplier", "1", *more, *ROUNDS)["epsilon"] > 2


def test_no_noise_is_inf_in_text_and_in_valid_json(capsys):
    answer = found(capsys, "epsilon", "--noise-multiplier", "0", *FULL)
    assert math.isinf(float(answer["epsilon"]))
    assert answer["epsilon"] == "inf"
    _, out, _ = run(capsys, "epsilon", "--noise-multiplier", "0", *FULL)
    assert out.split()[1] == "inf,"


def test_a_too_small_epsilon_would_be_caught(capsys, monkeypatch):
    # Negative control: the naive accounting of replace-one, which forgets to double the sensitivity.
    monkeypatch.setattr(
        accountants.GaussianRound, "scaled_event", lambda self: self.event()
    )  # fmt: skip
    accountants.clear_caches()
    try:
        naive = found(capsys, "epsilon", "--noise-multiplier", "1", *FIXED)
    finally:
        monkeypatch.undo()
        accountants.clear_caches()
    assert naive["epsilon"] == pytest.approx(3.5761, rel=1e-3)


APART = [
    "--sampling",
    "separated",
    "--population",
    "1600",
    "--cohort",
    "1",
    "--min-separation",
    "1600",
]
CYCLIC = [
    "--sampling",
    "cyclic",
    "--population",
    "1000",
    "--cohort",
    "10",
    "--cycle",
    "10",
    *ROUNDS,
]


@pytest.mark.parametrize(
    ("mechanism", "z", "arguments", "expected", "adjacency"),
    [
        ("laplace", "10", FULL, {"pure": 10.0, "pld": 4.220347}, "add-or-remove-one"),
        (
            "tree",
            "1.13",
            [*APART, "--rounds", "1600", "--delta", "1e-6"],
            {"rdp": 18.70961},
            "zero-out",
        ),
        ("banded", "1", [*CYCLIC, "--bands", "10"], {"pld": 7.046603}, "zero-out"),
        ("adaptive", "1", POISSON, {"pld": 1.828244}, "add-or-remove-one"),
        ("local-gaussian", "10", FULL, {"exact": 9.997256}, "replace-one"),
        ("local-laplace", "10", FULL, {"pure": 20.0}, "replace-one"),
    ],
)
def test_golden_epsilon_of_other_mechanisms(capsys, mechanism, z, arguments, expected, adjacency):
    flags = ("--mechanism", mechanism, "--noise-multiplier", z, *arguments)
    answer = found(capsys, "epsilon", *flags)
    for name, value in expected.items():
        assert answer["accountants"][name] == pytest.approx(value, rel=6e-4)
    assert (answer["mechanism"], answer["adjacency"]) == (mechanism, adjacency)
    _, out, _ = run(capsys, "epsilon", *flags)
    assert f"{mechanism}, noise multiplier" in out
    for flag, value in itertools.pairwise(arguments):
        if flag in ("--bands", "--cycle", "--min-separation"):
            assert f"{flag[2:].replace('-', ' ')} {value}" in out


def test_records_cost_by_the_client_that_has_fewest(capsys):
    flags = ["--mechanism", "dp-sgd", "--records", "900,400,1600", "--batch-size", "4"]
    flags += ["--max-dimension", "1"]
    steps = [*flags, "--local-steps", "10", "--rounds", "100", "--delta", "1e-5"]
    answer = found(capsys, "epsilon", "--noise-multiplier", "1", *steps)
    assert answer["accountants"]["pld"] == pytest.approx(1.828244, rel=1e-6)  # q=.01, 1000 steps
    assert (answer["unit"], answer["records"]) == ("record", [900, 400, 1600])
    # Delta is below one over the most records that a client has; without one, it is recommended so.
    code, _, err = run(capsys, "epsilon", "--noise-multiplier", "1", *steps[:-1], "0.001")
    assert (code, "1600 records" in err) == (2, True)
    noise = found(capsys, "calibrate", "--target-epsilon", "2", *steps[:-2])
    assert noise["delta"] == pytest.approx(1600**-1.1)
    assert 1.99 < noise["epsilon"] <= 2.0


def test_noise_of_the_clients_under_secure_aggregation(capsys):
    flags = ["--mechanism", "skellam", "--dimension", "100", *FULL, "--population", "1000"]
    many = found(capsys, "epsilon", "--noise-multiplier", "10", *flags)
    # At 20 bits the grid is fine: little above the Gaussian's.
    assert 4.7285 < many["accountants"]["rdp"] < 4.7285 * 1.05
    few = found(capsys, "epsilon", "--noise-multiplier", "10", *flags, "--bits", "14")
    assert few["epsilon"] > many["epsilon"]


def test_noise_of_a_tree_is_found(capsys):
    flags = ["--mechanism", "tree", *APART, "--rounds", "800", "--delta", "1e-6"]
    answer = found(capsys, "calibrate", "--target-epsilon", "2", *flags)
    assert answer["found"] == "noise-multiplier"
    assert 1.99 < answer["epsilon"] <= 2.0
    assert answer["min_separation"] == 1600


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--bands", "3", *POISSON], 2, "--bands 3 does not belong to --mechanism gaussian"),
        (["--cycle", "3", *POISSON], 2, "--cycle 3 does not belong to --sampling poisson"),
        (["--mechanism", "banded", *CYCLIC], 2, "epsilon: --bands (--mechanism banded). See"),
        (["--mechanism", "banded", "--bands", "11", *CYCLIC], 3, "--bands=11"),
        (["--mechanism", "tree", *POISSON], 3, "MinSeparationSampler"),
        (
            ["--mechanism", "tree", *APART, "--max-participations", "1", "--rounds", "1601"],
            2,
            "--rounds=1601",
        ),
        (["--mechanism", "laplace", *FIXED], 3, "FixedSizeSampler"),
        (
            ["--records", "3,4", *POISSON],
            2,
            "--records 3,4 does not belong to --mechanism gaussian",
        ),
        (
            ["--mechanism", "dp-sgd", "--batch-size", "2", *FULL],
            2,
            "epsilon: --records (--mechanism dp-sgd). See",
        ),
        (
            ["--mechanism", "dp-sgd", "--records", "9", *FULL],
            2,
            "epsilon: --batch-size (--mechanism dp-sgd). See",
        ),
        (
            ["--mechanism", "dp-sgd", "--records", "9,x", *FULL],
            2,
            "'9,x' is no list of whole numbers",
        ),
        (
            ["--mechanism", "skellam", *FULL, "--population", "9"],
            2,
            "epsilon: --dimension (--mechanism skellam). See",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, arguments, code, reason):
    answer, out, err = run(capsys, "epsilon", "--noise-multiplier", "1", *arguments)
    assert (answer, out) == (code, "")
    assert reason in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["epsilon"],
         "missing for epsilon: --noise-multiplier; --rounds; --sampling-rate, or --cohort with "
         "--population (--sampling poisson); --delta, or --population for the recommended one. See"),
        (["epsilon", "--mechanism", "dp-sgd"],
         "missing for epsilon: --noise-multiplier; --rounds; --records (--mechanism dp-sgd); "
         "--batch-size (--mechanism dp-sgd). See"),
        (["epsilon", "--mechanism", "skellam", "--sampling", "fixed"],
         "missing for epsilon: --noise-multiplier; --rounds; --dimension (--mechanism skellam); "
         "--population (--sampling fixed); --cohort (--sampling fixed). See"),
        (["epsilon", "--sampling", "separated", "--noise-multiplier", "1", "--rounds", "2"],
         "--population (--sampling separated); --cohort (--sampling separated); --min-separation "
         "(--sampling separated). See"),
        (["epsilon", "--sampling", "cyclic", "--noise-multiplier", "1", "--rounds", "2"],
         "missing for epsilon: --cycle (--sampling cyclic); --population (--sampling cyclic); "
         "--sampling-rate, or --cohort with --population (--sampling cyclic). See"),
        (["epsilon", "--bands", "3", "--cycle", "2", "--bits", "4", "--records", "2,3", *ROUNDS],
         "--bands 3, --bits 4 do not belong to --mechanism gaussian: leave them out, or take what they "
         "belong to. --records 2,3 does not belong to --mechanism gaussian: leave it out, or take what "
         "it belongs to. --cycle 2 does not belong to --sampling poisson: leave it out, or take what "
         "it belongs to. missing for epsilon: --noise-multiplier; --sampling-rate"),
        (["epsilon", "--mechanism", "dp-sgd", "--sampling", "fixed", "--records", "4,5",
          "--batch-size", "2", "--noise-multiplier", "1", "--rounds", "2"],
         "--sampling fixed does not belong to --mechanism dp-sgd, whose clients are those of --records"),
        (["epsilon", "--sampling", "cyclic", "--cycle", "2", "--sampling-rate", "0.1", "--cohort", "2",
          "--population", "9", "--noise-multiplier", "1", "--rounds", "2"],
         "expected exactly one of them under --sampling cyclic"),
        (["epsilon", "--rounds", "1e3"],
         "argument --rounds: '1e3' is no whole number: expected digits alone, such as 1000"),
        (["selftest", "--mechanism", "dp-sgd"],
         "missing for selftest: --records (--mechanism dp-sgd); --batch-size (--mechanism dp-sgd). See"),
        (["selftest", "--mechanism", "banded", "--sampling", "cyclic"],
         "missing for selftest: --bands (--mechanism banded); --cycle (--sampling cyclic). See"),
        (["selftest", "--plan", "plan.json", "--records", "3,4", "--rounds", "2", "--bits", "3"],
         "--plan='plan.json' with --rounds, --records, --bits: the plan in the file has all of this"),
        (["calibrate"],
         "--noise-multiplier, --rounds, --cohort are left open: expected exactly one of "
         "--noise-multiplier, --rounds, and --cohort or --sampling-rate, which is then found. missing "
         "for calibrate: --target-epsilon; --population (for a cohort to be found). See"),
        (["calibrate", "--target-epsilon", "1", "--sampling", "full", "--population", "9",
          "--noise-multiplier", "1", "--rounds", "2"],
         "nothing is left open: expected exactly one of --noise-multiplier and --rounds, which"),
        (["calibrate", "--target-epsilon", "1", "--sampling", "cyclic", "--cycle", "5",
          "--population", "90", "--rounds", "2"],
         "missing for calibrate: --sampling-rate, or --cohort (--sampling cyclic). See"),
        (["epsilon", "--sampling", "cyclic", "--cycle", "2", "--cohort", "60", "--population", "90",
          "--noise-multiplier", "1", "--rounds", "2"],
         "--cohort=60 is outside its bound: expected a whole number in [1, 45]"),
        (["epsilon", "--sampling", "full", "--cohort", "5", "--noise-multiplier", "1", *ROUNDS],
         "Leave it out, or say how a cohort is drawn.\n"),
        (["epsilon", "--noise-multiplier", "1", "--sampling-rate", "2", *ROUNDS],
         "--sampling-rate=2.0 is outside its bound: expected a number in (0, 1]"),
        (["epsilon", "--sampling", "fixed", "--cohort", "20", "--population", "9",
          "--noise-multiplier", "1", "--rounds", "2"],
         "--cohort=20 is outside its bound: expected a whole number in [1, 9]"),
        (["selftest", "--mechanism", "adaptive", "--clip-norm", "-1"],
         "--clip-norm=-1.0 is outside its bound"),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_named_at_once_with_what_asks_for_it(capsys, arguments, reason):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert reason in err


def test_what_is_wrong_with_a_command_line_is_said_before_anything_heavy_is_imported():
    program = (
        "import sys; from tff_dp import cli\n"
        "wrong = (['epsilon'], ['selftest', '--mechanism', 'dp-sgd'], ['ledger', 'no such file'],\n"
        "  ['calibrate', '--target-epsilon', '1', '--bands', '3'], ['selftest', '--plan', 'no.json'],\n"
        "  ['selftest', '--plan', 'no.json', '--rounds', '3'])\n"
        "print([cli.main(each) for each in wrong],\n"
        "  [m for m in ('tensorflow', 'scipy', 'numpy', 'dp_accounting') if m in sys.modules])\n"
        "print(cli.main(['selftest', '--noise-multiplier', '0']), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{[2] * 6} []", "2 False"]
    assert "--noise-multiplier=0 leaves no noise to test" in done.stderr


def test_a_selftest_of_records_is_told_of_a_plan_of_records(capsys, monkeypatch):
    from tff_dp.selftest import command

    plans = []
    monkeypatch.setattr(command, "run", lambda plan, **_: plans.append(plan) or 0)
    flags = ["--mechanism", "dp-sgd", "--records", "400,900", "--batch-size", "4", "--rounds", "3"]
    assert run(capsys, "selftest", *flags)[0] == 0
    (plan,) = plans
    assert (plan.unit.value, plan.records, plan.population) == ("record", (400, 900), 2)
    assert plan.delta == pytest.approx(900**-1.1)
