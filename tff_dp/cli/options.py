"""The options that describe rounds, and their conversion to arguments of accounting and plans."""

from __future__ import annotations

import argparse
from typing import Any

from tff_dp.cli.mechanisms import Kind, counts, kind_of, options_of, own_kinds, whole

SAMPLINGS = ("poisson", "fixed", "full", "separated", "cyclic")
ADJACENCIES = {
    "add-remove": "add-or-remove-one",
    "replace-one": "replace-one",
    "zero-out": "zero-out",
}


OF_SAMPLINGS = ("min_separation", "max_participations", "cycle")


def add_options(command: argparse.ArgumentParser, foreign: Kind | None = None) -> None:
    """Adds the options that describe rounds.

    Args:
      command: The parser of the command.
      foreign: The user's mechanism that the command line names; None if it names none.
    """
    add = command.add_argument
    # A user's mechanism comes first, so that it determines how its own options are read.
    kinds = [*([foreign] if foreign else []), *own_kinds().values()]
    add(
        "--mechanism",
        choices=[kind.name for kind in kinds],
        metavar="NAME",
        help=f"{', '.join(own_kinds())}; or package.module:Class, a mechanism of your own "
        "(default: gaussian)",
    )
    add(
        "--noise-multiplier",
        type=float,
        metavar="Z",
        help="standard deviation (of Laplace noise: scale) of a round's noise over the clip norm",
    )
    add(
        "--clip-norm",
        type=float,
        metavar="C",
        help="the clip norm, which epsilon does not depend on (default: that of the mechanism, or 1)",
    )
    add("--rounds", type=whole, metavar="T", help="rounds of training")
    add(
        "--delta",
        type=float,
        help="default: N^-1.1 where the population is given, or the numbers of records",
    )
    add(
        "--sampling",
        choices=SAMPLINGS,
        help="how the clients of a round are sampled (default: poisson, each client independently; "
        "separated and cyclic limit how often a client participates, as tree and banded require; not for "
        "dp-sgd)",
    )
    add(
        "--sampling-rate",
        type=float,
        metavar="Q",
        help="of poisson and cyclic: a client's probability",
    )
    add("--population", type=whole, metavar="N", help="number of clients")
    add("--cohort", type=whole, metavar="M", help="clients a round, in place of a rate")
    add(
        "--min-separation",
        type=whole,
        metavar="S",
        help="of separated: least distance of a client's rounds",
    )
    add(
        "--max-participations",
        type=whole,
        metavar="K",
        help="of separated: most rounds of a client",
    )
    add("--cycle", type=whole, metavar="B", help="of cyclic: number of parts that alternate")
    add(
        "--records",
        type=counts,
        metavar="N1,N2,...",
        help="of dp-sgd: each client's number of records",
    )
    add(
        "--max-dimension",
        type=whole,
        default=100_000_000,
        metavar="D",
        help="trainable parameters of the largest model, which determine the charge for computed noise "
        "(default: 100000000)",
    )
    add(
        "--adjacency",
        choices=ADJACENCIES,
        help="the neighboring relation (default: that of the sampling)",
    )
    add("--json", action="store_true", help="print an object instead of text")
    own = command.add_argument_group("options of single mechanisms")
    for field, names in options_of(kinds).values():
        own.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.parse,
            metavar=field.metavar,
            help=f"of {', '.join(names)}: {field.text}".replace("%", "%%"),
        )


def round_of(options: argparse.Namespace, noise_multiplier: float | None = None) -> Any:
    """Makes the description of one round for the accountants.

    Args:
      options: The options of the command.
      noise_multiplier: z in place of that of the options, if not None.

    Returns:
      A `tff_dp.accounting.Round`.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The combination has no known valid accounting.
    """
    from tff_dp import accounting

    z = options.noise_multiplier if noise_multiplier is None else noise_multiplier
    return accounting.round_of(
        mechanism_of(options, z, options.clip_norm),
        sampler_of(options),
        # Under Poisson sampling and full participation, epsilon does not depend on the population.
        options.population or 1 if options.records is None else len(options.records),
        adjacency_of(options),
        options.records,
    )


