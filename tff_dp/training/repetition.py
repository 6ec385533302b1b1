"""How a run goes on from a saved state, and what rounds cost that were charged and then lost.

A round that was charged may have been seen, whether or not its state was saved. Running it again is
a second release, and what that costs depends on the coins of its cohort:

- Two releases of one Poisson sample are one sampled mechanism with less noise, and not two sampled
  mechanisms. Where sampling amplifies, repeated rounds and those after them therefore draw their
  cohorts from coins that are independent of the lost ones, as another run does.
- Where rounds share noise, the participations of a client have to keep their distance across the
  seam, so that the same coins go on. The second run is charged from its first round.
- Without noise there is nothing to keep, and the same coins lead to the same weights.

docs/privacy.md ("A run that is resumed") has the argument.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from tff_dp import _checks, _seeds
from tff_dp.accounting import IndependentRound
from tff_dp.accounting.correlated import BandedRound, TreeRound
from tff_dp.accounting.local import LocalGaussianRound, LocalLaplaceRound
from tff_dp.accounting.record import RecordRound
from tff_dp.accounting.report import format_epsilon
from tff_dp.charges import ChargedRun, Charges, new_run
from tff_dp.errors import AccountingError, LedgerError
from tff_dp.plan import PrivacyPlan, Unit
from tff_dp.sampling import FullParticipation, MinSeparationSampler
from tff_dp.training.setup import Setup

_NOT_AMPLIFYING = (FullParticipation, MinSeparationSampler)
_SHARING = (TreeRound, BandedRound)  # rounds whose noise depends on that of earlier ones
# Rounds that count every participation that the sampler allows, whatever its coins.
_UNSAMPLED = (RecordRound, LocalGaussianRound, LocalLaplaceRound)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands that is resumed.

    Attributes:
      round_number: The last round in the saved state.
      asked: The number of rounds that are wanted.
      run: The name under which the rounds up to the saved state were last charged; None without a
        plan.
      first: The first round that was charged under this name.
      root: The root seed of the cohorts in that run.
      runs: The names of all runs under which rounds were charged, of which this is one.
      resumed: How often the run has been resumed, this time included.
    """

    round_number: int
    asked: int
    run: str | None
    first: int
    root: int
    runs: Sequence[str]
    resumed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """How the rounds after the saved state are drawn and charged; see `Account`.

    Attributes:
      run: The name under which they are charged.
      first: The first round that is charged under this name.
      root: The root seed of their cohorts.
      coins: As for `ChargedRun`.
      before: All charges but those of this run.
    """

    run: str
    first: int
    root: int
    coins: str | None
    before: Charges


def coins_of(plan: PrivacyPlan, seeded: bool, root: int) -> str | None:
    """Returns an identifier of seeded cohorts on which the epsilon relies.

    Args:
      plan: The plan.
      seeded: Whether the caller gave a seed.
      root: The root seed of the run.

    Returns:
      A hash of the root; None if the epsilon does not rely on the cohorts.
    """
    if not seeded or plan.unit is Unit.RECORD or isinstance(plan.sampler, FullParticipation):
        return None
    return hashlib.sha256(f"tff_dp/coins/{root}".encode()).hexdigest()


def continued(setup: Setup, known: Charges, standing: Standing) -> Part:
    """Decides how a run goes on.

    Args:
      setup: The prepared arguments of `fit`, with a plan.
      known: All charges on the data.
      standing: Where the run stands.

    Returns:
      How the remaining rounds are drawn and charged.

    Raises:
      LedgerError: The ledger has lost rounds of the run.
      AccountingError: Rounds were lost, and what repeating them would cost is not known.
    """
    plan = setup.plan
    assert plan is not None
    own = _charged(plan, known, standing)
    reached = standing.first - 1 if own is None else own.rounds.stop - 1
    if reached == standing.round_number:  # nothing was lost
        return Part(
            run=standing.run or new_run(),
            first=standing.first,
            root=standing.root,
            coins=own.coins if own else coins_of(plan, setup.seeded, standing.root),
            before=known.without(standing.run or ""),
        )
    first = standing.round_number + 1
    again = Part(run=new_run(), first=first, root=standing.root, coins=None, before=known)
    if not plan.mechanism.noise_multiplier > 0:
        return again
    if _keeps_coins(plan, first, reached):
        return again
    # Entropy of the operating system, or a root that no run before can have had: each has charged
    # at least one round since the last one began.
    root = _seeds.later(setup.root, known.rounds) if setup.seeded else _seeds.root(None)
    return dataclasses.replace(again, root=root, coins=coins_of(plan, setup.seeded, root))


