"""One checkpoint: a line of JSON, and the bytes of the state behind it.

The line has the hash of its own content and that of the bytes, so that whatever was torn, cut or
changed is noticed. The hashes detect accidents, not forgers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tff_dp import _disk
from tff_dp.errors import RunFolderError
from tff_dp.ledger.lines import canonical, hash_of

FORMAT = 1
_KIND = "checkpoint"


class DamagedError(RunFolderError):
    """A file is not the checkpoint that was written: it is torn, changed, or of another run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is known of a run after a round; with the state, a run can go on from it.

    Attributes:
      folder: The identifier of the run folder.
      round_number: The last completed round; 0 before the first.
      records: The number of records of the history, which is the number of completed rounds.
      history: The SHA-256 hash of the lines of these records.
      run: The name under which the rounds are charged; None without a plan.
      first: The first round that is charged under this name.
      root: The root seed of the cohorts and of the order of examples.
      seed: The seed that was given to `fit`; None for entropy of the operating system.
      ended: Why the run was ended early; None if it goes on.
      callbacks: What callbacks have counted, as plain values; their arrays are stored beside the state.
    """

    folder: str
    round_number: int
    records: int
    history: str
    run: str | None
    first: int
    root: int
    seed: int | None
    ended: str | None = None
    callbacks: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A checkpoint as it was read.

    Attributes:
      facts: What is known of the run.
      leaves: The description of the leaves of the state, as for `codec.decode`.
      content: The bytes of the leaves.
      beside: The description of the arrays beside the state, as for `codec.decode_arrays`.
      content_beside: The bytes of these arrays.
    """

    facts: Checkpoint
    leaves: Sequence[Mapping[str, Any]]
    content: bytes
    beside: Sequence[Mapping[str, Any]] = ()
    content_beside: bytes = b""


def write(
    path: pathlib.Path,
    facts: Checkpoint,
    leaves: Sequence[Mapping[str, Any]],
    parts: Sequence[bytes],
    beside: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes a checkpoint atomically.

    Args:
      path: The path of the file.
      facts: What is known of the run.
      leaves: The description of the leaves of the state, as for `codec.decode`.
      parts: The bytes of each leaf, and then those of each array beside the state.
      beside: The description of the arrays beside the state, as for `codec.decode_arrays`.

    Raises:
      OSError: The file could not be written; there is none at `path`, or the old one.
    """
    hashed, size = hashlib.sha256(), 0
    for part in parts:
        hashed.update(part)
        size += len(part)
    manifest = {
        "tff_dp": _KIND,
        "format": FORMAT,
        "facts": dataclasses.asdict(facts),
        "leaves": [dict(leaf) for leaf in leaves],
        "beside": [dict(leaf) for leaf in beside],
        "payload": {"bytes": size, "sha256": hashed.hexdigest()},
    }
    head = canonical({"manifest": manifest, "sha256": hash_of(manifest)}) + b"\n"
    _disk.replace(path, head, *parts)


def read(path: pathlib.Path) -> Stored:
    """Reads and verifies a checkpoint.

    Args:
      path: The path of the file.

    Returns:
      The content.

    Raises:
      DamagedError: The file is not a whole checkpoint. The message completes "The checkpoint ... ".
      RunFolderError: It was written by a newer version of tff_dp.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"cannot be read ({error})") from error
    line, ending, payload = content.partition(b"\n")
    manifest = _manifest(line) if ending else None
    if manifest is None:
        raise DamagedError("is torn or changed, or is no checkpoint")
    version = manifest["format"]
    if version > FORMAT:
        raise RunFolderError(
            f"The checkpoint {path} has format {version}: expected at most {FORMAT}. Read it with the "
            "version of tff_dp that wrote it."
        )
    try:
        if len(payload) != manifest["payload"]["bytes"]:
            raise DamagedError(
                f"is torn: its state has {len(payload)} of {manifest['payload']['bytes']} bytes"
            )
        if hashlib.sha256(payload).hexdigest() != manifest["payload"]["sha256"]:
            raise DamagedError("was changed: its hash is not that of its state")
        known = manifest["facts"]
        facts = Checkpoint(**known | {"callbacks": tuple(known.get("callbacks", ()))})
        beside = manifest.get("beside", [])
        end = len(payload) - sum(int(leaf["bytes"]) for leaf in beside)
        return Stored(
            facts=facts,
            leaves=manifest["leaves"],
            content=payload[:end],
            beside=beside,
            content_beside=payload[end:],
        )
    except (KeyError, TypeError):
        raise DamagedError("lacks a field") from None


def _manifest(line: bytes) -> dict[str, Any] | None:
    """Returns the manifest of a checkpoint, in whatever format; None if the line has none."""
    try:
        head = json.loads(line)
        manifest = head["manifest"]
        is_whole = head["sha256"] == hash_of(manifest) and manifest["tff_dp"] == _KIND
        return manifest if is_whole and isinstance(manifest["format"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
