"""The main job: the tutorial's linear regression, federated, with and without differential privacy.

First the tutorial as it stands (4 clients, 100 rounds), checked against the closed-form solution on the
pooled data; then the price of privacy for 4 clients and, on real data, for 160 schools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import tff_dp
from experiments import _plots
from experiments.data import Split, hsb82
from tff_dp import _compat, _seeds, data
from tff_dp.accounting.report import format_epsilon
from tff_dp.config import Config
from tff_dp.errors import ArgumentError

# With one full-batch step a client and round, alpha_i proportional to client size makes federated
# averaging gradient descent on the pooled data: it must reach the closed form to this share of its norm,
# and equal alpha_i, which weigh small clients more, must not.
_CHECK_LEARNING_RATE = 0.1
_CHECK_TOLERANCE = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class TutorialSettings(Config):
    """The [tutorial] section."""

    client_sizes: list[int]
    features: int
    label_noise: float
    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float
    clip_norm: float
    noise_multipliers: list[float]
    delta: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchoolSettings(Config):
    """The [schools] section."""

    held_out: float
    rounds: int
    cohort: float
    epochs: int
    batch_size: int
    learning_rate: float
    clip_norm: float
    target_epsilons: list[float]
    delta: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `error` is a mean squared error on data that was not trained on."""

    part: str
    setting: str
    epsilon: float | None
    error: float
    note: str


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes table, figures and plot into `out`.

    Args:
      settings: The sections "tutorial" and "schools".
      out: A folder; made if missing, and only once everything has been computed.

    Returns:
      0, or 1 where the federated result misses the closed-form solution.

    Raises:
      ArgumentError: A setting is outside its bound; or `out` could not be written.
    """
    tutorial = TutorialSettings.from_dict(settings["tutorial"])
    schools = SchoolSettings.from_dict(settings["schools"])
    # Plans first: whatever is wrong with the settings shows before anything is trained.
    tutorial_plans = _tutorial_plans(tutorial)
    school_data = hsb82.load(held_out=schools.held_out, seed=schools.seed)
    with _step("finding the noise for each target epsilon"):
        school_plans = _school_plans(schools, school_data.train.num_clients)
    with _step("importing TensorFlow Federated"), _compat.quiet.quiet_import():
        _compat.tff.load()

    with tff_dp.execution.fast():
        distances = _check_closed_form(tutorial)
        rows = [
            *_run_tutorial(tutorial, tutorial_plans),
            *_run_schools(schools, school_plans, school_data),
        ]
    passed = distances["examples"] <= _CHECK_TOLERANCE < distances["uniform"]
    table = _table(rows)
    print(f"\n{table}\n")
    print(
        f"Self-check {'passed' if passed else 'FAILED'}: with one full-batch step a round, the weights "
        f"come within {distances['examples']:.2%} of the closed-form solution on the pooled data with "
        f"alpha_i proportional to client size (allowed: {_CHECK_TOLERANCE:.1%}), and within "
        f"{distances['uniform']:.2%} with equal alpha_i (must be more)."
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.txt").write_text(table + "\n", encoding="utf-8")
        (out / "results.json").write_text(_as_json(settings, rows, distances), encoding="utf-8")
        plot = _plots.draw(
            [_panel("tutorial", rows), _panel("schools", rows)], out / "error_against_epsilon.png"
        )
    except OSError as error:
        raise ArgumentError(
            f"out={str(out)!r} could not be written: {error}. Make room on the disk, or give another "
            "folder, and run it again; the table above is complete."
        ) from error
    print(f"Table: {out / 'table.txt'}\nPlot:  {plot}")
    return 0 if passed else 1


def _tutorial_plans(settings: TutorialSettings) -> list[tff_dp.PrivacyPlan]:
    return [
        tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(clip_norm=settings.clip_norm, noise_multiplier=z),
            population=len(settings.client_sizes),
            rounds=settings.rounds,
            delta=settings.delta,
            sampler=tff_dp.FullParticipation(),
        )
        for z in settings.noise_multipliers
    ]


def _school_plans(settings: SchoolSettings, population: int) -> list[tff_dp.PrivacyPlan]:
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=settings.clip_norm, noise_multiplier=1.0),
        population=population,
        cohort=settings.cohort,
        rounds=settings.rounds,
        delta=settings.delta,
    )
    return [plan.calibrated(target) for target in settings.target_epsilons]


def _fit(
    settings: TutorialSettings | SchoolSettings,
    clients: data.Clients,
    privacy: tff_dp.PrivacyPlan | tff_dp.NoPrivacy,
    title: str,
    **changes: Any,
) -> tuple[np.ndarray, tff_dp.FitResult]:
    """Trains with the settings, or changes of them.

    Returns:
      The weights with the bias last, shape [features + 1], and the result of `fit`.
    """
    from models import linear  # needs Keras, and so TensorFlow

    x, _ = _pooled(clients)
    print(f"  {title}", flush=True)
    values = {
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "weighting": None,
    } | changes
    result = tff_dp.fit(
        linear.build(features=x.shape[1]),
        clients,
        privacy=privacy,
        rounds=settings.rounds,
        algorithm=tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=values["learning_rate"]),
            weighting=values["weighting"],
        ),
        batch_size=values["batch_size"],
        epochs=settings.epochs,
        seed=settings.seed,
        progress=sys.stderr.isatty(),
    )
    kernel, bias = result.model.get_weights()
    return np.append(kernel[:, 0], bias[0]), result


def _pooled(clients: data.Clients) -> tuple[np.ndarray, np.ndarray]:
    """Returns everybody's features, shape [examples, features], and labels, [examples, 1]."""
    x, y = clients.pooled()
    assert isinstance(x, np.ndarray)  # not named features
    assert isinstance(y, np.ndarray)
    return x, y


