"""Observers of a run: when they act, in which order, and what they may change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tff_dp
from tests.support.training import linear_model, make_clients
from tff_dp import execution
from tff_dp.errors import AccountingError, ArgumentError, ComputationError
from tff_dp.process import model_weights
from tff_dp.training.budget import open_account
from tff_dp.training.observers import Observer, common_period, observed, observed_step
from tff_dp.training.outcome import result_of
from tff_dp.training.run import Run
from tff_dp.training.setup import prepare


class Notes(Observer):
    def __init__(self, name="", calls=None, act=None, period=None):
        self.calls = [] if calls is None else calls
        self.name, self.act, self.period = name, act, period

    def on_begin(self, run):
        self.calls.append((self.name, "begin", run.round_number))

    def before_step(self, run):
        self.calls.append((self.name, "before", run.round_number))

    def after_step(self, run, records):
        self.calls.append((self.name, "after", [record.round_number for record in records]))
        if self.act:
            self.act(run, records)

    def on_end(self, run):
        self.calls.append((self.name, "end", run.round_number))


@pytest.fixture
def run(tff):
    values = {"privacy": tff_dp.NoPrivacy(), "loss": "mse", "seed": 1, "batch_size": 8, "rounds": 3}
    setup = prepare(linear_model, make_clients(), **values)
    with execution.fast(xla=False), open_account(setup) as account:
        yield Run(setup, account, period=1)


def drive(run, *observers):
    with observed(run, observers):
        while not run.is_finished:
            observed_step(run, observers)


def test_observers_act_in_their_order_and_end_in_the_opposite_one(run):
    calls = []
    drive(run, Notes("a", calls), Notes("b", calls))
    each = [
        entry
        for number in (1, 2, 3)
        for entry in [
            ("a", "before", number - 1),
            ("b", "before", number - 1),
            ("a", "after", [number]),
            ("b", "after", [number]),
        ]
    ]
    begin = [("a", "begin", 0), ("b", "begin", 0)]
    assert calls == [*begin, *each, ("b", "end", 3), ("a", "end", 3)]


def test_an_observer_adds_to_the_record_that_later_ones_see(run):
    seen = []
    add = Notes(act=lambda run, records: run.amend(dataclasses.replace(records[-1], epsilon=7.0)))
    drive(
        run, add, Notes(act=lambda run, records: seen.extend(record.epsilon for record in records))
    )
    assert seen == [7.0] * 3
    assert [record.epsilon for record in run.history] == seen
    with pytest.raises(ArgumentError, match=r"that of round 1: expected .* round, 3"):
        run.amend(run.history[0])


def test_an_observer_ends_a_run(run):
    drive(run, Notes(act=lambda run, records: run.end("was stopped by a test")))
    assert run.is_finished
    assert run.round_number == 1
    with pytest.raises(AccountingError, match="ended after round 1: it was stopped by a test"):
        run.step()
    result = result_of(run, run.ended)
    assert result.stopped == "Training was stopped by a test after 1 of 3 rounds."


def test_an_observer_replaces_the_state_of_the_next_round(run):
    first = run.state
    drive(run, Notes(act=lambda run, records: run.replace_state(first)))
    weights = [model_weights(run.setup.process, state).trainable for state in (run.state, first)]
    for now, before in zip(*weights, strict=True):
        np.testing.assert_array_equal(now, before)
    assert run.round_number == 3


def test_those_that_began_end_when_a_run_fails(run):
    def fail(run, records):
        raise ComputationError("a test")

    first, second = Notes(), Notes(act=fail)
    with pytest.raises(ComputationError, match="a test"):
        drive(run, first, second)
    assert [calls[-1] for calls in (first.calls, second.calls)] == [("", "end", 1)] * 2


@pytest.mark.parametrize(
    ("periods", "expected"), [([], None), ([None], None), ([None, 6, 4], 2), ([1, 64], 1), ([5], 5)]
)
def test_steps_end_where_any_observer_has_to_act(periods, expected):
    assert common_period([Notes(period=period) for period in periods]) == expected
