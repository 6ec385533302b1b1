"""Results and reports: how they are shown, copied, pickled and saved."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tff_dp
from tests.support.tables import slow
from tests.support.training import fit, legacy_model, linear_model, make_clients, plan
from tff_dp import execution, provenance
from tff_dp.accounting.report import ReadOnlyDict
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.training.results import FitResult, RoundRecord

NOISE = {"clip_norm": 0.5, "noise_multiplier": 4.0}
PLANS = [
    plan(),
    plan(sampler=tff_dp.PoissonSampler(rate=0.5)),
    plan(mechanism=tff_dp.LaplaceMechanism(**NOISE), sampler=tff_dp.PoissonSampler(rate=0.5)),
    plan(mechanism=tff_dp.LocalGaussianMechanism(**NOISE)),
    plan(mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.0)),
]


@pytest.mark.parametrize("number", range(len(PLANS)))
@pytest.mark.parametrize("rounds", [0, 2, (range(1, 3), range(1, 2))])
def test_a_report_shows_numbers_as_such_and_can_be_copied_and_pickled(number, rounds):
    report = PLANS[number].epsilon(rounds or ())
    shown = repr(report)
    assert "np." not in shown
    assert "mappingproxy" not in shown
    numbers = [report.epsilon, report.delta, report.arithmetic_epsilon, report.arithmetic_delta]
    assert {type(value) for value in [*numbers, *report.values.values()]} == {float}
    assert type(report.rounds) is int
    assert type(report.lower_bound) in (float, type(None))
    for again in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report), copy.copy(report)):
        assert again == report
        assert repr(again) == shown
        with pytest.raises(TypeError, match="cannot be changed"):
            again.values["rdp"] = 0.0
    plain = dataclasses.asdict(report)
    assert plain["values"] == report.values
    assert json.loads(json.dumps(plain["refused"])) == report.refused
    assert dataclasses.replace(report, epsilon=np.float64(1.5)).epsilon == 1.5


def test_no_way_of_writing_changes_a_report():
    found = ReadOnlyDict({"a": 1})
    for change in (
        lambda: found.update(a=2),
        lambda: found.pop("a"),
        lambda: found.popitem(),
        lambda: found.setdefault("b", 1),
        lambda: found.clear(),
        lambda: found.__delitem__("a"),
        lambda: found.__ior__({"a": 2}),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert found == {"a": 1}
    assert dict(found) | {"a": 2} == {"a": 2}


def test_plans_and_charges_can_be_pickled():
    for each in PLANS:
        again = pickle.loads(pickle.dumps(each))
        assert again == each
        assert again.epsilon() == each.epsilon()
    charges = tff_dp.Charges().with_run(PLANS[0], 3, "coins")
    assert pickle.loads(pickle.dumps(charges)) == charges
    assert dataclasses.asdict(charges)["runs"][0]["rounds"] == range(1, 4)


def result_of(model, rounds=2, **changes):
    with execution.fast(xla=False):
        return fit(make_clients(), plan(), model=model, rounds=rounds, **changes)


@pytest.mark.parametrize("make", [linear_model, slow(legacy_model)], ids=["keras", "tf_keras"])
def test_a_result_is_pickled_with_its_model_and_with_what_that_has_cost(tff, make):
    result = result_of(make())
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert type(again.model) is type(result.model)
        np.testing.assert_array_equal(again.model.get_weights()[0], result.model.get_weights()[0])
        for field in dataclasses.fields(FitResult):
            if field.name != "model":
                assert getattr(again, field.name) == getattr(result, field.name), field.name
        assert again.statement() == result.statement()
        assert provenance.carried_by(again.model) == (result.charges,)
    with pytest.raises(ModelError, match="was trained before"):
        result_of(again.model)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_result_of_tf_keras_is_unpickled_by_another_process(tff, tmp_path):
    result = result_of(legacy_model())
    (tmp_path / "result").write_bytes(pickle.dumps(result))
    program = (
        "import pickle, sys\n"
        "result = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from tff_dp import tff, provenance\n"
        "assert provenance.carried_by(result.model) == (result.charges,)\n"
        "print(result.epsilon, type(result.model).__module__.partition('.')[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "result")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [repr(result.epsilon), "tf_keras"], done.stderr[-2000:]


def test_a_result_is_shown_in_one_line_however_many_rounds_it_has():
    record = RoundRecord(round_number=1, epsilon=1.0, metrics={"loss": 1.0})
    spent = plan().epsilon()
    result = FitResult(
        model=linear_model(), history=(record,) * 5000, epsilon=spent.epsilon, spent=spent,
        privacy=plan(), seeded=False, stopped="Training was interrupted after 5000 of 6000 rounds.",
    )  # fmt: skip
    shown = repr(result)
    assert len(shown) < 250
    for part in (
        "Sequential",
        "rounds=5000",
        f"epsilon={spent.epsilon!r}",
        "delta=1e-05",
        "interrupted",
    ):
        assert part in shown
    assert "epsilon=inf" in repr(dataclasses.replace(result, spent=None, epsilon=math.inf))


def test_saving_where_nothing_can_be_written_is_one_clear_error(tff, tmp_path, monkeypatch):
    result = result_of(linear_model, rounds=1)
    for path in (tmp_path / "missing" / "model.keras", "/proc/model.keras"):
        with pytest.raises(ArgumentError, match=r"path=.*cannot be written.*Make its folder"):
            result.save(path)
    for path in (1, None, b"model.keras"):
        with pytest.raises(ArgumentError, match=f"path={path!r} is outside"):
            result.save(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provenance.os, "fsync", full)
    with pytest.raises(ArgumentError, match=r"path=.*cannot be written: .*No space left"):
        result.save(tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_fused_rounds_are_not_warned_of(tff, monkeypatch):
    import tensorflow as tf

    from tff_dp.training import run as run_module

    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    monkeypatch.setattr(run_module, "_FUSED", 3)
    monkeypatch.setattr(run_module, "_FUSED_FROM", 6)
    calls = []
    real = run_module.iterate
    monkeypatch.setattr(run_module, "iterate", lambda *a: (calls.append(1), real(*a))[1])
    try:
        with execution.fast(xla=False):
            fit(rounds=6)
    finally:
        tf.get_logger().removeHandler(handler)
    assert len(calls) == 2
    assert not [text for text in said if "node name" in text or "never used" in text]
