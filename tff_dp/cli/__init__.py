"""The command `tff-dp`: it parses options, calls the library, and prints the results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import tff_dp
from tff_dp.cli import ledgers
from tff_dp.cli.checks import check, in_flags, open_option
from tff_dp.cli.mechanisms import Kind, import_module, kind_of, reference_in
from tff_dp.cli.options import (
    add_options,
    adjacency_of,
    arithmetic_of,
    check_cohort,
    delta_of,
    mechanism_of,
    round_of,
    sampler_of,
)
from tff_dp.cli.plans import plan_values
from tff_dp.cli.shown import block, result
from tff_dp.errors import AccountingError, ArgumentError, TffDpError

_FAILED, _WRONG, _REFUSED = 1, 2, 3  # exit codes
_MOST_ROUNDS = 10**9  # the largest number of rounds that a calibration considers
_EPILOG = (
    "exit codes: 0 done, 1 a self-test has failed or a ledger is damaged, 2 a wrong argument, 3 a "
    "combination for which no valid accounting is known"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: The words of the command line without the program's name; None for those of this
        process.

    Returns:
      The exit code: 0 for success; 1 if a self-test has failed, a ledger is damaged or TFF cannot
      be imported; 2 for a wrong argument; 3 for a combination without known valid accounting.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    reference = reference_in(words)
    try:
        parser = _parser(None if reference is None else kind_of(reference))
    except ArgumentError as error:
        print(f"tff-dp: {error}", file=sys.stderr)
        return _WRONG
    options = parser.parse_args(words)
    if not options.command:
        parser.print_help()
        return 0
    try:
        for module in getattr(options, "modules", None) or ():
            import_module(module, f"--import={module!r}")
        if options.command != "ledger":
            check(options)
        if options.command == "selftest":
            return _selftest(options)
        if options.command == "ledger":
            found = ledgers.found(options)
        else:
            found = _epsilon(options) if options.command == "epsilon" else _calibrate(options)
    except AccountingError as error:
        print(f"tff-dp: refused: {in_flags(str(error), options)}", file=sys.stderr)
        return _REFUSED
    except ArgumentError as error:
        print(f"tff-dp: {in_flags(str(error), options)}", file=sys.stderr)
        return _WRONG
    except TffDpError as error:
        print(f"tff-dp: {error}", file=sys.stderr)
        return _FAILED
    text = ledgers.block if options.command == "ledger" else block
    print(json.dumps(found, indent=1) if options.json else text(found))
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser without abbreviations, which would mean other options once more are added."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)


def _parser(foreign: Kind | None = None) -> argparse.ArgumentParser:
    """Returns the parser, with options for the fields of the user's mechanism, if there is one."""
    parser = _Parser(prog="tff-dp", description=tff_dp.__doc__.splitlines()[0], epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"tff-dp {tff_dp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    epsilon = commands.add_parser("epsilon", help="the epsilon of a number of rounds")
    calibrate = commands.add_parser(
        "calibrate",
        help="the noise, the rounds or the cohort that keep within an epsilon",
        description="Finds what is left out of --noise-multiplier, --rounds, and --cohort or "
        "--sampling-rate; exactly one of them has to be.",
    )
    calibrate.add_argument("--target-epsilon", type=float, metavar="EPSILON")
    selftest = commands.add_parser(
        "selftest",
        help="whether a plan's mechanism satisfies the assumptions of its accounting on this machine",
        description="Runs hostile clients through the plan's learning processes with the noise off, and "
        "tests the noise with it on. Without a plan, tests one of 1000 clients, 100 a round.",
    )
    selftest.add_argument(
        "--plan", metavar="FILE", help="a plan in JSON or TOML, as PrivacyPlan.to_dict has it"
    )
    selftest.add_argument(
        "--thorough",
        action="store_true",
        help="sums over more clients, and updates of more weights: a minute and 2 GiB more",
    )
    ledger = commands.add_parser(
        "ledger",
        help="what a ledger's plans have spent together, and whether the file is whole",
        description="Reads a ledger, which may be in use, checks every hash in it, and says what was "
        "charged under each plan and what all plans have spent together.",
    )
    ledgers.add_options(ledger)
    for command in (epsilon, calibrate, selftest):
        add_options(command, foreign)
    for command in (selftest, ledger):
        command.add_argument(
            "--import",
            dest="modules",
            action="append",
            metavar="MODULE",
            help="a module that defines mechanisms or samplers of your own that a plan names",
        )
    return parser


def _epsilon(options: argparse.Namespace) -> dict[str, Any]:
    from tff_dp import accounting

    one_round = round_of(options)
    check_cohort(options, one_round)
    delta = delta_of(options)
    report = accounting.spend(one_round, options.rounds, delta, arithmetic_of(options))
    return result(options, one_round, report)


def _calibrate(options: argparse.Namespace) -> dict[str, Any]:
    wanted = open_option(options)
    from tff_dp import accounting

    delta, target = delta_of(options), options.target_epsilon
    if wanted == "--noise-multiplier":
        options.noise_multiplier = accounting.calibrate_noise(
            round_of(options, noise_multiplier=1.0),
            rounds=options.rounds,
            delta=delta,
            target_epsilon=target,
            arithmetic=arithmetic_of(options),
        )
    elif wanted == "--rounds":
        options.rounds = accounting.calibrate_rounds(
            round_of(options),
            delta=delta,
            target_epsilon=target,
            arithmetic=arithmetic_of(options, _MOST_ROUNDS),
        )
    else:
        options.cohort = 1
        options.cohort = accounting.calibrate_cohort(
            round_of(options),
            rounds=options.rounds,
            delta=delta,
            target_epsilon=target,
            arithmetic=arithmetic_of(options),
        )
    one_round = round_of(options)
    check_cohort(options, one_round)
    report = accounting.spend(one_round, options.rounds, delta, arithmetic_of(options))
    found = result(options, one_round, report)
    return {"target_epsilon": target, "found": wanted.removeprefix("--"), **found}


def _selftest(options: argparse.Namespace) -> int:
    values = None if options.plan is None else plan_values(options.plan)
    from tff_dp.plan import PrivacyPlan
    from tff_dp.selftest import command

    if values is not None:
        plan = PrivacyPlan.from_dict(values)
    else:
        plan = PrivacyPlan(
            mechanism=mechanism_of(options, options.noise_multiplier, options.clip_norm),
            population=options.population,
            rounds=options.rounds,
            delta=delta_of(options),
            sampler=sampler_of(options),
            adjacency=adjacency_of(options),
            records=options.records,
            max_dimension=options.max_dimension,
        )
    return command.run(plan, as_json=options.json, thorough=options.thorough)
