"""The first rounds of each process of the execution contract, here and on stock TFF.

`./run python benchmarks/first_rounds.py` takes the rows of `tests/execution/test_contract.py`, makes each
row's process anew for each way to run it, and prints the seconds from the call of `initialize` to the end
of some rounds: in `execution.fast()` and on stock TFF, whose worker process has been started before. Both
take turns in one process. The last lines name the rows and rounds in which `fast` came later: first with
the start of stock TFF's worker, for which the first computation in a Python process waits, then without.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

ROUNDS = 10
MARKS = (1, 2, 3, 10)


def seconds_to_rounds(row: Any, rounds: int, *, on_stock: bool) -> list[float]:
    """Returns the seconds from `initialize` to the end of each round, in the context in effect.

    Args:
      row: The row of the contract.
      rounds: How many rounds; the row's cohorts come again and again.
      on_stock: Whether the context is stock TFF, which has no secure sums: plain ones take their place
        before the clock starts, as in the contract's tests, and data come as data sets.
    """
    from tests.support import contract_cases
    from tests.support.helpers import without_secure_sums
    from tff_dp import tff

    case = contract_cases.make_case(row)
    feeds, take_round = case.feeds, case.process.next
    if on_stock and row.aggregator in contract_cases.SECURE:
        take_round = without_secure_sums(tff, take_round)
    feed = feeds["datasets"] if on_stock else feeds.get("arrays", feeds["datasets"])
    begin, ends = time.perf_counter(), []
    state = contract_cases.seeded(case.process, case.process.initialize())
    for cohort in itertools.islice(itertools.cycle(feed), rounds):
        state = take_round(state, cohort)[0]
        ends.append(time.perf_counter() - begin)
    return ends


def compared(rows: Sequence[Any], repeats: int, rounds: int) -> dict[str, tuple[list[float], ...]]:
    """Returns medians of the seconds to the end of each round, by row: of `fast`, and of stock TFF."""
    from tff_dp import execution, tff

    stack = tff.framework.get_context_stack()
    found: dict[str, tuple[list[float], ...]] = {}
    with contextlib.ExitStack() as opened:
        stock = opened.enter_context(execution.stock(install=False, unkeyed_noise=True))
        for row in rows:
            runs: tuple[list[list[float]], ...] = ([], [])
            for _ in range(repeats):
                with execution.fast():
                    runs[0].append(seconds_to_rounds(row, rounds, on_stock=False))
                with stack.install(stock):
                    runs[1].append(seconds_to_rounds(row, rounds, on_stock=True))
            medians = (
                [statistics.median(column) for column in zip(*way, strict=True)] for way in runs
            )
            found[str(row)] = tuple(medians)
            print(_line(str(row), found[str(row)]), flush=True)
    return found


def seconds_to_start(repeats: int) -> float:
    """Returns the median of the seconds in which stock TFF starts and runs the smallest computation."""
    from tff_dp import execution, tff

    one = tff.tensorflow.computation(lambda: 1)
    one.type_signature  # noqa: B018  # traced before the clock starts
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        with execution.stock():
            one()
            found.append(time.perf_counter() - begin)
    return statistics.median(found)


def _late(found: dict[str, tuple[list[float], ...]], start: float) -> list[str]:
    """Returns a line for each round that `fast` ended later; `start` is what stock TFF takes to start."""
    return [
        f"{name}, round {number}: {ours:.2f} s, stock TFF {theirs + start:.2f} s"
        for name, ways in found.items()
        for number, (ours, theirs) in enumerate(zip(*ways, strict=True), 1)
        if ours > theirs + start
    ]


def _line(name: str, ways: tuple[list[float], ...]) -> str:
    marks = [mark for mark in MARKS if mark <= len(ways[0])]
    columns = [" ".join(f"{way[mark - 1]:6.2f}" for mark in marks) for way in ways]
    return f"{name:56.56s} {columns[0]}   {columns[1]}"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1, help="runs of each way")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", default="", help="only rows whose name has this in it")
    options = parser.parse_args()
    os.environ.update(TFF_DP_CACHE="", TF_CPP_MIN_LOG_LEVEL="3")
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from tests.execution.test_contract import ROWS

    rows = [row for row in dict.fromkeys(ROWS) if options.rows in str(row)]
    print(f"{'seconds to the end of rounds ' + str(MARKS):56s} {'fast':27s}   stock TFF")
    found = compared(rows, options.repeats, options.rounds)
    start = seconds_to_start(max(3, options.repeats))
    print(f"\n{len(found)} rows; stock TFF starts in {start:.2f} s")
    for counted, seconds in (("with", start), ("without", 0.0)):
        late = _late(found, seconds)
        print(
            f"\nfast later than stock TFF {counted} its start: {len(late)} rounds", *late, sep="\n"
        )


if __name__ == "__main__":
    main()
