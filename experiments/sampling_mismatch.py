"""What does Poisson accounting report of cohorts that are not Poisson, and what holds for them?

Three epsilons stand side by side for the same number of rounds, noise and expected cohort: the one that
the accountant of Poisson sampling reports; a lower bound, proven by two data sets and one event, of what
cohorts of fixed size (drawn without replacement, under replace-one) and batches of a shuffled order
(zero-out) really cost; and an upper bound that holds for these. Where the reported one is below the lower
bound, it is false. Besides, all known ways to get epsilon wrong (`experiments.epsilon_cases`) are asked
of tff_dp. Nothing is drawn: the one seed stands for none.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd

import tff_dp
from experiments import _cells, _plots, _report, epsilon_cases
from experiments.epsilon_cases import lower_bounds, ours, wrong
from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import ArgumentError

_MEASURES = {
    "reported": "reported: Poisson accounting",
    "fixed size at least": "fixed size: at least",
    "fixed size valid": "fixed size: valid",
    "shuffled at least": "shuffled: at least",
    "shuffled valid": "shuffled: valid",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MismatchSettings(Config):
    """The [sampling] section.

    Args:
      population: Clients, N.
      cohort: Clients of a round; divides `population`.
      epochs: Rounds, in units of population / cohort; a panel of the plot each.
      noise_multipliers: A row each.
      delta: Below 1 / population.
    """

    population: int
    cohort: int
    epochs: list[int]
    noise_multipliers: list[float]
    delta: float

    def __post_init__(self) -> None:
        _checks.integer("population", self.population, "[2, 1e6]")
        _checks.integer("cohort", self.cohort, f"[1, {self.population}]")
        if self.population % self.cohort:
            raise ArgumentError(
                f"cohort={self.cohort} does not divide population={self.population}: expected whole "
                "batches."
            )
        for epochs in self.epochs:
            _checks.integer("epochs", epochs, "[1, 1000]")
        for z in self.noise_multipliers:
            _checks.real("noise_multipliers", z, "[0.3, 100]")
        tff_dp.accounting.check_delta("delta", self.delta, self.population)


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Computes the epsilons and writes tables and plot.

    Args:
      settings: The section "sampling".
      out: The folder of the results.

    Returns:
      0, or 1 where an epsilon of tff_dp is below a proven lower bound.

    Raises:
      ArgumentError: A setting is outside its bound, or `out` cannot be written.
    """
    mine = MismatchSettings.from_dict(settings["sampling"])
    cells = _cells.grid(
        [{"epochs": e, "noise multiplier": z} for e in mine.epochs for z in mine.noise_multipliers],
        [0],
    )

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, float]:
        return epsilons(mine, cell.setting["epochs"], cell.setting["noise multiplier"])

    finished = _cells.run(cells, compute, settings=settings, out=out)
    _report.publish(
        finished, name="sampling_mismatch", settings=settings, by=["epochs", "noise multiplier"],
        measures=list(_MEASURES), plots=[_plot],
    )  # fmt: skip
    cases = epsilon_cases.load()
    verdicts = epsilon_cases.judge(ours.epsilon, cases)
    print(f"\nKnown wrong epsilons, and what tff_dp answers:\n{epsilon_cases.table(verdicts)}")
    try:
        (out / "epsilon_cases.md").write_text(epsilon_cases.page(cases), encoding="utf-8")
        print(f"Cases: {out / 'epsilon_cases.md'}")
    except OSError as error:
        raise ArgumentError(f"out={str(out)!r} could not be written: {error}.") from error
    below = [
        row
        for row in finished.rows
        for kind in ("fixed size", "shuffled")
        if row[f"{kind} valid"] < row[f"{kind} at least"]
    ]
    return 1 if below or any(each.is_wrong for each in verdicts) else 0


def epsilons(settings: MismatchSettings, epochs: int, z: float) -> dict[str, float]:
    """Returns the epsilons of one row, by the names of the table.

    Args:
      settings: The settings.
      epochs: How many.
      z: Noise multiplier.
    """
    batches = settings.population // settings.cohort
    rate, rounds, delta = 1 / batches, epochs * batches, settings.delta
    common = {
        "noise": "gaussian", "noise_multiplier": z, "population": settings.population,
        "cohort": settings.cohort, "delta": delta,
    }  # fmt: skip
    fixed = common | {"sampling": "fixed_size", "rounds": rounds, "adjacency": "replace_one"}
    shuffled = common | {"sampling": "shuffled", "epochs": epochs, "adjacency": "zero_out"}
    return {
        "reported": wrong.poisson(rate, z, rounds, delta),
        "fixed size at least": lower_bounds.sampled_gaussian(rate, z / 2, rounds, delta),
        "fixed size valid": ours.epsilon(fixed),
        "shuffled at least": lower_bounds.shuffled(batches, epochs, z, delta),
        "shuffled valid": ours.epsilon(shuffled),
    }


def _plot(table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    panels = []
    for epochs, rows in table.groupby("epochs", sort=False):
        panels.append(
            _plots.Panel(
                title=f"{epochs} epoch{'s' if epochs != 1 else ''}",
                x_label="noise multiplier",
                y_label="epsilon",
                curves=[
                    _plots.Curve(
                        label=label, x=rows["noise multiplier"].tolist(), y=rows[name].tolist()
                    )
                    for name, label in _MEASURES.items()
                ],
                log_y=True,
            )
        )
    return _plots.draw(panels, out / "epsilon_against_noise.png")
