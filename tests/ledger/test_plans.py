"""One ledger for several plans: what they spend together, and that nothing of it can be lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil

import pytest

import tff_dp
from tests.support.ledgers import charged, make_plan, rechained
from tff_dp import cli
from tff_dp.accounting import spend_jointly
from tff_dp.charges import ChargedRun, Charges, differences, incompatibility, shortened
from tff_dp.errors import AccountingError, ArgumentError, LedgerError
from tff_dp.ledger import Ledger, replay, summarize
from tff_dp.ledger import lines as ledger_lines

FIRST = make_plan()
SECOND = make_plan(  # another clip norm and another cohort
    mechanism=tff_dp.GaussianMechanism(clip_norm=0.1, noise_multiplier=2.0), cohort=20, delta=1e-6
)
THIRD = make_plan(mechanism=tff_dp.AdaptiveGaussianMechanism(noise_multiplier=1.5), cohort=30)


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def joint(*parts: tuple[tff_dp.PrivacyPlan, int], delta: float):
    return spend_jointly(
        [(plan.one_round(), count) for plan, count in parts],
        delta,
        arithmetic=[plan.arithmetic for plan, _ in parts],
    )


@pytest.fixture
def written(tmp_path):
    """A ledger of two plans with five charges, and its head after each number of charges."""
    path = tmp_path / "ledger.jsonl"
    heads = []

    def charge(plan, *numbers):
        with Ledger(path, plan) as book:
            for number in numbers:
                heads.append((tmp_path / "ledger.jsonl.head").read_bytes())
                book.charge(number)

    charge(FIRST, 1, 2)
    charge(SECOND, 1, 1)
    charge(FIRST, 3)
    heads.append((tmp_path / "ledger.jsonl.head").read_bytes())
    return path, heads


def test_plans_that_share_a_ledger_spend_together(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, FIRST) as book:
        assert replay(path) == book.spent() == FIRST.epsilon(0)
        book.charge(1, count=20)
        assert book.spent() == FIRST.epsilon(20)
    with Ledger(path, SECOND) as book:
        assert (book.runs, book.last_round, book.charges) == ((), 0, 20)
        assert replay(path) == book.spent() == FIRST.epsilon(20)  # it has charged nothing yet
        book.charge(1, count=5)
        spent = book.spent()
        assert replay(path) == spent
        assert (book.runs, book.charges) == ((range(1, 6),), 25)
        assert book.plans == book.all_charges.plans == (FIRST, SECOND)
    assert spent == joint((FIRST, 20), (SECOND, 5), delta=1e-6)
    assert (spent.delta, spent.rounds) == (1e-6, 25)  # the smallest of the plans' deltas
    assert spent.epsilon > max(FIRST.epsilon(20).epsilon, SECOND.epsilon(5).epsilon)
    assert replay(path, 1e-4) == joint((FIRST, 20), (SECOND, 5), delta=1e-4)
    with pytest.raises(ArgumentError, match=r"delta=0\.01"):
        replay(path, 0.01)  # 1/N
    with Ledger(path, FIRST) as book:
        assert (book.runs, book.last_round) == ((range(1, 21),), 20)
        book.charge(21)
        book.charge(1, count=2)  # another run
        assert book.runs == (range(1, 22), range(1, 3))
        assert book.spent() == replay(path) == joint((FIRST, 23), (SECOND, 5), delta=1e-6)


def test_a_plan_has_a_line_before_its_first_charge_alone(written):
    path, _ = written
    found = lines_of(path)
    assert [line["plan"]["type"] if "ledger" in line else line["entry"] for line in found] == [
        "PrivacyPlan", 1, 2, "PrivacyPlan", 3, 4, 5,
    ]  # fmt: skip
    assert found[0]["plan"] == FIRST.to_dict()
    assert found[3]["plan"] == SECOND.to_dict()
    names = [line["run"] for line in found if "entry" in line]
    assert names[0] == names[1] == names[4] != names[2] != names[3]
    assert len(set(names)) == 3
    assert all(line["ledger"] == 2 for line in (found[0], found[3]))


def test_runs_that_share_noise_are_counted_by_the_run_and_by_the_plan(tmp_path):
    path = tmp_path / "ledger.jsonl"

    def tree(noise):
        return make_plan(
            mechanism=tff_dp.TreeMechanism(clip_norm=0.5, noise_multiplier=noise),
            cohort=None,
            sampler=tff_dp.MinSeparationSampler(size=5, min_separation=10),
        )

    one, other = tree(9.0), tree(18.0)
    for plan, number, count in ((one, 1, 12), (other, 1, 9), (one, 1, 3), (other, 10, 4)):
        with Ledger(path, plan) as book:
            book.charge(number, count)
    parts = [(one.one_round(), (range(1, 13), range(1, 4))), (other.one_round(), (range(1, 14),))]
    computed = [one.arithmetic, other.arithmetic]
    assert replay(path) == spend_jointly(parts, 1e-5, arithmetic=computed)


# --- Faults -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ledger .* dropped:RuntimeWarning")
def test_no_truncation_ever_counts_less_than_was_acknowledged(written, tmp_path):
    path, heads = written
    content = path.read_bytes()
    opened = refused = 0
    for size in [*range(0, len(content), 17), *range(len(content) - 40, len(content))]:
        for charges, head in enumerate(heads):
            folder = tmp_path / "copy"
            folder.mkdir()
            copy = folder / path.name
            copy.write_bytes(content[:size])
            (folder / f"{path.name}.head").write_bytes(head)
            try:
                with Ledger(copy, FIRST) as book:
                    opened += 1
                    assert book.charges >= charges
                    assert (book.dropped is None) == content[:size].endswith(b"\n")
                    before = book.charges
                    book.charge(book.last_round + 1)  # what is left can be continued
                assert replay(copy).rounds == before + 1
            except LedgerError:
                refused += 1
                assert copy.read_bytes() == content[:size]  # nothing was repaired
            shutil.rmtree(folder)
    assert opened > 100
    assert refused > 100


def test_a_plan_s_line_without_its_charge_is_kept_and_used(written):
    # The process died between the two lines of a plan's first charge.
    path, heads = written
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:4]))
    path.with_name(path.name + ".head").write_bytes(heads[2])
    for plan in (FIRST, SECOND, FIRST):  # opening it does not change what was acknowledged
        with Ledger(path, plan) as book:
            assert (book.charges, book.plans) == (2, (FIRST, SECOND))
    assert replay(path) == FIRST.epsilon(2)
    with Ledger(path, SECOND) as book:
        book.charge(1)
    assert [line.get("entry") for line in lines_of(path)] == [None, 1, 2, None, 3]
    assert replay(path) == joint((FIRST, 2), (SECOND, 1), delta=1e-6)


def test_every_edited_byte_is_found(written):
    path, _ = written
    content = path.read_bytes()
    for position in range(0, len(content), 11):
        edited = bytearray(content)
        edited[position] ^= 1
        path.write_bytes(edited)
        with pytest.raises(LedgerError):
            replay(path)
    path.write_bytes(content)
    assert replay(path).rounds == 5


def of_other_data(line: dict) -> None:
    line["plan"]["population"] = 200


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines.pop(3), "is not entry 3 of its plan"),
        (lambda lines: lines.insert(4, lines[3]), "repeats a plan"),
        (lambda lines: lines[3].update(ledger=1), "begins a ledger within"),
        (lambda lines: lines[3].update(ledger=3), "begins a ledger within"),
        (lambda lines: of_other_data(lines[3]), r"for other data \(population: 100 and 200"),
        (lambda lines: lines[3]["plan"].update(rounds=0), "does not accept.*rounds=0"),
        (lambda lines: lines[3]["plan"].update(color=1), "does not accept.*no field 'color'"),
        (lambda lines: lines[4].update(plan=lines[1]["plan"]), "is not entry 3 of its plan"),
        (lambda lines: lines[4].update(plan=None), "is not entry 3 of its plan"),
        (lambda lines: lines[4]["event"].update(noise_multiplier=9.0), "is not entry 3 of its plan"),
        (lambda lines: lines[4].update(round=2), "after a gap"),
        (lambda lines: lines[2].update(run="f" * 32), "neither continues its run"),
        (lambda lines: lines[5].update(run=lines[4]["run"]), "neither continues its run"),
        (lambda lines: lines[5].update(run=lines[1]["run"]), "neither continues its run"),
        (lambda lines: lines[5].update(run=3), "neither continues its run"),
        (lambda lines: lines[6].update(versions={}), "not the one that was acknowledged"),
    ],
)  # fmt: skip
def test_edits_with_hashes_that_fit_are_found(written, edit, message):
    path, _ = written
    lines = lines_of(path)
    path.write_bytes(rechained(lines))
    assert replay(path).rounds == 5  # the helper alone changes nothing
    edit(lines)
    path.write_bytes(rechained(lines))
    for attempt in (lambda: replay(path), lambda: Ledger(path, FIRST)):
        with pytest.raises(LedgerError, match=message):
            attempt()


def test_a_full_disk_loses_neither_the_plan_nor_a_charge(written, monkeypatch):
    path, _ = written
    real = os.write

    def half(file, content):
        if len(content) > 10:
            return real(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger(path, THIRD) as book:
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(LedgerError, match="could not be written"):
            book.charge(1)
        assert book.plans == (FIRST, SECOND)
        monkeypatch.undo()
    with pytest.warns(RuntimeWarning, match="torn"):
        book = Ledger(path, THIRD)
    with book:
        assert book.charges == 5
        book.charge(1)
        assert book.plans == (FIRST, SECOND, THIRD)
    assert replay(path) == joint((FIRST, 3), (SECOND, 2), (THIRD, 1), delta=1e-6)


# --- Format 1 -----------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A ledger as format 1 had it: one plan, and no names of runs."""
    path = tmp_path / "old.jsonl"
    with Ledger(path, FIRST) as book:
        for number in (1, 2, 3, 3):
            book.charge(number)
    lines = lines_of(path)
    lines[0]["ledger"] = 1
    for line in lines[1:]:
        del line["run"]
    path.write_bytes(rechained(lines))
    last = json.loads(path.read_bytes().splitlines()[-1])["hash"]
    head = {"charges": 4, "hash": last}
    path.with_name("old.jsonl.head").write_bytes(ledger_lines.canonical(head) + b"\n")
    return path


