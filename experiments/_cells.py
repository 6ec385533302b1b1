"""The framework of the experiments: a grid of cells, computed one by one, and resumed.

An experiment is a module with a TOML file beside it. Its `main(settings, out)` checks the settings,
declares a grid of cells (a setting and a seed each), has `run` compute those that are not there yet,
and has `_report.publish` write the results:

```python
def main(settings, out):
    mine = MySettings.from_dict(settings["training"])       # a frozen dataclass, tff_dp.config.Config
    cells = grid([{"method": "federated"}, {"method": "private", "epsilon": 4.0}], mine.seeds)

    def compute(cell, folder):                # one training, or several
        result = _training.train(spec, clients, folder=folder, seed=cell.seed, privacy=..., rounds=...)
        return {"auc": ..., "epsilon": result.epsilon}      # plain values; infinite numbers as well

    with _training.session():                 # imports TFF; processes are kept between cells
        finished = run(cells, compute, settings=settings, out=out)
    _report.publish(finished, name="my_experiment", settings=settings, measures=["auc"], plots=...)
    return 0
```

What is in the folder `out`:

- `experiment.json`: the settings. Another call with the same ones goes on where this one stopped; with
  others it is refused.
- `runs/NAME/cell.json` for each finished cell: its setting, seed, result, seconds and machine. It is
  written whole or not at all, and one that cannot be read is computed again.
- `runs/NAME/...`: whatever the cell keeps, such as the run folder of a training, from whose last
  checkpoint the cell goes on.

Other parts: `_settings` (TOML, --smoke, --set), `_device`, `_tables` (mean and standard deviation over
seeds, as CSV and Markdown), `_plots`, `_scores` (AUC and accuracy with intervals), `_report`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments import _device, _files
from experiments._settings import flat
from tff_dp.errors import ArgumentError

_FORMAT = 1
Compute = Callable[["Cell", pathlib.Path], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting and one seed of an experiment.

    Attributes:
      setting: Names and plain values that tell the cell from others; the rows of the table. None
        stands for what does not apply.
      seed: Of everything that is drawn in the cell, except for the noise.
    """

    setting: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        known = {key: value for key, value in self.setting.items() if value is not None}
        parts = [f"{key}={value}" for key, value in {**known, "seed": self.seed}.items()]
        return re.sub(r"[^\w=.+-]+", "_", ",".join(parts).replace(",", "__"))

    def __str__(self) -> str:
        known = {key: value for key, value in self.setting.items() if value is not None}
        values = [f"{key} {_brief(value)}" for key, value in known.items()]
        return ", ".join([*values, f"seed {self.seed}"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The results of all cells of an experiment.

    Attributes:
      out: The folder of the experiment.
      cells: The content of each cell's file, in the order of the grid: "setting", "seed", "result",
        "seconds", "resumed" and "machine".
    """

    out: pathlib.Path
    cells: Sequence[Mapping[str, Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a cell: its setting, its seed, and the values of its result."""
        return [{**c["setting"], "seed": c["seed"], **c["result"]} for c in self.cells]


def grid(settings: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Cell]:
    """Returns the cells of some settings, each with each seed.

    All settings with the first seed come first, so that an unfinished experiment has one of each.

    Args:
      settings: The settings, in the order of the table.
      seeds: The seeds.

    Raises:
      ArgumentError: There is no seed, or a seed is there twice.
    """
    check_seeds(seeds)
    return [Cell(setting=dict(setting), seed=seed) for seed in seeds for setting in settings]


def check_seeds(seeds: Sequence[int]) -> None:
    """Checks the seeds of an experiment.

    Args:
      seeds: The seeds.

    Raises:
      ArgumentError: There is none, or one is there twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ArgumentError(
            f"seeds={list(seeds)!r} is outside its bound: expected one or more different numbers."
        )


def run(
    cells: Sequence[Cell],
    compute: Compute,
    *,
    settings: Mapping[str, Any],
    out: pathlib.Path,
) -> Finished:
    """Computes the cells that are not in the folder yet, and returns the results of all.

    Args:
      cells: The grid.
      compute: From a cell and its folder, which exists, to its result: names and plain values. It is
        called again with the same folder if it was interrupted.
      settings: The settings of the experiment, which belong to its results.
      out: The folder of the experiment; made if missing.

    Returns:
      The results.

    Raises:
      ArgumentError: The folder has results with other settings, is in use by another process, or
        cannot be written; or two cells have one name.
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise ArgumentError("Two cells have the same setting and seed: expected different ones.")
    with _opened(out, settings):
        done = {cell.name: _read(out, cell) for cell in cells}
        progress = _Progress(cells, done)
        for cell in cells:
            if done[cell.name] is None:
                done[cell.name] = _computed(out, cell, compute)
                progress.note(cell, done)
    # Read again what was written, so that an experiment that was resumed gives the same results.
    return Finished(out=out, cells=[found for cell in cells if (found := _read(out, cell))])


def _file(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    return out / "runs" / cell.name / "cell.json"


def _read(out: pathlib.Path, cell: Cell) -> dict[str, Any] | None:
    """Returns the content of a finished cell's file, or None."""
    found = _files.read_json(_file(out, cell))
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        return None
    return found if found["setting"] == cell.setting and found["seed"] == cell.seed else None


def _computed(out: pathlib.Path, cell: Cell, compute: Compute) -> dict[str, Any]:
    file = _file(out, cell)
    resumed = file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    result = compute(cell, file.parent)
    content = {
        "format": _FORMAT,
        "setting": dict(cell.setting),
        "seed": cell.seed,
        "result": dict(result),
        "seconds": round(time.monotonic() - start, 2),
        "resumed": resumed,
        "machine": _device.facts(),
    }
    _files.write_json(file, content)
    return content


@contextlib.contextmanager
def _opened(out: pathlib.Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Makes or opens the folder of an experiment, for this process alone."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "experiment.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(
                f"--out={str(out)!r} is in use: another process runs an experiment in it. Wait for it, "
                "or give another folder."
            ) from None
        _check_same(out, settings)
        _files.write_json(out / "experiment.json", {"format": _FORMAT, "settings": settings})
        yield


def _check_same(out: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Raises ArgumentError if the folder has cells of other settings, or of nobody knows which."""
    found = _files.read_json(out / "experiment.json")
    known = isinstance(found, dict) and found.get("format") == _FORMAT
    if not known and not any((out / "runs").glob("*/cell.json")):
        return
    before, now = flat(found["settings"]) if known else {}, flat(settings)
    other = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if other:
        key = other[0]
        raise ArgumentError(
            f"--out={str(out)!r} has results with other settings: {key} was {before.get(key)!r} there "
            f"and is {now.get(key)!r} here. Give another folder; or remove this one; or give the "
            "settings in its experiment.json, to go on."
        )


class _Progress:
    """Says on standard error how many cells are done, how many are left, and for how long.

    Args:
      cells: The grid.
      done: What is known of each cell by its name; None for those that are left.
    """

    def __init__(self, cells: Sequence[Cell], done: Mapping[str, Any]) -> None:
        self._cells = cells
        self._say(done, "")

    def note(self, cell: Cell, done: Mapping[str, Any]) -> None:
        self._say(done, f" [{cell}: {done[cell.name]['seconds']:.0f} s]")

    def _say(self, done: Mapping[str, Any], last: str) -> None:
        left = [cell for cell in self._cells if done[cell.name] is None]
        text = f"{len(self._cells) - len(left)} of {len(self._cells)} cells done, {len(left)} left"
        if left and len(left) < len(self._cells):
            text += f", about {duration(self._remaining(left, done))}"
        print(text + last, file=sys.stderr, flush=True)

    def _remaining(self, left: Sequence[Cell], done: Mapping[str, Any]) -> float:
        """Returns the seconds that are left: for each cell, the mean of those of the same setting."""
        known: dict[str, list[float]] = {"": []}
        for cell in self._cells:
            if done[cell.name] is not None:
                for key in ("", str(cell.setting)):
                    known.setdefault(key, []).append(done[cell.name]["seconds"])
        means = {key: sum(seconds) / len(seconds) for key, seconds in known.items()}
        return sum(means.get(str(cell.setting), means[""]) for cell in left)


def duration(seconds: float) -> str:
    """Returns a duration in words, such as "50 s", "4 min" or "2 h 05 min".

    Args:
      seconds: In seconds; >= 0.
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
