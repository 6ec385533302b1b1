"""Runs rounds that `tff_dp.execution.export` wrote, by JAX alone: no TensorFlow, no TFF.

An exported round is one file: a zip archive, not compressed, that holds

- `manifest.json`: the names, shapes and data types of the inputs and outputs, the shape of the
  cohort, the messages of the checks, the versions, and the SHA-256 of the other members;
- `round.stablehlo`: the whole round as a portable StableHLO module, from the server's state, the
  clients' examples and a random key to the next state and the metrics, with clipping and noise;
- `state.npz`: the state before the first round; of bfloat16, which numpy lacks, the bits as uint16.

Nothing in it is code that Python runs. A module of StableHLO computes numbers; operations that call
anything outside of it are refused when it is written and when it is read.

**A ledger has to be charged by the caller.** An exported round has no plan: it draws the noise of
the process that was exported, and does not know how its cohorts are sampled, or how many rounds have
been run. `docs/exported.md` shows a run with a sampler and a ledger.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import os
import pathlib
import secrets
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tff_dp import _checks
from tff_dp._arrays import CohortArrays, arrays_of
from tff_dp._compat import jax as jax_compat
from tff_dp.errors import ArgumentError, ComputationError, DataError, StackError

FORMAT = 1
_MANIFEST, _MODULE, _STATE = "manifest.json", "round.stablehlo", "state.npz"
_BFLOAT16 = "bfloat16"
_OUTSIDE = b"custom_call"  # the operation that calls code outside of a module


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohortShape:
    """The shape of the cohorts of an exported round.

    Attributes:
      clients: The most clients in a cohort; >= 1. A round may have fewer, or none.
      examples: The number of examples of each client; >= 1.
      batch_size: Examples in a batch; >= 1. The last batch of an epoch holds the remaining ones.
      epochs: How many times a client passes over its examples; >= 1.
      side_by_side: How many clients run at once; >= 1. With 1, they run one after another. More of
        them suit a GPU, and take as many times the memory of one client.

    Raises:
      ArgumentError: A number is outside its bound.
    """

    clients: int
    examples: int
    batch_size: int
    epochs: int = 1
    side_by_side: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checks.integer(
                field.name, getattr(self, field.name), f"[1, {2**31})", "Pass a positive number."
            )
            object.__setattr__(self, field.name, value)

    @property
    def slots(self) -> int:
        """The number of clients for which the round has room: full rows of clients side by side."""
        return -(-self.clients // self.side_by_side) * self.side_by_side

    def table(self, count: int) -> np.ndarray:
        """Returns the table of a cohort, as `execution.cohort.tables.ClientTable.arrays` packs it.

        Args:
          count: The number of clients in the cohort.

        Returns:
          int32 [1 + slots, 3]: the count, then the position, the first example, and the number of
          full batches of each client. Places past the count have positions of their own, so that no
          random numbers are shared.
        """
        packed = np.zeros([1 + self.slots, 3], np.int32)
        packed[0, 0] = count
        packed[1:, 0] = np.arange(self.slots)
        packed[1:, 1] = packed[1:, 0] * self.examples
        packed[1:, 2] = self.examples // self.batch_size
        return packed


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of an exported round.

    Attributes:
      name: Its name.
      shape: Its shape.
      dtype: Its data type, as numpy names it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an exported round is.

    Attributes:
      cohort: The shape of its cohorts.
      state: The tensors of the server's state.
      data: The fields of an example: the shape is that of one example.
      metrics: What a round returns beside the next state.
      texts: The strings in the server's state, by name; no round changes them.
      left_out: The names of results that are strings, which a round does not return.
      checks: The messages of the checks in it; the first is number 1.
      made_by: The versions of the packages that wrote it, by name.
    """

    cohort: CohortShape
    state: tuple[Tensor, ...]
    data: tuple[Tensor, ...]
    metrics: tuple[Tensor, ...]
    texts: Mapping[str, str]
    left_out: tuple[str, ...]
    checks: tuple[str, ...]
    made_by: Mapping[str, str]

    def inputs(self) -> list[tuple[tuple[int, ...], str]]:
        """Returns the shapes and data types of the module's inputs, in order.

        Returns:
          Those of the key, of the state, of the examples of all clients, and of the table.
        """
        rows = self.cohort.slots * self.cohort.examples
        return [
            ((2,), "uint64"),
            *((each.shape, each.dtype) for each in self.state),
            *(((rows, *each.shape), each.dtype) for each in self.data),
            ((1 + self.cohort.slots, 3), "int32"),
        ]

    def outputs(self) -> list[tuple[tuple[int, ...], str]]:
        """Returns the shapes and data types of the module's outputs, in order.

        Returns:
          Those of the two numbers of the status, of the next state, and of the metrics.
        """
        results = [*self.state, *self.metrics]
        return [((), "int32")] * 2 + [(each.shape, each.dtype) for each in results]

    def to_dict(self) -> dict[str, Any]:
        """Returns the manifest as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Makes a manifest from plain values, the inverse of `to_dict`.

        Args:
          values: The values.

        Returns:
          The manifest.

        Raises:
          TypeError: A value is missing, or has another type.
          ArgumentError: The shape of the cohort is outside its bounds.
        """
        given = dict(values)
        for name in ("state", "data", "metrics"):
            given[name] = tuple(
                Tensor(each["name"], tuple(map(int, each["shape"])), _dtype(each["dtype"]).name)
                for each in given[name]
            )
        for name in ("left_out", "checks"):
            given[name] = tuple(map(str, given[name]))
        return cls(**{**given, "cohort": CohortShape(**given["cohort"])})