def check_cohort(options: argparse.Namespace, one_round: Any) -> None:
    """Checks that the mechanism supports the expected number of clients a round, as a plan does.

    Args:
      options: The options of the command, after a calibration with what it has found.
      one_round: The round that they describe.

    Raises:
      ArgumentError: The mechanism does not support so few clients. Without --population, the number
        is not known and is not checked.
    """
    if options.population is not None:
        mechanism = mechanism_of(options, one_round.noise_multiplier, options.clip_norm)
        mechanism.check(one_round.sampler.expected_clients(options.population))


def mechanism_of(
    options: argparse.Namespace, noise_multiplier: float, clip_norm: float | None = None
) -> Any:
    """Makes the mechanism that the options describe.

    Args:
      options: The options of the command.
      noise_multiplier: z, without unit.
      clip_norm: C, in units of the model's weights; None if only the accounting matters, which does
        not depend on it.

    Returns:
      The mechanism.

    Raises:
      ArgumentError: A value is outside its bound.
    """
    return kind_of(options.mechanism).made(noise_multiplier, vars(options), clip_norm)


def arithmetic_of(options: argparse.Namespace, rounds: int | None = None) -> Any:
    """Counts the noise draws of a round, for the charge for computed noise.

    Args:
      options: The options of the command.
      rounds: The number of rounds in place of that of the options, if not None.

    Returns:
      A `tff_dp.accounting.Arithmetic`, or None for distributed mechanisms.

    Raises:
      ArgumentError: --max-dimension is not a whole number >= 1.
    """
    from tff_dp import _checks, accounting

    _checks.integer("--max-dimension", options.max_dimension, "[1, inf)")
    mechanism = mechanism_of(options, 1.0, options.clip_norm)
    return accounting.arithmetic_of(mechanism, rounds or options.rounds, options.max_dimension)


def adjacency_of(options: argparse.Namespace) -> Any:
    """Finds the neighboring relation.

    Args:
      options: The options of the command.

    Returns:
      A `tff_dp.sampling.Adjacency`; None for the default of the sampler.
    """
    from tff_dp.sampling import Adjacency

    return None if options.adjacency is None else Adjacency(ADJACENCIES[options.adjacency])


def sampler_of(options: argparse.Namespace) -> Any:
    """Makes the sampler that the options describe.

    Args:
      options: The options of the command, after `check`.

    Returns:
      A `tff_dp.sampling.Sampler`.

    Raises:
      ArgumentError: A value is outside its bound.
    """
    from tff_dp import _checks, sampling

    rate, cohort, population = options.sampling_rate, options.cohort, options.population
    if population is not None:
        _checks.integer("--population", population, "[1, inf)")
    if kind_of(options.mechanism).of_records or options.sampling == "full":
        return (
            sampling.FullParticipation()
        )  # sampling clients does not amplify the privacy of records
    if options.sampling == "separated":
        return sampling.MinSeparationSampler(
            size=cohort,
            min_separation=options.min_separation,
            max_participations=options.max_participations,
        )
    if options.sampling == "fixed":
        return sampling.FixedSizeSampler(size=cohort)
    cycle = 1
    if options.sampling == "cyclic":
        cycle = _checks.integer("--cycle", options.cycle, f"[1, {population}]")
    if cohort is not None:
        why = "" if cycle == 1 else "It is drawn from one of the cycle's parts."
        _checks.integer("--cohort", cohort, f"[1, {population // cycle}]", why)
    if options.sampling == "cyclic":
        rate = cohort * cycle / population if rate is None else rate
        return sampling.CyclicPoissonSampler(rate=rate, cycle=cycle)
    return sampling.PoissonSampler(rate=cohort / population if rate is None else rate)


def delta_of(options: argparse.Namespace) -> float:
    """Finds delta, and checks it against the population or the numbers of records.

    Args:
      options: The options of the command. A missing delta is set to the recommended one.

    Returns:
      delta.

    Raises:
      ArgumentError: delta or the population is outside its bound.
    """
    from tff_dp import _checks
    from tff_dp.accounting import check_delta, recommended_delta

    if options.records is not None:  # the client with the most records has the strictest bound
        most = max(options.records)
        options.delta = recommended_delta(most) if options.delta is None else options.delta
        check_delta("--delta", options.delta, most, "record")
        return float(options.delta)
    if options.delta is None:
        options.delta = recommended_delta(options.population)
    if options.population is not None:
        _checks.integer("--population", options.population, "[2, inf)")
        check_delta("--delta", options.delta, options.population)
    return float(options.delta)
