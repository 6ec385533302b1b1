"""What a round costs on a GPU: exported rounds in JAX, and the same in PyTorch, pfl and TensorFlow.

`./run python -m benchmarks.gpu prepare FOLDER` exports the rounds of W1 to W7 and of cifar_shape, on a
machine without a GPU, and keeps what the first round of each has to give. `python -m benchmarks.gpu run
FOLDER` measures them on a machine that has JAX, and beside them the same rounds where there is what they
need: a loop in PyTorch, pfl, and the fast context in a TensorFlow that sees a GPU. It prints seconds a
round, clients a second, how busy the device was, memory, the seconds of compiling, and how far the first
round's result is from the expected one. It begins with what matters most, starts nothing new once
`--limit` seconds are over, and writes what it has after each measurement.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from benchmarks import _exports

PAGE = "docs/gpu.md"
"""The page of the documentation that has the table, between `<!-- gpu -->` and its end."""

NOT_RUN = "not run yet"
_HEADER = [
    *("workload", "system", "s a round", "clients/s", "busy", "memory, MiB", "compile, s"),
    *("times as fast as PyTorch", "as pfl", "difference"),
]


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code: 0, or 1 if a measurement failed or a result is wrong."""
    options = parser().parse_args(arguments)
    if options.command == "run" and options.write and (options.workloads or options.side_by_side):
        parser().error(f"--write needs all rounds, which {PAGE} has")
    chosen = [
        case
        for case in _exports.cases()
        if not options.workloads or case.workload in options.workloads
        if not options.side_by_side or case.side_by_side in options.side_by_side
    ]
    if options.command == "prepare":
        options.folder.mkdir(parents=True, exist_ok=True)
        return _prepare(chosen, options.folder)
    # Memory is taken as it is needed: JAX and PyTorch share the card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    measured = _run(chosen, options)
    from benchmarks._device import Utilization

    part = f"{_circumstances(measured, Utilization().source)}\n\n{table(measured, chosen)}"
    print(part)
    wrong = [one for one in measured if "error" in one or _is_wrong(one)]
    for one in wrong:
        print(f"wrong: {json.dumps(one)}")
    if options.write and measured and not wrong:
        from benchmarks import comparison

        path = comparison.ROOT / PAGE
        path.write_text(
            comparison.replaced(path.read_text(encoding="utf-8"), "gpu", part), encoding="utf-8"
        )
    return 1 if wrong or not measured else 0


def _is_wrong(one: dict[str, Any]) -> bool:
    return one["difference"] is not None and not one["difference"] <= one["tolerance"]