def test_a_ledger_of_format_1_is_read_and_continued(old):
    content = old.read_bytes()
    assert replay(old) == FIRST.epsilon(4)
    with Ledger(old, FIRST) as book:
        assert book.runs == (range(1, 4), range(3, 4))
        names = [run.run for run in book.all_charges.runs]
        book.charge(4)
        assert book.runs == (range(1, 4), range(3, 5))
        assert [run.run for run in book.all_charges.runs] == names
    with Ledger(old, SECOND) as book:
        book.charge(1)
    assert old.read_bytes().startswith(content)
    assert replay(old) == joint((FIRST, 5), (SECOND, 1), delta=1e-6)


def test_fields_with_defaults_that_are_newer_than_a_file_do_not_make_it_another_plan_s(old):
    lines = lines_of(old)
    for line in lines[1:]:
        line["plan"] = ledger_lines.hash_of(
            {k: v for k, v in lines[0]["plan"].items() if k != "metrics"}
        )
    del lines[0]["plan"]["metrics"]  # as if there had been no such field
    old.write_bytes(rechained(lines))
    last = json.loads(old.read_bytes().splitlines()[-1])["hash"]
    head = {"charges": 4, "hash": last}
    old.with_name("old.jsonl.head").write_bytes(ledger_lines.canonical(head) + b"\n")
    with Ledger(old, FIRST) as book:
        book.charge(4)
        assert book.plans == (FIRST,)
    assert replay(old) == FIRST.epsilon(5)


