"""`resume`, which goes on with a run by what its folder says."""

from __future__ import annotations

import os
from typing import Any

from tff_dp.algorithms import Algorithm
from tff_dp.config import Config
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError, RunFolderError
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.runs.layout import checked_folder, read_config
from tff_dp.runs.store import seed_in
from tff_dp.training.fitting import fit
from tff_dp.training.results import FitResult


def resume(
    run_dir: str | os.PathLike[str], model: Any, clients: Clients, **arguments: Any
) -> FitResult:
    """Goes on with a run from the last checkpoint in its folder.

    Only what a folder cannot hold has to be passed: the model (with its loss and metrics) and the
    data. The state, including the weights, is that of the checkpoint. Everything else is taken from
    the folder, unless it is given.

    A round that was charged and not saved is run again, and charged again. If the rounds have noise,
    the cohorts from there on are drawn from other coins, as those of another run; without noise, and
    if no round was lost, the weights are those that the run would have had without the interruption,
    bit by bit, unless the model draws random numbers itself (dropout).

    Args:
      run_dir: The folder of the run, as it was passed to `fit`.
      model: As for `fit`. Its weights do not matter.
      clients: As for `fit`.
      **arguments: Further arguments of `fit`: `loss` and `metrics` as they were passed to it; and
        those that may change, such as `rounds` (the number that the run is to have in all),
        `max_epsilon`, `ledger` (if it was moved), `save_every`, `keep`, `spent_before`, `progress`.

    Returns:
      The result of all rounds of the run. If the run is finished, nothing is trained.

    Raises:
      ArgumentError: An argument is not that with which the run was begun, and others of `fit`.
      RunFolderError: There is no run, it is open in another process, or it has no good checkpoint.
      LedgerError: The ledger has lost charges of the run, and others of `fit`.
      ComputationError: As for `fit`.
    """
    where = checked_folder("run_dir", run_dir, exists=True)
    config = read_config(where)
    saved, last = config["arguments"], config["openings"][-1] if config["openings"] else {}
    taken: dict[str, Any] = {"release_metrics": saved["release_metrics"]}
    for name, restore in (("privacy", _privacy), ("algorithm", Algorithm.from_dict)):
        if name in arguments:
            taken[name] = arguments[name]
        elif config["restorable"][name]:
            taken[name] = restore(saved[name])
        else:
            raise ArgumentError(
                f"{name} cannot be restored from {where.config}: it has a field that is no plain value. "
                f"Pass {name}= as it was passed to fit."
            )
    plan = taken["privacy"] if isinstance(taken["privacy"], PrivacyPlan) else None
    if plan is None or plan.unit is not Unit.RECORD:  # whose mechanism determines the batches
        taken |= {name: saved[name] for name in ("batch_size", "epochs", "shuffle")}
    if "class_weight" in saved:
        taken["class_weight"] = {int(k): weight for k, weight in saved["class_weight"].items()}
    if "sample_weight" in saved:
        taken["sample_weight"] = saved["sample_weight"]
    if saved["seeded"]:
        taken["seed"] = seed_in(where)
    for name in ("rounds", "save_every", "keep", "max_epsilon"):
        if name in last:
            taken[name] = last[name]
    if plan is None:
        taken.pop("max_epsilon", None)
    return fit(model, clients, run_dir=run_dir, resume=True, **(taken | arguments))


def _privacy(values: Any) -> PrivacyPlan | NoPrivacy:
    found = Config.from_dict(values)
    if not isinstance(found, PrivacyPlan | NoPrivacy):
        raise RunFolderError(
            f"The run has privacy={values!r}, which this version does not know. Resume it with the "
            "version of tff_dp that began it."
        )
    return found
