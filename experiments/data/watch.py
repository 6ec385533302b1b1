"""A smartwatch on the wrist of 10 subjects who do 7 shoulder exercises: 4,677 windows.

140 recordings at 50 Hz of acceleration (ax, ay, az; in g) and turning rate (wx, wy, wz; in radians a
second, here divided by pi), one for each subject, exercise and side, are cut into windows of 100
samples (2 s) that begin every 50 samples: neighbors overlap by half. What is left of a recording
after its last window, at most 49 samples, is dropped. Nothing is missing.

10 subjects are too few for a guarantee for each of them: protect windows and say so, remembering that
a window shares half of its samples with the next one. Subjects are held out: the question is whether
a model serves a person who did not take part.

Source: Burns et al., "Shoulder physiotherapy exercise recognition" (arXiv:1802.01489), as packaged in
`seglearn` 1.2.5 (BSD-3), of which the file is read and nothing imported.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from experiments.data import _files, _split
from experiments.data._split import Split
from tff_dp import _checks, data

SUBJECTS = tuple(range(1, 11))
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
FEATURES = ("ax", "ay", "az", "wx", "wy", "wz")
WINDOW, STRIDE = 100, 50  # samples
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_UNITS = np.array([1.0] * 3 + [np.pi] * 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Split):
    """A split of windows.

    Attributes:
      test_recordings: The recording that each held-out window is from, int64 [windows]. The windows
        of a recording are in the order of time.
    """

    test_recordings: np.ndarray


def load(*, held_out: float, seed: int, subject: int | None = None) -> Windows:
    """Loads the windows and holds out subjects.

    Args:
      held_out: Share of the subjects, in (0, 1); not used if `subject` is given.
      seed: Of the choice of subjects; not used if `subject` is given.
      subject: The one subject to hold out, in [1, 10], as "leave one subject out" does for each in
        turn; None for a random share.

    Returns:
      Subjects as clients; x [windows, 100, 6], y [windows], int32, positions in EXERCISES.

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    if subject is None:
        out = _split.chosen(SUBJECTS, what="subjects", held_out=held_out, seed=seed)
    else:
        out = [_checks.integer("subject", subject, "[1, 10]")]
    x, y, who, recordings = _windows()
    test = np.isin(who, out)
    return Windows(
        train=data.by_column(x[~test], y[~test], who[~test]),
        test_x=x[test],
        test_y=y[test],
        test_ids=who[test].astype(str),
        held_out="clients",
        features=FEATURES,
        test_recordings=recordings[test],
    )


def _windows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns windows, exercises, subjects and numbers of recordings."""
    remedy = "Install seglearn==1.2.5."
    path = _files.folder("seglearn", remedy) / "data" / "watch_dataset.npy"
    # Loading is unpickling: the very bytes that were hashed.
    found = np.load(io.BytesIO(_files.contents(path, _SHA256, remedy)), allow_pickle=True).item()
    x, y, who = [], [], []
    for series, exercise, subject in zip(found["X"], found["y"], found["subject"], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(series / _UNITS, WINDOW, axis=0)
        windows = windows[::STRIDE].transpose(0, 2, 1)
        x.append(windows.astype(np.float32))
        y.append(np.full(len(windows), exercise, np.int32))
        who.append(np.full(len(windows), subject, np.int64))
    recordings = np.repeat(np.arange(len(x)), [len(windows) for windows in x])
    return np.concatenate(x), np.concatenate(y), np.concatenate(who), recordings
