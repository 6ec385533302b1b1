"""Which kind of round a mechanism makes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tff_dp import _checks
from tff_dp._registry import Registry
from tff_dp.accounting.arithmetic import Arithmetic
from tff_dp.accounting.correlated import BandedRound, TreeRound
from tff_dp.accounting.distributed import DistributedGaussianRound, DistributedSkellamRound
from tff_dp.accounting.events import AdaptiveGaussianRound, GaussianRound, Round
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.accounting.local import LocalGaussianRound, LocalLaplaceRound
from tff_dp.accounting.record import RecordRound
from tff_dp.config import is_own
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    Mechanism,
    PerLayerGaussianMechanism,
    RecordGaussianMechanism,
    TreeMechanism,
    Unit,
)
from tff_dp.sampling import Adjacency, Sampler

_GRID = ("dimension", "bits", "beta", "modclip_prob")
_NOISE = "noise_multiplier"
_OF_EVERY_ROUND = (_NOISE, "sampler", "population", "adjacency")

Draws = (
    int | Callable[[Any, int], int] | None
)  # from a mechanism and its rounds, where not constant


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What the accounting of a mechanism is made of.

    Attributes:
      round: The class of its rounds.
      fields: The fields of the round that are the mechanism's.
      draws: See `register_round`.
    """

    round: type[Round]
    fields: tuple[str, ...] = ()
    draws: Draws = 1


def _levels(mechanism: TreeMechanism, rounds: int) -> int:
    """Returns how many nodes of a tree one round is in."""
    return min(rounds, mechanism.restart_every or rounds).bit_length()


def _steps(mechanism: RecordGaussianMechanism, rounds: int) -> int:
    del rounds
    return mechanism.local_steps


_KINDS: dict[type[Mechanism], _Kind] = {
    GaussianMechanism: _Kind(GaussianRound),
    AdaptiveGaussianMechanism: _Kind(AdaptiveGaussianRound),
    PerLayerGaussianMechanism: _Kind(GaussianRound),
    LaplaceMechanism: _Kind(LaplaceRound),
    TreeMechanism: _Kind(TreeRound, ("restart_every",), _levels),
    BandedMechanism: _Kind(BandedRound, ("bands",)),
    LocalGaussianMechanism: _Kind(LocalGaussianRound),
    LocalLaplaceMechanism: _Kind(LocalLaplaceRound),
    DistributedGaussianMechanism: _Kind(DistributedGaussianRound, _GRID, None),
    DistributedSkellamMechanism: _Kind(DistributedSkellamRound, _GRID, None),
    RecordGaussianMechanism: _Kind(RecordRound, ("batch_size", "local_steps"), _steps),
}
_REGISTERED: Registry[_Kind] = Registry(Mechanism, "accounting", "tff_dp.accounting.register_round")


def register_round(
    mechanism: type[Mechanism],
    one_round: type[Round],
    *,
    fields: Sequence[str] = (),
    draws_per_coordinate: int | Callable[[Any, int], int],
) -> None:
    """Adds the accounting of a mechanism that is defined outside of tff_dp.

    A plan with the mechanism is accounted for by rounds of this class, made of the mechanism's noise
    multiplier, the plan's sampler, population and adjacency, and the fields that are named here. That the
    round is one of the mechanism is the caller's claim: `tff_dp.self_test` holds the running mechanism to
    it, where the mechanism has a law.

    Args:
      mechanism: A frozen dataclass that derives from `Mechanism`, whose unit is a client. Its
        subclasses get no accounting.
      one_round: A class that derives from `Round`, such as `GaussianRound`. A round whose accountants
        are its own derives from `IndependentRound` and has them by `register_accountants`.
      fields: Names of fields that the mechanism and the round have in common, which the round is made
        with.
      draws_per_coordinate: How many draws of `tff_dp.noise` a round makes for each coordinate of an
        update, >= 1: a number, or a function of the mechanism and the plan's rounds. Every epsilon is
        charged for them; see `Arithmetic`.

    Raises:
      ArgumentError: A value is outside its bound, or the mechanism is one of tff_dp or has its accounting
        already. Nothing is added then.
    """
    _REGISTERED.check(mechanism)
    if not isinstance(one_round, type) or not issubclass(one_round, Round):
        raise ArgumentError(
            f"one_round={one_round!r} is outside its bound: expected a class that derives from Round, "
            "such as GaussianRound."
        )
    if mechanism.unit is not Unit.CLIENT or issubclass(one_round, RecordRound):
        raise ArgumentError(
            f"mechanism={mechanism.__qualname__} protects records: expected unit = Unit.CLIENT. "
            "Clients noise their own steps in tff_dp.dp_sgd, for RecordGaussianMechanism alone."
        )
    if inspect.isabstract(one_round):
        missing = ", ".join(sorted(one_round.__abstractmethods__))
        raise ArgumentError(
            f"one_round={one_round.__name__} is abstract: expected it to define {missing}."
        )
    _check_events(one_round)
    fields = (fields,) if isinstance(fields, str) else tuple(fields)
    _check_fields(mechanism, one_round, fields)
    if not callable(draws_per_coordinate):
        _checks.integer("draws_per_coordinate", draws_per_coordinate, "[1, inf)")
    _REGISTERED.add(mechanism, _Kind(one_round, fields, draws_per_coordinate))


