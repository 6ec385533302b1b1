"""Run folders: what `fit(run_dir=...)` keeps of a run on the disk, so that it can go on after a crash.

A folder holds the ledger of the run, its configuration, the history of its rounds, and the last
checkpoints of its state. docs/runs.md describes the files. Nothing here unpickles anything, and
nothing imports TensorFlow.
"""

from tff_dp.runs.reading import RunSummary, read_run

__all__ = ["RunSummary", "read_run"]