# --- What goes together ---------------------------------------------------------------------------

OTHERS = [
    ({"population": 200}, "population: 100 and 200"),
    ({"adjacency": "replace-one"}, "adjacency: 'add-or-remove-one' and 'replace-one'"),
    (
        {
            "unit": "record", "records": (90,) * 100, "cohort": None,
            "mechanism": tff_dp.RecordGaussianMechanism(
                clip_norm=1.0, noise_multiplier=1.0, batch_size=9
            ),
        },
        "unit: 'client' and 'record'; records: None and",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), OTHERS)
def test_a_plan_for_other_data_is_refused_by_the_fields_that_differ(written, changes, named):
    path, _ = written
    before = path.read_bytes()
    other = make_plan(**changes)
    with pytest.raises(LedgerError) as caught:
        Ledger(path, other)
    assert named in str(caught.value)
    for same in ("rounds", "mechanism", "delta"):  # which may differ
        assert f"{same}:" not in str(caught.value)
    assert path.read_bytes() == before
    assert named in incompatibility(FIRST, other)
    runs = [ChargedRun(plan=plan, rounds=range(1, 3), run=plan.unit.value + str(n))
            for n, plan in enumerate((FIRST, other))]  # fmt: skip
    with pytest.raises(ArgumentError, match="cannot be counted together"):
        Charges(runs=tuple(runs))


