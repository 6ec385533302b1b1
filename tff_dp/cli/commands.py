"""The commands of `tff-dp` and their options; the help of each has examples that run."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

import tff_dp
from tff_dp.cli import doctor, ledgers, reports, training
from tff_dp.cli.mechanisms import Kind
from tff_dp.cli.options import add_options

_EPILOG = (
    "exit codes: 0 done, 1 a self-test or a check has failed, a ledger or a run folder is damaged, or "
    "training was interrupted, 2 a wrong argument, 3 a combination for which no valid accounting is known"
)
OF_ROUNDS = ("epsilon", "calibrate", "selftest")
"""The commands whose options describe rounds."""
WITH_MODULES = ("selftest", "ledger", "report")
"""The commands that read plans, which may name classes of the user's own."""

EXAMPLES = {
    "epsilon": [
        "tff-dp epsilon --noise-multiplier 1 --sampling-rate 0.01 --rounds 1000 --delta 1e-5"
    ],
    "calibrate": [
        "tff-dp calibrate --target-epsilon 2 --population 10000 --cohort 100 --rounds 1000"
    ],
    "selftest": ["tff-dp selftest --mechanism laplace --population 500 --cohort 50"],
    "ledger": [
        "tff-dp train --example demo",
        "tff-dp train demo/train.toml",
        "tff-dp ledger demo/run/ledger.jsonl",
    ],
    "train": [
        "tff-dp train --example demo",
        "tff-dp train demo/train.toml --check",
        "tff-dp train demo/train.toml --set train.batch_size=4",
    ],
    "resume": [
        "tff-dp train --example demo",
        "tff-dp train demo/train.toml --set train.rounds=2",
        "tff-dp resume demo/run --rounds 4",
    ],
    "evaluate": [
        "tff-dp train --example demo",
        "tff-dp train demo/train.toml",
        "tff-dp evaluate demo/run",
    ],
    "report": [
        "tff-dp train --example demo",
        "tff-dp train demo/train.toml",
        "tff-dp report demo/run",
        "tff-dp report demo/run --verify",
    ],
    "doctor": ["tff-dp doctor", "tff-dp doctor --json"],
}
"""Commands that run one after another, in an empty folder."""

_DESCRIPTIONS = {
    "epsilon": "Computes the epsilon of a number of rounds by every accountant that applies.",
    "calibrate": "Finds what is left out of --noise-multiplier, --rounds, and --cohort or "
    "--sampling-rate; exactly one of them has to be.",
    "selftest": "Runs hostile clients through the plan's learning processes with the noise off, and "
    "tests the noise with it on. Without a plan, tests one of 1000 clients, 100 a round.",
    "ledger": "Reads a ledger, which may be in use, checks every hash in it, and says what was charged "
    "under each plan and what all plans have spent together.",
    "train": "Trains a Keras model as a configuration says, in a folder with the ledger, the "
    "checkpoints and the history. All mistakes of the configuration are reported at once, before "
    "anything is charged.",
    "resume": "Goes on with a run that tff-dp train began, from its last checkpoint.",
    "evaluate": "Evaluates the trained model of a run on the data of the table [evaluate] of its "
    "configuration.",
    "report": "Writes what a run guarantees as an HTML page, which loads nothing, and as JSON.",
    "doctor": "Checks the installation in less than 10 seconds: versions, devices, optional packages, "
    "the cache, and a short training.",
}
_HELPS = {
    "epsilon": "the epsilon of a number of rounds",
    "calibrate": "the noise, the rounds or the cohort that keep within an epsilon",
    "selftest": "whether a plan's mechanism satisfies the assumptions of its accounting on this machine",
    "ledger": "what a ledger's plans have spent together, and whether the file is whole",
    "train": "train a model as a configuration in TOML says",
    "resume": "go on with a run",
    "evaluate": "evaluate the trained model of a run",
    "report": "what a run guarantees, as a page and as JSON",
    "doctor": "whether the installation works, and what it lacks",
}


class _Parser(argparse.ArgumentParser):
    """A parser without abbreviations, which would mean other options once more are added."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)


def parser_of(foreign: Kind | None = None) -> argparse.ArgumentParser:
    """Makes the parser of the command line.

    Args:
      foreign: The user's mechanism that the command line names, whose fields have options; None if
        it names none.

    Returns:
      The parser.
    """
    parser = _Parser(prog="tff-dp", description=tff_dp.__doc__.splitlines()[0], epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"tff-dp {tff_dp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    found = {name: _command(commands, name) for name in _HELPS}
    training.add_train(found["train"])
    training.add_resume(found["resume"])
    training.add_evaluate(found["evaluate"])
    reports.add_options(found["report"])
    doctor.add_options(found["doctor"])
    ledgers.add_options(found["ledger"])
    found["calibrate"].add_argument("--target-epsilon", type=float, metavar="EPSILON")
    _add_selftest(found["selftest"])
    for name in OF_ROUNDS:
        add_options(found[name], foreign)
    for name in WITH_MODULES:
        found[name].add_argument(
            "--import",
            dest="modules",
            action="append",
            metavar="MODULE",
            help="a module that defines mechanisms or samplers of your own that a plan names",
        )
    return parser


def _command(commands: Any, name: str) -> argparse.ArgumentParser:
    examples = "\n".join(f"  {line}" for line in EXAMPLES[name])
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=_HELPS[name],
        description=textwrap.fill(_DESCRIPTIONS[name], 90),
        epilog=f"example:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_selftest(selftest: argparse.ArgumentParser) -> None:
    selftest.add_argument(
        "--plan", metavar="FILE", help="a plan in JSON or TOML, as PrivacyPlan.to_dict has it"
    )
    selftest.add_argument(
        "--thorough",
        action="store_true",
        help="sums over more clients, and updates of more weights: a minute and 2 GiB more",
    )
