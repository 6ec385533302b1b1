"""What a round costs on a GPU: exported rounds by JAX, and the same rounds by a loop in PyTorch.

`./run python -m benchmarks.gpu prepare FOLDER` exports the rounds of W1 to W7 and of cifar_shape, on a
machine without a GPU, and keeps what the first round of each has to give. `python -m benchmarks.gpu run
FOLDER` measures them on a machine that has JAX, and beside them the same rounds in
PyTorch, and in the fast context, where PyTorch, or TensorFlow with a GPU, is installed: seconds a round,
clients a second, how busy the device was, memory, the seconds of the first round (XLA compiles it), and
how far its result is from the expected one. It begins with what matters most, starts nothing new once
`--limit` seconds are over, and writes what it has after each measurement.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import sys
import time
import traceback
from typing import Any

from benchmarks import _exports

_COLUMNS = {
    "workload": "",
    "system": "",
    "seconds": "s a round",
    "clients_a_second": "clients/s",
    "busy": "busy",
    "memory_bytes": "memory, MiB",
    "first_seconds": "first, s",
    "difference": "difference",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code: 0, or 1 if a measurement failed or a result is wrong."""
    options = _parser().parse_args(arguments)
    chosen = [
        case
        for case in _exports.cases()
        if not options.workloads or case.workload in options.workloads
    ]
    if options.command == "prepare":
        options.folder.mkdir(parents=True, exist_ok=True)
        return _prepare(chosen, options.folder)
    # Memory is taken as it is needed: JAX and PyTorch share the card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    measured = _run(chosen, options)
    print(table(measured))
    from benchmarks._device import TOLERANCE, Utilization

    print(f"busy: by {Utilization().source}. A difference is at most {TOLERANCE}.")
    wrong = [m for m in measured if "error" in m or (m["difference"] or 0) > TOLERANCE]
    return 1 if wrong or not measured else 0


def _prepare(chosen: list[_exports.Case], folder: pathlib.Path) -> int:
    """Exports the rounds that can be; returns the exit code: 0, or 1 if there are none."""
    from tff_dp.errors import ComputationError

    for case in chosen:
        print(case.name, file=sys.stderr, flush=True)
        try:
            _exports.prepare(case, folder)
        except ComputationError as error:  # such as a recurrent layer of clients side by side
            print(f"{case.name} is left out: {error}", file=sys.stderr, flush=True)
    return 0 if list(folder.glob("*.round")) else 1


def _parser() -> argparse.ArgumentParser:
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
    command.add_argument("--limit", type=float, default=210.0, help="seconds, of everything")
    command.add_argument("--rounds", type=int, default=50, help="rounds to time, at most")
    command.add_argument("--seconds", type=float, default=2.0, help="of timing each, at most")
    command.add_argument("--json", type=pathlib.Path, help="write what is measured to this file")
    command.add_argument("--no-pytorch", action="store_true", help="leave PyTorch out")
    return parser


def _run(chosen: list[_exports.Case], options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks import _device

    begin = time.perf_counter()
    measured: list[dict[str, Any]] = []
    beside: set[tuple[str, bool]] = set()
    timing = options.rounds, options.seconds
    in_pytorch = not options.no_pytorch and importlib.util.find_spec("torch") is not None
    in_tensorflow = _device.has_tensorflow_gpu()

    def measure(case: _exports.Case, what: Any, *given: Any) -> None:
        if time.perf_counter() - begin > options.limit:
            return
        named = f"{case.workload}{', DP' if case.private else ''}"
        try:
            found = what(*given, *timing)
        except Exception as error:  # the other measurements go on
            traceback.print_exc()
            found = {"system": what.__name__, "error": f"{type(error).__name__}: {error}"[:300]}
        measured.append({"workload": named, **found})
        print(json.dumps(measured[-1]), file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")

    for case in chosen:
        if (options.folder / f"{case.name}.json").exists():
            measure(case, _device.measure_exported, case, options.folder)
        if (case.workload, case.private) in beside:
            continue
        beside.add((case.workload, case.private))
        task = _exports.NAMED[case.workload], case.private
        if in_pytorch:
            measure(case, _device.measure_pytorch, *task)
        if in_tensorflow:
            measure(case, _device.measure_tensorflow, *task)
    return measured


def table(measured: list[dict[str, Any]]) -> str:
    """Returns measurements as a table in Markdown.

    Args:
      measured: What was measured, as `--json` writes it.

    Returns:
      The table, with a row for each.
    """
    shown = {
        "seconds": lambda value: f"{value:.3g}",
        "clients_a_second": lambda value: f"{value:.0f}",
        "busy": lambda value: f"{value:.0f} %",
        "memory_bytes": lambda value: f"{value / 2**20:.0f}",
        "first_seconds": lambda value: f"{value:.1f}",
        "difference": lambda value: f"{value:.1g}",
    }
    lines = [
        "| " + " | ".join(_COLUMNS.values()) + " |",
        "|" + "---|" * len(_COLUMNS),
    ]
    for one in measured:
        cells = [
            "" if one.get(name) is None else shown.get(name, str)(one[name]) for name in _COLUMNS
        ]
        if "error" in one:
            cells[2] = f"failed: {one['error'].splitlines()[0]}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