def test_differences_are_named_by_field():
    found = differences(FIRST, dataclasses.replace(FIRST, rounds=51, delta=1e-6))
    assert found == {"rounds": (50, 51), "delta": (1e-5, 1e-6)}
    assert differences(FIRST, make_plan()) == {}


def test_what_differs_is_said_in_a_few_words():
    def texts(one, two):
        return shortened({"mechanism": (one, two)})

    gaussian = {"type": "GaussianMechanism", "clip_norm": 1.0, "noise_multiplier": 1.0}
    assert texts(gaussian, gaussian | {"noise_multiplier": 2.0}) == {
        "mechanism.noise_multiplier": ("1.0", "2.0")
    }
    assert texts(gaussian, {"type": "LaplaceMechanism"}) == {
        "mechanism": ("GaussianMechanism", "LaplaceMechanism")
    }
    counts = list(range(1, 161))
    assert texts(counts, [*counts[:-1], 7]) == {"mechanism[159]": ("160", "7")}
    assert texts(counts, [7, *counts[1:-1], 7]) == {"mechanism[0] and 1 more": ("1", "7")}
    assert texts(counts, counts[:-1]) == {
        "mechanism": ("[1, 2, 3, ...] (160 in all)", "[1, 2, 3, ...] (159 in all)")
    }
    assert texts(None, [4, 5]) == {"mechanism": ("None", "[4, 5]")}


def test_plans_of_many_records_that_cannot_be_counted_together_are_told_in_a_line():
    def plan(counts):
        return tff_dp.PrivacyPlan(
            unit="record",
            mechanism=tff_dp.RecordGaussianMechanism(
                clip_norm=1.0, noise_multiplier=1.0, batch_size=2
            ),
            records=counts,
            rounds=2,
            delta=1e-5,
        )

    counts = tuple(range(100, 260))
    found = incompatibility(plan(counts), plan((*counts[:-1], 7)))
    assert found == "records[159]: 259 and 7"
    found = incompatibility(plan(counts), plan(counts[:-1]))
    assert found.startswith(
        "population: 160 and 159; records: [100, 101, 102, ...] (160 in all) and"
    )


# --- Charges from elsewhere ----------------------------------------------------------------------


def test_charges_join_by_the_run_and_survive_json():
    both = charged(FIRST) | charged(SECOND, 5, "b" * 32) | charged(FIRST, 3)
    assert both.rounds == 9
    assert (both.of(FIRST), both.of(SECOND)) == ((range(1, 5),), (range(1, 6),))
    assert both.spent() == joint((FIRST, 4), (SECOND, 5), delta=1e-6)
    assert both.quick_epsilon() >= both.spent().epsilon * (1 - 1e-9)
    assert Charges.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    assert both.covers(charged(FIRST))
    assert not both.covers(charged(FIRST, 5))
    assert not both.covers(charged(FIRST, run="c" * 32))  # the same rounds, and not that run
    assert not charged(FIRST).covers(dataclasses.replace(charged(FIRST), unbounded=True))
    with pytest.raises(ArgumentError, match="two different plans"):
        both | charged(FIRST, run="b" * 32)
    with pytest.raises(ArgumentError, match="twice"):
        Charges(runs=(*both.runs, *charged(FIRST).runs))
    with pytest.raises(ArgumentError, match="missing or malformed"):
        Charges.from_dict({"plans": []})


def test_without_a_bound_every_epsilon_is_infinite():
    unbounded = dataclasses.replace(charged(FIRST), unbounded=True)
    assert unbounded.spent().epsilon == unbounded.quick_epsilon() == float("inf")
    with pytest.raises(ArgumentError, match="runs="):
        Charges(unbounded=True).spent()


def test_a_fast_bound_without_a_renyi_divergence_adds_what_the_others_have_spent():
    plans = [make_plan(adjacency="replace-one", cohort=m, delta=1e-4) for m in (5, 10)]
    both = charged(plans[0]) | charged(plans[1], 6, "b" * 32)
    expected = sum(
        joint((plan, n), delta=5e-5).epsilon for plan, n in zip(plans, (4, 6), strict=True)
    )
    assert both.quick_epsilon() == pytest.approx(expected, rel=1e-12)
    assert both.quick_epsilon() > both.spent().epsilon


