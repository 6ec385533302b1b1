"""Curves as SVG, which a page holds in itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 88, 16, 14, 52
_TICKS = 5
_MOST_POINTS = 800


def chart(
    title: str,
    xs: Sequence[float],
    series: Sequence[tuple[str, Sequence[float | None]]],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    mark: tuple[float, float] | None = None,
) -> str:
    """Draws curves over one axis.

    Args:
      title: What the chart shows, for those who cannot see it.
      xs: The positions, ascending or descending.
      series: The curves: a name, and a value or None for each position.
      x_label: The label of the horizontal axis.
      y_label: The label of the vertical axis.
      log_y: Whether the vertical axis is logarithmic; values that are not positive are left out.
      mark: A point to mark, or None.

    Returns:
      An SVG element; a sentence in a paragraph if there is nothing to draw.
    """
    curves = [(name, _points(xs, values, log_y)) for name, values in series]
    drawn = [point for _, points in curves for point in points] + ([mark] if mark else [])
    if not any(points for _, points in curves):
        return f'<p class="none">{escape(title)}: nothing to draw.</p>'
    x_range = _range([x for x, _ in drawn])
    y_range = _range([math.log10(y) if log_y else y for _, y in drawn])

    def place(x: float, y: float) -> tuple[float, float]:
        height = _share(math.log10(y) if log_y else y, y_range)
        return (
            _LEFT + _share(x, x_range) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - height * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [*_axes(x_range, y_range, log_y), *_labels(x_label, y_label)]
    for number, (_, points) in enumerate(curves):
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        parts.append(f'<polyline class="curve c{number % 4}" points="{path}"/>')
        if len(points) == 1:
            x, y = place(*points[0])
            parts.append(f'<circle class="dot c{number % 4}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    if mark:
        x, y = place(*mark)
        parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    legend = ""
    if len(curves) > 1:
        names = "".join(
            f'<span class="key c{number % 4}">{escape(name)}</span>'
            for number, (name, _) in enumerate(curves)
        )
        legend = f'<figcaption class="legend">{names}</figcaption>'
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>{legend}</figure>"
    )


def _points(
    xs: Sequence[float], values: Sequence[float | None], log_y: bool
) -> list[tuple[float, float]]:
    found = [
        (float(x), float(y))
        for x, y in zip(xs, values, strict=True)
        if y is not None and math.isfinite(y) and (y > 0 or not log_y)
    ]
    step = math.ceil(len(found) / _MOST_POINTS)
    return found if step <= 1 else [*found[:-1:step], found[-1]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) / 2 or 0.5
        return low - pad, high + pad
    return low, high


def _share(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return (value / 2 - low / 2) / (high / 2 - low / 2)  # halves do not overflow


def _axes(x_range: tuple[float, float], y_range: tuple[float, float], log_y: bool) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in ticks(*x_range):
        x = _LEFT + _share(tick, x_range) * (right - _LEFT)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 19, f"{tick:.6g}", "middle"))
    for tick in ticks(*y_range):
        y = bottom - _share(tick, y_range) * (bottom - _TOP)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shown = _power(tick) if log_y else f"{tick:.4g}"
        parts.append(_text(_LEFT - 6, y + 4, shown, "end"))
    return parts


def _power(exponent: float) -> str:
    return f"1e{exponent:.0f}" if exponent.is_integer() else f"{10**exponent:.1g}"


def _labels(x_label: str, y_label: str) -> list[str]:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    across = (_LEFT + _WIDTH - _RIGHT) / 2
    return [
        _text(across, _HEIGHT - 7, x_label, "middle"),
        f'<text class="label" text-anchor="middle" transform="translate(16 {middle:.0f}) rotate(-90)">'
        f"{escape(y_label)}</text>",
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def ticks(low: float, high: float) -> list[float]:
    """Chooses round numbers within a range.

    Args:
      low: The least number.
      high: The greatest number; > `low`.

    Returns:
      A few multiples of 1, 2 or 5 times a power of ten, ascending.
    """
    rough = (high / 2 - low / 2) / _TICKS * 2
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
