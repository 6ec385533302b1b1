"""The budget of a run: earlier charges on the data, allowed rounds, and the ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

from tff_dp import _checks, _seeds
from tff_dp.accounting import calibrate_rounds
from tff_dp.charges import ChargedRun, Charges, new_run
from tff_dp.errors import AccountingError, ArgumentError, LedgerError
from tff_dp.execution import is_seeded
from tff_dp.ledger import Ledger
from tff_dp.plan import PrivacyPlan
from tff_dp.training.checks import check_random_bits
from tff_dp.training.repetition import Standing, affordable, coins_of, continued
from tff_dp.training.setup import Setup
from tff_dp.training.warm_start import charged_before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Account:
    """The number of rounds that a run may have, and where they are charged.

    Attributes:
      plan: The plan; None without differential privacy.
      before: The charges on the data before the run.
      charged_before: The number of rounds that had been charged before, under all plans.
      rounds: The largest number of rounds of the run.
      asked: The number of rounds that are wanted, whatever the budget allows.
      total: The joint epsilon of these rounds and the earlier charges; infinite without a plan.
      stopped: Why the run has fewer rounds than requested, as a sentence; otherwise None.
      root: The root seed of the cohorts and of the order of examples.
      coins: As for `ChargedRun`.
      run: The name under which the run is charged.
      first: The first round that is charged under this name: above 1 if the run goes on from the
        state of one whose last rounds were lost, and are paid for again.
      parts: The names under which the run was charged before it was resumed.
      resumed: How often the run was resumed.
      repeated: How many rounds had been charged in addition to those in the state with which this
        part of the run began, and are paid for again.
      random_bits: As for `FitResult`.
      noise_seeded: As for `FitResult`.
      book: The open ledger, or None.
      begun: Without a ledger: the last rounds of the steps that have begun. Runs with one account share
        it, since none of them may run a round again that another has run.
    """

    plan: PrivacyPlan | None
    before: Charges
    charged_before: int
    rounds: int
    asked: int = 0
    total: float = math.inf
    stopped: str | None = None
    root: int
    coins: str | None = None
    run: str = dataclasses.field(default_factory=new_run)
    first: int = 1
    parts: tuple[str, ...] = ()
    resumed: int = 0
    repeated: int = 0
    random_bits: str
    noise_seeded: bool
    book: Ledger | None = None
    begun: list[int] = dataclasses.field(default_factory=list, compare=False)

    @property
    def last_charged(self) -> int:
        """The last round that is charged under `run`; `first` - 1 if there is none."""
        if self.book is None:
            return max(self.begun, default=self.first - 1)
        found = self.book.all_charges.runs
        return next((r.rounds.stop - 1 for r in found if r.run == self.run), self.first - 1)

    def charge(self, first: int, count: int) -> None:
        """Charges rounds that are about to be run. When it returns, the charges are stored on disk.

        Args:
          first: The first of these rounds, from 1.
          count: The number of rounds; >= 1.

        Raises:
          AccountingError: Without a ledger: another run with this account has run these rounds.
          LedgerError: The ledger could not be written. The rounds must not be run then.
        """
        if self.book is not None:
            self.book.charge(first, count, coins=self.coins, run=self.run)
            return
        if self.plan is not None and first != self.last_charged + 1:
            raise AccountingError(
                f"Round {first} has been run with this account, whose last round is "
                f"{self.last_charged}: a round that is run again has to be paid for again. Begin another "
                "run with an account of its own."
            )
        self.begun.append(first + count - 1)

    def charges(self, begun: int) -> Charges:
        """Returns all known charges on the data.

        Args:
          begun: The last round of the run that has been started. Rounds from `first` on count, whether
            or not they were completed, since their results may have been observed.

        Returns:
          The charges of the run and of earlier runs.
        """
        if self.plan is None:
            return self.before
        charges = self.before
        if self.book is not None:
            charges = self.book.all_charges
        elif begun >= self.first:
            rounds = range(self.first, begun + 1)
            own = ChargedRun(plan=self.plan, rounds=rounds, run=self.run, coins=self.coins)
            charges = self.before | Charges(runs=(own,))
        unbounded = self.before.unbounded or self.noise_seeded
        return dataclasses.replace(charges, unbounded=unbounded)

    def bound_after(self, round_number: int) -> float:
        """Returns a cheap upper bound on the epsilon after a round.

        Args:
          round_number: The round, from 1.

        Returns:
          An epsilon, infinite without noise. It is at most `total`, since the first rounds cannot
          spend more than all rounds, whatever the bound of the fast accountant.
        """
        if self.plan is None or not self.plan.mechanism.noise_multiplier > 0:
            return math.inf
        charges = self.before.with_run(self.plan, round_number, first=self.first)
        quick = charges.quick_epsilon()
        return float(min(quick, self.total))


@contextlib.contextmanager
def open_account(setup: Setup, standing: Standing | None = None) -> Iterator[Account]:
    """Opens the ledger of a run, if it has one, and finds how many rounds the run may have.

    Args:
      setup: The prepared arguments of `fit`.
      standing: Where the run stands that is resumed; None for a run from its first round.

    Yields:
      The account. Its ledger is closed on exit.

    Raises:
      ArgumentError: The noise has a seed, so that its rounds cannot be charged in a ledger; or
        `max_epsilon` or `spent_before` is outside its bound.
      AccountingError: The budget allows no round, or the plan does not cover the requested rounds; or
        rounds were lost, and cannot be repeated.
      ModelError: The model was trained before, and no argument says how to count that.
      LedgerError: As for `Ledger`, or the ledger has lost rounds of the run that is resumed.
      ComputationError: The random bits of the noise could be guessed.
    """
    random_bits = check_random_bits(
        setup.process, setup.privacy
    )  # before the file of a ledger is created
    if setup.ledger is not None and is_seeded():
        raise ArgumentError(
            f"ledger={setup.ledger!r} cannot hold rounds whose noise comes from a seed: nothing bounds "
            "what they reveal, and a ledger would state a bound. Leave it out, or train in a context "
            "without a seed."
        )
    with contextlib.ExitStack() as stack:
        book = None
        if setup.ledger is not None and setup.plan is not None:
            if standing is not None:  # also at round 0: rounds after it may have been lost
                _check_there(setup.ledger)
            book = stack.enter_context(Ledger(setup.ledger, setup.plan))
        yield _account(setup, book, random_bits, standing)


def _check_there(ledger: Any) -> None:
    if not os.path.exists(ledger):
        raise LedgerError(
            f"The ledger {os.fspath(ledger)!r} does not exist: the run in run_dir has charged its rounds "
            "in it. Restore it and its .head file, or pass the path to which it was moved as ledger=."
        )


def _account(
    setup: Setup, book: Ledger | None, random_bits: str, standing: Standing | None
) -> Account:
    before = charged_before(
        setup.privacy,
        setup.carried,
        in_ledger=book.all_charges if book else Charges(),
        spent_before=setup.spent_before,
        disjoint_data=setup.disjoint_data,
        groups=setup.groups,
    )
    plan, asked, root = setup.plan, setup.rounds, setup.root
    if standing is not None:
        return _resumed(setup, book, random_bits, standing, before)
    if plan is None:
        return Account(
            plan=None,
            before=before,
            charged_before=before.rounds,
            rounds=asked or 0,  # `check_privacy` has checked that there is a number
            asked=asked or 0,
            root=root,
            random_bits=random_bits,
            noise_seeded=is_seeded(),
        )
    left = plan.rounds - _count(before.of(plan))
    wanted = left if asked is None else asked
    rounds, total, stopped = _within_budget(plan, before, wanted, setup.max_epsilon)
    if book is not None:
        book.include(before)
    if setup.seeded:  # independent cohorts, even if an earlier run had the same seed
        root = _seeds.later(root, before.rounds)
    coins = coins_of(plan, setup.seeded, root)
    before.with_run(plan, rounds, coins)  # raises if an earlier run had the same coins
    return Account(
        plan=plan,
        before=before,
        charged_before=before.rounds if book is None else book.charges,
        rounds=rounds,
        asked=wanted,
        total=total,
        stopped=stopped,
        root=root,
        coins=coins,
        random_bits=random_bits,
        noise_seeded=is_seeded(),
        book=book,
    )


def _resumed(
    setup: Setup, book: Ledger | None, random_bits: str, standing: Standing, before: Charges
) -> Account:
    """Returns the account of a run that is resumed."""
    asked, done = standing.asked, standing.round_number
    facts: dict[str, Any] = {
        "parts": tuple(standing.runs),
        "asked": asked,
        "resumed": standing.resumed,
        "random_bits": random_bits,
        "noise_seeded": is_seeded(),
        "charged_before": 0,
    }
    if setup.plan is None or book is None:  # `fit` opens a ledger for every plan
        return Account(plan=None, before=before, rounds=asked, root=standing.root, **facts)
    book.include(before)
    known = book.all_charges | before  # with what is unbounded
    part = continued(setup, known, standing)
    rounds, total, stopped = affordable(setup, known, standing, part)
    part.before.with_run(setup.plan, rounds, part.coins, first=part.first)  # refuses equal coins
    return Account(
        plan=setup.plan,
        rounds=rounds,
        total=total,
        stopped=stopped,
        repeated=known.rounds_of(standing.runs) - done,
        book=book,
        **(facts | vars(part) | {"charged_before": part.before.rounds}),
    )


def _within_budget(
    plan: PrivacyPlan, before: Charges, wanted: int, max_epsilon: float | None
) -> tuple[int, float, str | None]:
    """Returns the number of rounds to run, the total epsilon, and why there are fewer than requested.

    Args:
      plan: The plan.
      before: The earlier charges on the data.
      wanted: The requested number of rounds.
      max_epsilon: The largest joint epsilon of all charges; None for no limit besides the plan.

    Raises:
      ArgumentError: `max_epsilon` is outside its bound.
      AccountingError: The budget allows no round, the plan does not cover the rounds, or no
        accountant covers them together with the earlier charges.
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
    """Returns the largest number of rounds within the budget, fewer than requested; 0 for none."""
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
    low, high = 0, wanted  # `low` rounds are within the budget (or are none), `high` rounds are not
    while high - low > 1:
        middle = (low + high) // 2
        if before.with_run(plan, middle).spent().epsilon <= max_epsilon:
            low = middle
        else:
            high = middle
    return low


def _count(runs: tuple[range, ...]) -> int:
    return sum(len(run) for run in runs)