def test_records_are_counted_for_each_client_under_all_plans():
    def plan(batch_size):
        return tff_dp.PrivacyPlan(
            unit="record", records=(400, 1000, 300), rounds=50, delta=1e-5,
            mechanism=tff_dp.RecordGaussianMechanism(
                clip_norm=1.0, noise_multiplier=1.0, batch_size=batch_size
            ),
        )  # fmt: skip

    both = charged(plan(32)) | charged(plan(16), 6, "b" * 32)
    each = [report.epsilon for report in both.spent_by_unit()]
    assert each[2] == both.spent().epsilon > each[0] > each[1]
    assert [r.epsilon for r in charged(plan(32)).spent_by_unit()] == [
        r.epsilon for r in plan(32).epsilon_by_client(4)
    ]
    assert len(charged(FIRST).spent_by_unit()) == 100


def test_charges_from_elsewhere_are_charged_once(written):
    path, _ = written
    elsewhere = charged(THIRD) | charged(FIRST, 3, "b" * 32, start=2)
    with Ledger(path, SECOND) as book:
        own = book.all_charges
        book.include(elsewhere)
        after = path.read_bytes()
        book.include(elsewhere)
        book.include(own)
        assert path.read_bytes() == after
        assert book.all_charges.covers(elsewhere)
        # A run that begins later is counted from its first round.
        assert book.all_charges.of(FIRST) == (range(1, 4), range(1, 4))
        assert replay(path) == book.spent()
        with pytest.raises(LedgerError, match=r"has rounds 1 to 4 of a run .* lost charges"):
            book.include(charged(THIRD, 5))
        with pytest.raises(ArgumentError, match="without a bound"):
            book.include(Charges(unbounded=True))
        with pytest.raises(LedgerError, match="differ in population"):
            book.include(charged(make_plan(population=200), run="d" * 32))
        assert path.read_bytes() == after
    assert replay(path) == joint((FIRST, 6), (SECOND, 2), (THIRD, 4), delta=1e-6)
    with pytest.raises(LedgerError, match="is closed"):
        book.include(elsewhere)


# --- Planted defects ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda parts, delta, arithmetic: spend_jointly(
            parts[-1:], delta, arithmetic=arithmetic[-1:]
        ),
        lambda parts, delta, arithmetic: max(
            (
                spend_jointly([part], delta, arithmetic=[each])
                for part, each in zip(parts, arithmetic, strict=True)
            ),
            key=lambda report: report.epsilon,
        ),
        lambda parts, delta, arithmetic: spend_jointly(parts, 1e-5, arithmetic=arithmetic),
        lambda parts, delta, arithmetic: spend_jointly(parts, delta),
    ],
    ids=["the last plan alone", "the largest", "the largest delta", "ideal noise"],
)
def test_ledgers_that_count_wrongly_are_caught(wrong, monkeypatch, tmp_path):
    from tff_dp import charges

    monkeypatch.setattr(charges, "spend_jointly", wrong)
    with pytest.raises(AssertionError):
        test_plans_that_share_a_ledger_spend_together(tmp_path)


def test_a_ledger_that_takes_equal_rounds_for_the_same_run_is_caught(monkeypatch):
    def by_rounds(self, other):
        return all(run.rounds in self.of(run.plan) for run in other.runs)

    monkeypatch.setattr(Charges, "covers", by_rounds)
    with pytest.raises(AssertionError):
        test_charges_join_by_the_run_and_survive_json()


