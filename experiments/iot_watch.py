"""IoT, 10 subjects: does a model of nine recognize the exercises of the tenth, before and after tuning?

The data are those of `experiments.data.watch`. Each of the 10 subjects is left out in turn (the "seed" of
a cell is the subject), and three models are trained on the other nine:

- "features": scikit-learn's logistic regression on the mean, deviation, minimum and maximum of each
  channel, with all data at one place, not federated;
- "cnn1d" and "lstm": federated averaging, a subject a client.

Each recording of the left-out subject is divided by time. "accuracy" is that on the later part;
"fine-tuned" is the same after the federated model has been trained on the earlier part, which would
stay on the subject's own device. The window between both parts, which shares samples with them, is
left out. There is no privacy guarantee here: ten subjects are too few for one that hides a subject.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import tff_dp
from experiments import _cells, _plots, _report, _training
from experiments.data import watch
from tff_dp import _checks
from tff_dp.config import Config

_MODELS = ("features", "cnn1d", "lstm")
_MEASURES = ("accuracy", "fine-tuned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchSettings(Config):
    """The [watch] section.

    Attributes:
      subjects: Those that are left out in turn.
      models: Some of "features", "cnn1d" and "lstm".
      rounds: Of a federated training; all subjects take part in each.
      epochs: Local epochs.
      batch_size: Windows in a local batch.
      learning_rate: The clients'.
      momentum: The server's.
      most_windows: The most windows of a subject that are trained on, its first ones; 0 for all.
      earlier: The share of each recording of the left-out subject for fine-tuning.
      fine_epochs: Epochs of fine-tuning.
      fine_learning_rate: Of fine-tuning.
    """

    subjects: Sequence[int]
    models: Sequence[str]
    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    most_windows: int
    earlier: float
    fine_epochs: int
    fine_learning_rate: float

    def __post_init__(self) -> None:
        for subject in self.subjects:
            _checks.integer("subjects", subject, "[1, 10]")
        for model in self.models:
            _checks.one_of("models", model, _MODELS)
        _checks.integer("rounds", self.rounds, "[1, inf)")
        _checks.integer("epochs", self.epochs, "[1, inf)")
        _checks.integer("batch_size", self.batch_size, "[1, inf)")
        _checks.real("learning_rate", self.learning_rate, "(0, inf)")
        _checks.real("momentum", self.momentum, "[0, 1)")
        _checks.integer("most_windows", self.most_windows, "[0, 10000]")
        _checks.real("earlier", self.earlier, "(0, 0.9]")
        _checks.integer("fine_epochs", self.fine_epochs, "[1, 1000]")
        _checks.real("fine_learning_rate", self.fine_learning_rate, "(0, 10]")


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The section "watch".
      out: The folder of the experiment.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound, or `out` has other results.
    """
    mine = WatchSettings.from_dict(settings["watch"])
    cells = _cells.grid([{"model": model} for model in mine.models], mine.subjects)

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        data = watch.load(held_out=0.1, seed=0, subject=cell.seed)
        earlier, later = parts(data.test_recordings, mine.earlier)
        if cell.setting["model"] == "features":
            return {"accuracy": _of_features(data, later), "fine-tuned": None}
        model = _federated(mine, cell, data, folder)
        found = {"accuracy": _accuracy(model, data, later)}
        _fine_tune(mine, model, data.test_x[earlier], data.test_y[earlier], cell.seed)
        return found | {"fine-tuned": _accuracy(model, data, later)}

    with _training.session():
        finished = _cells.run(cells, compute, settings=settings, out=out)
    _report.publish(
        finished, name="iot_watch", settings=settings, by=["model"], measures=list(_MEASURES),
        plots=[_plot_of(finished)],
    )  # fmt: skip
    return 0


