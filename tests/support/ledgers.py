"""Plans and charges for the tests of ledgers, and lines of a ledger that were edited with care."""

from __future__ import annotations

import tff_dp
from tff_dp.charges import ChargedRun, Charges
from tff_dp.ledger import lines as ledger_lines


def make_plan(**changes) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
        "population": 100,
        "cohort": 5,
        "rounds": 50,
        "delta": 1e-5,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def rechained(lines: list[dict]) -> bytes:
    """Returns lines with hashes that fit: what a careful edit would leave."""
    found, before = b"", "0" * 64
    for line in lines:
        plain = {k: v for k, v in line.items() if k not in ("hash", "previous")}
        text, before = ledger_lines.chained(plain, before)
        found += text
    return found


def charged(plan, rounds=4, run="a" * 32, start=1) -> Charges:
    return Charges(runs=(ChargedRun(plan=plan, rounds=range(start, rounds + 1), run=run),))