def _prepare(chosen: list[_exports.Case], folder: pathlib.Path) -> int:
    """Exports the rounds; returns the exit code: 0, or 1 if one could not be."""
    failed: dict[str, str] = {}
    for workload in dict.fromkeys(case.workload for case in chosen):
        begin = time.perf_counter()
        same = [case for case in chosen if case.workload == workload]
        failed.update(_exports.prepare(same, folder))
        print(f"{workload}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    for name, why in failed.items():
        print(f"{name} is left out: {why}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("prepare", "export the rounds"), ("run", "measure them")):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=pathlib.Path, help="where the exported rounds are")
        command.add_argument(
            "--workloads", nargs="*", choices=list(_exports.NAMED), help="those alone"
        )
        command.add_argument(
            "--side-by-side", nargs="*", type=int, metavar="N", help="so many clients at once alone"
        )
    command.add_argument("--limit", type=float, default=210.0, help="seconds, of everything")
    command.add_argument("--rounds", type=int, default=50, help="rounds to time, at most")
    command.add_argument("--seconds", type=float, default=2.0, help="of timing each, at most")
    command.add_argument("--json", type=pathlib.Path, help="write what is measured to this file")
    command.add_argument("--no-pytorch", action="store_true", help="leave PyTorch and pfl out")
    command.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    return parser


def _run(chosen: list[_exports.Case], options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks import _device

    begin = time.perf_counter()
    measured: list[dict[str, Any]] = []
    compared: set[str] = set()
    timing = options.rounds, options.seconds
    in_pytorch = not options.no_pytorch and importlib.util.find_spec("torch") is not None
    in_pfl = not options.no_pytorch and importlib.util.find_spec("pfl") is not None
    in_tensorflow = _device.has_tensorflow_gpu()

    def measure(case: _exports.Case, system: str, what: Any, *given: Any) -> None:
        if time.perf_counter() - begin > options.limit:
            return
        try:
            found = what(*given, *timing)
        except Exception as error:  # the other measurements go on
            traceback.print_exc()
            found = {"system": system, "error": f"{type(error).__name__}: {error}"[:300]}
        measured.append({"workload": case.task, **found})
        print(json.dumps(measured[-1]), file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")

    for case in chosen:
        if (options.folder / f"{case.name}.json").exists():
            measure(case, case.system, _device.measure_exported, case, options.folder)
        if case.task in compared:
            continue
        compared.add(case.task)
        workload = _exports.NAMED[case.workload]
        task = workload, case.private
        if in_pytorch:
            measure(case, _device.PYTORCH, _device.measure_pytorch, *task)
        if in_pfl and _device.runs_in_pfl(workload):
            measure(case, _device.PFL, _device.measure_pfl, *task)
        # The first case of a task is the one with the most clients side by side.
        for strategy in ("scan", "vmap") if case.side_by_side > 1 else ("scan",):
            if in_tensorflow:
                what = functools.partial(_device.measure_tensorflow, strategy)
                measure(case, f"TensorFlow, {strategy}", what, *task)
    return measured


def _circumstances(measured: Sequence[dict[str, Any]], source: str) -> str:
    """Returns on what was measured, in words."""
    versions = []
    for name in ("jax", "torch", "pfl", "tensorflow"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = ", ".join(sorted({one["device"] for one in measured if "device" in one}))
    return (
        f"{devices or 'No device'}; Python {platform.python_version()}, {', '.join(versions)}; "
        f"{time.strftime('%F')}; busy: {source}."
    )


def table(measured: Sequence[dict[str, Any]], planned: Sequence[_exports.Case]) -> str:
    """Returns measurements as a table in Markdown.

    Args:
      measured: What was measured, as `--json` writes it.
      planned: What there is to measure: "not run yet" stands where it has not been.

    Returns:
      The table, with a row for each case that is planned, and after those of a workload a row for what
      else was measured of it.
    """
    found = {(one["workload"], one["system"]): one for one in measured}
    order = {case.task: n for n, case in reversed(list(enumerate(planned)))}
    keys = dict.fromkeys([*((case.task, case.system) for case in planned), *found])
    rows = [
        _row(key, found.get(key), found)
        for key in sorted(keys, key=lambda key: order.get(key[0], 0))
    ]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in [_HEADER, ["---"] * len(_HEADER), *rows]
    )


def _row(key: tuple[str, str], one: dict[str, Any] | None, found: Any) -> list[str]:
    cells = len(_HEADER) - len(key)
    if one is None:
        return [*key, *[NOT_RUN] * cells]
    if "error" in one:
        return [*key, f"failed: {one['error'].splitlines()[0]}", *[""] * (cells - 1)]
    shown = [
        ("seconds", "{:.3g}", 1),
        ("clients_a_second", "{:.0f}", 1),
        ("busy", "{:.0f} %", 1),
        ("memory_bytes", "{:.3g}", 2**20),
        ("compile_seconds", "{:.1f}", 1),
    ]
    texts = [
        "" if one.get(name) is None else text.format(one[name] / unit) for name, text, unit in shown
    ]
    for other in ("PyTorch", "pfl"):
        seconds = found.get((key[0], other), {}).get("seconds")
        texts.append("" if seconds is None else f"{seconds / one['seconds']:.3g}")
    texts.append("" if one["difference"] is None else f"{one['difference']:.1g}")
    return [*key, *texts]


if __name__ == "__main__":
    sys.exit(main())
