"""The comparison with other frameworks, without them: its files, its check, its tables, and our side."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest

from benchmarks import comparison
from benchmarks._workloads import LEARNING_RATE, W1
from benchmarks.comparison import CLIPPED, Outcome
from benchmarks.peers import __main__ as worker
from benchmarks.peers import task as tasks

SMALL = dataclasses.replace(W1, clients=3)
TOLERANCE = comparison.TOLERANCES["W1"]


def by_numpy(task, clock, leave_out=()):
    """Federated averaging of a linear regression, of nothing but numpy."""
    kernel, bias = (w.astype(float) for w in task.initial)
    clock.start()
    for _ in range(task.rounds):
        updates = []
        for number, (low, high) in enumerate(task.bounds()):
            k, b = kernel.copy(), bias.copy()
            for begin in range(low, high, task.workload.batch_size):
                end = begin + task.workload.batch_size
                x, y = task.x[begin:end], task.y[begin:end]
                error = x @ k + b - y
                k, b = (
                    k - LEARNING_RATE * 2 * x.T @ error / len(x),
                    b - LEARNING_RATE * 2 * error.mean(0),
                )
            update = [k - kernel, b - bias]
            if task.privacy:
                norm = np.sqrt(sum(np.sum(u**2) for u in update))
                update = [u * min(1, task.privacy.clip_norm / norm) for u in update]
            if number not in leave_out:
                updates.append(update)
        for weight, change in zip((kernel, bias), zip(*updates, strict=True), strict=True):
            weight += sum(change) / task.workload.clients
        clock.end_of_round()
    return [kernel, bias]


@pytest.fixture
def frameworks(monkeypatch):
    """Frameworks of numpy: one that is right, one that leaves a client out, and one that fails."""

    def failing(task, clock):
        raise RuntimeError("the framework fails")

    runs = {
        "right": by_numpy,
        "wrong": lambda task, clock: by_numpy(task, clock, leave_out={1}),
        "failing": failing,
    }
    found = {}
    for name, run in runs.items():
        module = types.SimpleNamespace(run=run)
        monkeypatch.setitem(sys.modules, f"benchmarks.peers.in_{name}", module)
        found[name] = comparison.Framework(name, "numpy", None, name != "wrong", {"W1": 4})

    def here(name, paths):
        try:
            worker.main(name, "0.0", *map(str, paths))
        except RuntimeError:
            return False
        return True

    monkeypatch.setattr(comparison, "FRAMEWORKS", found)
    monkeypatch.setattr(comparison, "REFERENCE", "right")
    monkeypatch.setattr(comparison, "_run", here)
    return list(found)


@pytest.mark.parametrize("privacy", [None, CLIPPED], ids=["plain", "clipped"])
def test_a_task_is_read_as_it_was_written(tmp_path, privacy):
    tasks.save_task(tmp_path / "task.npz", SMALL, privacy, 5)
    task = tasks.load_task(tmp_path / "task.npz")
    assert (task.workload, task.privacy, task.rounds) == (SMALL, privacy, 5)
    x, y = SMALL.data()
    np.testing.assert_array_equal(task.x, x)
    np.testing.assert_array_equal(task.y, y)
    for a, b in zip(task.initial, SMALL.initial_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert task.bounds()[-1] == (128, 192)


def test_what_differs_or_fails_is_found_and_no_table_hides_it(frameworks):
    rows = {"W1": comparison.measure(frameworks, SMALL, None)}
    right, wrong, failed = (rows["W1"][name] for name in frameworks)
    assert len(right.seconds) == 4
    assert right.peak_bytes > 1 << 20
    assert right.apart == 0
    assert wrong.apart > TOLERANCE
    assert failed is None
    lines = comparison.different(rows)
    assert len(lines) == 2
    assert "W1: the weights of wrong are" in lines[0]
    assert lines[1] == "W1: failing failed"
    versions = dict.fromkeys(frameworks, "1.0")
    assert "failed" in comparison.seconds_table(rows, frameworks, versions)
    assert "failed" in comparison.details_table(rows)


def test_a_difference_of_the_last_digit_counts_as_none_and_a_larger_one_does():
    initial = [np.float32([0.25, 0.0])]
    expected = [np.float32([0.25 + 1e-5, 0.0])]
    last = [np.nextafter(expected[0], np.float32(1))]
    assert comparison.apart(last, expected, initial) == 0
    (wrong,) = (w * np.float32(1 + 1e-6) for w in expected)
    assert comparison.apart([wrong], expected, initial) > TOLERANCE
    assert comparison.apart([wrong[:1]], expected, initial) == np.inf


def test_a_table_has_medians_and_how_many_times_the_reference_they_are():
    reference, other = (Outcome(s, 1.0, 1 << 20, 0.0) for s in ([1.0, 2.0, 9.0], [5.0, 5.0, 6.0]))
    assert comparison.cell(reference, reference) == "2 s"
    assert comparison.cell(other, reference) == "5 s (2.5)"
    row = {"tff_dp": reference, "pfl": other}
    text = comparison.seconds_table(
        {"W3, with DP": row},
        ["tff_dp", "pfl", "fedjax"],
        {"tff_dp": "1", "pfl": "2", "fedjax": "3"},
    )
    assert "| 2 s" in text
    assert "has none" in text


def test_a_part_of_a_page_is_replaced_and_a_page_without_it_refused():
    page = "a\n<!-- comparison -->\nold\n<!-- end of comparison -->\nb\n"
    changed = comparison.replaced(page, "comparison", "new \\1")
    assert changed == "a\n<!-- comparison -->\n\nnew \\1\n\n<!-- end of comparison -->\nb\n"
    with pytest.raises(SystemExit, match="has no part"):
        comparison.replaced("a\n", "comparison", "new")


def test_both_pages_have_the_figures_of_one_run():
    parts = []
    for page in ("README.md", "benchmarks/README.md"):
        text = (comparison.ROOT / page).read_text(encoding="utf-8")
        assert comparison.replaced(text, "comparison", "x") != text
        parts.append(text.partition("<!-- comparison -->")[2].partition("<!-- end of")[0].strip())
    assert parts[1].startswith(parts[0])


def test_options_name_what_there_is(capsys):
    options = comparison._parser().parse_args(["--workloads", "W3,W1", "--frameworks", "pfl"])
    assert options.workloads == ["W1", "W3"]
    assert options.frameworks == ["pfl"]
    with pytest.raises(SystemExit):
        comparison._parser().parse_args(["--workloads", "W9"])
    assert "expected some of W1,W2,W3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        comparison.main(["--workloads", "W1", "--write"])
    assert "--write needs all" in capsys.readouterr().err


@pytest.mark.parametrize("privacy", [None, CLIPPED], ids=["plain", "clipped"])
def test_our_side_computes_what_numpy_does(tff, tmp_path, privacy):
    from benchmarks.peers import in_tff_dp

    tasks.save_task(tmp_path / "task.npz", SMALL, privacy, 2)
    task = tasks.load_task(tmp_path / "task.npz")
    clock = tasks.Clock(2)
    found = in_tff_dp.run(task, clock)
    expected = by_numpy(task, tasks.Clock(2))
    assert comparison.apart(found, expected, task.initial) < TOLERANCE
    assert len(clock.seconds) == 2
