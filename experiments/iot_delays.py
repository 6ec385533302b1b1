"""IoT, client-level privacy for 3,234 aircraft: what does it cost to predict who is late?

The data are those of `experiments.data.flights`: whether a flight from New York arrives more than 15
minutes late. An aircraft is a client, like any fleet of devices with logs of their own.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import _curve
from experiments.data import flights


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The section "training".
      out: The folder of the experiment.

    Returns:
      0, the exit code.
    """
    mine = _curve.CurveSettings.from_dict(settings["training"])
    task = _curve.Task(
        name="more than 15 minutes late",
        settings=mine,
        load=lambda seed: flights.load(held_out=mine.held_out, seed=seed),
        build=_curve.logistic_model,
        pooled=_curve.pooled_logistic,
        score=_curve.binary_scores,
        measures={"AUC": 4, "log loss": 4},
        better="AUC on aircraft held out",
    )
    return _curve.run([task], name="iot_delays", settings=settings, out=out)
