"""The command `tff-dp`. It parses, calls and prints; nothing is computed here."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import tff_dp

_WRONG, _REFUSED = 2, 3  # exit codes
_SAMPLINGS = ("poisson", "fixed", "full", "separated", "cyclic")
_MECHANISMS = {  # and the options of their own
    "gaussian": ("GaussianMechanism", ()),
    "laplace": ("LaplaceMechanism", ()),
    "tree": ("TreeMechanism", ("restart_every",)),
    "banded": ("BandedMechanism", ("bands",)),
    "local-gaussian": ("LocalGaussianMechanism", ()),
    "local-laplace": ("LocalLaplaceMechanism", ()),
}
_ADJACENCIES = {
    "add-remove": "add-or-remove-one",
    "replace-one": "replace-one",
    "zero-out": "zero-out",
}
_BOUNDS = ("min_separation", "max_participations", "cycle", "bands", "restart_every")
_EPILOG = (
    "exit codes: 0 done, 2 a wrong argument, 3 a combination for which no valid accounting is known"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: The command line without the program's name; None takes the process's own.

    Returns:
      The exit code: 0, 2 for a wrong argument, 3 for a combination that cannot be accounted for.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.command:
        parser.print_help()
        return 0
    from tff_dp.errors import AccountingError, ArgumentError

    try:
        found = _epsilon(options) if options.command == "epsilon" else _calibrate(options)
    except AccountingError as error:
        print(f"tff-dp: refused: {error}", file=sys.stderr)
        return _REFUSED
    except ArgumentError as error:
        print(f"tff-dp: {error}", file=sys.stderr)
        return _WRONG
    print(json.dumps(found, indent=1) if options.json else _block(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tff-dp", description=tff_dp.__doc__.splitlines()[0], epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"tff-dp {tff_dp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    epsilon = commands.add_parser("epsilon", help="what some rounds of training spend")
    calibrate = commands.add_parser(
        "calibrate",
        help="the noise, the rounds or the cohort that keep within an epsilon",
        description="Finds what is left out of --noise-multiplier, --rounds, and --cohort or "
        "--sampling-rate; exactly one of them has to be.",
    )
    calibrate.add_argument("--target-epsilon", type=float, required=True, metavar="EPSILON")
    for command in (epsilon, calibrate):
        add = command.add_argument
        add(
            "--mechanism",
            choices=tuple(_MECHANISMS),
            default="gaussian",
            help="default: gaussian, which adaptive and per-layer clipping are as well",
        )
        add(
            "--noise-multiplier",
            type=float,
            metavar="Z",
            help="standard deviation of a round's noise over the clip norm",
        )
        add("--rounds", type=int, metavar="T")
        add("--delta", type=float, help="default: N^-1.1 where the population is given")
        add(
            "--sampling",
            choices=_SAMPLINGS,
            default="poisson",
            help="who takes part in a round (default: poisson, each client by a coin of its own; "
            "separated and cyclic bound how often, as tree and banded need)",
        )
        add("--sampling-rate", type=float, metavar="Q", help="the coin of poisson")
        add("--population", type=int, metavar="N", help="clients there are")
        add("--cohort", type=int, metavar="M", help="clients a round, in place of a rate")
        add(
            "--min-separation",
            type=int,
            metavar="S",
            help="of separated: rounds to a client's next",
        )
        add("--max-participations", type=int, metavar="K", help="of separated: a client's rounds")
        add("--cycle", type=int, metavar="B", help="of cyclic: parts that take turns")
        add("--bands", type=int, metavar="B", help="of banded: rounds that share noise")
        add("--restart-every", type=int, metavar="R", help="of tree: rounds of one tree")
        add(
            "--adjacency",
            choices=_ADJACENCIES,
            help="what neighbours are (default: that of the sampling)",
        )
        add("--json", action="store_true", help="print an object instead of text")
    return parser


def _epsilon(options: argparse.Namespace) -> dict[str, Any]:
    from tff_dp import accounting

    _need(options, "noise_multiplier", "rounds")
    one_round = _round(options)
    report = accounting.spend(one_round, options.rounds, _delta(options))
    return _result(options, one_round, report)


def _calibrate(options: argparse.Namespace) -> dict[str, Any]:
    from tff_dp import accounting
    from tff_dp.errors import ArgumentError

    no_cohort = (
        options.sampling != "full" and (options.sampling_rate, options.cohort) == (None,) * 2
    )
    open_ones = [
        name
        for name, is_open in (
            ("--noise-multiplier", options.noise_multiplier is None),
            ("--rounds", options.rounds is None),
            ("--cohort", no_cohort),
        )
        if is_open
    ]
    if len(open_ones) != 1:
        raise ArgumentError(
            f"{' and '.join(open_ones) or 'nothing'} is left open: expected exactly one of "
            "--noise-multiplier, --rounds, and --cohort or --sampling-rate, which is then found."
        )
    delta, target = _delta(options), options.target_epsilon
    if open_ones == ["--noise-multiplier"]:
        options.noise_multiplier = accounting.calibrate_noise(
            _round(options, noise_multiplier=1.0),
            rounds=options.rounds,
            delta=delta,
            target_epsilon=target,
        )
    elif open_ones == ["--rounds"]:
        options.rounds = accounting.calibrate_rounds(
            _round(options), delta=delta, target_epsilon=target
        )
    else:
        _need(options, "population")
        options.cohort = 1
        options.cohort = accounting.calibrate_cohort(
            _round(options), rounds=options.rounds, delta=delta, target_epsilon=target
        )
    one_round = _round(options)
    found = _result(options, one_round, accounting.spend(one_round, options.rounds, delta))
    return {"target_epsilon": target, "found": open_ones[0].removeprefix("--"), **found}


def _round(options: argparse.Namespace, noise_multiplier: float | None = None) -> Any:
    from tff_dp import accounting
    from tff_dp.sampling import Adjacency

    adjacency = None
    if options.adjacency is not None:
        adjacency = Adjacency(_ADJACENCIES[options.adjacency])
    z = options.noise_multiplier if noise_multiplier is None else noise_multiplier
    return accounting.round_of(
        _mechanism(options, z),
        _sampler(options),
        # Epsilon under Poisson sampling and full participation does not depend on it.
        options.population or 1,
        adjacency,
    )


def _mechanism(options: argparse.Namespace, noise_multiplier: float) -> Any:
    from tff_dp import mechanisms

    name, own = _MECHANISMS[options.mechanism]
    _refuse_foreign(
        options, {"bands", "restart_every"} - set(own), f"--mechanism {options.mechanism}"
    )
    if "bands" in own:
        _need(options, "bands")
    given = {key: getattr(options, key) for key in own}
    # What is spent does not depend on the clip norm: the noise multiplier is relative to it.
    return getattr(mechanisms, name)(clip_norm=1.0, noise_multiplier=noise_multiplier, **given)


def _refuse_foreign(options: argparse.Namespace, names: Iterable[str], what: str) -> None:
    from tff_dp.errors import ArgumentError

    for name in sorted(names):
        if getattr(options, name) is not None:
            raise ArgumentError(
                f"--{name.replace('_', '-')} {getattr(options, name)} does not belong to {what}: leave "
                "it out, or take what it belongs to."
            )


def _sampler(options: argparse.Namespace) -> Any:
    from tff_dp import _checks, sampling
    from tff_dp.errors import ArgumentError

    rate, cohort, population = options.sampling_rate, options.cohort, options.population
    if population is not None:
        _checks.integer("--population", population, "[1, inf)")
    own = {"separated": {"min_separation", "max_participations"}, "cyclic": {"cycle"}}
    foreign = set().union(*own.values()) - own.get(options.sampling, set())
    _refuse_foreign(options, foreign, f"--sampling {options.sampling}")
    if options.sampling == "separated":
        _need(options, "population", "cohort", "min_separation")
        _refuse_foreign(options, ["sampling_rate"], "--sampling separated")
        return sampling.MinSeparationSampler(
            size=cohort,
            min_separation=options.min_separation,
            max_participations=options.max_participations,
        )
    if options.sampling == "cyclic":
        _need(options, "cycle", "population")
        if rate is None:
            _need(options, "cohort")
            rate = cohort * options.cycle / population
        return sampling.CyclicPoissonSampler(rate=rate, cycle=options.cycle)
    if options.sampling == "full":
        if rate not in (None, 1.0) or cohort not in (None, population):
            raise ArgumentError(
                f"--sampling full with --sampling-rate {rate} and --cohort {cohort}: every client takes "
                "part in every round. Leave both out, or say how a cohort is drawn."
            )
        return sampling.FullParticipation()
    if options.sampling == "fixed":
        _need(options, "population", "cohort")
        if rate is not None:
            raise ArgumentError(
                f"--sampling fixed with --sampling-rate {rate}: expected --population and --cohort "
                "alone, since cohorts of one size have no rate."
            )
        return sampling.FixedSizeSampler(size=cohort)
    if rate is not None and cohort is None:
        return sampling.PoissonSampler(rate=rate)
    if rate is None and cohort is not None:
        _need(options, "population")
        _checks.integer("--cohort", cohort, f"[1, {population}]")
        return sampling.PoissonSampler(rate=cohort / population)
    raise ArgumentError(
        f"--sampling-rate {rate} and --cohort {cohort}: expected exactly one of them under Poisson "
        "sampling; a cohort comes with --population."
    )


def _delta(options: argparse.Namespace) -> float:
    from tff_dp import _checks
    from tff_dp.accounting import check_delta, recommended_delta

    if options.delta is None:
        _need(options, "population")  # which gives one
        options.delta = recommended_delta(options.population)
    if options.population is not None:
        _checks.integer("--population", options.population, "[2, inf)")
        check_delta("--delta", options.delta, options.population)
    return float(options.delta)


def _need(options: argparse.Namespace, *names: str) -> None:
    from tff_dp.errors import ArgumentError

    for name in names:
        if getattr(options, name) is None:
            raise ArgumentError(
                f"--{name.replace('_', '-')} is missing: {options.command} with --sampling "
                f"{options.sampling} needs it. See tff-dp {options.command} --help."
            )


def _result(options: argparse.Namespace, one_round: Any, report: Any) -> dict[str, Any]:
    one_round.sampler.check_rounds(options.population, report.rounds)
    return {
        "epsilon": _number(report.epsilon),
        "delta": report.delta,
        "accountants": {name: _number(value) for name, value in report.values.items()},
        "refused": dict(report.refused),
        "reported": report.accountant,
        "unit": "client",
        "adjacency": report.adjacency.value,
        "sampling": options.sampling,
        "sampling_rate": getattr(one_round.sampler, "rate", None),
        "cohort": options.cohort,
        "population": options.population,
        **{name: getattr(options, name) for name in _BOUNDS if getattr(options, name) is not None},
        "mechanism": options.mechanism,
        "noise_multiplier": one_round.noise_multiplier,
        "rounds": report.rounds,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"  # which JSON has no number for


def _block(found: dict[str, Any]) -> str:
    """Returns what was found as text, every epsilon rounded up."""
    from tff_dp.accounting.accountants import format_epsilon

    sampling = {
        "poisson": "Poisson: each client takes part in a round by a coin of its own",
        "fixed": "cohorts of one size, without replacement",
        "separated": "cohorts of one size, no client again too soon",
        "cyclic": "Poisson, from one part of the clients after another",
        "full": "every client in every round",
    }[found["sampling"]]
    details = [
        ("rate", found["sampling_rate"]),
        ("cohort", found["cohort"]),
        ("population", found["population"]),
        *((name.replace("_", " "), found.get(name)) for name in _BOUNDS[:3]),
    ]
    known = ", ".join(f"{name} {value:g}" for name, value in details if value is not None)
    noise = repr(found["noise_multiplier"])  # not rounded: less noise is another epsilon
    own = "".join(
        f", {name.replace('_', ' ')} {found[name]}" for name in _BOUNDS[3:] if name in found
    )
    lines = [
        (
            "epsilon",
            f"{format_epsilon(float(found['epsilon']))}, to report (by {found['reported']})",
        ),
        ("delta", f"{found['delta']:g}"),
        *(
            (f"by {name}", format_epsilon(float(value)))
            for name, value in found["accountants"].items()
        ),
        *((f"not by {name}", reason) for name, reason in found["refused"].items()),
        ("unit", "a client, with all its examples, over all rounds"),
        ("adjacency", found["adjacency"]),
        ("sampling", f"{sampling}{' (' + known + ')' if known else ''}"),
        ("mechanism", f"{found['mechanism']}, noise multiplier {noise}{own}"),
        ("rounds", str(found["rounds"])),
    ]
    if "found" in found:
        value = {"rounds": found["rounds"], "cohort": found["cohort"]}.get(found["found"])
        text = repr(found["noise_multiplier"]) if value is None else str(value)
        target = f"for epsilon {found['target_epsilon']:g}"
        lines.insert(0, (found["found"].replace("-", " "), f"{text}, {target}"))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in lines)
