"""A configuration, a model and data that `tff-dp train` can train as they are."""

from __future__ import annotations

import pathlib
import random

from tff_dp.errors import ArgumentError

CONFIG = """\
# Trained by: tff-dp train train.toml. Relative paths are those of this file's folder.

[model]
build = "example_model:build"      # package.module:function; the folder of this file is searched, too
loss = "mse"
metrics = ["mae"]

[data]
file = "clients.csv"               # CSV, Parquet or NPZ; or load = "package.module:function"
client = "school"                  # the column that says whose an example is
features = ["ses", "sector"]
label = "score"

[privacy]                          # the arguments of tff_dp.PrivacyPlan
cohort = 40                        # expected clients in a round
rounds = 5
delta = 1e-3                       # below one over the number of clients
target_epsilon = 4.0               # finds the noise multiplier
mechanism = { type = "GaussianMechanism", clip_norm = 0.5 }

[algorithm]
type = "FedAvg"
client_optimizer = { type = "SGD", learning_rate = 0.1 }

[train]                            # arguments of tff_dp.fit
run_dir = "run"
batch_size = 8
release_metrics = false            # metrics are for tff-dp evaluate: no epsilon covers those of training

[evaluate]                         # public or held-out data, for tff-dp evaluate
file = "held_out.csv"
client = "school"
features = ["ses", "sector"]
label = "score"
"""
MODEL = '''\
"""The model of the example."""

import keras


def build():
    return keras.Sequential([keras.layers.Input([2]), keras.layers.Dense(1)])
'''
_CLIENTS, _EXAMPLES = 120, 12


def write(folder: str) -> str:
    """Writes the example into a new folder.

    Args:
      folder: The path of the folder, which is made, or is empty.

    Returns:
      What has been written, and how to go on.

    Raises:
      ArgumentError: The folder is not empty, or cannot be written.
    """
    path = pathlib.Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ArgumentError(
                f"--example={folder!r} is not empty: expected a new or an empty folder."
            )
        (path / "train.toml").write_text(CONFIG, encoding="utf-8")
        (path / "example_model.py").write_text(MODEL, encoding="utf-8")
        (path / "clients.csv").write_text(_rows(1), encoding="utf-8")
        (path / "held_out.csv").write_text(_rows(2), encoding="utf-8")
    except OSError as error:
        raise ArgumentError(
            f"--example={folder!r} cannot be written: {error}. Give another folder."
        ) from None
    config = path / "train.toml"
    return f"Written: {config} and what it needs. Train it: tff-dp train {config}"


def _rows(seed: int) -> str:
    """Returns random numbers in place of somebody's data."""
    drawn = random.Random(seed)
    lines = ["school,ses,sector,score"]
    for client in range(_CLIENTS):
        for _ in range(_EXAMPLES):
            ses, sector = drawn.gauss(0, 1), client % 2
            score = 0.5 * ses + 0.2 * sector + drawn.gauss(0, 0.3)
            lines.append(f"{client:03d},{ses:.4f},{sector},{score:.4f}")
    return "\n".join(lines) + "\n"
