"""Images, 1,000 clients that differ more or less: FedAvg, FedProx, FedAdam or FedYogi?

The images (`experiments.data.fashion`) are dealt out by a Dirichlet law: the smaller its alpha, the fewer
labels a client has; "iid" deals them out evenly. All four train the same network with one hidden layer,
with the same rounds and cohorts, and the same number of trials to tune them for each alpha
(`experiments._trials`). There is no privacy here; `images_mechanisms` is about that.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import tff_dp
from experiments import _images, _plots, _report, _tables, _training, _trials
from experiments.data import fashion
from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import ArgumentError

ALGORITHMS = ("FedAvg", "FedProx", "FedAdam", "FedYogi")
_IID = "iid"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederationSettings(Config):
    """The [federation] section.

    Attributes:
      clients: Over how many the images are dealt out.
      cohort: Expected clients a round, by Poisson sampling.
      alphas: Of the Dirichlet law; one part of the experiment each, and iid is another.
      units: Of the hidden layer.
      algorithms: Names of `ALGORITHMS`.
    """

    clients: int
    cohort: float
    alphas: Sequence[float]
    units: int
    algorithms: Sequence[str]

    def __post_init__(self) -> None:
        _checks.integer("units", self.units, "[1, inf)")
        _checks.real("cohort", self.cohort, f"(0, {self.clients}]")
        for alpha in self.alphas:
            _checks.real("alphas", alpha, "(0, 1e6]")
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ArgumentError(
                    f"algorithms has {name!r}: expected names among {', '.join(ALGORITHMS)}."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmTuning(Config):
    """The [tuning] section: what is tried for each row, equally many.

    Attributes:
      seed: Of all trials.
      validation: The share of the training images that trials are scored on.
      client_rates: The clients' learning rates, each with each value of the algorithm's own.
      fedavg_server_rates: The server's learning rates of FedAvg.
      fedprox_strengths: The strengths of FedProx's term; its server's learning rate is 1.
      adaptive_server_rates: The server's learning rates of FedAdam and FedYogi.
    """

    seed: int
    validation: float
    client_rates: Sequence[float]
    fedavg_server_rates: Sequence[float]
    fedprox_strengths: Sequence[float]
    adaptive_server_rates: Sequence[float]

    def candidates(self, algorithm: str) -> list[_trials.Candidate]:
        """Returns what is tried for an algorithm.

        Args:
          algorithm: One of `ALGORITHMS`.
        """
        own: list[dict[str, float]] = {
            "FedAvg": [{"server rate": rate} for rate in self.fedavg_server_rates],
            "FedProx": [{"strength": s, "server rate": 1.0} for s in self.fedprox_strengths],
        }.get(algorithm, [{"server rate": rate} for rate in self.adaptive_server_rates])
        return [
            {"client rate": rate, **each}
            for each, rate in itertools.product(own, self.client_rates)
        ]


def algorithm_of(name: str, candidate: _trials.Candidate) -> tff_dp.FedAvg:
    """Returns an algorithm. Both learning rates are set from outside, and are 1 here.

    Args:
      name: One of `ALGORITHMS`.
      candidate: One of its candidates.
    """
    client = tff_dp.SGD(learning_rate=1.0)
    if name == "FedProx":
        return tff_dp.FedProx(client_optimizer=client, proximal_strength=candidate["strength"])
    if name == "FedAdam":
        return tff_dp.FedOpt(
            client_optimizer=client, server_optimizer=tff_dp.Adam(learning_rate=1.0)
        )
    if name == "FedYogi":
        return tff_dp.FedOpt(
            client_optimizer=client, server_optimizer=tff_dp.Yogi(learning_rate=1.0)
        )
    return tff_dp.FedAvg(client_optimizer=client)


def rows_of(federation: FederationSettings, tuning: AlgorithmTuning) -> list[_trials.Row]:
    """Returns the rows: each algorithm at each alpha, and iid.

    Args:
      federation: The settings.
      tuning: What is tried.
    """
    settings = [
        {"labels": labels, "algorithm": name}
        for labels in (*(f"Dirichlet {alpha:g}" for alpha in federation.alphas), _IID)
        for name in federation.algorithms
    ]
    return [
        _trials.Row(
            setting=setting, tuned_as=setting, candidates=tuning.candidates(setting["algorithm"])
        )
        for setting in settings
    ]


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "training", "federation" and "tuning".
      out: The folder of the experiment.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound, or `out` has other results.
    """
    training = _images.ImageSettings.from_dict(settings["training"])
    federation = FederationSettings.from_dict(settings["federation"])
    tuning = AlgorithmTuning.from_dict(settings["tuning"])
    alphas: dict[str, float | None] = {f"Dirichlet {alpha:g}": alpha for alpha in federation.alphas}
    alphas[_IID] = None
    rows = rows_of(federation, tuning)
    _trials.check(rows, tuning.seed, training.seeds)
    for row in rows:  # whatever is wrong with the settings shows before TensorFlow is imported
        for candidate in row.candidates:
            _checks.real("server_rates", candidate["server rate"], "(0, inf)")
            _checks.real("client_rates", candidate["client rate"], "(0, inf)")
            algorithm_of(row.setting["algorithm"], candidate)

    def train(
        setting: Mapping[str, Any],
        candidate: _trials.Candidate,
        seed: int,
        trial: bool,
        folder: pathlib.Path,
    ) -> dict[str, Any]:
        task = _images.load(
            clients=federation.clients, alpha=alphas[setting["labels"]], seed=seed,
            pool=training.pool, examples=training.examples,
            validation=tuning.validation if trial else None,
        )  # fmt: skip
        result = _images.train(
            _network(task, federation.units, seed),
            task,
            training,
            folder=folder,
            client_rate=candidate["client rate"],
            server_rate=candidate["server rate"],
            privacy=tff_dp.NoPrivacy(
                sampler=tff_dp.PoissonSampler(rate=federation.cohort / federation.clients)
            ),
            algorithm=algorithm_of(setting["algorithm"], candidate),
            seed=seed,
        )
        return {
            "accuracy": task.accuracy(result.model),
            "data": task.source,
            "rounds": len(result.history),
        }

    with _training.session():
        tuned = _trials.run(
            rows, train, tuning_seed=tuning.seed, seeds=training.seeds, settings=settings, out=out
        )
    tuned.save()
    _report.publish(
        tuned.finished,
        name="images_algorithms",
        settings=settings,
        by=["labels", "algorithm"],
        measures=["accuracy", "client rate", "server rate", "strength"],
        decimals={"client rate": 1, "server rate": 2, "strength": 2},
        plots=[_plot],
        notes=tuned.notes,
    )
    return 0


def _network(task: _images.Task, units: int, seed: int) -> tff_dp.ModelSpec:
    from models import mlp  # needs Keras, and so TensorFlow

    _training.seeded(seed)
    return mlp.build(features=task.pixels, classes=fashion.CLASSES, units=[units])


def _plot(table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    """Draws accuracy against how much clients differ; iid stands at the right end."""
    kinds = list(dict.fromkeys(table["labels"]))
    curves = []
    for name, rows in table.groupby("algorithm", sort=False):
        curves.append(
            _plots.Curve(
                label=str(name), x=[kinds.index(kind) for kind in rows["labels"]],
                y=rows["accuracy"].tolist(), spread=rows["accuracy" + _tables.SPREAD].tolist(),
            )
        )  # fmt: skip
    panel = _plots.Panel(
        title="", x_label="labels of a client", y_label="accuracy on test images", curves=curves,
        log_x=False, x_ticks=kinds,
    )  # fmt: skip
    return _plots.draw([panel], out / "images_algorithms.png")
