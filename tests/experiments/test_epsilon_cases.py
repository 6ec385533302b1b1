"""The known wrong epsilons: that each is proven wrong, and that the proofs prove nothing false."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from experiments import epsilon_cases
from experiments.epsilon_cases import __main__ as command
from experiments.epsilon_cases import lower_bounds, make, of_sensitivity, ours, suite
from tests.support import oracles
from tests.support.paths import ROOT
from tff_dp import accounting
from tff_dp.sampling import Adjacency, FixedSizeSampler, PoissonSampler

CASES = epsilon_cases.load()
BY_NAME = {case.name: case for case in CASES}


def wrong_answers(inputs):
    """Answers like a framework that makes every mistake of the suite."""
    return next(case.wrong for case in CASES if case.inputs == inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_wrong_epsilon_is_below_what_is_proven_and_each_of_ours_is_not(case):
    assert case.wrong < case.lower_bound
    if case.valid is None:
        assert case.refusal
    else:
        assert case.valid >= case.lower_bound
    for text in (case.question, case.mistake, case.proof, case.source, case.seen):
        assert len(text) > 20 or text.startswith("arXiv")


@pytest.mark.parametrize("definition", make.CASES, ids=lambda each: each.name)
def test_the_file_is_what_the_definitions_give(definition):
    # 1e-4 is more than any accountant's roundoff, and less than any mistake here is worth.
    case, again = BY_NAME[definition.name], make.made(definition)
    for name in ("wrong", "lower_bound", "valid"):
        before, now = getattr(case, name), getattr(again, name)
        assert (before is None) == (now is None)
        assert before is None or now == pytest.approx(before, rel=1e-4)
    assert again.inputs == case.inputs
    assert [
        getattr(again, name) for name in ("question", "mistake", "proof", "source", "seen")
    ] == [getattr(case, name) for name in ("question", "mistake", "proof", "source", "seen")]
    assert len(make.CASES) == len(CASES)


# The golden values of these mistakes, known from elsewhere.
@pytest.mark.parametrize(
    ("name", "wrong", "exact"),
    [
        ("fixed_size_as_poisson", 1.828244, None),
        ("fixed_size_single_sensitivity", 3.5761, None),
        ("replace_one_single_sensitivity", 4.7285, 9.9973),
        ("classic_calibration", 10.0, 10.394),
        ("realized_cohort", 7.046603, None),
    ],
)
def test_the_wrong_values_are_those_that_are_known(name, wrong, exact):
    case = BY_NAME[name]
    assert case.wrong == pytest.approx(wrong, abs=1e-4)
    if exact is not None:
        assert case.lower_bound == pytest.approx(exact, abs=5e-4)


def exact_epsilon(p, q, rounds, delta):
    """The epsilon of a pair of discrete distributions, by listing all outcomes of all rounds."""
    every_p, every_q = np.ones(1), np.ones(1)
    for _ in range(rounds):
        every_p, every_q = np.outer(every_p, p).ravel(), np.outer(every_q, q).ravel()

    def excess(epsilon):
        pairs = ((every_p, every_q), (every_q, every_p))
        return max(np.maximum(a - np.exp(epsilon) * b, 0).sum() for a, b in pairs) - delta

    low, high = 0.0, 60.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return low


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_a_composed_bound_is_never_above_the_exact_epsilon_and_close_to_it(seed, rounds):
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.full(6, 0.7)) + 1e-6 for _ in range(2))
    p, q = p / p.sum(), q / q.sum()
    for delta in (1e-6, 1e-3):
        exact = exact_epsilon(p, q, rounds, delta)
        for step, share in ((0.5, 0.0), (0.005, 0.85)):
            found = lower_bounds.composed(lower_bounds.Pair(p, q), rounds, delta, step=step)
            assert share * exact <= found <= exact * (1 + 1e-6)


def test_noise_that_is_a_hundredth_smaller_gives_a_bound_above_the_exact_epsilon():
    exact = lower_bounds.gaussian(math.sqrt(10), 1e-5)
    for z, above in ((1.0, False), (0.99, True)):
        pair = lower_bounds.cells(
            lower_bounds.normal(1.0, z), lower_bounds.normal(0.0, z), -10 * z, 1 + 10 * z
        )
        assert (lower_bounds.composed(pair, 10, 1e-5) > exact) is above


@pytest.mark.parametrize(
    ("q", "rounds"), [(0.01, 1), (0.01, 100), (0.2, 1), (0.2, 30), (1.0, 1), (1.0, 7)]
)
@pytest.mark.parametrize("z", [0.5, 1.0, 3.0])
def test_bounds_of_sampled_rounds_are_close_below_the_valid_epsilon(q, z, rounds):
    one = accounting.GaussianRound(
        noise_multiplier=z, sampler=PoissonSampler(rate=q), population=1000,
        adjacency=Adjacency.ADD_OR_REMOVE_ONE,
    )  # fmt: skip
    valid = accounting.spend(one, rounds, 1e-5).epsilon
    found = lower_bounds.sampled_gaussian(q, z, rounds, 1e-5)
    assert found <= valid
    assert found >= 0.9 * valid - 0.03


@pytest.mark.parametrize("z", [0.5, 1.0])
def test_the_bound_of_one_round_is_that_of_quadrature(z):
    exact = oracles.one_round_epsilon(0.1, z, 1e-4, replace=False)
    found = lower_bounds.sampled_gaussian(0.1, z, 1, 1e-4)
    assert 0.97 * exact < found <= exact + 1e-6


def test_the_exact_gaussian_is_that_of_the_oracle():
    for mu in (0.1, 1.0, 6.3):
        epsilon = lower_bounds.gaussian(mu, 1e-5)
        assert oracles.gaussian_delta(1 / mu, epsilon) > 1e-5  # so it is a lower bound
        assert oracles.gaussian_delta(1 / mu, epsilon * (1 + 1e-6)) < 1e-5


def test_bounds_for_cohorts_of_fixed_size_and_shuffled_batches_are_below_the_valid_ones():
    for z in (0.7, 1.0, 2.0, 4.0):
        round_of_ten = accounting.GaussianRound(
            noise_multiplier=z, sampler=FixedSizeSampler(size=10), population=1000,
            adjacency=Adjacency.REPLACE_ONE,
        )  # fmt: skip
        valid = accounting.spend(round_of_ten, 100, 1e-5).epsilon
        assert lower_bounds.sampled_gaussian(0.01, z / 2, 100, 1e-5) <= valid
        for epochs in (1, 4):
            exact = lower_bounds.gaussian(math.sqrt(epochs) / z, 1e-5)
            assert 0 < lower_bounds.shuffled(100, epochs, z, 1e-5) <= exact


def test_cohorts_of_fixed_size_give_the_sums_that_their_bound_assumes():
    # Everybody else sends +1. Whoever replaces -1 by +1 changes the law of the sum from this to 10.
    updates = np.ones(1000)
    updates[17] = -1
    sums = [updates[FixedSizeSampler(size=10).cohort(1000, t, 5)].sum() for t in range(1, 3001)]
    values, counts = np.unique(sums, return_counts=True)
    assert values.tolist() == [8, 10]
    assert 10 <= counts[0] <= 60  # binomial(3000, 0.01): outside with probability below 1e-5


def test_the_averages_over_whoever_came_are_those_that_their_bound_assumes():
    # By simulation of one round: 99 others of +1, the client of -1; the share of averages below -0.5.
    rng, n = np.random.default_rng(1), 400_000
    others = rng.binomial(99, 0.1, n)
    there = rng.random(n) < 0.1
    came = others + there
    averages = (others - there + rng.normal(size=n))[came > 0] / came[came > 0]
    points = np.linspace(-9, 9, lower_bounds._CELLS)  # the ends of the cells
    cells = of_sensitivity._averages(0.1, 99, 1.0).p
    assert cells.sum() == pytest.approx(1, abs=1e-12)
    below = cells[: np.searchsorted(points, -0.5) + 1].sum()
    assert np.mean(averages < -0.5) * (came > 0).mean() == pytest.approx(below, abs=5e-4)


def test_a_function_that_makes_the_mistakes_is_proven_wrong_and_ours_is_not():
    by_inputs = {}
    for case in CASES:
        by_inputs.setdefault(json.dumps(case.inputs, sort_keys=True), case)
    verdicts = suite.judge(wrong_answers, list(by_inputs.values()))
    assert all(each.is_wrong for each in verdicts)
    assert not any(each.is_wrong for each in suite.judge(ours.epsilon, CASES))


@pytest.mark.parametrize(
    ("answer", "is_wrong"), [(math.nan, True), (math.inf, False), (0.0, True), (1e9, None)]
)
def test_answers_that_are_no_epsilon_are_wrong(answer, is_wrong):
    for each in suite.judge(lambda inputs: answer, CASES):
        expected = not answer >= each.case.lower_bound if is_wrong is None else is_wrong
        assert each.is_wrong is expected


def refusing(inputs):
    raise NotImplementedError("not here")


def no_number(inputs):
    return "2.0"


def test_a_refusal_is_right_and_no_number_is_an_error():
    verdicts = suite.judge(refusing, CASES)
    assert not any(each.is_wrong for each in verdicts)
    assert {each.note for each in verdicts} == {"not here"}
    assert "| refused | refused |" in suite.table(verdicts)
    with pytest.raises(TypeError, match=r"fixed_size_as_poisson: the function returned '2\.0'"):
        suite.judge(no_number, CASES)


def test_an_answer_cannot_change_the_inputs_of_the_next_one():
    def greedy(inputs):
        inputs.clear()
        return 1e9

    suite.judge(greedy, CASES)
    assert all(case.inputs for case in CASES)


def test_the_command_judges_a_function_of_the_caller_and_ends_with_1_if_it_is_wrong(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "my_accountant.py").write_text(
        "def epsilon(inputs):\n"
        "    if inputs['sampling'] != 'fixed_size':\n"
        "        raise NotImplementedError('only fixed sizes')\n"
        "    return 3.5761\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert command.main(["my_accountant:epsilon"]) == 1
    said = capsys.readouterr().out
    assert f"{len(CASES)} cases: 2 proven wrong, {len(CASES) - 2} refused, 0 hold." in said
    assert said.count("WRONG") == 2


@pytest.mark.parametrize("name", ["nothing_of_this_name:f", "json", "json:nothing", ":f"])
def test_a_function_that_is_not_there_is_one_line(name, capsys):
    assert command.main([name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: MODULE:FUNCTION=")
    assert len(said.splitlines()) == 1


def test_a_case_explains_itself(capsys):
    assert command.main(["--explain", "weighted_mean"]) == 0
    said = capsys.readouterr().out
    assert "largest_weight" in said
    assert "At least: 13.356" in said
    assert command.main(["--explain", "nothing"]) == 2
    assert "'nothing' is no case: expected one of fixed_size_as_poisson," in capsys.readouterr().err


def test_the_file_is_json_that_needs_nothing_of_this_project():
    content = json.loads(suite.FILE.read_text(), parse_constant=lambda text: 1 / 0)
    assert content["format"] == 1
    assert suite.dump(CASES) == suite.FILE.read_text()
    plain = (str, int, float, bool)
    assert all(isinstance(v, plain) for case in content["cases"] for v in case["inputs"].values())


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "cases.json").write_text('{"format": 2, "cases": []}')
    with pytest.raises(ValueError, match="format 2: expected 1"):
        suite.load(tmp_path / "cases.json")


def test_the_table_of_the_page_on_results_is_that_of_the_file():
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    assert epsilon_cases.page(CASES) in text
