"""Charges of runs by their names: a run goes on, whatever was charged since."""

from __future__ import annotations

import json

import pytest

from tests.support.ledgers import make_plan, rechained
from tff_dp.errors import ArgumentError, LedgerError
from tff_dp.ledger import Ledger, replay, summarize

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def path(tmp_path):
    """A ledger of run A with rounds 1 to 3, run B with rounds 1 to 5, and A's rounds 4 and 5."""
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, make_plan()) as book:
        book.charge(1, 3, run=A, coins="1")
        book.charge(1, 5, run=B, coins="2")
        book.charge(4, 2, run=A, coins="1")
    return path


def test_a_run_goes_on_by_its_name_after_another_one(path):
    expected = {A: (range(1, 6), "1"), B: (range(1, 6), "2")}
    for again in (False, True):  # the second time as it was read
        with Ledger(path, make_plan()) as book:
            assert {run.run: (run.rounds, run.coins) for run in book.all_charges.runs} == expected
            if not again:
                book.charge(6, run=B, coins="ignored: that of the run holds")
                expected[B] = (range(1, 7), "2")
    assert replay(path).rounds == 11
    assert replay(path).epsilon == make_plan().epsilon(11).epsilon


def test_a_new_name_repeats_rounds_and_leaves_no_gap(path):
    with Ledger(path, make_plan()) as book:
        book.charge(4, 2, run=C, coins="3")
        with pytest.raises(ArgumentError, match=r"round_number=7 .* \[1, 5\]"):
            book.charge(7, run="d" * 32)
        assert book.runs == (range(1, 6), range(1, 6), range(4, 6))
    assert summarize(path).charges.rounds == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"round_number": 5, "run": A}, r"round_number=5 .*\[6, 6\].* begin another run"),
        ({"round_number": 7, "run": A}, r"round_number=7 .*\[6, 6\]"),
        ({"round_number": 6, "run": A, "count": 0}, "count=0"),
        ({"round_number": 1, "run": C, "coins": "1"}, "same seed"),
    ],
)
def test_what_is_no_next_round_is_refused_and_not_written(path, arguments, message):
    before = path.read_bytes()
    with Ledger(path, make_plan()) as book, pytest.raises(ArgumentError, match=message):
        book.charge(**arguments)
    assert path.read_bytes() == before


def test_a_run_of_another_plan_is_refused(path):
    with (
        Ledger(path, make_plan(rounds=60)) as book,
        pytest.raises(ArgumentError, match="was charged under another plan"),
    ):
        book.charge(6, run=A)


@pytest.mark.parametrize(
    ("line", "edit"),
    [
        (9, {"round": 5}),  # A had 3 rounds: a gap
        (9, {"round": 3}),  # and one twice
        (9, {"run": C}),  # another run begins at round 4, and is then not that of the next line
        (10, {"coins": "2"}),
        (4, {"round": 6}),
    ],
)
def test_an_edit_of_a_run_that_goes_on_is_found(path, line, edit):
    entries = [json.loads(text) for text in path.read_text().splitlines()]
    entries[line] = entries[line] | edit
    path.write_bytes(rechained(entries))
    path.with_name(path.name + ".head").write_text(
        json.dumps({"charges": 10, "hash": json.loads(path.read_text().splitlines()[-1])["hash"]})
    )
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger(path, make_plan())
