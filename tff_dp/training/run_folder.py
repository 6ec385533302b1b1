"""The run folder of a call of `fit`: what it begins with, and what it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tff_dp import _warnings
from tff_dp.charges import Charges
from tff_dp.errors import ArgumentError, LedgerError, RunFolderError
from tff_dp.execution import is_seeded
from tff_dp.ledger import Ledger, lines
from tff_dp.runs import codec
from tff_dp.runs.checkpoint import Stored
from tff_dp.runs.layout import Layout
from tff_dp.runs.store import Store, opened
from tff_dp.training.budget import Account
from tff_dp.training.callback_states import States
from tff_dp.training.callbacks import Callbacks
from tff_dp.training.checkpoints import Checkpoints
from tff_dp.training.identity import carried_in, check_same, identity_of, origin_of
from tff_dp.training.interrupts import INTERRUPTED
from tff_dp.training.keeping import Keeping
from tff_dp.training.observers import Observer, common_period
from tff_dp.training.repetition import Standing
from tff_dp.training.results import FitResult, RoundRecord
from tff_dp.training.run import Run, Snapshot
from tff_dp.training.setup import Setup
from tff_dp.training.validation import ClientValidation
from tff_dp.training.validation_account import charged_in


class RunFolder:
    """An open run folder, and the run that begins or goes on in it.

    Args:
      setup: The prepared arguments of `fit`.
      keeping: The arguments that concern the folder.
      store: The open folder.
      books: Closes the ledgers that the folder opens.

    Attributes:
      setup: The arguments, completed by what the folder says: where the ledger is, and what the
        model had been trained on when the run began.
      standing: Where the run stands; None for one that begins.
      start: The snapshot from which the run goes on, or begins.

    Raises:
      ArgumentError: An argument is not that with which the run was begun.
      RunFolderError: The folder has a run already, or no good checkpoint.
    """

    def __init__(
        self, setup: Setup, keeping: Keeping, store: Store, books: contextlib.ExitStack
    ) -> None:
        self._keeping, self._store, self._books = keeping, store, books
        self._identity = identity_of(setup)
        self._like = setup.first_state()
        self.standing: Standing | None = None
        self.start = Snapshot(state=self._like)
        self._ended: str | None = None
        self._states = States()  # of the callbacks
        self._saver: Checkpoints | None = None
        config, found = store.config(), None
        if keeping.resume and config is not None:
            check_same(config, self._identity)
            found = store.newest(config["id"])
        if config is None or found is None:
            self._config: dict[str, Any] = self._new(setup, keeping)
            ledger = setup.ledger
            if ledger is None and setup.plan is not None:
                ledger = store.layout.ledger
            self.setup = dataclasses.replace(setup, ledger=ledger)
            return
        self._config = config
        self.setup = _as_begun(setup, config, store.layout)
        self._go_on(*found)

    def _new(self, setup: Setup, keeping: Keeping) -> dict[str, Any]:
        where = keeping.layout
        if where.stored() or (where.history.exists() and where.history.stat().st_size):
            raise RunFolderError(
                f"run_dir={str(where.folder)!r} holds a run already: expected a new or an empty folder. "
                "Pass resume=True to go on with it, or give this run a folder of its own."
            )
        ledger = None
        if setup.plan is not None:
            ledger = where.ledger.name
            if setup.ledger is not None:
                ledger = str(lines.checked_path("ledger", setup.ledger).absolute())
        return {
            "id": secrets.token_hex(16),
            "created": _now(),
            **self._identity,
            **origin_of(setup),
            "ledger": ledger,
            "openings": [],
        }

    def _go_on(self, stored: Stored, records: Any) -> None:
        facts, openings = stored.facts, self._config["openings"]
        setup, done = self.setup, stored.facts.round_number
        if not done:
            _check_ledger(setup, self._config, self._store.layout)
        if setup.seeded and facts.seed != setup.root:
            raise ArgumentError(
                "seed differs from that of the run in run_dir: expected the same seed, which determines "
                "the cohorts. Pass the seed with which the run was begun."
            )
        before = int(openings[-1]["rounds"])
        asked = before if setup.rounds is None else setup.rounds
        if asked < done:
            raise ArgumentError(
                f"rounds={asked} is outside its bound: expected at least {done}, the rounds that the run "
                "in run_dir has completed. Pass as many as the run is to have in all."
            )
        if facts.ended is not None and asked <= before:
            self._ended = facts.ended
        self.standing = Standing(
            round_number=done,
            asked=asked,
            run=facts.run,
            first=facts.first,
            root=facts.root,
            runs=tuple(dict.fromkeys(each["run"] for each in openings if each["run"])),
            resumed=len(openings),
        )
        try:
            state = codec.decode(self._like, stored.leaves, stored.content)
            history = tuple(RoundRecord(**record) for record in records)
            arrays = codec.decode_arrays(stored.beside, stored.content_beside)
        except (codec.UnfitError, TypeError) as error:
            raise RunFolderError(
                f"The checkpoint of round {done} does not fit the process that the arguments make: "
                f"{error} Resume the run with the versions of packages with which it was begun: "
                f"{openings[-1]['versions']}."
            ) from error
        self.start = Snapshot(state=state, history=history, begun=done)
        self._states = States(facts.callbacks, arrays)

    @property
    def path(self) -> str:
        """The path of the folder."""
        return str(self._keeping.layout.folder)

    def begin(
        self, account: Account, observers: Sequence[Observer]
    ) -> tuple[Run, Checkpoints | None]:
        """Begins the run, or goes on with it. From here on the folder is that of the run.

        Args:
          account: The account of the run.
          observers: The other observers of the run.

        Returns:
          The run; and the observer that saves it, or None if there is nothing left to train.

        Raises:
          RunFolderError: The folder cannot be written.
          ArgumentError: The noise of a private validation has a seed.
          LedgerError: The ledger of a private validation is damaged or has lost charges, or has another
            plan that cannot be accounted for together with this one.
        """
        done = self.start.round_number
        validation = self._open_validation(observers)
        watching = next((each for each in observers if isinstance(each, Callbacks)), None)
        if watching is not None and self.standing is not None:
            watching.earlier = self._states
        if self.standing is not None and (self._ended is not None or account.rounds <= done):
            account = dataclasses.replace(account, resumed=account.resumed - 1)
            run = Run(self.setup, _with_all_bits(account, self._config), self.start)
            run.validation_charges = validation
            if self._ended is not None:
                run.end(self._ended)
            elif watching is not None:
                watching.restore_weights(run)
            return run, None
        if self.standing is None:
            self._store.begin()
        keeping = self._keeping
        opening = {
            "opened": _now(),
            "after": done,
            "run": None if account.plan is None else account.run,
            "first": account.first,
            "rounds": account.asked,
            "max_epsilon": self.setup.max_epsilon,
            "save_every": keeping.save_every,
            "keep": keeping.keep,
            "random_bits": account.random_bits,
            "noise_seeded": account.noise_seeded,
            "versions": _versions(),
        }
        self._config["openings"] = [*self._config["openings"], opening]
        self._store.forget_result()
        self._store.write_config(self._config)
        saver = Checkpoints(
            self._store,
            folder=self._config["id"],
            like=self._like,
            seed=self.setup.root if self.setup.seeded else None,
            every=keeping.save_every,
            keep=keeping.keep,
            states=States if watching is None else watching.states,
        )
        self._saver = saver
        period = common_period([*observers, saver])
        account = _with_all_bits(account, self._config)
        run = Run(self.setup, account, self.start, period=period)
        run.validation_charges = validation
        return run, saver

    def _open_validation(self, observers: Sequence[Observer]) -> Charges:
        """Opens the ledger of a private validation, and returns what it has been charged so far."""
        path = self._keeping.layout.validation_ledger
        # Also where nothing is validated any more, since the result states what was spent.
        released = sum(record.validation_private for record in self.start.history)
        charges = charged_in(path, released)
        for each in observers:
            if isinstance(each, ClientValidation) and each.account is not None:
                if is_seeded():
                    raise ArgumentError(
                        f"run_dir={self.path!r} needs a ledger for validation_privacy, and no ledger can "
                        "hold releases whose noise comes from a seed. Leave it out, or train in a "
                        "context without a seed."
                    )
                book = self._books.enter_context(Ledger(path, each.account.plan))
                each.account.keep(book, resumed=self.standing is not None)
        return charges

    def after_end(self, run: Run) -> None:
        """Saves what callbacks have made of a run that they have ended.

        Args:
          run: The run, whose observers have ended.

        Raises:
          RunFolderError: The folder cannot be written.
        """
        if self._saver is not None:
            self._saver.after_end(run)

    def note(self, result: FitResult, why: str | None) -> None:
        """Writes the facts of a result; warns if that is impossible, since nothing is lost.

        Args:
          result: The result.
          why: Why the run ended early; None if it did not.
        """
        state = "finished" if why is None else "ended"
        self._write(result, "interrupted" if why == INTERRUPTED else state)

    def note_failure(self, error: Exception) -> None:
        """Writes the facts of the result that is attached to an error, if there is one.

        Args:
          error: The error that has ended the run.
        """
        result = getattr(error, "result", None)
        if isinstance(result, FitResult):
            self._write(result, "failed")

    def _write(self, result: FitResult, state: str) -> None:
        try:
            self._store.write_result(
                {"state": state, "asked": self._config["openings"][-1]["rounds"], **_facts(result)}
            )
        except RunFolderError as error:
            _warnings.warn(f"The result could not be noted: {error}", RuntimeWarning)


def _facts(result: FitResult) -> dict[str, Any]:
    """Returns what result.json says of a result, as plain values."""
    return {
        "rounds": len(result.history),
        "stopped": result.stopped,
        "epsilon": None if math.isinf(result.epsilon) else result.epsilon,
        "delta": None if result.spent is None else result.spent.delta,
        "seeded": result.seeded,
        "noise_seeded": result.noise_seeded,
        "random_bits": result.random_bits,
        "foreign_algorithm": result.foreign_algorithm,
        "runs": list(result.runs),
        "resumed": result.resumed,
        "repeated_rounds": result.repeated_rounds,
        "charges": result.charges.to_dict(),
        "other_data": [each.to_dict() for each in result.other_data],
        "statement": result.statement(),
    }


@contextlib.contextmanager
def open_run_folder(setup: Setup, keeping: Keeping) -> Iterator[RunFolder]:
    """Opens a run folder, for a run that begins or goes on.

    Args:
      setup: The prepared arguments of `fit`.
      keeping: The arguments that concern the folder.

    Yields:
      The folder, which is locked until the block is left.

    Raises:
      ArgumentError: As for `RunFolder`; or the noise has a seed.
      RunFolderError: As for `RunFolder`; or the folder is open elsewhere, or cannot be written.
    """
    where = keeping.layout
    if setup.plan is not None and is_seeded():
        raise ArgumentError(
            f"run_dir={str(where.folder)!r} needs a ledger under a privacy plan, and no ledger can hold "
            "rounds whose noise comes from a seed. Leave it out, or train in a context without a seed."
        )
    with opened(where, make=not keeping.resume) as store, contextlib.ExitStack() as books:
        yield RunFolder(setup, keeping, store, books)


def _as_begun(setup: Setup, config: Mapping[str, Any], where: Layout) -> Setup:
    """Returns the arguments with what the folder says of the beginning of the run.

    The weights are those of the saved state: what the run's first model had been trained on counts,
    whatever the model that is passed to go on has seen.
    """
    groups = carried_in(config)
    ledger = setup.ledger
    if ledger is None and config["ledger"] is not None:
        ledger = where.folder / config["ledger"]
    return dataclasses.replace(
        setup,
        carried=tuple(dict.fromkeys(each for group in groups for each in group)),
        groups=tuple(tuple(group) for group in groups),
        disjoint_data=bool(config["disjoint_data"]),
        ledger=ledger,
    )


def _check_ledger(setup: Setup, config: Mapping[str, Any], where: Layout) -> None:
    """Refuses another ledger for a run of which no round was saved, since none tells them apart.

    Raises:
      LedgerError: The ledger in which the run was begun is there, and another one is given.
    """
    if setup.ledger is None or config["ledger"] is None:
        return
    own = where.folder / config["ledger"]
    if own.exists() and os.path.exists(setup.ledger) and not os.path.samefile(own, setup.ledger):
        raise LedgerError(
            f"ledger={os.fspath(setup.ledger)!r} is not that of the run, {str(own)!r}, which may have "
            "charges for rounds of which nothing was saved. Leave out ledger=; or move the run's ledger "
            "and its .head file, and pass their new path."
        )


def _with_all_bits(account: Account, config: Mapping[str, Any]) -> Account:
    """Returns an account that names the sources of the random bits of all parts of the run."""
    sources = dict.fromkeys(each["random_bits"] for each in config["openings"])
    return dataclasses.replace(account, random_bits="; in another part of the run, ".join(sources))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), **lines.versions()}
    for name in ("keras", "tf-keras"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
