"""The command `tff-dp`: it parses options, calls the library, and prints the results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tff_dp.cli import doctor, ledgers, reports, training
from tff_dp.cli.checks import check, in_flags, open_option
from tff_dp.cli.commands import OF_ROUNDS
from tff_dp.cli.commands import parser_of as _parser
from tff_dp.cli.mechanisms import import_module, kind_of, reference_in
from tff_dp.cli.options import (
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: The words of the command line without the program's name; None for those of this
        process.

    Returns:
      The exit code: 0 for success; 1 if a self-test or a check has failed, a ledger or a run folder
      is damaged, training was interrupted, or TFF cannot be imported; 2 for a wrong argument; 3 for
      a combination without known valid accounting.
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
        if options.command in OF_ROUNDS:
            check(options)
        return _COMMANDS[options.command](options)
    except AccountingError as error:
        print(f"tff-dp: refused: {in_flags(str(error), options)}", file=sys.stderr)
        return _REFUSED
    except ArgumentError as error:
        print(f"tff-dp: {in_flags(str(error), options)}", file=sys.stderr)
        return _WRONG
    except TffDpError as error:
        print(f"tff-dp: {error}", file=sys.stderr)
        return _FAILED


def _epsilon(options: argparse.Namespace) -> int:
    from tff_dp import accounting

    one_round = round_of(options)
    check_cohort(options, one_round)
    delta = delta_of(options)
    report = accounting.spend(one_round, options.rounds, delta, arithmetic_of(options))
    return _shown(options, result(options, one_round, report), block)


def _calibrate(options: argparse.Namespace) -> int:
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
    found = {"target_epsilon": target, "found": wanted.removeprefix("--"), **found}
    return _shown(options, found, block)


def _ledger(options: argparse.Namespace) -> int:
    return _shown(options, ledgers.found(options), ledgers.block)


def _shown(
    options: argparse.Namespace, found: dict[str, Any], text: Callable[[dict[str, Any]], str]
) -> int:
    print(json.dumps(found, indent=1) if options.json else text(found))
    return 0


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


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "epsilon": _epsilon,
    "calibrate": _calibrate,
    "selftest": _selftest,
    "ledger": _ledger,
    "train": training.train,
    "resume": training.resume,
    "evaluate": training.evaluate,
    "report": reports.report,
    "doctor": doctor.run,
}
