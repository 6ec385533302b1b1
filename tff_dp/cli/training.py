"""The commands `tff-dp train`, `resume` and `evaluate`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from tff_dp.cli import devices, example
from tff_dp.errors import ArgumentError

CONFIG = "train.json"  # in the folder of a run: the configuration, for resume and evaluate
MODEL = "model.keras"
_FORMAT = 1


def add_train(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tff-dp train`.

    Args:
      command: The parser of the command.
    """
    command.add_argument(
        "config", metavar="CONFIG", nargs="?", help="a configuration in TOML: docs/cli.md"
    )
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the configuration, such as train.rounds=10; the value as in TOML; "
        "may be repeated",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="check the configuration and say its cost; train nothing",
    )
    command.add_argument(
        "--example",
        metavar="FOLDER",
        help="write a configuration, a model and data that can be trained into a new folder",
    )
    devices.add_device(command, None, "; in place of train.device")
    devices.add_cluster(command)


def add_resume(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tff-dp resume`.

    Args:
      command: The parser of the command.
    """
    command.add_argument("run_dir", metavar="RUN_DIR", help="the folder of the run")
    command.add_argument(
        "--rounds",
        type=int,
        metavar="T",
        help="the number of rounds that the run is to have in all; by default as many as before",
    )
    devices.add_device(command, None, "; by default the one on which the run began")
    devices.add_cluster(command)


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tff-dp evaluate`.

    Args:
      command: The parser of the command.
    """
    command.add_argument("run_dir", metavar="RUN_DIR", help="the folder of a run that has ended")
    command.add_argument(
        "--data",
        metavar="FILE",
        help="a file with the columns of the configuration's, in place of its table [evaluate]",
    )
    command.add_argument("--json", action="store_true", help="print an object instead of text")


def train(options: argparse.Namespace) -> int:
    """Trains a model as a configuration says.

    Args:
      options: The options of the command.

    Returns:
      The exit code: 0 if training ended, 1 if it was interrupted.

    Raises:
      ArgumentError: There are mistakes in the configuration, or in the options.
      AccountingError: No valid accounting is known for it.
      RunFolderError: The folder of the run cannot be used.
      LedgerError: The rounds cannot be charged.
      ClusterError: The cluster cannot be reached, or its workers could not finish a round.
      ComputationError: A client's computation fails.
    """
    if options.example is not None:
        if options.config is not None:
            raise ArgumentError(
                f"--example={options.example!r} with CONFIG={options.config!r}: expected one of them."
            )
        print(example.write(options.example))
        return 0
    if options.config is None:
        raise ArgumentError(
            "CONFIG is missing: expected the path of a configuration. tff-dp train --example FOLDER "
            "writes one."
        )
    from tff_dp.cli.configs import prepare, read_source

    source = _on_device(read_source(options.config, options.overrides), options.device)
    prepared = prepare(source)
    if options.check:
        print(_cost(prepared))
        return 0
    import tff_dp

    run_dir = prepared.run_dir
    arguments = prepared.train.arguments()
    if prepared.algorithm is not None:
        arguments["algorithm"] = prepared.algorithm
    try:
        with _plain_warnings(), devices.used(prepared.train.device, options.cluster):
            _store(run_dir, source)  # once there is a cluster to run on
            result = tff_dp.fit(
                prepared.model.model,
                prepared.clients,
                privacy=prepared.privacy,
                loss=prepared.model.loss,
                metrics=_metrics(prepared.model.metrics),
                run_dir=run_dir,
                progress=_progress(prepared.train.progress),
                **prepared.around,
                **arguments,
            )
    except ArgumentError as error:
        _remove(run_dir)
        raise _placed(error, source) from None
    except KeyboardInterrupt:
        print("tff-dp: interrupted before the first round came to its end.", file=sys.stderr)
        return 1
    return _finish(result, run_dir)


def resume(options: argparse.Namespace) -> int:
    """Goes on with a run that `tff-dp train` began.

    Args:
      options: The options of the command.

    Returns:
      The exit code: 0 if training ended, 1 if it was interrupted.

    Raises:
      ArgumentError: The run was not begun by `tff-dp train`, or its model or data cannot be made.
      RunFolderError: The folder cannot be used.
      LedgerError: The rounds cannot be charged.
      ClusterError: The cluster cannot be reached, or its workers could not finish a round.
      ComputationError: A client's computation fails.
    """
    run_dir = pathlib.Path(options.run_dir)
    from tff_dp.cli.configs import (
        Mistakes,
        around_of,
        check_device,
        clients_of,
        device_of,
        import_classes,
        model_of,
    )

    source = _on_device(_stored(run_dir), options.device)
    mistakes = Mistakes(source)
    import_classes(mistakes)
    clients, model = clients_of("data", mistakes), model_of(mistakes)
    check_device(mistakes)
    around = around_of(model, mistakes)
    mistakes.raise_all()
    if model is None:
        raise ArgumentError(f"{mistakes.source.name} is not complete.")
    import tff_dp

    more = {} if options.rounds is None else {"rounds": options.rounds}
    table = mistakes.source.values.get("train", {})
    try:
        with _plain_warnings(), devices.used(device_of(source), options.cluster):
            result = tff_dp.resume(
                run_dir,
                model.model,
                clients,
                loss=model.loss,
                metrics=_metrics(model.metrics),
                progress=_progress(table.get("progress")),
                **around,
                **more,
            )
    except KeyboardInterrupt:
        print("tff-dp: interrupted; the run is as it was before.", file=sys.stderr)
        return 1
    return _finish(result, run_dir)


def _on_device(source: Any, device: str | None) -> Any:
    """Returns a configuration with the device of the option; hides GPUs if it is the CPU."""
    from tff_dp.cli.configs import device_of

    if device is not None:
        source = source.replaced(("train", "device"), device, f"--device {device}")
    if device_of(source) == "cpu":
        devices.hide_gpus()  # before the model is made, which has TensorFlow use them
    return source


def evaluate(options: argparse.Namespace) -> int:
    """Evaluates the trained model of a run.

    Args:
      options: The options of the command.

    Returns:
      The exit code, 0.

    Raises:
      ArgumentError: There is no model, or no data to evaluate on.
    """
    run_dir = pathlib.Path(options.run_dir)
    from tff_dp.cli.configs import Mistakes, clients_of, find_modules

    source = _stored(run_dir)
    if not (run_dir / MODEL).exists():
        raise ArgumentError(
            f"RUN_DIR={options.run_dir!r} has no {MODEL}: expected a run whose training has ended. "
            f"Go on with it: tff-dp resume {options.run_dir}."
        )
    name = "evaluate" if "evaluate" in source.values else "data"
    if options.data is not None:
        columns = {**source.values["data"], "file": os.path.abspath(options.data)}
        columns.pop("load", None)
        source = dataclasses.replace(
            source,
            values={**source.values, "evaluate": columns},
            origins={("evaluate",): f"--data {options.data}"},
        )
        name = "evaluate"
    mistakes = Mistakes(source)
    find_modules(source.folder)
    clients = clients_of(name, mistakes)
    mistakes.raise_all()
    import tff_dp
    from tff_dp._compat.quiet import quiet_import

    with quiet_import():
        _ = tff_dp.tff
    model = tff_dp.load_model(run_dir / MODEL)
    x, y = clients.pooled()
    found = {k: float(v) for k, v in model.evaluate(x, y, verbose=0, return_dict=True).items()}
    if options.json:
        print(json.dumps({"examples": clients.num_examples, "metrics": found}, indent=1))
        return 0
    width = max(len(name) for name in (*found, "examples")) + 2
    for key, value in found.items():
        print(f"{key:{width}}{value:.6g}")
    print(f"{'examples':{width}}{clients.num_examples}, of {clients.num_clients} clients")
    if name == "data":
        print(
            "These are the data of the training: epsilon does not cover these numbers. Give a table "
            "[evaluate] or --data with other data."
        )
    return 0


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shows warnings as sentences, without the line of this program that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"tff-dp: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _cost(prepared: Any) -> str:
    """Says what a configuration would spend."""
    from tff_dp.accounting.report import format_epsilon
    from tff_dp.plan import PrivacyPlan

    plan, clients = prepared.privacy, prepared.clients
    lines = [f"No mistakes. {clients.num_clients} clients, {clients.num_examples} examples."]
    if isinstance(plan, PrivacyPlan):
        report = plan.epsilon(plan.check_rounds(prepared.train.rounds))
        lines.append(
            f"epsilon {format_epsilon(report.epsilon)} at delta {report.delta:g} after {report.rounds} "
            f"rounds; noise multiplier {plan.mechanism.noise_multiplier!r}."
        )
    else:
        lines.append("No privacy plan: nothing bounds what the model reveals.")
    return "\n".join(lines)


def _finish(result: Any, run_dir: pathlib.Path) -> int:
    result.save(run_dir / MODEL)
    print(result.statement())
    print(f"\nmodel   {run_dir / MODEL}\nreport  tff-dp report {run_dir}")
    interrupted = "interrupted" in (result.stopped or "")
    if interrupted:
        print(f"resume  tff-dp resume {run_dir}")
    return 1 if interrupted else 0


def _metrics(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _progress(wanted: bool | None) -> bool:
    return sys.stderr.isatty() if wanted is None else wanted


def _placed(error: ArgumentError, source: Any) -> ArgumentError:
    """Returns an error of `fit` with the key and the line of the argument that it names."""
    named = re.match(r"(\w+)(?=[= ])", str(error))
    name = named[1] if named else ""
    if name.startswith("validation_") and "validation" in source.values:
        placed = type(error)(f"{source.where(('validation',))}: [validation]: {error}")
        placed.result = error.result
        return placed
    paths = [path for path in source.origins if path[-1] == name]
    if not paths:
        return error
    # Most arguments are those of [train], some of them with the name of another one of the plan.
    path = min(paths, key=lambda path: (path[0] != "train", len(path)))
    within = "".join(f"{part}." for part in path[:-1])
    placed = type(error)(f"{source.where(path)}: {within}{error}")
    placed.result = error.result
    return placed


def _remove(run_dir: pathlib.Path) -> None:
    """Removes the configuration of a run that has not begun, and its folder if nothing else is there."""
    if not (run_dir / "config.json").exists():
        with contextlib.suppress(OSError):
            (run_dir / CONFIG).unlink()
            run_dir.rmdir()


def _store(run_dir: pathlib.Path, source: Any) -> None:
    """Writes a configuration into the folder of a run, which is made."""
    values = {"format": _FORMAT, "folder": str(source.folder), "config": source.values}
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        fresh = run_dir / f"{CONFIG}.new"
        fresh.touch(mode=0o600)  # like the other files of a run
        fresh.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(fresh, run_dir / CONFIG)
    except OSError as error:
        raise ArgumentError(
            f"train.run_dir={str(run_dir)!r} cannot be written: {error}. Give another folder."
        ) from None


def _stored(run_dir: pathlib.Path) -> Any:
    """Reads the configuration that is stored in the folder of a run."""
    from tff_dp.cli.configs import restored_source

    path = run_dir / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != _FORMAT:
            raise ValueError(f"it is of format {values['format']!r}, and not {_FORMAT}")
        return restored_source(values["config"], str(path), pathlib.Path(values["folder"]))
    except FileNotFoundError:
        raise ArgumentError(
            f"RUN_DIR={str(run_dir)!r} has no {CONFIG}: expected the folder of a run that tff-dp train "
            "began. Runs that Python began go on there: tff_dp.resume(run_dir, model, clients)."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"{str(path)!r} cannot be read: {error}. Restore it from a backup, or go on in Python: "
            "tff_dp.resume(run_dir, model, clients)."
        ) from None