def write(
    path: str | os.PathLike[str],
    manifest: Manifest,
    module: bytes,
    state: Mapping[str, np.ndarray],
) -> None:
    """Writes an exported round. The file is there whole or not at all.

    Args:
      path: The file. An older one is replaced.
      manifest: What the round is.
      module: The StableHLO module.
      state: The state before the first round, by the names in the manifest.

    Raises:
      ArgumentError: The module calls code outside of it.
      OSError: The file cannot be written.
    """
    _check_module(module)
    packed = io.BytesIO()
    np.savez(packed, **{each.name: _storable(state[each.name]) for each in manifest.state})  # type: ignore[arg-type]
    members = {_MODULE: module, _STATE: packed.getvalue()}
    hashes = {name: hashlib.sha256(member).hexdigest() for name, member in members.items()}
    described = {"format": FORMAT, "sha256": hashes, **manifest.to_dict()}
    members[_MANIFEST] = (json.dumps(described, indent=1) + "\n").encode()
    target = pathlib.Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with zipfile.ZipFile(partial, "x") as archive:
            for name, member in members.items():
                archive.writestr(zipfile.ZipInfo(name), member)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_exported(path: str | os.PathLike[str]) -> ExportedRound:
    """Reads an exported round. Neither TensorFlow nor TFF is imported, and JAX when it runs.

    Args:
      path: The file that `tff_dp.execution.export` wrote.

    Returns:
      The round.

    Raises:
      ArgumentError: The file is not an exported round, is damaged, or is of a later format.
      StackError: It has tensors of a type that numpy lacks, such as bfloat16, and JAX is missing.
      OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            described = json.loads(archive.read(_MANIFEST))
            if described.pop("format") != FORMAT:
                raise ArgumentError(
                    f"path={os.fspath(path)!r} has a format of another version of tff_dp: expected "
                    f"format {FORMAT}. Export the round again."
                )
            hashes = described.pop("sha256")
            members = {name: archive.read(name) for name in (_MODULE, _STATE)}
            for name, member in members.items():
                if hashlib.sha256(member).hexdigest() != hashes[name]:
                    raise _damaged(path, f"{name} has another SHA-256 than the manifest says")
        manifest = Manifest.from_dict(described)
        _check_module(members[_MODULE])
        with np.load(io.BytesIO(members[_STATE]), allow_pickle=False) as arrays:
            state = {each.name: _stored(arrays[each.name], each) for each in manifest.state}
    except ArgumentError:
        raise
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    return ExportedRound(manifest, members[_MODULE], state)


def _damaged(path: str | os.PathLike[str], why: str) -> ArgumentError:
    return ArgumentError(
        f"path={os.fspath(path)!r} is not an exported round, or is damaged: {why}. Pass a file that "
        "tff_dp.execution.export wrote."
    )


class ExportedRound:
    """A round that JAX runs.

    Args:
      manifest: What the round is.
      module: The StableHLO module.
      initial_state: The state before the first round, by name.

    Attributes:
      manifest: What the round is.
      initial_state: The state before the first round, by name.
    """

    def __init__(
        self, manifest: Manifest, module: bytes, initial_state: Mapping[str, np.ndarray]
    ) -> None:
        self.manifest = manifest
        self.initial_state = dict(initial_state)
        self._module = module
        self._compiled: jax_compat.Compiled | None = None

    def compile(self) -> int | None:
        """Compiles the round for JAX's default device, which `step` does otherwise when first called.

        A ledger is charged before a round runs: a round that does not compile is found before that.

        Returns:
          The bytes of the device's memory that a round takes: the state, the examples, and everything in
          between; None if JAX does not tell.

        Raises:
          StackError: JAX is missing or too old.
        """
        return self._executable().memory_bytes

    def _executable(self) -> jax_compat.Compiled:
        if self._compiled is None:
            described = self.manifest
            self._compiled = jax_compat.compiled(
                self._module, described.inputs(), described.outputs()
            )
        return self._compiled

    def step(
        self, state: Mapping[str, Any], data: Any, *, key: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Runs one round. The first call compiles it, unless `compile` has.

        Args:
          state: The state before the round, by name: `initial_state`, or what the round before
            returned.
          data: The examples of the cohort: for each field of `manifest.data` an array
            [clients, examples, ...], of numpy or of JAX; or what `Clients.cohort` returns.
          key: The key of the round's random numbers, uint64 [2]. None draws one from the operating
            system. Noise under a key that anybody else may know hides nothing, nor does that of two
            rounds with the same key.

        Returns:
          The state after the round and its metrics, by name, as arrays of JAX.

        Raises:
          ArgumentError: The state, the data or the key do not fit the manifest.
          ComputationError: A check failed, in the server's part or in a client's.
          StackError: JAX is missing or too old.
        """
        manifest = self.manifest
        missing = sorted({each.name for each in manifest.state} - set(state))
        if missing:
            raise ArgumentError(
                f"state lacks {', '.join(missing)}: expected the {len(manifest.state)} tensors of "
                "manifest.state. Pass initial_state, or what step returned."
            )
        fields, count = self._fields(data)
        given = [_as(state[each.name], each, "state ") for each in manifest.state]
        root = _key(key)
        call = self._executable().call
        table = manifest.cohort.table(count)
        who, check, *results = call(root, *given, *fields, table)
        if int(check):
            self._raise(int(who), int(check), count)
        after = len(manifest.state)
        return (
            {each.name: r for each, r in zip(manifest.state, results[:after], strict=True)},
            {each.name: r for each, r in zip(manifest.metrics, results[after:], strict=True)},
        )

    def _fields(self, data: Any) -> tuple[list[Any], int]:
        """Returns the examples of all places of a cohort, [slots * examples, ...], and the count."""
        shape, described = self.manifest.cohort, self.manifest.data
        cohort = arrays_of(data)
        fields = list(data if cohort is None else _gathered(cohort, shape))
        if len(fields) != len(described):
            names = ", ".join(each.name for each in described)
            raise DataError(
                f"data has {len(fields)} fields: expected {len(described)}, {names}. Pass an array "
                "[clients, examples, ...] for each."
            )
        count = len(fields[0])
        if count > shape.clients:
            raise DataError(
                f"data has {count} clients: expected at most {shape.clients}, for which the round was "
                "exported. Export it for larger cohorts; dropping clients would change the sampling."
            )
        found = []
        for field, each in zip(fields, described, strict=True):
            wanted = Tensor(each.name, (count, shape.examples, *each.shape), each.dtype)
            field = _as(field, wanted, "data ")
            if count < shape.slots:
                room = np.zeros([shape.slots - count, *field.shape[1:]], _dtype(each.dtype))
                field = np.concatenate([np.asarray(field), room])
            found.append(field.reshape([-1, *each.shape]))
        return found, count

    def _raise(self, who: int, check: int, count: int) -> None:
        whose = f"client {who} of the cohort's {count}" if who >= 0 else "server"
        checks = self.manifest.checks
        told = checks[check - 1] if 0 < check <= len(checks) else "a secure sum exceeds its maximum"
        raise ComputationError(f"The computation of the {whose} failed a check: {told}")


