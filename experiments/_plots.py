"""Plots."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is opened
from matplotlib import pyplot as plt

from tff_dp.accounting.report import format_epsilon

_BLUE, _ORANGE, _GRAY = "#2566a8", "#c8681e", "#777777"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: the error of models against the epsilon that they cost.

    Attributes:
      title: Above the panel.
      epsilons: Epsilon of each private model; infinite ones are left out.
      errors: Mean squared test errors, as long as `epsilons`.
      without_privacy: The error of the federated model without differential privacy.
      nothing_learned: The error of a model that learned nothing.
    """

    title: str
    epsilons: Sequence[float]
    errors: Sequence[float]
    without_privacy: float
    nothing_learned: float


def error_against_epsilon(panels: Sequence[Panel], path: pathlib.Path) -> pathlib.Path:
    """Draws the panels side by side and writes a PNG; returns its path."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.2), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        points = sorted(
            (epsilon, error)
            for epsilon, error in zip(panel.epsilons, panel.errors, strict=True)
            if not math.isinf(epsilon)
        )
        axis.axhline(panel.nothing_learned, color=_GRAY, ls=":", label="predicting the mean")
        axis.axhline(panel.without_privacy, color=_ORANGE, ls="--", label="without privacy")
        axis.plot(*zip(*points, strict=True), "o-", color=_BLUE, label="differentially private")
        for epsilon, error in points:
            axis.annotate(
                f"{error:.3g}", (epsilon, error), textcoords="offset points", xytext=(0, 8),
                ha="center", fontsize=8,
            )  # fmt: skip
        axis.set(xscale="log", title=panel.title)
        if panel.nothing_learned > 5 * panel.without_privacy:
            axis.set_yscale("log")
            axis.margins(y=0.15)  # room for the figures above the points
        else:
            axis.set_ylim(0, 1.15 * max(panel.nothing_learned, *panel.errors))
        axis.set_xlabel("epsilon (smaller: more private)")
        ticks = [epsilon for epsilon, _ in points]
        axis.set_xticks(ticks, [format_epsilon(epsilon, 2) for epsilon in ticks])
        axis.minorticks_off()
        axis.margins(x=0.15)
        axis.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.3g"))
    axes[0][0].set_ylabel("mean squared error on test data")
    axes[0][-1].legend(loc="best", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
