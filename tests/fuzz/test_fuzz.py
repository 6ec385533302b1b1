"""The fuzz: a short run with fixed seeds, and the fuzz itself against planted faults.

`./run fuzz` has more (CONTRIBUTING.md). What a seeded run draws depends on numpy's generator and on the
operations' tables alone.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import select
import signal
import sys
import types
from typing import Any

import numpy as np
import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import chains, comparing, examining, kinds, known, operations, running, shrinking
from tests.fuzz.cases import Case
from tests.fuzz.finding import Finding
from tests.support.tables import thinned
from tff_dp import _compat

SEED = 10
# How many cases of each kind the seeded run has.
SEEDED = {
    "clients": 3,
    "risky": 3,
    "server": 2,
    "local": 3,
    "aggregator": 2,
    "sequence": 2,
    "arguments": 2,
    "learning": 1,
}


@pytest.fixture(scope="module")
def stock_of_cases(tff):
    made = running.Stock()
    yield made
    made.close()


@pytest.fixture(scope="module")
def examiner(stock_of_cases):
    return examining.Examiner(stock=stock_of_cases)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "number"),
    thinned(
        [(kind, i) for kind, count in SEEDED.items() for i in range(count)],
        by=[(kind, i) for kind, count in SEEDED.items() for i in range(count // 2)],
    ),
)
def test_seeded_cases_are_those_of_stock_tff(examiner, kind, number):
    case = kinds.draw(SEED, number, (kind,))
    faults = examiner.faults(case)
    assert not faults, f"{[(f.asked, f.kind, f.told) for f in faults]}\n{kinds.source(case)}"


# The comparison.

VALUE = collections.OrderedDict(
    a=np.array([1.0, 2.0, np.nan, np.inf], np.float32), b=[np.int32(3), b"text"], c=np.float64(0.5)
)


def _changed(**changes: Any) -> Any:
    return collections.OrderedDict({**VALUE, **changes})


@pytest.mark.parametrize(
    "other",
    [
        VALUE,
        _changed(a=np.array([1.0 + 1e-4, 2.0 - 3e-4, np.nan, np.inf], np.float32)),
        _changed(c=np.float64(0.5 + 1e-4)),
    ],
)
def test_equal_results_are_found_equal(other):
    assert comparing.difference(other, VALUE) is None


@pytest.mark.parametrize(
    "other",
    [
        _changed(a=np.array([1.001, 2.0, np.nan, np.inf], np.float32)),
        _changed(a=np.array([1.0, np.nan, np.nan, np.inf], np.float32)),
        _changed(a=np.array([1.0, 2.0, 0.0, np.inf], np.float32)),
        _changed(a=np.array([1.0, 2.0, np.nan, -np.inf], np.float32)),
        _changed(a=np.array([1.0, 2.0, np.nan, 3e38], np.float32)),
        _changed(a=np.array([1.0, 2.0, np.nan, np.inf], np.float64)),
        _changed(a=np.array([[1.0, 2.0, np.nan, np.inf]], np.float32)),
        _changed(a=np.array([1.0, 2.0, np.nan], np.float32)),
        _changed(b=[np.int32(4), b"text"]),
        _changed(b=[np.int64(3), b"text"]),
        _changed(b=[np.int32(3), b"Text"]),
        _changed(b=(np.int32(3), b"text")),
        _changed(b=[np.int32(3)]),
        _changed(c=np.float64(0.5 + 1e-3)),
        _changed(d=np.float32(0.0)),
        dict(VALUE),
        None,
    ],
)
def test_other_results_are_found_different(other):
    assert comparing.difference(other, VALUE) is not None


def test_only_what_an_ulp_brings_about_is_roundoff():
    expected = [np.array([1.0, 2.0], np.float32), np.int32(4)]
    steady = [[expected[0] * np.float32(1 + 1e-7), np.int32(4)]] * 3
    shaky = [[expected[0] * np.float32(1 + 1e-3), np.int32(5)]] * 3
    off = [np.array([1.01, 2.0], np.float32), np.int32(4)]
    counted = [np.array([1.0, 2.0], np.float32), np.int32(5)]
    for actual in (off, counted):
        assert comparing.difference(actual, expected)
        assert not comparing.is_roundoff(actual, expected, steady)
        assert comparing.is_roundoff(actual, expected, shaky)
    # What does not waver is not excused by what does; nor another data type, nor a NaN.
    one_shaky = [[shaky[0][0], np.int32(4)]] * 3
    assert not comparing.is_roundoff(counted, expected, one_shaky)
    assert not comparing.is_roundoff([off[0].astype(np.float64), np.int32(4)], expected, shaky)
    nan = [np.array([np.nan, 2.0], np.float32), np.int32(4)]
    assert not comparing.is_roundoff(nan, expected, shaky)
    assert not comparing.is_roundoff([np.zeros(3, np.float32), np.int32(4)], expected, shaky)


def test_perturbed_inputs_are_neighbors():
    inputs = {"x": np.array([1.0, -2.5, 0.0, np.nan, np.inf], np.float32), "n": np.array([1, 2])}
    moved = comparing.perturb(inputs, 3)
    np.testing.assert_array_equal(moved["n"], inputs["n"])
    x, near = inputs["x"], moved["x"]
    assert near.dtype == np.float32
    assert np.isnan(near[3])
    assert near[4] == np.inf
    for value, other in zip(x[:3], near[:3], strict=True):
        ulps = [value]
        for end in (np.float32(np.inf), np.float32(-np.inf)):
            ulps += [np.nextafter(value, end), np.nextafter(np.nextafter(value, end), end)]
        assert other in ulps
    assert any((comparing.perturb(inputs, seed)["x"][:3] != x[:3]).any() for seed in range(3))


# Cases.


@pytest.mark.parametrize("kind", list(kinds.DRAWS))
def test_cases_repeat_and_render_to_programs(kind):
    for number in range(5):
        case = kinds.draw(SEED + 1, number, (kind,))
        text = case.dumps()  # not the cases themselves: a NaN is not equal to itself
        assert text == kinds.draw(SEED + 1, number, (kind,)).dumps()
        assert text == Case.loads(text).dumps()
        compile(kinds.source(case), "case", "exec")
        for smaller in kinds.smaller(case):
            assert smaller.dumps() != text
            compile(kinds.source(smaller), "case", "exec")


def test_every_operation_of_the_table_runs_on_some_input():
    """A row with a spelling mistake would never be drawn, and nobody would know."""
    rng = np.random.default_rng(0)
    never = [
        operation.expression
        for rows in operations.TABLE.values()
        for operation in rows
        # A step that may fail has to be written so that it could run.
        if not any(chains.runs(rng, operation) for _ in range(300))
    ]
    assert not never


def test_known_differences_have_reasons():
    assert all(len(each.reason) > 20 for each in known.DIFFERENCES)
    assert known.reason("a program", "no entry fits this") is None


# Planted faults, in a case of several graphs and clients.

_CASE = Case(
    "clients",
    {
        "count": 3,
        "values": [
            {"x": [0.5, -1.0, 2.0, 1.5, -0.5, 3.0], "n": [1, 2, 0, 3, 1, 1]},
            {"x": [1.5, -2.0, 0.25, 0.5, -1.5, 2.0], "n": [0, 2, 2, 1, 5, 1]},
            {"x": [0.75, 1.0, -2.0, 2.5, 0.5, -3.0], "n": [1, 4, 0, 2, 1, 3]},
        ],
        "chains": [
            {
                "steps": [["a_0", "tf.cumsum(x)"], ["a_1", "tf.sort(a_0)"]],
                "outputs": ["a_1"],
                "gradient": True,
            },
            {"steps": [["b_0", "n * n"]], "outputs": ["b_0"], "gradient": False},
        ],
        "aggregation": "sum",
        "calls": 1,
    },
    ("call", "scan"),
)
_FAILING = _CASE.but(
    chains=[{"steps": [["a_0", "tf.gather(x, n + 9)"]], "outputs": ["a_0"], "gradient": False}]
)


def _wrapped(true: Any, fault: Any) -> Any:
    """Returns a context with a planted fault.

    Args:
      true: The context without it.
      fault: From that context, a computation and its argument to the result.
    """
    tff = _compat.tff.load()

    class Wrapped(tff.framework.SyncContext):
        settings = true.settings

        def invoke(self, comp: Any, arg: Any) -> Any:
            return fault(true, comp, arg)

    return Wrapped()


def _other_number(context: Any, comp: Any, arg: Any) -> Any:
    result = context.invoke(comp, arg)
    name, value = next(iter(result.items()))
    return type(result)({**result, name: value + np.float32(0.01)})


def _one_client_less(context: Any, comp: Any, arg: Any) -> Any:
    return context.invoke(comp, arg[:-1])


def _other_type(context: Any, comp: Any, arg: Any) -> Any:
    result = context.invoke(comp, arg)
    name, value = next(iter(result.items()))
    return type(result)({**result, name: np.asarray(value, np.float64)})


def _no_error(context: Any, comp: Any, arg: Any) -> Any:
    try:
        return context.invoke(comp, arg)
    except Exception:
        return np.float32(0.0)


def _an_error(context: Any, comp: Any, arg: Any) -> Any:
    raise ValueError("planted")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("case", "fault", "kind"),
    [
        (_CASE, _other_number, "difference"),
        (_CASE, _one_client_less, "difference"),
        (_CASE, _other_type, "difference"),
        (_CASE, _an_error, "error here"),
        (_FAILING, _no_error, "no error here"),
    ],
)
def test_a_planted_fault_is_found_and_made_smaller(stock_of_cases, case, fault, kind, monkeypatch):
    monkeypatch.setattr(shrinking, "_SECONDS", math.inf)
    wrong = examining.Examiner(lambda context: _wrapped(context, fault), stock=stock_of_cases)
    faults = wrong.faults(case)
    assert [found.kind for found in faults] == [kind] * 2
    smallest, least = shrinking.shrunk(case, faults[0], wrong)
    assert least.kind == kind
    assert smallest.settings == (faults[0].asked,)
    parameters = smallest.parameters
    assert len(parameters["chains"]) == 1
    assert len(parameters["chains"][0]["steps"]) == 1
    assert not parameters["chains"][0]["gradient"]
    assert parameters["count"] == 1
    text = Finding(1, 2, smallest, least, ("call@lists",), ()).text()
    compile(text, "finding", "exec")
    assert "execution.stock(" in text
    assert "execution.fast(strategy='call'" in text


@pytest.mark.heavy
def test_a_case_without_fault_is_not_found(examiner):
    assert examiner.faults(_CASE) == []
    assert examiner.faults(_FAILING) == []
    before = examiner.counts["not built"]
    graph = {"steps": [["a_0", "tf.nothing(x)"]], "outputs": ["a_0"], "gradient": False}
    broken = _CASE.but(chains=[graph])
    assert examiner.faults(broken) == []
    assert examiner.counts["not built"] == before + 1
    assert examiner.counts["comparisons"] >= 2


# The loop in a child process.

_CRASHES = """
import json, os, signal, sys
first, last = int(sys.argv[2]), int(sys.argv[3])
print(json.dumps({"event": "ready"}), flush=True)
for number in range(first, last):
    print(json.dumps({"event": "start", "number": number, "case": CASE}), flush=True)
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
print(json.dumps({"event": "counts", "counts": {"comparisons": last - first}}), flush=True)
"""


def _planted_worker(monkeypatch, tmp_path, source: str) -> command.Run:
    script = tmp_path / "worker.py"
    script.write_text(source.replace("CASE", repr(_CASE.dumps())))
    monkeypatch.setattr(command, "COMMAND", [sys.executable, str(script)])
    return command.Run(3, (), tmp_path / "found")


def test_a_crash_is_found_and_the_run_goes_on(monkeypatch, tmp_path, capsys):
    run = _planted_worker(monkeypatch, tmp_path, _CRASHES)
    run.cases(0, 4, math.inf)
    (finding,) = run.findings
    assert finding.number == 1
    assert finding.fault.kind == "crash"
    assert f"signal {signal.SIGSEGV.value}" in finding.fault.told
    assert run.counts["cases"] == 4
    assert run.counts["comparisons"] == 2  # of the process that came after
    (path,) = (tmp_path / "found").iterdir()
    assert str(path) in capsys.readouterr().out
    compile(path.read_text(), "finding", "exec")


def test_a_process_that_hangs_is_found(monkeypatch, tmp_path):
    source = _CRASHES.replace(
        "os.kill(os.getpid(), signal.SIGSEGV)", "import time; time.sleep(600)"
    )
    run = _planted_worker(monkeypatch, tmp_path, source)

    def impatient(streams, *_):  # waits for the case's start alone, however long that takes
        return [] if run.counts["cases"] else select.select(streams, [], [])[0], [], []

    monkeypatch.setattr(command, "select", types.SimpleNamespace(select=impatient))
    run.cases(1, 2, math.inf)
    (finding,) = run.findings
    assert "no case ended" in finding.fault.told


def test_a_case_that_cannot_be_drawn_is_passed_over(monkeypatch, tmp_path, capsys):
    source = _CRASHES.replace('"start", "number": number, "case": CASE', '"draw", "number": number')
    run = _planted_worker(monkeypatch, tmp_path, source)
    run.cases(0, 3, math.inf)
    assert not run.findings
    assert run.counts["not drawn"] == 1
    assert run.counts["comparisons"] == 1
    assert "case 1 cannot be drawn" in capsys.readouterr().out


def test_the_command_line_exits_with_what_was_found(monkeypatch, tmp_path, capsys):
    _planted_worker(monkeypatch, tmp_path, _CRASHES)
    out = ["--out", str(tmp_path / "out"), "--seed", "3"]
    assert command.main(["--case", "1", *out]) == 1
    assert command.main(["--case", "2", *out]) == 0
    assert "seed 3" in capsys.readouterr().out


def test_a_finding_is_recognized_again():
    fault = examining.Fault("scan", "lists", "difference", "1 of 1", "how")
    finding = Finding(1, 2, _CASE, fault, ("scan@lists",), ("call@lists",))
    assert Finding.loads(json.dumps(json.loads(finding.dumps()))) == finding
    assert finding.covers(_CASE, fault)
    assert not finding.covers(_CASE, dataclasses.replace(fault, setting="call"))
    assert not finding.covers(_CASE, dataclasses.replace(fault, kind="error here"))
    assert not finding.covers(_FAILING, fault)


def test_what_runs_are_the_strategies_with_and_without_xla():
    asked = {(s.get("strategy"), s.get("xla")) for s in running.SETTINGS.values()}
    assert {("scan", True), ("scan", False), ("vmap", True), ("vmap", False)} < asked
    assert {("call", None), ("auto", None)} < asked
