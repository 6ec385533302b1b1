"""Images, 1,000 and 10,000 clients: which mechanism wins at which epsilon?

A client is protected as a whole. All mechanisms that can train a model of this size are calibrated to
the same epsilons and train the same logistic regression on the same images (`experiments.data.fashion`),
with the same rounds, as many clients a round, and the same number of trials to tune them
(`experiments._trials`); the server's optimizer is SGD without momentum. `experiments._image_mechanisms`
has the mechanisms, each with the sampler that its accounting needs, and the noise that each adds to the
model, by formula.

What is left out: noise for single images (`RecordGaussianMechanism`), since its epsilon is that of
another unit, and images are no persons (`medicine_silos` and `finance` compare the two); a clip norm for
each layer, which has the same noise as one for all; the distributed discrete Gaussian, whose noise is
that of Skellam; and local Laplace noise, since the L1 norm of an update of 1,970 weights is up to 44
times its L2 norm.
"""

from __future__ import annotations

import functools
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import tff_dp
from experiments import _image_mechanisms as mechanisms
from experiments import _images, _plots, _report, _tables, _training, _trials
from experiments._image_mechanisms import KINDS, Population
from experiments._image_settings import MechanismTuning, PopulationSettings, PrivacySettings
from experiments.data import fashion
from tff_dp import _checks