def parts(recordings: np.ndarray, earlier: float) -> tuple[np.ndarray, np.ndarray]:
    """Divides each recording by time, with a window between both parts that is in neither.

    Args:
      recordings: The recording of each window, in the order of time within each.
      earlier: The share of the earlier part.

    Returns:
      Positions of the windows of the earlier parts, and of the later ones.
    """
    first, second = [], []
    for number in np.unique(recordings):
        (rows,) = np.nonzero(recordings == number)
        cut = max(1, int(earlier * len(rows)))
        first.append(rows[:cut])
        second.append(rows[cut + 1 :])
    return np.concatenate(first), np.concatenate(second)


def _of_features(data: watch.Windows, later: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = (np.asarray(part) for part in data.train.pooled())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    right = model.fit(_features(x), y).predict(_features(data.test_x[later]))
    return float(np.mean(right == data.test_y[later]))


def _features(x: np.ndarray) -> np.ndarray:
    """Returns four numbers of each channel, shape [windows, 24]."""
    return np.concatenate([x.mean(1), x.std(1), x.min(1), x.max(1)], axis=1)


def _federated(
    settings: WatchSettings, cell: _cells.Cell, data: watch.Windows, folder: pathlib.Path
) -> Any:
    from models import cnn1d, lstm  # need Keras, and so TensorFlow

    _training.seeded(cell.seed)
    module = cnn1d if cell.setting["model"] == "cnn1d" else lstm
    shape = {"length": watch.WINDOW, "channels": len(watch.FEATURES)}
    result = _training.train(
        module.build(classes=len(watch.EXERCISES), **shape),
        _first(data.train, settings.most_windows),
        folder=folder,
        privacy=tff_dp.NoPrivacy(),
        rounds=settings.rounds,
        algorithm=tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=settings.learning_rate),
            server_optimizer=tff_dp.SGD(learning_rate=1.0, momentum=settings.momentum),
        ),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=cell.seed,
    )
    return result.model


def _first(clients: tff_dp.Clients, most: int) -> tff_dp.Clients:
    """Returns the clients with at most some windows each, spread over their recordings."""
    if most == 0:
        return clients
    cut = {}
    for position, name in enumerate(clients.ids):
        x, y = (np.asarray(part) for part in clients.client(position))
        rows = np.unique(np.linspace(0, len(x) - 1, most).astype(int))
        cut[name] = (x[rows], y[rows])
    return tff_dp.data.from_arrays(cut)


def _fine_tune(
    settings: WatchSettings, model: Any, x: np.ndarray, y: np.ndarray, seed: int
) -> None:
    """Trains a model on one subject's own windows, in place."""
    import keras

    _training.seeded(seed)
    model.compile(
        optimizer=keras.optimizers.SGD(settings.fine_learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=settings.batch_size, epochs=settings.fine_epochs, verbose=0)


def _accuracy(model: Any, data: watch.Windows, rows: np.ndarray) -> float:
    outputs = _training.outputs_of(model, data.test_x[rows])
    return float(np.mean(outputs.argmax(axis=1) == data.test_y[rows]))


def _plot_of(finished: _cells.Finished) -> _report.Plot:
    """Returns a plot of the accuracy by subject."""
    rows = pd.DataFrame(finished.rows)

    def plot(table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
        panels = []
        for model, mine in rows.groupby("model", sort=False):
            mine = mine.sort_values("seed")
            mean = table[table["model"] == model]["accuracy"].iloc[0]
            curves = [
                _plots.Curve(label=name, x=mine["seed"].tolist(), y=mine[name].tolist())
                for name in _MEASURES
                if mine[name].notna().any()
            ]
            panels.append(
                _plots.Panel(
                    title=str(model), x_label="subject left out", y_label="accuracy",
                    curves=curves, log_x=False, y_range=(0.0, 1.02),
                    levels=[_plots.Level(label="mean of accuracy", y=float(mean))],
                )
            )  # fmt: skip
        return _plots.draw(panels, out / "accuracy_by_subject.png")

    return plot
