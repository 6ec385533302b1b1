"""A configuration whose values have been checked, ready to be trained."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tff_dp
from tff_dp.algorithms import Algorithm
from tff_dp.cli import devices
from tff_dp.cli.configs.around import around_of
from tff_dp.cli.configs.inputs import Model, clients_of, find_modules, imported, model_of
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.objects import build
from tff_dp.cli.configs.privacy import privacy_of
from tff_dp.cli.configs.source import Source
from tff_dp.cli.configs.tables import TrainTable, refuse_unknown, table
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError

TABLES = ("model", "data", "privacy", "algorithm", "train", "validation", "callbacks", "evaluate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is trained.

    Attributes:
      model: The model, with its loss and metrics.
      clients: The clients' data.
      privacy: The plan, or `NoPrivacy`.
      algorithm: The algorithm; None for the default.
      train: The arguments of `fit`.
      run_dir: The folder of the run.
      around: The arguments of `fit` for validation and callbacks.
    """

    model: Model
    clients: Clients
    privacy: Any
    algorithm: Any
    train: TrainTable
    run_dir: pathlib.Path
    around: Mapping[str, Any]


def prepare(source: Source) -> Prepared:
    """Checks a configuration, and makes the model, the data and the plan.

    Args:
      source: The configuration.

    Returns:
      What is trained.

    Raises:
      ArgumentError: There are mistakes. The message has all of them, each with its key and line.
      AccountingError: All mistakes are combinations for which no valid accounting is known.
    """
    mistakes = Mistakes(source)
    refuse_unknown(source.values, TABLES, (), mistakes)
    train_values = source.values.get("train")
    train = None
    if isinstance(train_values, Mapping):
        train = table(TrainTable, train_values, ("train",), mistakes)
    else:
        mistakes.add(("train",), 'missing: expected a table [train] with run_dir = "...".')
    find_modules(source.folder)
    clients = clients_of("data", mistakes)
    privacy = privacy_of(("privacy",), clients, mistakes)
    algorithm = None
    if "algorithm" in source.values:
        algorithm = build(
            source.values["algorithm"],
            Algorithm,
            ("algorithm",),
            mistakes,
            default=tff_dp.FedAvg,
        )
    run_dir = None if train is None else source.folder / train.run_dir
    if run_dir is not None:
        _check_folder(run_dir, mistakes)
    model = model_of(mistakes)  # late, since it imports TensorFlow
    check_device(mistakes)
    around = around_of(model, mistakes)
    mistakes.raise_all()
    if model is None or clients is None or privacy is None or train is None or run_dir is None:
        raise ArgumentError(f"{source.name} is not complete.")  # there is a mistake for each
    return Prepared(
        model=model,
        clients=clients,
        privacy=privacy,
        algorithm=algorithm,
        train=train,
        run_dir=run_dir,
        around=around,
    )


def device_of(source: Source) -> str:
    """Looks up the device that a configuration names.

    Args:
      source: The configuration, which may have mistakes.

    Returns:
      The device; "auto" if it names none.
    """
    values = source.values.get("train")
    found = values.get("device", "auto") if isinstance(values, Mapping) else "auto"
    return found if isinstance(found, str) else "auto"


def check_device(mistakes: Mistakes) -> None:
    """Checks that the device that a configuration names is one, and is there.

    Args:
      mistakes: The configuration, and where to add what is wrong with it.
    """
    path, device = ("train", "device"), device_of(mistakes.source)
    if device not in devices.CHOICES:
        mistakes.add(
            path, f'device={device!r} is outside its bound: expected "auto", "cpu" or "gpu".'
        )
    obstacle = devices.obstacle() if device == "gpu" else None
    if obstacle is not None:
        mistakes.add(path, f"device='gpu' needs a GPU; {obstacle}")


def import_classes(mistakes: Mistakes) -> None:
    """Imports the modules of the classes of your own that a configuration names.

    Args:
      mistakes: The configuration, and where to add what is wrong with it.
    """
    find_modules(mistakes.source.folder)
    for path, name in _own_types(mistakes.source.values):
        imported(name, path, mistakes)


def _own_types(values: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    entries: Iterable[tuple[str, Any]] = values.items() if isinstance(values, Mapping) else ()
    if isinstance(values, list):
        entries = ((str(place), each) for place, each in enumerate(values))
    for name, value in entries:
        if name == "type" and isinstance(value, str) and ":" in value:
            yield (*at, name), value
        yield from _own_types(value, (*at, name))


def _check_folder(run_dir: pathlib.Path, mistakes: Mistakes) -> None:
    path = ("train", "run_dir")
    if (run_dir / "config.json").exists():
        mistakes.add(
            path,
            f"run_dir={str(run_dir)!r} holds a run already: go on with it by tff-dp resume, or give "
            "another folder.",
        )
    elif run_dir.exists() and not run_dir.is_dir():
        mistakes.add(path, f"run_dir={str(run_dir)!r} is a file: give the path of a folder.")
