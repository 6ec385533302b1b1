"""What a run leaves, without having been run: a ledger, and what the folder says of the rest."""

from __future__ import annotations

import pathlib
import types

from tff_dp import GaussianMechanism, NoPrivacy, PrivacyPlan
from tff_dp.ledger import Ledger

NAME = '<b>run & "quotes"</b>'  # has to be escaped wherever it is shown
VERSIONS = {"python": "3.11.7", "tff-dp": "0.1.0", "keras": "3.15.0"}


def plan_of(**changes) -> PrivacyPlan:
    """Returns a small plan of Poisson-sampled Gaussian rounds."""
    arguments = {
        "mechanism": GaussianMechanism(clip_norm=0.5, noise_multiplier=1.2),
        "population": 1000,
        "cohort": 50,
        "rounds": 40,
        "delta": 1e-4,
    }
    return PrivacyPlan(**{**arguments, **changes})


class RunFolder:
    """A run's folder and what `read_run` finds in it, which tests may change.

    Attributes:
      path: The folder.
      found: What `read_run` returns.
    """

    def __init__(
        self,
        path: pathlib.Path,
        plan: PrivacyPlan | None,
        *,
        completed: int = 12,
        charged: int = 13,
        noise_seeded: bool = False,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        runs, ledger = [], None
        if plan is not None:
            ledger = path / "ledger.jsonl"
            with Ledger(ledger, plan) as book:
                if charged:
                    book.charge(1, charged)
                runs = [run.run for run in book.all_charges.runs]
        records = [
            {
                "round_number": number,
                "epsilon": 0.1 * number if plan else float("inf"),
                "metrics": {"loss": 1.0 / number, "<i>accuracy</i>": 0.5} if number > 1 else None,
                "metrics_private": False,
                "validation": {"loss": 1.2 / number},
            }
            for number in range(1, completed + 1)
        ]
        privacy = NoPrivacy() if plan is None else plan
        opening = {
            "opened": "2026-11-29T01:55:00+00:00",
            "after": 0,
            "run": runs[0] if runs else None,
            "first": 1,
            "rounds": 40,
            "random_bits": "a cryptographic stream, keyed by the operating system",
            "noise_seeded": noise_seeded,
            "versions": VERSIONS,
        }
        self.found = types.SimpleNamespace(
            config={
                "format": 1,
                "created": "2026-11-29T01:55:00+00:00",
                "arguments": {
                    "privacy": privacy.to_dict(),
                    "algorithm": {"type": "FedAvg"},
                    "batch_size": 32,
                    "seeded": False,
                },
                "model": {"name": NAME, "library": "keras"},
                "data": {"clients": 1000, "examples": 6000},
                "foreign_algorithm": None,
                "openings": [opening],
            },
            records=records,
            round_number=completed,
            checkpoints=[],
            result={"state": "finished", "stopped": None, "epsilon": None, "other_data": []},
            ledger=ledger,
            is_open=False,
        )

    def install(self, monkeypatch) -> RunFolder:
        """Makes reports read this folder."""
        for module in ("content", "files"):
            monkeypatch.setattr(f"tff_dp.report.{module}.read_run", lambda _: self.found)
        return self
