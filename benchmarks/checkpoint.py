"""What saving a run costs: `./run python benchmarks/checkpoint.py`.

Two runs of the same workload take turns in one process, one of which saves its state after every
round (`run_dir=`, `save_every=1`). A turn ends when its last checkpoint is on the disk. Printed are the
medians of the milliseconds a round, over all turns, of the round alone and of the round with its
checkpoint; the difference, in milliseconds and in percent; and the size of a checkpoint. The aims are
less than 2 ms a round for W1 and less than 5 % for W2. With --check, the exit code is 1 if one is missed.

With --plan, both runs have a privacy plan and a ledger, each of whose charges waits for the disk, and
every round waits until the checkpoint before the last one is on the disk. No aim is checked then.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks._workloads import LEARNING_RATE, WORKLOADS, Workload

_TURNS = {"W1": (20, 100), "W2": (7, 2)}  # turns, and rounds in each
_MOST_MS, _MOST_PERCENT = {"W1": 2.0}, {"W2": 5.0}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
      plain: Milliseconds a round in each turn, without checkpoints.
      saved: The same, with a checkpoint of every round.
      size: Bytes of a checkpoint.
    """

    plain: Sequence[float]
    saved: Sequence[float]
    size: int

    @property
    def more(self) -> float:
        """The median of the difference between neighboring turns, in milliseconds a round."""
        return statistics.median(two - one for one, two in zip(self.plain, self.saved, strict=True))

    @property
    def percent(self) -> float:
        """The same in percent of a round."""
        return 100 * self.more / statistics.median(self.plain)


def measure(
    workload: Workload, folder: pathlib.Path, turns: int, rounds: int, *, private: bool
) -> Cost:
    """Measures a workload.

    Args:
      workload: The workload.
      folder: An empty folder on the disk that is to be measured.
      turns: The number of turns of each of the two runs.
      rounds: The number of rounds in a turn.
      private: Whether the runs have a privacy plan.
    """
    import tff_dp
    from tff_dp import execution
    from tff_dp.training.budget import open_account
    from tff_dp.training.keeping import checked_keeping
    from tff_dp.training.observers import observed, observed_step
    from tff_dp.training.run import Run
    from tff_dp.training.run_folder import open_run_folder
    from tff_dp.training.setup import prepare

    x, y = workload.data()
    clients = tff_dp.data.iid(x, y, clients=workload.clients, seed=0)
    optimizer = tff_dp.SGD(learning_rate=LEARNING_RATE)
    privacy: Any = tff_dp.NoPrivacy()
    if private:
        privacy = tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=100.0),
            population=workload.clients,
            sampler=tff_dp.FullParticipation(),
            rounds=(turns + 1) * rounds,
            delta=1e-5,
        )
    setup = prepare(
        workload.keras_model,
        clients,
        privacy=privacy,
        loss=workload.keras_loss(),
        algorithm=tff_dp.FedAvg(client_optimizer=optimizer),
        batch_size=workload.batch_size,
        rounds=(turns + 1) * rounds,
        seed=1,
    )
    keeping = checked_keeping(folder / "run", 1, 2, False)
    assert keeping is not None

    def turn(run: Run, observers: Sequence[Any]) -> float:
        begin = time.perf_counter()
        for _ in range(rounds):
            observed_step(run, observers)
        for each in observers:
            each.wait()
        return 1000 * (time.perf_counter() - begin) / rounds

    with contextlib.ExitStack() as stack:
        stack.enter_context(execution.fast())
        opened = stack.enter_context(open_run_folder(setup, keeping))
        account = stack.enter_context(open_account(opened.setup))
        saving, saver = opened.begin(account, [])
        assert saver is not None
        stack.enter_context(observed(saving, [saver]))
        if private:
            setup = dataclasses.replace(setup, ledger=folder / "plain.jsonl")
        plain = Run(setup, stack.enter_context(open_account(setup)), period=1)
        times = [(turn(plain, []), turn(saving, [saver])) for _ in range(turns + 1)][1:]
        (*_, last) = keeping.layout.stored().values()
        size = last.stat().st_size
    return Cost([one for one, _ in times], [two for _, two in times], size)


def main() -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", choices=sorted(_TURNS), default=sorted(_TURNS))
    parser.add_argument("--folder", help="on the disk to measure; by default, a temporary one")
    parser.add_argument("--plan", action="store_true", help="with a privacy plan and a ledger")
    parser.add_argument("--check", action="store_true", help="exit with 1 if an aim is missed")
    options = parser.parse_args()
    missed = False
    print("| workload | round (ms) | with a checkpoint (ms) | more (ms) | more (%) | size (KiB) |")
    print("|---|---|---|---|---|---|")
    for name in options.workloads:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            cost = measure(
                WORKLOADS[name], pathlib.Path(folder), *_TURNS[name], private=options.plan
            )
        plain, saved = statistics.median(cost.plain), statistics.median(cost.saved)
        print(
            f"| {name} | {plain:.2f} | {saved:.2f} | {cost.more:.2f} | {cost.percent:.1f} | "
            f"{cost.size / 1024:.0f} |",
            flush=True,
        )
        missed |= cost.more >= _MOST_MS.get(name, float("inf"))
        missed |= cost.percent >= _MOST_PERCENT.get(name, float("inf"))
    return int(missed and options.check and not options.plan)


if __name__ == "__main__":
    sys.exit(main())