def _check_fields(
    mechanism: type[Mechanism], one_round: type[Round], fields: tuple[str, ...]
) -> None:
    """Raises ArgumentError unless a round can be made of a mechanism's fields, and of all of them."""
    names = {
        kind: [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for kind in (mechanism, one_round)
    }
    for kind, known in names.items():
        for field in fields:
            _checks.one_of("fields", field, known, f"{kind.__name__} has no other fields.")
    if _NOISE not in names[mechanism]:
        raise ArgumentError(
            f"mechanism={mechanism.__qualname__} has no field {_NOISE}: every mechanism has one."
        )
    given = sorted({*fields} & {*_OF_EVERY_ROUND})
    if given:
        raise ArgumentError(
            f"fields={fields!r} names {given[0]}, which every round has: leave it out."
        )
    wanted = {
        field.name
        for field in dataclasses.fields(one_round)
        if _is_needed(field) or field.name in names[mechanism]
    }
    absent = sorted(wanted - {*fields, *_OF_EVERY_ROUND})
    if absent:
        raise ArgumentError(
            f"fields={fields!r} lacks {', '.join(absent)}: expected every field of "
            f"{one_round.__name__} that has no default, or that the mechanism has as well. A default in "
            "place of the mechanism's own value would give the epsilon of another mechanism."
        )


def _check_events(one_round: type[Round]) -> None:
    """Refuses a round with events of its own that accountants would take for one of tff_dp's."""
    for base in one_round.__mro__[1:]:
        if not issubclass(base, Round) or not is_own(base) or inspect.isabstract(base):
            continue
        for name in ("_mechanism_event", "event", "scaled_event", "rdp"):
            if getattr(one_round, name, None) is not getattr(base, name, None):
                raise ArgumentError(
                    f"one_round={one_round.__name__} overrides {name} of {base.__name__}, whose "
                    "accountants ask its noise multiplier alone: expected IndependentRound in its place. "
                    "Derive the class from that, and give it accountants by "
                    "tff_dp.accounting.register_accountants."
                )


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def round_of(
    mechanism: Mechanism,
    sampler: Sampler,
    population: int,
    adjacency: Adjacency | None = None,
    records: tuple[int, ...] | None = None,
) -> Round:
    """Returns what one round of a mechanism costs.

    Args:
      mechanism: The mechanism.
      sampler: Who takes part.
      population: Number of clients, N.
      adjacency: The neighboring relation; None for the first that can be accounted for.
      records: Each client's number of records, where the mechanism protects records.

    Returns:
      The round, for the accountants.

    Raises:
      ArgumentError: The mechanism has no accounting, or a value is outside its bound.
      AccountingError: There is no valid accounting for the combination.
    """
    kind = _REGISTERED.find("mechanism", mechanism, _KINDS)
    if adjacency is None:
        adjacency = (*kind.round.adjacencies(sampler), *Adjacency)[0]
    return kind.round(
        noise_multiplier=mechanism.noise_multiplier,
        sampler=sampler,
        population=population,
        adjacency=adjacency,
        **{name: getattr(mechanism, name) for name in kind.fields},
        **({} if records is None else {"records": records}),
    )


def arithmetic_of(
    mechanism: Mechanism, rounds: int, max_dimension: int, metrics: int = 0
) -> Arithmetic | None:
    """Returns how much noise a round of a mechanism computes, for the charge for arithmetic.

    Args:
      mechanism: The mechanism.
      rounds: The most rounds of a run, on which the levels of a tree depend.
      max_dimension: Trainable parameters of the largest model.
      metrics: How many metrics are released with noise.

    Returns:
      None for distributed mechanisms, whose integer noise is TFF's own: the accuracy of its samplers is
      taken for granted.

    Raises:
      ArgumentError: The mechanism has no accounting.
    """
    draws = _REGISTERED.find("mechanism", mechanism, _KINDS).draws
    if draws is None:
        return None
    times = draws(mechanism, rounds) if callable(draws) else draws
    times = _checks.integer("draws_per_coordinate", times, "[1, inf)")
    # Twice the parameters: a count has noise as well, and draws come in pairs.
    return Arithmetic(draws_per_round=2 * times * max_dimension + metrics)
