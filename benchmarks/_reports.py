"""Tables and the plot of what was measured."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks._measuring import Measurement

_MIB = 1 << 20
_RATIOS = [  # (numerator, denominator)
    ("stock", "arrays"),
    ("stock", "datasets"),
    ("stock", "fused"),
    ("handwritten", "arrays"),
    ("vectorized", "arrays"),
    ("vectorized", "fused"),
    ("pytorch", "arrays"),
    ("pytorch-vmap", "arrays"),
    ("opacus", "arrays"),
]

Row = dict[str, Measurement | None]  # by system; None where it failed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, its columns aligned for the eye."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def by_system(
    rows: dict[str, Row], titles: dict[str, str], cell: Callable[[Measurement], str]
) -> str:
    """Returns a table with a row a workload and a column a system.

    Args:
      rows: Measurements by the row's label.
      titles: The columns' heads, by system.
      cell: What to write for a measurement.
    """

    def text(row: Row, system: str) -> str:
        if system not in row:
            return ""
        found = row[system]
        return "failed" if found is None else cell(found)

    body = [[label, *(text(row, system) for system in titles)] for label, row in rows.items()]
    return table(["", *titles.values()], body)


def seconds_cell(measurement: Measurement) -> str:
    """Returns the median of the seconds a round, and its quartiles."""
    low, high = measurement.quartiles
    return f"{measurement.median:.3g} ({low:.3g} to {high:.3g})"


def startup_cell(measurement: Measurement) -> str:
    """Returns the seconds of start-up and its parts."""
    m = measurement
    return f"{m.startup:.1f} ({m.imports:.1f} + {m.setup:.1f} + {m.first_round:.1f})"


def memory_cell(measurement: Measurement) -> str:
    """Returns the peak of resident memory, in MiB."""
    return f"{measurement.peak_bytes / _MIB:,.0f}"


def ratios(rows: dict[str, Row], titles: dict[str, str]) -> str:
    """Returns a table of ratios of medians: above 1, ours is faster."""
    shown = [pair for pair in _RATIOS if all(system in titles for system in pair)]

    def text(row: Row, above: str, below: str) -> str:
        a, b = row.get(above), row.get(below)
        return f"{a.median / b.median:.2f}" if a and b else ""

    head = [f"{titles[a]} / {titles[b]}" for a, b in shown]
    body = [[label, *(text(row, a, b) for a, b in shown)] for label, row in rows.items()]
    return table(["", *head], body)


@dataclasses.dataclass(frozen=True)
class Line:
    """Seconds a round as a line in the number of clients.

    Attributes:
      fixed: Seconds of a round of no clients.
      a_thousand: Seconds of every thousand clients.
    """

    fixed: float
    a_thousand: float

    @classmethod
    def fit(cls, points: Sequence[Measurement]) -> Line:
        """Returns the line of least squared relative errors: small rounds count as much as large ones."""
        times = np.array([point.median for point in points])
        clients = np.array([point.job.clients for point in points])
        columns = np.stack([np.ones(len(points)), clients / 1000], 1) / times[:, None]
        (fixed, a_thousand), *_ = np.linalg.lstsq(columns, np.ones(len(points)))
        return cls(float(fixed), float(a_thousand))

    def seconds(self, clients: np.ndarray) -> np.ndarray:
        """Returns the seconds of rounds of so many clients."""
        return self.fixed + self.a_thousand * clients / 1000


def curve_table(points: Sequence[Measurement]) -> str:
    """Returns a table of the cost curve."""
    header = ["clients a round", "seconds a round (quartiles)", "seconds per 1000 clients"]
    header += ["fit", "start-up: s", "data: MiB", "peak: MiB", "peak less data: MiB"]
    line = Line.fit(points)
    rows = [
        [
            f"{p.job.clients:,}",
            seconds_cell(p),
            f"{p.median / p.job.clients * 1000:.3g}",
            f"{float(line.seconds(np.array(p.job.clients))):.3g}",
            f"{p.startup:.1f}",
            f"{p.data_bytes / _MIB:,.1f}",
            memory_cell(p),
            f"{(p.peak_bytes - p.data_bytes) / _MIB:,.0f}",
        ]
        for p in points
    ]
    return table(header, rows)


def plot_curve(points: Sequence[Measurement], title: str, path: pathlib.Path) -> None:
    """Draws seconds a round and memory against clients a round, and writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed, and none is opened
    from matplotlib import pyplot as plt

    blue, orange, gray = "#2566a8", "#c8681e", "#777777"
    clients = np.array([point.job.clients for point in points])
    medians = np.array([point.median for point in points])
    low, high = np.array([point.quartiles for point in points]).T
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.2))

    line = Line.fit(points)
    dense = np.geomspace(clients[0], clients[-1], 200)
    left.plot(
        dense, line.seconds(dense), "--", color=orange,
        label=f"{1000 * line.fixed:.2g} ms + {1000 * line.a_thousand:.2g} ms per 1000 clients",
    )  # fmt: skip
    left.errorbar(
        clients, medians, [medians - low, high - medians], fmt="o", color=blue, capsize=3,
        label="measured: median, quartiles",
    )  # fmt: skip
    for x, y in zip(clients, medians, strict=True):
        left.annotate(f"{y:.2g} s", (x, y), textcoords="offset points", xytext=(5, -13), fontsize=8)
    left.set(xscale="log", yscale="log", xlabel="clients a round", ylabel="seconds a round")
    left.legend(loc="upper left", fontsize=8)

    peak = np.array([point.peak_bytes for point in points]) / _MIB
    data = np.array([point.data_bytes for point in points]) / _MIB
    right.plot(clients, peak, "o-", color=blue, label="peak")
    right.plot(clients, peak - data, "s--", color=orange, label="peak less the clients' examples")
    right.plot(clients, data, ":", color=gray, label="the clients' examples")
    right.set(xscale="log", xlabel="clients a round", ylabel="resident memory, MiB", ylim=0)
    right.legend(loc="upper left", fontsize=8)
    for axis in (left, right):
        axis.margins(x=0.15, y=0.12)
        axis.set_xticks(clients, [f"{count:,}" for count in clients])
        axis.minorticks_off()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
