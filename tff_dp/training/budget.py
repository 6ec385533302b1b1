"""What has been spent on the clients' data, what a run may still spend, and the ledger it charges."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator

from tff_dp import _checks, _seeds
from tff_dp.accounting import calibrate_rounds
from tff_dp.charges import ChargedRun, Charges, new_run
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.execution import is_seeded
from tff_dp.ledger import Ledger
from tff_dp.plan import PrivacyPlan, Unit
from tff_dp.sampling import FullParticipation
from tff_dp.training.checks import check_random_bits
from tff_dp.training.setup import Setup
from tff_dp.training.warm_start import charged_before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Account:
    """What a run may spend and where it is charged. Apart from the ledger, plain values.

    Attributes:
      plan: The plan, or None.
      before: What had been spent on the data before the run.
      charged_before: How many rounds had been charged before, under all plans.
      rounds: How many rounds the run may have, from the first one on.
      total: The epsilon that all of these and those before spend together; infinite without a plan.
      stopped: Why there are not as many rounds as were asked for, or None.
      root: Of the random numbers that cohorts and the order of examples are drawn with.
      coins: As for `ChargedRun`.
      run: The name by which the run is charged where there is no ledger, which names runs itself.
      random_bits: As for `FitResult`.
      noise_seeded: As for `FitResult`.
      book: The open ledger, or None.
    """

    plan: PrivacyPlan | None
    before: Charges
    charged_before: int
    rounds: int
    total: float = math.inf
    stopped: str | None = None
    root: int
    coins: str | None = None
    run: str = dataclasses.field(default_factory=new_run)
    random_bits: str
    noise_seeded: bool
    book: Ledger | None = None

    def charge(self, first: int, count: int) -> None:
        """Charges rounds that are about to be run. When it returns, the charges are on the disk.

        Args:
          first: The first of them, from 1.
          count: How many; >= 1.

        Raises:
          LedgerError: The ledger could not be written. The rounds must not be run then.
        """
        if self.book is not None:
            self.book.charge(first, count, coins=self.coins)

    def charges(self, begun: int) -> Charges:
        """Returns all that is known to have been spent on the data.

        Args:
          begun: How many rounds of the run have been begun. They count, whether or not they came to an
            end: what was computed in them may have been seen.

        Returns:
          The charges of the run and of those before it.
        """
        if self.plan is None:
            return self.before
        charges = self.before
        if self.book is not None:
            charges = self.book.all_charges
        elif begun:
            rounds = range(1, begun + 1)
            own = ChargedRun(plan=self.plan, rounds=rounds, run=self.run, coins=self.coins)
            charges = self.before | Charges(runs=(own,))
        unbounded = self.before.unbounded or self.noise_seeded
        return dataclasses.replace(charges, unbounded=unbounded)

    def bound_after(self, round_number: int) -> float:
        """Returns a cheap upper bound on what has been spent after a round; infinite without noise.

        Args:
          round_number: The round, from 1.

        Returns:
          An epsilon of at most `total`: whoever sees all rounds sees the first ones, so that these
          spend no more, whatever the quick accountant says.
        """
        if self.plan is None or not self.plan.mechanism.noise_multiplier > 0:
            return math.inf
        quick = self.before.with_run(self.plan, round_number).quick_epsilon()
        return float(min(quick, self.total))


@contextlib.contextmanager
def open_account(setup: Setup) -> Iterator[Account]:
    """Opens the ledger of a run, if it has one, and finds how many rounds the run may have.

    Args:
      setup: What the run is made of.

    Yields:
      The account; its ledger is closed when the block is left.

    Raises:
      ArgumentError: The ledger cannot hold these rounds; or `max_epsilon` or `spent_before` is outside
        its bound.
      AccountingError: No round may be run, or the plan does not cover them.
      ModelError: The model was trained before, and nothing says how that is to be counted.
      LedgerError: As for `Ledger`.
      ComputationError: The noise would have random bits that others can guess.
    """
    random_bits = check_random_bits(setup.process, setup.privacy)  # before a ledger is made
    if setup.ledger is not None and is_seeded():
        raise ArgumentError(
            f"ledger={setup.ledger!r} cannot hold rounds whose noise comes from a seed: nothing bounds "
            "what they reveal, and a ledger would state a bound. Leave it out, or train in a context "
            "without a seed."
        )
    with contextlib.ExitStack() as stack:
        book = None
        if setup.ledger is not None and setup.plan is not None:
            book = stack.enter_context(Ledger(setup.ledger, setup.plan))
        yield _account(setup, book, random_bits)


def _account(setup: Setup, book: Ledger | None, random_bits: str) -> Account:
    before = charged_before(
        setup.privacy,
        setup.carried,
        in_ledger=book.all_charges if book else Charges(),
        spent_before=setup.spent_before,
        disjoint_data=setup.disjoint_data,
        groups=setup.groups,
    )
    plan, asked, root = setup.plan, setup.rounds, setup.root
    if plan is None:
        return Account(
            plan=None,
            before=before,
            charged_before=before.rounds,
            rounds=asked or 0,  # which `check_privacy` has seen to
            root=root,
            random_bits=random_bits,
            noise_seeded=is_seeded(),
        )
    left = plan.rounds - _count(before.of(plan))
    rounds, total, stopped = _within_budget(
        plan, before, left if asked is None else asked, setup.max_epsilon
    )
    if book is not None:
        book.include(before)
    if setup.seeded:  # coins of their own, should a run before have had the same seed
        root = _seeds.later(root, before.rounds)
    coins = _coins(plan, setup.seeded, root)
    before.with_run(plan, rounds, coins)  # refuses those of an earlier run
    return Account(
        plan=plan,
        before=before,
        charged_before=before.rounds if book is None else book.charges,
        rounds=rounds,
        total=total,
        stopped=stopped,
        root=root,
        coins=coins,
        random_bits=random_bits,
        noise_seeded=is_seeded(),
        book=book,
    )


def _within_budget(
    plan: PrivacyPlan, before: Charges, wanted: int, max_epsilon: float | None
) -> tuple[int, float, str | None]:
    """Returns how many rounds may be run, what all will have spent then, and why not all that are wanted.

    Args:
      plan: The plan.
      before: What has been spent on the data already.
      wanted: Rounds to run.
      max_epsilon: What all of them together may spend; None for what the plan's rounds do.

    Raises:
      ArgumentError: `max_epsilon` is outside its bound.
      AccountingError: No round may be run, the plan does not cover them, or no accountant covers
        them and what was spent before.
    """
    charged = _count(before.of(plan))
    if wanted < 1 or charged + wanted > plan.rounds:
        raise AccountingError(
            f"rounds={max(wanted, 0)}, and the ledger has {charged}: expected at most the "
            f"{plan.rounds} rounds that the privacy plan covers, those that were charged twice included. "
            "Run fewer rounds, or make a plan for more of them; its noise or its epsilon will be larger."
        )
    total = before.with_run(plan, wanted).spent().epsilon  # refuses what cannot be accounted for
    if max_epsilon is None:
        return wanted, total, None
    max_epsilon = _checks.real("max_epsilon", max_epsilon, "(0, 100]")
    if total <= max_epsilon:
        return wanted, total, None
    allowed = min(wanted, _most_rounds(plan, before, wanted, max_epsilon))
    if allowed < 1:
        raise AccountingError(
            f"max_epsilon={max_epsilon!r} allows no round: {before.rounds} are charged, and one "
            "more would exceed it. Take a larger budget, or a plan with more noise."
        )
    why = (
        f"Training stopped after {allowed} of {wanted} rounds: the next one would have spent more than "
        f"epsilon {max_epsilon:g}."
    )
    return allowed, before.with_run(plan, allowed).spent().epsilon, why


def _most_rounds(plan: PrivacyPlan, before: Charges, wanted: int, max_epsilon: float) -> int:
    """Returns the most rounds, fewer than those wanted, that keep within a budget; 0 for none."""
    if not before.unbounded and set(before.plans) <= {plan}:
        try:
            return calibrate_rounds(
                plan.one_round(),
                delta=plan.delta,
                target_epsilon=max_epsilon,
                earlier=before.of(plan),
                arithmetic=plan.arithmetic,
            )
        except AccountingError:  # a single round spends more
            return 0
    low, high = 0, wanted  # low is within the budget or none, high is not
    while high - low > 1:
        middle = (low + high) // 2
        if before.with_run(plan, middle).spent().epsilon <= max_epsilon:
            low = middle
        else:
            high = middle
    return low


def _coins(plan: PrivacyPlan, seeded: bool, root: int) -> str | None:
    """Returns by what a run is known whose cohorts, on which its epsilon relies, have a given seed."""
    if not seeded or plan.unit is Unit.RECORD or isinstance(plan.sampler, FullParticipation):
        return None
    return hashlib.sha256(f"tff_dp/coins/{root}".encode()).hexdigest()


def _count(runs: tuple[range, ...]) -> int:
    return sum(len(run) for run in runs)