NONE, CLIPPED = "no privacy", "clipped, no noise"  # neither is private
_ANY_BOUND = 0.5  # the noise is in clip norms
_TRUSTED = ("Gaussian", "Gaussian, fixed size", "tree", "banded", "banded, sampled")
_LABELS = {  # in plots, for readers who know other names
    "Gaussian": "Gaussian (DP-FedAvg)",
    "Gaussian, fixed size": "Gaussian, cohorts of fixed size",
    "tree": "tree (DP-FTRL)",
    "banded": "banded (DP-BandMF)",
    "Skellam": "Skellam, distributed",
}


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "training", "privacy", "tuning", "small" and "large".
      out: The folder of the experiment.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound, or `out` has other results.
    """
    training = _images.ImageSettings.from_dict(settings["training"])
    privacy = PrivacySettings.from_dict(settings["privacy"])
    tuning = MechanismTuning.from_dict(settings["tuning"])
    sizes = [PopulationSettings.from_dict(settings[name]) for name in ("small", "large")]
    sizes = [size for size in sizes if size.mechanisms]
    weights = (fashion.pixels(training.pool) + 1) * fashion.CLASSES
    populations = {size.clients: _population(size, training, privacy, weights) for size in sizes}
    rows = [row for size in sizes for row in rows_of(size, privacy, tuning)]
    _trials.check(rows, tuning.seed, training.seeds)
    plan = functools.partial(_plan, populations)
    for row in rows:  # whatever no plan takes shows before TensorFlow is imported
        for setting, candidate in itertools.product((row.setting, row.tuned_as), row.candidates):
            plan(setting, candidate)

    def train(
        setting: Mapping[str, Any],
        candidate: _trials.Candidate,
        seed: int,
        trial: bool,
        folder: pathlib.Path,
    ) -> dict[str, Any]:
        task = _images.load(
            clients=setting["clients"], alpha=privacy.alpha, seed=seed, pool=training.pool,
            examples=training.examples, validation=tuning.validation if trial else None,
        )  # fmt: skip
        return _trained(
            task, training, privacy, plan(setting, candidate), setting, candidate, seed, folder
        )

    with _training.session():
        tuned = _trials.run(
            rows, train, tuning_seed=tuning.seed, seeds=training.seeds, settings=settings, out=out
        )
    tuned.save()
    noise = noise_table(sizes, populations, privacy.target_epsilons)
    noise.to_csv(out / "noise.csv", index=False)
    _report.publish(
        tuned.finished,
        name="images_mechanisms",
        settings=settings,
        by=["clients", "mechanism", "epsilon"],
        measures=["accuracy", "noise in the model", "noise multiplier", "epsilon spent"],
        decimals={"noise in the model": 4},
        plots=[functools.partial(_plot, [size.clients for size in sizes]), _plot_others],
        notes=tuned.notes | {"noise_in_the_model": noise.to_dict("records")},
    )
    print(f"\nNoise in the model by formula, and bands:\n{noise.to_string(index=False)}")
    return 0


def noise_table(
    sizes: Sequence[PopulationSettings],
    populations: Mapping[int, Population],
    epsilons: Sequence[float],
) -> pd.DataFrame:
    """Returns the noise in the model of all mechanisms, whether they are trained or not.

    Args:
      sizes: The populations' settings.
      populations: The populations by their number of clients.
      epsilons: The targets.

    Returns:
      One row a population, mechanism and target: "clients", "mechanism", "epsilon", "noise in the
      model", in clip norms (of L1 for Laplace noise), and "bands".
    """
    rows = []
    for size, epsilon in itertools.product(sizes, sorted(epsilons)):
        for name in (*size.mechanisms, *size.by_formula):
            plan = mechanisms.plan_of(name, populations[size.clients], epsilon, _ANY_BOUND)
            rows.append(
                {
                    "clients": size.clients,
                    "mechanism": name,
                    "epsilon": float(epsilon),
                    "noise in the model": mechanisms.noise_of(name, plan),
                    "bands": getattr(plan.mechanism, "bands", None),
                }
            )
    return pd.DataFrame(rows).astype({"bands": "Int64"})


def rows_of(
    size: PopulationSettings, privacy: PrivacySettings, tuning: MechanismTuning
) -> list[_trials.Row]:
    """Returns the rows of a population: two without privacy, and each mechanism at each target.

    Args:
      size: The population.
      privacy: The targets.
      tuning: What is tried.
    """
    rows = []
    for name, kind in ((NONE, None), (CLIPPED, "Gaussian")):
        setting = {"clients": size.clients, "mechanism": name, "epsilon": None}
        rows.append(
            _trials.Row(setting=setting, tuned_as=setting, candidates=tuning.candidates(kind))
        )
    for name, epsilon in itertools.product(
        size.mechanisms, sorted(privacy.target_epsilons, reverse=True)
    ):
        setting = {"clients": size.clients, "mechanism": name, "epsilon": float(epsilon)}
        rows.append(
            _trials.Row(
                setting=setting,
                tuned_as={**setting, "epsilon": float(tuning.nearest(epsilon))},
                candidates=tuning.candidates(name),
            )
        )
    return rows


def _population(
    size: PopulationSettings,
    training: _images.ImageSettings,
    privacy: PrivacySettings,
    weights: int,
) -> Population:
    _checks.integer(
        "cohort", privacy.cohort, f"[1, {size.clients // 2}]", "It is at most half of the clients."
    )
    return Population(
        clients=size.clients, cohort=privacy.cohort, rounds=training.rounds, delta=size.delta,
        dimension=weights,
    )  # fmt: skip


def _plan(
    populations: Mapping[int, Population],
    setting: Mapping[str, Any],
    candidate: _trials.Candidate,
) -> tff_dp.PrivacyPlan | tff_dp.NoPrivacy:
    population, name = populations[setting["clients"]], setting["mechanism"]
    if name == NONE:
        return tff_dp.NoPrivacy(sampler=population.poisson)
    if name == CLIPPED:
        clipping = tff_dp.GaussianMechanism(clip_norm=candidate["clip norm"], noise_multiplier=0.0)
        return population.plan(clipping, population.poisson)
    bound = candidate[KINDS[name].bound]
    return mechanisms.plan_of(name, population, setting["epsilon"], bound)


def _trained(
    task: _images.Task,
    training: _images.ImageSettings,
    privacy: PrivacySettings,
    plan: tff_dp.PrivacyPlan | tff_dp.NoPrivacy,
    setting: Mapping[str, Any],
    candidate: _trials.Candidate,
    seed: int,
    folder: pathlib.Path,
) -> dict[str, Any]:
    from models import logistic  # needs Keras, and so TensorFlow

    result = _images.train(
        logistic.build(features=task.pixels, classes=fashion.CLASSES),
        task,
        training,
        folder=folder,
        client_rate=privacy.learning_rate,
        server_rate=candidate["server rate"],
        privacy=plan,
        algorithm=tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=1.0),
            server_optimizer=tff_dp.SGD(learning_rate=1.0),
            weighting="uniform",
        ),
        seed=seed,
    )
    found = {
        "accuracy": task.accuracy(result.model),
        "epsilon spent": result.epsilon,
        "data": task.source,
        "rounds": len(result.history),
    }
    if isinstance(plan, tff_dp.PrivacyPlan) and setting["mechanism"] != CLIPPED:
        found |= {
            "noise in the model": mechanisms.noise_of(setting["mechanism"], plan),
            "noise multiplier": plan.mechanism.noise_multiplier,
            "neighbors": plan.adjacency.value,
            "sampler": type(plan.sampler).__name__,
            "bands": getattr(plan.mechanism, "bands", None),
        }
    return found


def _plot(sizes: Sequence[int], table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    """Draws the mechanisms of a trusted server, a panel a population: the plot of the README."""
    shown = table[table["mechanism"].isin([NONE, CLIPPED, *_TRUSTED])]
    spread = shown["accuracy" + _tables.SPREAD].fillna(0.0)
    # One range for all panels, which are compared.
    y_range = (shown["accuracy"] - spread).min() - 0.01, (shown["accuracy"] + spread).max() + 0.01
    panels = [
        _panel(shown[shown["clients"] == clients], _TRUSTED, f"{clients:,} clients", y_range)
        for clients in sizes
    ]
    return _plots.draw(panels, out / "images_mechanisms.png")


def _plot_others(table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    """Draws what was run with the small population only, beside the plain Gaussian."""
    mine = table[table["clients"] == table["clients"].iloc[0]]
    names = ["Gaussian", *(name for name in KINDS if name not in _TRUSTED)]
    return _plots.draw(
        [_panel(mine, names, f"{mine['clients'].iloc[0]:,} clients")], out / "others.png"
    )


def _panel(
    table: pd.DataFrame,
    names: Sequence[str],
    title: str,
    y_range: tuple[float, float] | None = None,
) -> _plots.Panel:
    curves = []
    for name in names:
        rows = table[table["mechanism"] == name].sort_values("epsilon")
        if len(rows):
            curves.append(
                _plots.Curve(
                    label=_LABELS.get(name, name),
                    x=rows["epsilon"].tolist(), y=rows["accuracy"].tolist(),
                    spread=rows["accuracy" + _tables.SPREAD].tolist(),
                )
            )  # fmt: skip
    levels = []
    for name in (NONE, CLIPPED):
        row = table[table["mechanism"] == name].iloc[0]
        spread = row["accuracy" + _tables.SPREAD]
        levels.append(
            _plots.Level(
                label=name, y=row["accuracy"], spread=0.0 if math.isnan(spread) else spread
            )
        )
    return _plots.Panel(
        title=title,
        x_label="epsilon for a client (smaller: more private)",
        y_label="accuracy on test images",
        curves=curves,
        levels=levels,
        y_range=y_range,
    )