def _charged(plan: PrivacyPlan, known: Charges, standing: Standing) -> ChargedRun | None:
    """Returns the charges of the run that the saved state is of; None if it has none yet."""
    own = next((run for run in known.runs if run.run == standing.run), None)
    charged = range(standing.first, standing.round_number + 1)
    if own is None and not charged:
        return None
    if (
        own is None
        or own.plan != plan
        or own.rounds.start > standing.first
        or own.rounds.stop < charged.stop
    ):
        raise LedgerError(
            f"The saved state has rounds up to {standing.round_number}, and the ledger has no charge for "
            f"them under run {standing.run!r}: it has lost charges, or is another one. Restore the "
            "ledger and its .head file, or pass the ledger of the run as ledger=."
        )
    return own


def _keeps_coins(plan: PrivacyPlan, first: int, last: int) -> bool:
    """Says whether rounds that were lost are repeated with the same coins, or with independent ones.

    Raises:
      AccountingError: Neither is known to be covered by what is charged.
    """
    one_round, sampler = plan.one_round(), plan.sampler
    if type(one_round) in _UNSAMPLED:
        return True
    if type(one_round) in _SHARING and isinstance(sampler, _NOT_AMPLIFYING):
        return True
    if isinstance(one_round, IndependentRound) and not sampler.of_one_seed:
        return False
    rounds = f"round {first} was" if first == last else f"rounds {first} to {last} were"
    raise AccountingError(
        f"{rounds} charged, and what came of it was lost. Under {type(plan.mechanism).__name__} with "
        f"{type(sampler).__name__}, the cohorts of a run depend on each other, and what repeating a part "
        "of them would cost is not known. Begin another run, with a model of the saved weights and with "
        "the ledger of this run, which counts what it has spent."
    )


def affordable(
    setup: Setup, known: Charges, standing: Standing, part: Part
) -> tuple[int, float, str | None]:
    """Finds how far a run may go on.

    Args:
      setup: The prepared arguments of `fit`, with a plan.
      known: All charges on the data.
      standing: Where the run stands.
      part: How the remaining rounds are charged.

    Returns:
      The last round of the run, the joint epsilon with all other charges, and why there are fewer
      rounds than wanted, as a sentence, or None.

    Raises:
      ArgumentError: `max_epsilon` is outside its bound.
      AccountingError: Repeating lost rounds would cost more than the plan, and `max_epsilon` does not
        say that it may; or no accountant applies.
    """
    plan = setup.plan
    assert plan is not None
    done, asked = standing.round_number, standing.asked
    left = max(plan.rounds - sum(map(len, known.of(plan))), 0)

    def epsilon(last: int) -> float:
        charges = part.before.with_run(plan, last, first=part.first)
        return charges.spent().epsilon if charges.runs else 0.0

    last = min(asked, done + left)
    why = None
    if last < asked:
        why = (
            f"Training stopped after {last} of {asked} rounds: the privacy plan covers {plan.rounds} "
            "rounds, and those that were lost and charged again count."
        )
    most = setup.max_epsilon
    if most is None and last > done:  # also where all rounds were lost, and the first one is next
        earlier = known.without(part.run)  # what goes on is counted from its first round, below
        _check_within_plan(plan, earlier, standing, range(part.first, last + 1))
    if most is not None:
        most = _checks.real("max_epsilon", most, "(0, 100]")
        if last > done and epsilon(last) > most:
            low, high = done, last  # `low` is within the budget, or nothing more can be run
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if epsilon(middle) <= most else (low, middle)
            last = low
            why = (
                f"Training stopped after {last} of {asked} rounds: the next one would have spent more "
                f"than epsilon {most:g}."
            )
    return last, epsilon(last), why


def _check_within_plan(plan: PrivacyPlan, known: Charges, standing: Standing, rest: range) -> None:
    """Raises AccountingError if a run with repeated rounds would spend more than its plan.

    A number of independent rounds costs the same, whichever they are. Where participations are bounded
    over a run, or rounds share noise, what goes on from a saved state costs as much as another run.
    """
    if not plan.mechanism.noise_multiplier > 0:
        return
    own = [run.rounds for run in known.runs if run.run in standing.runs]
    if not own:  # nothing but what goes on, which the plan covers
        return
    whole, limit = plan.epsilon((*own, rest)).epsilon, plan.epsilon().epsilon
    if whole > limit * (1 + 1e-9):
        raise AccountingError(
            f"Rounds after {standing.round_number} were charged, and what came of them was lost. Under "
            f"{type(plan.mechanism).__name__} with {type(plan.sampler).__name__}, to go on costs as much "
            "as another run from its first round: the run would spend epsilon "
            f"{format_epsilon(whole)} in all, and its plan {format_epsilon(limit)}. Pass max_epsilon= to "
            "say how much may be spent, or use the model of the saved state."
        )