def _closed_form(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the least squares weights with the bias last, shape [features + 1]."""
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    return np.linalg.lstsq(design, np.ravel(y).astype(np.float64), rcond=None)[0]


def _error(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((x @ weights[:-1] + weights[-1] - np.ravel(y)) ** 2))


def _tutorial_data(
    settings: TutorialSettings,
) -> tuple[data.Clients, tuple[np.ndarray, np.ndarray]]:
    """Returns clients whose true weights differ a little, and test data of all of them."""
    rng = _seeds.generator(_seeds.root(settings.seed), "tutorial data")
    common = rng.normal(size=settings.features + 1)
    train, test = {}, []
    for client, size in enumerate(settings.client_sizes):
        weights = common + 0.3 * rng.normal(size=settings.features + 1)

        def draw(examples: int, weights: np.ndarray = weights) -> tuple[np.ndarray, np.ndarray]:
            x = rng.normal(size=(examples, settings.features))
            y = x @ weights[:-1] + weights[-1]
            y += settings.label_noise * rng.normal(size=examples)
            return x.astype(np.float32), y[:, None].astype(np.float32)

        train[client] = draw(size)
        test.append(draw(20 * size))
    xs, ys = zip(*test, strict=True)
    return data.from_arrays(train), (np.concatenate(xs), np.concatenate(ys))


def _check_closed_form(settings: TutorialSettings) -> dict[str, float]:
    """Returns the relative distance to the closed form for each weighting of full-batch steps."""
    print("Self-check: one full-batch step a client and round")
    clients, _ = _tutorial_data(settings)
    best = _closed_form(*_pooled(clients))
    distances = {}
    for weighting in ("examples", "uniform"):
        weights, _ = _fit(
            settings, clients, tff_dp.NoPrivacy(), f"federated, alpha by {weighting}",
            weighting=weighting, batch_size=max(settings.client_sizes),
            learning_rate=_CHECK_LEARNING_RATE,
        )  # fmt: skip
        distances[weighting] = _distance(weights, best)
    return distances


def _distance(weights: np.ndarray, best: np.ndarray) -> float:
    return float(np.linalg.norm(weights - best) / np.linalg.norm(best))


def _run_tutorial(settings: TutorialSettings, plans: list[tff_dp.PrivacyPlan]) -> list[Row]:
    print(f"Tutorial: {len(settings.client_sizes)} clients, {settings.rounds} rounds")
    clients, test = _tutorial_data(settings)
    best = _closed_form(*_pooled(clients))
    rows = [Row(part="tutorial", setting="closed form, pooled data", epsilon=None,
                error=_error(best, *test), note="the reference")]  # fmt: skip
    for weighting in ("examples", "uniform"):
        weights, _ = _fit(
            settings, clients, tff_dp.NoPrivacy(), f"federated, alpha by {weighting}",
            weighting=weighting,
        )  # fmt: skip
        rows.append(
            Row(part="tutorial", setting=f"federated, alpha by {weighting}", epsilon=math.inf,
                error=_error(weights, *test),
                note=f"weights {_distance(weights, best):.1%} from the closed form")
        )  # fmt: skip
    for plan in plans:
        z = plan.mechanism.noise_multiplier
        weights, result = _fit(settings, clients, plan, f"private, z = {z:g}")
        rows.append(
            Row(part="tutorial", setting=f"private, z = {z:g}", epsilon=result.epsilon,
                error=_error(weights, *test), note="clipped, no noise" if z == 0 else "")
        )  # fmt: skip
    rows.append(
        Row(part="tutorial", setting="predict the mean", epsilon=0.0,
            error=float(np.var(test[1])), note="learns nothing")
    )  # fmt: skip
    return rows


def _run_schools(
    settings: SchoolSettings, plans: list[tff_dp.PrivacyPlan], schools: Split
) -> list[Row]:
    clients, test = schools.train, (schools.test_x, schools.test_y)
    print(
        f"Schools: {clients.num_clients} clients, {settings.rounds} rounds of about "
        f"{settings.cohort:g}"
    )
    variance = float(np.var(test[1]))

    def row(setting: str, epsilon: float | None, weights: np.ndarray) -> Row:
        error = _error(weights, *test)
        return Row(part="schools", setting=setting, epsilon=epsilon, error=error,
                   note=f"held-out R2 {1 - error / variance:.3f}")  # fmt: skip

    rows = [row("closed form, pooled data", None, _closed_form(*_pooled(clients)))]
    sampler = tff_dp.PoissonSampler(rate=settings.cohort / clients.num_clients)
    weights, _ = _fit(settings, clients, tff_dp.NoPrivacy(sampler=sampler), "federated")
    rows.append(row("federated, alpha by examples", math.inf, weights))
    for plan in plans:
        z = plan.mechanism.noise_multiplier
        weights, result = _fit(settings, clients, plan, f"private, z = {z:.3f}")
        rows.append(row(f"private, z = {z:.3f}", result.epsilon, weights))
    rows.append(Row(part="schools", setting="predict the mean", epsilon=0.0, error=variance,
                    note="learns nothing"))  # fmt: skip
    return rows


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"{what[0].upper()}{what[1:]} ...", flush=True)
    yield


def _table(rows: list[Row]) -> str:
    headings = ("", "setting", "epsilon", "test error", "")
    cells = [headings] + [
        (
            row.part,
            row.setting,
            "-" if row.epsilon is None else format_epsilon(row.epsilon),
            f"{row.error:.4g}",
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(headings))]
    lines = []
    for position, line in enumerate(cells):
        if position > 0 and line[0] != cells[position - 1][0]:
            lines.append("  ".join("-" * width for width in widths))
        padded = [
            text.rjust(width) if column in (2, 3) else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _panel(part: str, rows: list[Row]) -> _plots.Panel:
    titles = {
        "tutorial": "4 clients, all in every round",
        "schools": "160 schools, about 40 a round",
    }
    mine = [row for row in rows if row.part == part]
    private = [row for row in mine if row.setting.startswith("private")]
    points = sorted((row.epsilon, row.error) for row in private if row.epsilon is not None)
    without, nothing = mine[1].error, mine[-1].error
    levels = [_plots.Level(label="federated, without privacy", y=without)]
    is_wide = nothing > 5 * without
    if is_wide:  # on a narrow axis, this level would leave no room for the differences
        levels.append(_plots.Level(label="predicting the mean", y=nothing))
    return _plots.Panel(
        title=f"{titles[part]}\n(predicting the mean: {nothing:.3g})",
        x_label="epsilon (smaller: more private)",
        y_label="mean squared error on test data",
        curves=[
            _plots.Curve(
                label="differentially private",
                x=[epsilon for epsilon, _ in points],
                y=[error for _, error in points],
            )
        ],
        levels=levels,
        log_y=is_wide,
    )


def _as_json(settings: Mapping[str, Any], rows: list[Row], distances: dict[str, float]) -> str:
    def plain(row: Row) -> dict[str, Any]:
        values = dataclasses.asdict(row)
        if row.epsilon is not None and math.isinf(row.epsilon):
            values["epsilon"] = "inf"  # JSON has no infinity
        return values

    return json.dumps(
        {
            "tff_dp": tff_dp.__version__,
            "settings": settings,
            "self_check_distance": distances,
            "rows": [plain(row) for row in rows],
        },
        indent=2,
    )