# --- The command ----------------------------------------------------------------------------------


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_shows_what_a_ledger_says(written, capsys):
    path, _ = written
    spent = replay(path)
    code, out, err = run(capsys, "ledger", path, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["epsilon"] == spent.epsilon
    assert answer["accountants"] == dict(spent.values)
    assert (answer["reported"], answer["delta"], answer["rounds"]) == (spent.accountant, 1e-6, 5)
    assert (answer["whole"], answer["torn_line"]) == (True, False)
    assert (answer["unit"], answer["adjacency"]) == ("client", "add-or-remove-one")
    first, second = answer["plans"]
    assert first["plan"] == FIRST.to_dict()
    assert (first["runs"], first["rounds"]) == ([[1, 3]], 3)
    assert (second["runs"], second["rounds"]) == ([[1, 1], [1, 1]], 2)
    assert set(second["differs"]) == {"mechanism", "sampler", "delta"}
    assert second["epsilon_alone"] == SECOND.epsilon(2).epsilon
    assert answer["versions"] == [ledger_lines.versions()]
    code, out, _ = run(capsys, "ledger", path)
    assert code == 0
    assert "{" not in out  # objects are shown by the fields that differ
    for part in ("of all plans together", "5 charged", "3, by run: 1 to 3", "1 to 1, 1 to 1",
                 "clip_norm=0.1", "delta: 1e-05 in plan 1, 1e-06 here", "whole", "tff-dp"):  # fmt: skip
        assert part in out
    _, out, _ = run(capsys, "ledger", path, "--json", "--delta", "1e-4")
    assert json.loads(out)["epsilon"] == replay(path, 1e-4).epsilon < spent.epsilon


def test_the_command_reads_an_empty_one_a_torn_one_and_one_in_use(tmp_path, capsys):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, FIRST) as book:
        code, out, _ = run(capsys, "ledger", path)
        assert (code, "by run: none" in out) == (0, True)
        book.charge(1)
        with open(path, "ab") as file:
            file.write(b'{"entry"')
        assert summarize(path).torn
        code, out, _ = run(capsys, "ledger", path)
        assert (code, "but for a torn last line" in out) == (0, True)


def test_the_command_fails_by_the_codes_of_the_others(written, capsys, tmp_path):
    path, _ = written
    code, out, err = run(capsys, "ledger", tmp_path / "none")
    assert (code, out, "is no file" in err) == (2, "", True)
    code, out, err = run(capsys, "ledger", path, "--delta", "0.5")
    assert (code, out, "delta=0.5" in err) == (2, "", True)
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":1'))
    code, out, err = run(capsys, "ledger", path)
    assert (code, out, "is damaged" in err) == (1, "", True)


def test_the_command_says_which_plans_have_no_joint_epsilon(written, capsys, monkeypatch):
    from tff_dp import charges

    def refuse(*_, **__):
        raise AccountingError("No accountant applies")

    monkeypatch.setattr(charges, "spend_jointly", refuse)
    code, out, err = run(capsys, "ledger", written[0])
    assert (code, out, "refused: No accountant" in err) == (3, "", True)


def test_a_plan_that_has_charged_nothing_does_not_bind_the_next_one(tmp_path):
    """A run that is refused after its ledger was made leaves the line of its plan."""
    path = tmp_path / "ledger"
    first = FIRST
    other = dataclasses.replace(first, population=2 * first.population)
    with Ledger(path, first):
        pass
    with Ledger(path, other) as book:
        book.charge(1)
        spent = book.spent()
    assert replay(path) == spent == other.epsilon(1)
    with pytest.raises(LedgerError, match="population"):
        Ledger(path, first)


def test_a_ledger_knows_the_runs_whose_cohorts_came_from_one_seed(tmp_path):
    path = tmp_path / "ledger"
    with Ledger(path, FIRST) as book:
        book.charge(1, coins="a")
        book.charge(2, coins="ignored: of the run that goes on")
        with pytest.raises(ArgumentError, match="same seed"):
            book.charge(1, coins="a")
        elsewhere = Charges(
            runs=(ChargedRun(plan=FIRST, rounds=range(1, 3), run="b" * 32, coins="a"),)
        )
        with pytest.raises(ArgumentError, match="same seed"):
            book.include(elsewhere)
        book.charge(1, coins="c")
        assert book.charges == 3
    with Ledger(path, FIRST) as book:
        assert [run.coins for run in book.all_charges.runs] == ["a", "c"]
        with pytest.raises(ArgumentError, match="same seed"):
            _ = book.all_charges | elsewhere
    assert replay(path) == FIRST.epsilon([range(1, 3), range(1, 2)])


@pytest.mark.parametrize("coins", ["a", 3])
def test_lines_whose_cohorts_are_those_of_another_run_are_damage(tmp_path, coins):
    path = tmp_path / "ledger"
    with Ledger(path, FIRST) as book:
        book.charge(1, coins="a")
        book.charge(1, coins="b")

    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    written[-1]["coins"] = coins
    path.write_bytes(rechained(written))
    with pytest.raises(LedgerError, match="cohorts of another run"):
        replay(path)
