"""A worker that is killed in a round changes nothing: `./run cluster-demo`.

Brings up a cluster of two nodes on this machine (two raylets on loopback, with a worker each), trains the
workload W3 for a few rounds under a privacy plan, and kills a worker while a round is under way. The same
rounds with the same keys then run in this process alone: every bit of the weights has to be equal. Keys
that can be repeated are not private, and no ledger takes them; so a third run, with fresh keys and a
ledger, loses a worker as well, and has to have one charge a round. If anything differs, the exit code
is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks._workloads import LEARNING_RATE, W3, Array

_PARTS = 8  # of a round of W3 under XLA's rule; the first rounds, without it, have twice as many


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0 if the results are equal, otherwise 1.
    """
    parser = argparse.ArgumentParser(prog="cluster-demo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="(default: %(default)s)")
    rounds = parser.parse_args(arguments).rounds
    from benchmarks._nodes import Nodes

    print("Starting two nodes on 127.0.0.1 ...", flush=True)
    with contextlib.closing(Nodes(2)) as nodes, tempfile.TemporaryDirectory() as folder:
        print(f"The head of the cluster is {nodes.address}. Training W3: {W3.title}.", flush=True)
        killers = [_Killer(at=rounds // 2), _Killer(at=rounds // 2)]
        there, _ = train(rounds, nodes.address, killers[0])
        print("The same rounds in this process alone ...", flush=True)
        here, _ = train(rounds)
        print("With fresh keys and a ledger ...", flush=True)
        run = pathlib.Path(folder) / "run"
        _, charged = train(rounds, nodes.address, killers[1], ledger=run / "ledger.jsonl")
    equal = all(a.tobytes() == b.tobytes() for a, b in zip(there, here, strict=True))
    killed = [killer.killed for killer in killers]
    print(f"weights on the cluster      {_digest(there)}")
    print(f"weights in this process     {_digest(here)}")
    print(f"charges in the ledger       {charged} for {rounds} rounds")
    print(f"workers that were killed    {killed[0]} and {killed[1]}")
    passed = equal and charged == rounds and all(killed)
    print("Equal, with one charge a round." if passed else "NOT as it has to be.")
    return 0 if passed else 1


def train(
    rounds: int,
    cluster: str | None = None,
    killer: _Killer | None = None,
    ledger: pathlib.Path | None = None,
) -> tuple[list[Array], int]:
    """Trains W3 under a plan.

    Args:
      rounds: The number of rounds.
      cluster: The address of a cluster; None for this process.
      killer: Kills a worker in a round; None for nobody.
      ledger: The file of a ledger, for a run with fresh keys; None for a run with keys from a seed.

    Returns:
      The weights, and the number of rounds that are charged in the ledger, 0 if there is none.
    """
    import tff_dp
    from tff_dp import execution

    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.01, noise_multiplier=1.0),
        population=W3.clients,
        sampler=tff_dp.FullParticipation(),
        rounds=rounds,
        delta=1e-5,
    )
    x, y = W3.data()
    clients = tff_dp.Clients(x, y, W3.offsets())
    run_dir = None if ledger is None else ledger.parent
    seed = 1 if ledger is None else None
    with warnings.catch_warnings(), execution.fast(seed=seed, cluster=cluster) as context:
        warnings.simplefilter(
            "ignore"
        )  # that keys from a seed are not private, which is said above
        if killer is not None:
            killer.watch(context.settings.pool)
        begin = time.perf_counter()
        result = tff_dp.fit(
            W3.keras_model(),
            clients,
            privacy=plan,
            loss=W3.keras_loss(),
            algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=LEARNING_RATE)),
            batch_size=W3.batch_size,
            run_dir=run_dir,
            seed=seed,
        )
        seconds = time.perf_counter() - begin
    where = "on the cluster" if cluster else "in this process"
    print(f"  {rounds} rounds {where} in {seconds:.1f} s", flush=True)
    weights = [np.asarray(w) for w in result.model.get_weights()]
    if ledger is None:
        return weights, 0
    with tff_dp.Ledger(ledger, plan) as book:
        return weights, book.charges


class _Killer:
    """Kills one worker when some parts of a round are finished and others are not.

    Args:
      at: The round.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self.killed = 0

    def watch(self, pool: Any) -> None:
        """Begins to wait for the round, in a thread that ends with this process.

        Args:
          pool: The workers.
        """
        threading.Thread(target=self._wait, args=(pool,), daemon=True).start()

    def _wait(self, pool: Any) -> None:
        while pool.counts.parts < self._at * _PARTS + 2:
            time.sleep(1e-4)
        workers = dict(pool.counts.workers)
        process = int(next(reversed(workers)).rpartition(":")[2])  # the one that was heard of last
        os.kill(process, signal.SIGKILL)
        self.killed += 1
        parts = pool.counts.parts
        print(
            f"  killed the worker with process id {process} in round {parts // _PARTS + 1}, after "
            f"{parts % _PARTS} of its {_PARTS} parts",
            flush=True,
        )


def _digest(weights: list[Array]) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest()[:32]


if __name__ == "__main__":
    sys.exit(main())
