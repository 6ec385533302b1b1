"""What does it cost to tune clip norm and learning rate, and which way of tuning is worth it?

The same search over a grid, for a linear model of grades in chemistry with schools as clients, is made

- "default": not at all; the clip norm and the learning rate are those that the settings name;
- "public data": on schools whose data count as public, with noise on the average as large as in the
  private run, which is then the only one. The search is free;
- "composed": on the private schools, each candidate once. All runs are charged to one ledger;
- "geometric", "Poisson", "logarithmic": on the private schools, with random candidates, as often as a
  random number says (`experiments._selection`);
- "not counted": as "composed", but with the noise of a single run, whose epsilon is reported.

All of them aim at one epsilon, and all scores that choose are those on the public schools: choosing by
scores on private data would cost on top. The noise multiplier is not searched for, it follows from the
target; nor is the number of rounds, since all candidates have to cost the same. Before that, a part
without training ("cost") has the epsilon of k runs, each of which has the target epsilon by itself.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

import tff_dp
from experiments import _cells, _plots, _report, _tables, _training
from experiments._selection import SHAPES, Stopping, calibrated, composed_epsilon, selected_epsilon
from experiments._tuning import LARGEST_SEED, Candidate, TuneSettings
from experiments.data import Split, chem97
from tff_dp import _seeds
from tff_dp.errors import AccountingError

METHODS = ("default", "public data", "composed", *SHAPES, "not counted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schools:
    """The data of one seed.

    Attributes:
      private: Clients to be protected.
      public: Clients whose data are public by assumption.
      split: The split that they are from, with the schools to test on.
    """

    private: tff_dp.Clients
    public: tff_dp.Clients
    split: Split


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The section "tune".
      out: The folder of the experiment.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound, or `out` has other results.
    """
    mine = TuneSettings.from_dict(settings["tune"])
    population = load(mine, mine.seeds[0]).private.num_clients
    plans = _plans(mine, population)  # whatever is wrong with the settings shows before training
    cost = [
        {"part": "cost", "method": method, "runs": runs}
        for method in ("composed", *SHAPES)
        for runs in mine.costs
    ]
    task = [{"part": "chem97", "method": method, "runs": _runs(mine, method)} for method in METHODS]
    cells = [*_cells.grid(cost, [0]), *_cells.grid(task, mine.seeds)]

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        if cell.setting["part"] == "cost":
            return _cost(plans["default"], cell.setting["method"], cell.setting["runs"])
        schools = load(mine, cell.seed)
        return _tuned(mine, cell, schools, plans[cell.setting["method"]], folder)

    with _training.session():
        finished = _cells.run(cells, compute, settings=settings, out=out)
    _report.publish(
        finished,
        name="tune",
        settings=settings,
        by=["part", "method", "runs"],
        measures=["noise multiplier", "epsilon reported", "epsilon valid", "R2"],
        decimals={"R2": 4},
        plots=[_plot],
    )
    return 0


def load(settings: TuneSettings, seed: int) -> Schools:
    """Loads the schools of a seed.

    Args:
      settings: The settings.
      seed: The seed.
    """
    split = chem97.load(held_out=settings.held_out, seed=seed)
    count = split.train.num_clients
    rng = _seeds.generator(_seeds.root(seed), "public schools")
    order = rng.permutation(count)
    public = max(2, round(settings.public * count))
    return Schools(
        private=split.train.subset(np.sort(order[public:])),
        public=split.train.subset(np.sort(order[:public])),
        split=split,
    )


def _runs(settings: TuneSettings, method: str) -> int:
    """Returns the number of private runs, or its mean."""
    return 1 if method in ("default", "public data") else len(settings.candidates)


def _plans(settings: TuneSettings, population: int) -> dict[str, tff_dp.PrivacyPlan]:
    """Returns the plan of one private run of each method."""
    plan, target = settings.plan(population), settings.target_epsilon
    runs = len(settings.candidates)
    single = calibrated(plan, target)
    return {
        "default": single,
        "public data": single,
        "not counted": single,
        "composed": calibrated(plan, target, runs=runs),
    } | {law: calibrated(plan, target, stopping=Stopping(mean=runs, law=law)) for law in SHAPES}


