"""Checks of a command line, which report all faults at once before slow packages are imported."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from tff_dp.cli.mechanisms import Kind, kind_of, options_of, own_kinds
from tff_dp.cli.options import OF_SAMPLINGS
from tff_dp.errors import ArgumentError

# Defaults of selftest. With 1000 clients and 100 of them a round, adaptive clipping works as well.
_DEFAULTS = {"noise_multiplier": 1.0, "clip_norm": 1.0, "rounds": 100}
_POPULATION, _COHORT = 1000, 100
_OF_THE_PLAN = (
    *("mechanism", "sampling", *_DEFAULTS, "delta", "population", "sampling_rate", "cohort"),
    *("adjacency", "records", *OF_SAMPLINGS),
)
_OWN = {"separated": ("min_separation", "max_participations"), "cyclic": ("cycle",)}
# From the names of arguments in the library's messages to the names of options.
_NAMES = {
    "size": "cohort",
    "rate": "sampling_rate",
    **{name: name for name in ("target_epsilon", *_OF_THE_PLAN)},
}


def check(options: argparse.Namespace) -> None:
    """Checks that the options that describe rounds are consistent, and fills in defaults.

    Args:
      options: The options of epsilon, calibrate or selftest. They are changed in place: `mechanism`
        and `sampling` are set to their defaults, and for selftest all other options that describe a
        plan.

    Raises:
      ArgumentError: Options are missing, do not apply to the mechanism or the sampling, or
        contradict each other. The message names all of them.
    """
    if options.command == "selftest" and options.plan is not None:
        _check_alone(options)
        return
    options.mechanism = options.mechanism or "gaussian"
    of_records = _kind(options).of_records
    given_sampling = options.sampling
    options.sampling = given_sampling or ("full" if of_records else "poisson")
    if options.command == "selftest":
        _fill(options)
    wrong = [*_foreign(options, given_sampling), *_contradictory(options)]
    if options.command == "calibrate":
        wrong += _not_one_open(options)
    absent = list(_missing(options))
    if absent:
        wrong.append(
            f"missing for {options.command}: {'; '.join(absent)}. "
            f"See tff-dp {options.command} --help."
        )
    if wrong:
        raise ArgumentError(" ".join(wrong))


def open_option(options: argparse.Namespace) -> str:
    """Returns the option that a calibration has to find.

    Args:
      options: The options of calibrate, after `check`.

    Returns:
      "--noise-multiplier", "--rounds" or "--cohort".
    """
    return _open(options)[0]


def _kind(options: argparse.Namespace) -> Kind:
    return kind_of(getattr(options, "mechanism", None) or "gaussian")


def _of_mechanisms(options: argparse.Namespace) -> list[str]:
    """Returns the names of the options that are fields of mechanisms."""
    kinds = [*own_kinds().values(), _kind(options)]
    return list(options_of(kinds)) if hasattr(options, "mechanism") else []


def _open(options: argparse.Namespace) -> list[str]:
    by_cohort = not _kind(options).of_records and options.sampling in ("poisson", "fixed")
    no_cohort = (options.sampling_rate, options.cohort) == (None, None)
    found = {
        "--noise-multiplier": options.noise_multiplier is None,
        "--rounds": options.rounds is None,
        "--cohort": by_cohort and no_cohort,
    }
    return [name for name, is_open in found.items() if is_open]


def _not_one_open(options: argparse.Namespace) -> Iterator[str]:
    """Yields a sentence unless exactly one option is left for a calibration to find."""
    found = _open(options)
    if len(found) == 1:
        return
    expected = "--noise-multiplier, --rounds, and --cohort or --sampling-rate"
    if _kind(options).of_records or options.sampling not in ("poisson", "fixed"):
        expected = "--noise-multiplier and --rounds"
    what = f"{', '.join(found)} are" if found else "nothing is"
    yield f"{what} left open: expected exactly one of {expected}, which is then found."


def in_flags(message: str, options: argparse.Namespace) -> str:
    """Rewrites an error message of the library so that it names an option of the command line.

    Args:
      message: The message. If it is about an argument, it begins with its name and "=".
      options: The options, after `check`.

    Returns:
      The message with the option in place of the argument; unchanged if no given option
      corresponds.
    """
    argument, equals, rest = message.partition("=")
    name, bracket, place = argument.partition("[")  # such as clip_norms[0]
    option = _NAMES.get(name, name if name in _of_mechanisms(options) else "")
    if getattr(options, "clip_norm", None) is not None and name == _kind(options).clip:
        option = "clip_norm"
    elif equals and name == _kind(options).clip:
        return f"--clip-norm, by default {rest}"
    if not equals or getattr(options, option, None) is None:
        return message
    return f"{_flag(option)}{bracket}{place}={rest}"


def _check_alone(options: argparse.Namespace) -> None:
    """Raises ArgumentError if options describe a plan in addition to --plan."""
    names = (*_OF_THE_PLAN, *_of_mechanisms(options))
    given = [_flag(name) for name in names if getattr(options, name) is not None]
    if given:
        raise ArgumentError(
            f"--plan={options.plan!r} with {', '.join(given)}: the plan in the file has all of this "
            "already. Leave out the file or the other options."
        )


def _fill(options: argparse.Namespace) -> None:
    for name, value in _DEFAULTS.items():
        if getattr(options, name) is None and (name != "clip_norm" or _kind(options).clip):
            setattr(options, name, value)
    if _kind(options).of_records:  # --records determines the clients
        return
    if options.population is None:
        options.population = _POPULATION
    if options.sampling != "full" and options.cohort is None and options.sampling_rate is None:
        options.cohort = min(_COHORT, options.population)


def _foreign(options: argparse.Namespace, given_sampling: str | None) -> Iterator[str]:
    """Yields sentences about options that have no meaning with the mechanism or the sampling."""
    mechanism, sampling = f"--mechanism {options.mechanism}", f"--sampling {options.sampling}"
    kind = _kind(options)
    others = set(_of_mechanisms(options)) - {*kind.names}
    if hasattr(options, "clip_norm") and kind.clip is None:
        others.add("clip_norm")
    yield from _do_not_belong(options, others, mechanism)
    if _kind(options).of_records:
        of_clients = ["population", "sampling_rate", "cohort", *OF_SAMPLINGS]
        of_clients += ["sampling"] if given_sampling not in (None, "full") else []
        why = "whose clients are those of --records and take part in every round"
        yield from _do_not_belong(options, of_clients, f"{mechanism}, {why}")
        return
    foreign = set(OF_SAMPLINGS) - set(_OWN.get(options.sampling, ()))
    yield from _do_not_belong(options, ["records"], mechanism)
    yield from _do_not_belong(options, foreign, sampling)
    if options.sampling == "separated":
        yield from _do_not_belong(options, ["sampling_rate"], sampling)


def _do_not_belong(options: argparse.Namespace, names: Iterable[str], what: str) -> Iterator[str]:
    given = [
        f"{_flag(name)} {_shown(getattr(options, name))}"
        for name in sorted(names)
        if getattr(options, name) is not None
    ]
    if given:
        one = len(given) == 1
        yield (
            f"{', '.join(given)} {'does' if one else 'do'} not belong to {what}: leave "
            f"{'it' if one else 'them'} out, or take what {'it belongs' if one else 'they belong'} to."
        )


def _contradictory(options: argparse.Namespace) -> Iterator[str]:
    """Yields sentences about options that contradict each other about the sampling of clients."""
    if _kind(options).of_records:
        return
    rate, cohort = options.sampling_rate, options.cohort
    if options.sampling == "full":
        given = [
            f"{_flag(name)} {value}"
            for name, value, whole in (
                ("sampling_rate", rate, 1.0),
                ("cohort", cohort, options.population),
            )
            if value not in (None, whole)
        ]
        if given:
            yield (
                f"--sampling full with {' and '.join(given)}: every client takes part in every round. "
                f"Leave {'it' if len(given) == 1 else 'both'} out, or say how a cohort is drawn."
            )
    if options.sampling == "fixed" and rate is not None:
        yield (
            f"--sampling fixed with --sampling-rate {rate}: expected --population and --cohort alone, "
            "since cohorts of one size have no rate."
        )
    if options.sampling in ("poisson", "cyclic") and None not in (rate, cohort):
        yield (
            f"--sampling-rate {rate} and --cohort {cohort}: expected exactly one of them under "
            f"--sampling {options.sampling}; a cohort comes with --population."
        )


def _missing(options: argparse.Namespace) -> Iterator[str]:
    """Yields the options that are required and missing, each with the option that requires it."""

    def absent(*names: str) -> list[str]:
        return [name for name in names if getattr(options, name) is None]

    if options.command == "epsilon":
        yield from map(_flag, absent("noise_multiplier", "rounds"))
    if options.command == "calibrate":
        yield from map(_flag, absent("target_epsilon"))
    mechanism, sampling = f"(--mechanism {options.mechanism})", f"(--sampling {options.sampling})"
    needed = _kind(options).needed
    if _kind(options).of_records:
        needed = ("records", *needed)
    yield from (f"{_flag(name)} {mechanism}" for name in absent(*needed))
    if _kind(options).of_records:
        return  # the default of delta follows from the numbers of records
    open_cohort = options.command == "calibrate" and "--cohort" in _open(options)
    needs: list[str] = []
    if options.sampling in ("fixed", "separated"):
        needs = ["population"] if open_cohort else ["population", "cohort"]
        needs += ["min_separation"] if options.sampling == "separated" else []
    elif options.sampling == "cyclic":
        needs = ["cycle", "population"]
    elif options.sampling == "poisson" and (options.cohort is not None or open_cohort):
        needs = ["population"]
    by = sampling if options.sampling != "poisson" else "(--cohort)"
    by = "(for a cohort to be found)" if open_cohort else by
    yield from (f"{_flag(name)} {by}" for name in absent(*needs))
    by_coins = options.sampling in ("poisson", "cyclic") and not open_cohort
    if by_coins and len(absent("sampling_rate", "cohort")) == 2:
        cohort = "--cohort with --population" if options.population is None else "--cohort"
        yield f"--sampling-rate, or {cohort} {sampling}"
    if len(absent("delta", "population")) == 2 and "population" not in needs:
        yield "--delta, or --population for the recommended one"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