def _gathered(cohort: CohortArrays, shape: CohortShape) -> list[np.ndarray]:
    """Returns the examples of a cohort, [clients, examples, ...] for each field."""
    asked = (shape.batch_size, shape.epochs, False)
    if (cohort.batch_size, cohort.epochs, bool(cohort.apart)) != asked:
        raise DataError(
            f"data has batch_size={cohort.batch_size} and epochs={cohort.epochs}"
            f"{', reshuffled in each' if cohort.apart else ''}: expected batch_size="
            f"{shape.batch_size} and epochs={shape.epochs} in one order. Make the cohort with these."
        )
    other = np.flatnonzero(cohort.sizes != shape.examples)
    if len(other):
        raise DataError(
            f"data: client {other[0]} of the cohort has {cohort.sizes[other[0]]} examples: expected "
            f"{shape.examples}, for which the round was exported."
        )
    places = cohort.starts[:, None] + np.arange(shape.examples)
    rows = places if cohort.rows is None else cohort.rows[places]
    return [np.asarray(field)[rows] for field in cohort.fields]


def _as(value: Any, wanted: Tensor, of: str = "") -> Any:
    """Returns an array of the shape and data type of a tensor; arrays of JAX stay where they are."""
    array = value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
    if tuple(array.shape) != wanted.shape or np.dtype(array.dtype).name != wanted.dtype:
        raise ArgumentError(
            f"{of}{wanted.name} is {np.dtype(array.dtype).name} {list(array.shape)}: expected "
            f"{wanted.dtype} {list(wanted.shape)}."
        )
    return array