def _cost(plan: tff_dp.PrivacyPlan, method: str, runs: int) -> dict[str, Any]:
    try:
        found = (
            composed_epsilon(plan, runs)
            if method == "composed"
            else selected_epsilon(plan, Stopping(mean=runs, law=method))
        )
    except AccountingError:  # above what is accounted for
        found = None
    return {
        "noise multiplier": plan.mechanism.noise_multiplier,
        "epsilon reported": plan.epsilon().epsilon,
        "epsilon valid": found,
    }


def _tuned(
    settings: TuneSettings,
    cell: _cells.Cell,
    schools: Schools,
    plan: tff_dp.PrivacyPlan,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Tunes by a method and tests the model that it releases."""
    method = cell.setting["method"]
    stopping = Stopping(mean=_runs(settings, method), law=method) if method in SHAPES else None
    if method == "default":
        tried = [settings.default]
    elif method == "public data":
        tried = [_best_on_public(settings, cell, schools, plan, folder)]
    elif stopping is None:
        tried = settings.candidates
    else:
        tried = _drawn(settings, stopping, folder)
    results = [
        _trained(settings, c, plan, schools.private, folder, f"run-{i}", _seed(cell, i))
        for i, c in enumerate(tried)
    ]
    models = [result.model for result in results]
    best = max(models, key=lambda model: _r2(model, *_pooled(schools.public)), default=None)
    single = plan.epsilon().epsilon
    if stopping is not None:
        # A run that was killed and resumed has drawn the noise of some rounds twice.
        repeated = max((result.repeated_rounds for result in results), default=0)
        costliest = dataclasses.replace(plan, rounds=plan.rounds + repeated)
        reported = valid = selected_epsilon(costliest, stopping)
    else:
        valid = _of_ledger(plan, results, folder)
        reported = single if method == "not counted" else valid
    test = (schools.split.test_x, np.ravel(schools.split.test_y))
    return {
        "noise multiplier": plan.mechanism.noise_multiplier,
        "epsilon reported": reported,
        "epsilon valid": valid,
        # A Poisson number of runs may be 0: then a model that predicts the middle of the scale.
        "R2": _r2(best, *test) if best is not None else _r2_of(np.zeros(len(test[1])), test[1]),
    }


def _drawn(settings: TuneSettings, stopping: Stopping, folder: pathlib.Path) -> list[Candidate]:
    """Draws how many runs there are, and a candidate for each; kept, for a cell that is resumed.

    Whoever protects real data keeps this file as secret as the models that are not released.
    """
    file = folder / "drawn.txt"
    if not file.exists():
        rng = _seeds.generator(_seeds.root(None), "candidates")
        numbers = rng.integers(len(settings.candidates), size=stopping.draw())
        file.write_text(" ".join(map(str, numbers)), encoding="utf-8")
    return [settings.candidates[int(n)] for n in file.read_text(encoding="utf-8").split()]


def _best_on_public(
    settings: TuneSettings,
    cell: _cells.Cell,
    schools: Schools,
    plan: tff_dp.PrivacyPlan,
    folder: pathlib.Path,
) -> Candidate:
    """Trains each candidate on one half of the public schools, and scores it on the other.

    All of the half take part in each round, with the noise on their average that the private run has.
    """
    count = schools.public.num_clients
    half = np.arange(0, count, 2)
    train, rest = (schools.public.subset(part) for part in (half, np.arange(1, count, 2)))
    z = plan.mechanism.noise_multiplier * len(half) / settings.cohort
    rehearsal = tff_dp.PrivacyPlan(  # a plan only to have the noise: nothing is protected by it
        mechanism=plan.mechanism.with_noise(z), population=len(half), rounds=settings.rounds,
        delta=1 / (2 * len(half)), sampler=tff_dp.FullParticipation(),
    )  # fmt: skip
    scores = []
    for number, candidate in enumerate(settings.candidates):
        result = _trained(
            settings, candidate, rehearsal, train, folder, f"public-{number}", _seed(cell, number)
        )
        scores.append(_r2(result.model, *_pooled(rest)))
    return settings.candidates[int(np.argmax(scores))]


def _trained(
    settings: TuneSettings,
    candidate: Candidate,
    plan: tff_dp.PrivacyPlan,
    clients: tff_dp.Clients,
    folder: pathlib.Path,
    name: str,
    seed: int,
) -> tff_dp.FitResult:
    from models import linear  # needs Keras, and so TensorFlow

    mechanism = tff_dp.GaussianMechanism(
        clip_norm=candidate.clip_norm, noise_multiplier=plan.mechanism.noise_multiplier
    )
    return _training.train(
        linear.build(features=len(chem97.FEATURES)),
        clients,
        folder=folder,
        name=name,
        privacy=dataclasses.replace(plan, mechanism=mechanism),
        algorithm=tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=1.0),
            server_optimizer=tff_dp.SGD(learning_rate=1.0, momentum=settings.momentum),
            weighting="uniform",
        ),
        # Set from outside, so that candidates that differ in nothing else share their graphs.
        client_learning_rate=functools.partial(_rate, candidate.learning_rate),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=seed,
        save_every=settings.rounds,
    )


def _rate(learning_rate: float, round_number: int) -> float:
    return learning_rate


def _seed(cell: _cells.Cell, number: int) -> int:
    """Returns the seed of a run: cohorts of different runs must be independent."""
    return cell.seed + (number + 1) * 2 * LARGEST_SEED


def _of_ledger(
    plan: tff_dp.PrivacyPlan, results: list[tff_dp.FitResult], folder: pathlib.Path
) -> float:
    """Returns the epsilon of all runs, as a ledger adds their charges."""
    path = folder / "all-runs.jsonl"
    for old in (path, path.with_name(path.name + ".head")):  # of a cell that was interrupted here
        old.unlink(missing_ok=True)
    with tff_dp.Ledger(path, plan) as ledger:
        for result in results:
            ledger.include(result.charges)
        return float(ledger.spent().epsilon)


def _pooled(clients: tff_dp.Clients) -> tuple[np.ndarray, np.ndarray]:
    x, y = clients.pooled()
    return np.asarray(x), np.ravel(np.asarray(y))


def _r2(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return _r2_of(np.ravel(_training.outputs_of(model, x)), y)


def _r2_of(outputs: np.ndarray, y: np.ndarray) -> float:
    """Returns the share of explained variance; a training that diverged has the worst, -inf."""
    error = float(np.mean((outputs - y) ** 2))
    return 1 - error / float(np.var(y)) if np.isfinite(error) else -np.inf


def _plot(table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    cost, task = (table[table["part"] == part].copy() for part in ("cost", "chem97"))
    task["epsilon valid"] = np.ceil(100 * task["epsilon valid"]) / 100  # one tick for equal ones
    level = _plots.Level(label="one run", y=float(cost["epsilon reported"].iloc[0]))

    def curves(
        rows: pd.DataFrame, x: str, y: str, label: Callable[[str], str]
    ) -> list[_plots.Curve]:
        return [
            _plots.Curve(
                label=label(method),
                x=lines[x].tolist(),
                y=lines[y].tolist(),
                spread=lines[y + _tables.SPREAD].tolist(),
            )
            for method, lines in rows.groupby("method", sort=False)
        ]

    panels = [
        _plots.Panel(
            title="Cost of choosing the best run",
            x_label="runs, or their mean", y_label="epsilon",
            curves=curves(cost, "runs", "epsilon valid", str), levels=[level], log_y=True,
        ),
        _plots.Panel(
            title="Grades in chemistry", x_label="epsilon that holds", y_label="R2 on other schools",
            curves=curves(task, "epsilon valid", "R2", str),
        ),
    ]  # fmt: skip
    return _plots.draw(panels, out / "cost_of_tuning.png")
