"""Plots: panels of curves and levels with the legend below, so that no label lies on a line."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is opened
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator

# Okabe and Ito's colors, which people with color blindness can tell apart; markers differ as well.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LEVELS = (("#555555", "--"), ("#999999", ":"), ("#555555", "-."), ("#bbbbbb", "-"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Points that are joined by a line.

    Attributes:
      label: In the legend. Equal labels in several panels have one color and one entry.
      x: The positions; infinite ones are left out.
      y: The means, as long as `x`.
      spread: Half the length of each point's bar, or None. On a logarithmic axis, the bar is that of
        the deviation of the logarithm, which is `spread` over `y` where it is small.
      band: The lower and the upper end of each point's bar, in place of `spread`, or None.
      of: The label of the curve whose color this one has, drawn dashed and without points: what theory
        says of it. None for a curve of its own.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    band: tuple[Sequence[float], Sequence[float]] | None = None
    of: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line.

    Attributes:
      label: In the legend.
      y: The value.
      spread: Half the height of the band around it; 0 for none.
    """

    label: str
    y: float
    spread: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
      title: Above it.
      x_label: Below the axis.
      y_label: Beside the axis.
      curves: The curves.
      levels: The horizontal lines.
      verticals: Vertical lines, as label and position.
      log_x: Whether the x axis is logarithmic, with a tick at each point.
      log_y: Whether the y axis is logarithmic.
      y_range: The ends of the y axis, or None for those that show all curves and levels.
      x_ticks: Names of the positions 0, 1, ... of an axis of categories, which is not logarithmic, or
        None. The points of several curves stand side by side, and no line joins categories.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    levels: Sequence[Level] = ()
    verticals: Sequence[tuple[str, float]] = ()
    log_x: bool = True
    log_y: bool = False
    y_range: tuple[float, float] | None = None
    x_ticks: Sequence[str] | None = None


def draw(panels: Sequence[Panel], path: pathlib.Path, *, columns: int = 3) -> pathlib.Path:
    """Draws panels side by side and writes a PNG.

    Args:
      panels: The panels, at least one.
      path: Of the file.
      columns: How many panels stand in a row, and entries in a line of the legend.

    Returns:
      The path.
    """
    across = min(columns, len(panels))
    down = math.ceil(len(panels) / across)
    size = (max(5.2, 4.4 * across), 3.9 * down + 0.5)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    styles: dict[str, int] = {}
    for panel, axis in zip(panels, axes.flat, strict=False):
        _draw_panel(panel, axis, styles)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, list(axes.flat), max(2, across + 1))
    figure.savefig(path, dpi=110 if len(panels) <= 3 else 75)  # below 100 kB
    plt.close(figure)
    return path


def _draw_panel(panel: Panel, axis: Axes, styles: dict[str, int]) -> None:
    for number, level in enumerate(panel.levels):
        color, dashes = _LEVELS[number % len(_LEVELS)]
        axis.axhline(level.y, color=color, ls=dashes, lw=1.4, label=level.label, zorder=1)
        if level.spread > 0:
            axis.axhspan(
                level.y - level.spread, level.y + level.spread, color=color, alpha=0.15, lw=0
            )
    for label, position in panel.verticals:
        axis.axvline(position, color="#999999", ls=":", lw=1.4, label=label, zorder=1)
    ticks: set[float] = set()
    own = [curve for curve in panel.curves if curve.of is None]
    for number, curve in enumerate(own):
        style = styles.setdefault(curve.label, len(styles))
        shown = np.isfinite(np.asarray(curve.x, float)) & np.isfinite(np.asarray(curve.y, float))
        x, y = np.asarray(curve.x, float)[shown], np.asarray(curve.y, float)[shown]
        ticks.update(x.tolist())
        # Bars of several curves at one position stand side by side.
        place = number - (len(own) - 1) / 2
        factor = 1 + 0.03 * place if panel.log_x else 1.0
        axis.errorbar(
            x * factor + (0.0 if panel.x_ticks is None else 0.12 * place), y,
            yerr=_bars(curve, y, shown, log=panel.log_y),
            label=curve.label, capsize=3, ms=5, lw=1.6, ls="-" if panel.x_ticks is None else "",
            color=_COLORS[style % len(_COLORS)], marker=_MARKERS[style % len(_MARKERS)], zorder=2,
        )  # fmt: skip
    for curve in panel.curves:
        if curve.of is not None:
            color = _COLORS[styles[curve.of] % len(_COLORS)]
            axis.plot(curve.x, curve.y, color=color, ls="--", lw=1.2, label=curve.label, zorder=1)
    axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axis.grid(axis="y", color="#e5e5e5", lw=0.8)
    axis.set_axisbelow(True)
    if panel.log_y:
        axis.set_yscale("log", nonpositive="clip")
    if panel.log_x:
        axis.set_xscale("log")
        axis.set_xticks(sorted(ticks), [_tick(tick) for tick in sorted(ticks)])
        axis.xaxis.set_minor_locator(NullLocator())
    if panel.x_ticks is not None:
        axis.set_xticks(range(len(panel.x_ticks)), list(panel.x_ticks))
    if panel.y_range is not None:
        axis.set_ylim(*panel.y_range)
    if not panel.log_y:
        axis.yaxis.set_major_formatter(FormatStrFormatter("%.4g"))
    axis.margins(x=0.1, y=0.1)


def _tick(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bars(curve: Curve, y: np.ndarray, shown: np.ndarray, *, log: bool) -> np.ndarray | None:
    """Returns the lengths of the bars below and above each point, shape [2, points], or None."""
    if curve.band is not None:
        low, high = (np.asarray(end, float)[shown] for end in curve.band)
        return np.stack([y - low, high - y])
    if curve.spread is None:
        return None
    spread = np.nan_to_num(np.asarray(curve.spread, float)[shown])
    if log:
        return np.stack([y - y * np.exp(-spread / y), y * np.exp(spread / y) - y])
    return np.stack([spread, spread])


def _legend(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Draws one legend below all panels, with one entry for each label."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        handles=list(entries.values()), labels=list(entries), loc="outside lower center",
        ncols=columns, fontsize=9, frameon=False,
    )  # fmt: skip