def _dtype(name: str) -> np.dtype[Any]:
    """Returns a data type by its name. That of bfloat16 is not numpy's, and comes with JAX."""
    if name != _BFLOAT16:
        return np.dtype(name)
    try:
        found: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError as error:
        raise StackError(
            "The round has tensors of bfloat16, which numpy lacks: pip install ml_dtypes, which comes "
            "with JAX."
        ) from error
    return found


def _storable(value: np.ndarray) -> np.ndarray:
    """Returns an array that numpy's files can hold: the bits of bfloat16."""
    return value.view(np.uint16) if value.dtype.name == _BFLOAT16 else value


def _stored(value: np.ndarray, wanted: Tensor) -> np.ndarray:
    """Returns what `_storable` was given."""
    is_bits = wanted.dtype == _BFLOAT16 and value.dtype == np.uint16
    found: np.ndarray = _as(value.view(_dtype(_BFLOAT16)) if is_bits else value, wanted)
    return found


def _key(key: Any) -> np.ndarray:
    if key is None:
        return np.frombuffer(secrets.token_bytes(16), np.uint64)
    given: np.ndarray = _as(key, Tensor("key", (2,), "uint64"))
    return given


def _check_module(module: bytes) -> None:
    if _OUTSIDE in module:
        raise ArgumentError(
            "The module calls code outside of it (custom_call), which an exported round must not."
        )
