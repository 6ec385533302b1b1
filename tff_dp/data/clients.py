"""Client data: the examples of all clients in one array for each field, and the clients' offsets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tff_dp import _checks, _html
from tff_dp.data import _fields, _files, _ids, _offsets, _storage
from tff_dp.data._fields import Array, Fields
from tff_dp.data.cohort import Cohort
from tff_dp.errors import ArgumentError, DataError

# Copies with more bytes than this in total go into unnamed temporary files that are mapped.
MEMORY_MAP_BYTES = 1 << 30


class Clients:
    """The examples of all clients, one client after another. Immutable.

    Client c has the examples in rows `offsets[c]` to `offsets[c + 1]` of every field. A field is an
    array [examples, ...] of booleans, integers, floats or strings; x and y are each one field, or a
    flat dictionary or tuple of fields for models with several inputs or outputs. A list of arrays
    becomes a tuple of fields.

    The constructor does not copy the fields: it keeps read-only views of the arrays, of whatever
    type, so that memory-mapped files stay on disk. Writing to the original arrays later changes the
    clients and bypasses all checks. float64 is kept as well, whereas Keras computes in float32;
    `from_arrays` and the other sources convert it.

    Args:
      x: Inputs, [examples, ...], or a dictionary, list or tuple of such arrays.
      y: Targets, in the same form.
      offsets: Whole numbers [clients + 1], non-decreasing from 0 to the number of examples. Copied.
      ids: A unique string or whole number for each client, stored as strings; "0", "1", ... if
        None, which takes no memory.
      allow_empty: Whether clients may have no examples.
      allow_nonfinite: Whether floats may be NaN or infinite; if so, they are not checked.

    Raises:
      ArgumentError: A flag is not a boolean.
      DataError: The fields have different lengths or a type that TensorFlow cannot hold, the
        offsets or ids do not fit, or a client is empty or has values that are not finite and that
        is not allowed.
    """

    __slots__ = ("_all_ids", "_ids", "_offsets", "_positions", "_x", "_y")

    def __init__(
        self,
        x: Array | Mapping[str, Array] | Sequence[Array],
        y: Array | Mapping[str, Array] | Sequence[Array],
        offsets: ArrayLike,
        ids: Iterable[str | int] | None = None,
        *,
        allow_empty: bool = False,
        allow_nonfinite: bool = False,
    ) -> None:
        _checks.flag("allow_empty", allow_empty)
        _checks.flag("allow_nonfinite", allow_nonfinite)
        self._x = _fields.checked("x", x)
        self._y = _fields.checked("y", y)
        self._offsets = _offsets.as_offsets(offsets, _fields.count_examples(self._x, self._y))
        self._ids: tuple[str, ...] | _ids.Numbers
        if ids is None:
            self._ids = _ids.Numbers(self.num_clients)
        else:
            self._ids = _ids.as_ids(ids, self.num_clients)
        # Made when they are asked for.
        self._all_ids: tuple[str, ...] = ()
        self._positions: dict[str, int] | None = None
        if not allow_empty and (self.sizes == 0).any():
            empty = self._ids[int(np.argmin(self.sizes))]
            raise DataError(
                f"client {empty!r} has no examples: expected at least one. Drop the client or pass "
                "allow_empty=True."
            )
        if not allow_nonfinite:
            for label, array in [*_fields.leaves("x", self._x), *_fields.leaves("y", self._y)]:
                _offsets.check_finite(label, array, self._offsets, self._ids)

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        return len(self._offsets) - 1

    @property
    def num_examples(self) -> int:
        """The number of examples of all clients together."""
        return int(self._offsets[-1])

    @property
    def ids(self) -> tuple[str, ...]:
        """The clients' ids, in the order of their positions.

        Where the clients were made without ids, asking for those of all makes as many strings, which
        are kept. `ids_of` makes those of some clients alone.
        """
        if isinstance(self._ids, _ids.Numbers):
            self._all_ids = self._all_ids or self._ids[:]
            return self._all_ids
        return self._ids

    @property
    def sizes(self) -> Array:
        """The clients' numbers of examples, int64 [clients]."""
        return np.diff(self._offsets)

    def __len__(self) -> int:
        return self.num_clients

    def __repr__(self) -> str:
        labeled = [*_fields.leaves("x", self._x), *_fields.leaves("y", self._y)]
        fields = ", ".join(f"{label}: {a.dtype} {list(a.shape[1:])}" for label, a in labeled)
        sizes = f"{self.sizes.min()} to {self.sizes.max()} each"
        return (
            f"Clients({self.num_clients} clients, {self.num_examples} examples, {sizes}, {fields})"
        )

    def _repr_html_(self) -> str:
        sizes = self.sizes
        fields = [*_fields.leaves("x", self._x), *_fields.leaves("y", self._y)]
        rows = [
            ("clients", f"{self.num_clients:,}"),
            ("examples", f"{self.num_examples:,}"),
            ("examples of a client", f"{sizes.min():,} to {sizes.max():,}"),
            *((label, f"{array.dtype} {list(array.shape[1:])}") for label, array in fields),
        ]
        return _html.pairs("Clients", rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, since arrays are writable after unpickling.
        return _unpickled, (self._x, self._y, self._offsets, self._given_ids())

    def position(self, client_id: str | int) -> int:
        """Returns the position of the client with an id.

        Args:
          client_id: The id, as a string, or as the whole number from which it was made.

        Returns:
          A position in [0, num_clients).

        Raises:
          ArgumentError: No client has the id.
        """
        name = str(client_id)
        if isinstance(self._ids, _ids.Numbers):
            found = self._ids.position(name)
        else:
            if self._positions is None:
                self._positions = {name: position for position, name in enumerate(self._ids)}
            found = self._positions.get(name)
        if found is None:
            some = ", ".join(repr(name) for name in self._ids[:3])
            raise ArgumentError(
                f"client_id={client_id!r} is unknown: expected one of the {self.num_clients} ids, "
                f"such as {some}. See the property ids."
            )
        return found

    def ids_of(self, positions: Sequence[int] | Array) -> list[str]:
        """Returns the ids of some clients, without making those of all of them.

        Args:
          positions: The positions of the clients, whole numbers in [0, num_clients).

        Returns:
          The ids, in the order of the positions.

        Raises:
          ArgumentError: A position is outside its bound.
        """
        return [self._ids[p] for p in self._chosen(positions).tolist()]

    def client(self, position: int) -> tuple[Fields, Fields]:
        """Returns the examples of one client.

        Args:
          position: The position of the client, in [0, num_clients).

        Returns:
          x and y: read-only views [examples of the client, ...], or dictionaries of them.

        Raises:
          ArgumentError: The position is outside its bound.
        """
        rows = self._rows(position)
        return _fields.apply(lambda a: a[rows], self._x), _fields.apply(lambda a: a[rows], self._y)

    def pooled(self) -> tuple[Fields, Fields]:
        """Returns x and y of all clients: read-only views [examples, ...], or dictionaries."""
        return _fields.apply(lambda a: a, self._x), _fields.apply(lambda a: a, self._y)

    def element_spec(self, *, batch: bool = True) -> tuple[Any, Any]:
        """Returns the element_spec of the data sets of all clients.

        Args:
          batch: Whether the specs are those of a batch, with a leading dimension None, or those of
            one example.

        Returns:
          x and y as `tf.TensorSpec`s, or dictionaries of them.

        Raises:
          ArgumentError: `batch` is not a boolean.
        """
        _checks.flag("batch", batch)
        import tensorflow as tf  # here: clients can be made, and accounted for, without it

        def spec(array: Array) -> Any:
            dtype = tf.string if array.dtype.kind in "SU" else tf.as_dtype(array.dtype)
            return tf.TensorSpec([None, *array.shape[1:]] if batch else array.shape[1:], dtype)

        return _fields.apply(spec, self._x), _fields.apply(spec, self._y)

    def dataset(
        self,
        position: int,
        *,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """Returns the examples of one client as a data set for TFF.

        Args:
          position: The position of the client, in [0, num_clients).
          batch_size: Examples in a batch, >= 1; the last batch of each epoch has the remaining
            ones.
          epochs: The number of times that each example occurs, >= 1. No batch has examples of two
            epochs.
          shuffle: Whether each epoch has a random order of its own. The orders are drawn now, and
            not while iterating, which takes memory for `epochs` copies of the client's examples.
          rng: The generator from which the orders are drawn; required if `shuffle` is true, and
            otherwise not used.

        Returns:
          A `tf.data.Dataset` of batches (x, y), whose element_spec is `self.element_spec()`. That
          of an empty client has no batches.

        Raises:
          ArgumentError: An argument is outside its bound, or `rng` is missing.
        """
        _checks.flag("shuffle", shuffle)
        import tensorflow as tf  # here: clients can be made, and accounted for, without it

        batch_size = _checks.integer("batch_size", batch_size, "[1, inf)")
        epochs = _checks.integer(
            "epochs", epochs, "[1, inf)", "To train on nothing, draw no client."
        )
        client = self.client(position)
        if not shuffle:
            return tf.data.Dataset.from_tensor_slices(client).batch(batch_size).repeat(epochs)
        rng = _checks.instance("rng", rng, np.random.Generator, "Shuffling needs one.")
        rows = self._rows(position)

        def shuffled(count: int) -> Any:
            # Joined as a balanced tree: a chain of data sets would take time quadratic in the
            # epochs.
            if count > 1:
                return shuffled(count // 2).concatenate(shuffled(count - count // 2))
            order = rng.permutation(rows.stop - rows.start)
            x, y = (_fields.apply(lambda a: a[order], part) for part in client)
            return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)

        return shuffled(epochs)

    def cohort(
        self,
        positions: Sequence[int] | Array,
        *,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Cohort:
        """Returns the data of some clients for one round.

        Args:
          positions: The positions of the clients, in [0, num_clients); may be empty.
          batch_size: Examples in a batch, >= 1; the last batch of each epoch has the remaining
            ones.
          epochs: The number of times that each example occurs, >= 1. No batch has examples of two
            epochs.
          shuffle: Whether each epoch of each client has a random order of its own, drawn now.
          rng: The generator from which the orders are drawn; required if `shuffle` is true, and
            otherwise not used.

        Returns:
          A sequence with one `tf.data.Dataset` for each client, as `dataset` returns them. In
          `tff_dp.execution.fast` the data sets are never made: the arrays are used instead, and stay
          on the device from round to round if they fit there.

        Raises:
          ArgumentError: An argument is outside its bound, or `rng` is missing.
        """
        _checks.flag("shuffle", shuffle)
        batch_size = _checks.integer("batch_size", batch_size, "[1, inf)")
        epochs = _checks.integer(
            "epochs", epochs, "[1, inf)", "To train on nothing, draw no client."
        )
        if shuffle:
            rng = _checks.instance("rng", rng, np.random.Generator, "Shuffling needs one.")
        chosen = np.asarray(positions)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise ArgumentError(
                f"positions={positions!r}: expected a sequence of whole numbers in "
                f"[0, {self.num_clients})."
            )
        chosen = chosen.astype(np.int64)
        outside = chosen[(chosen < 0) | (chosen >= self.num_clients)]
        if outside.size:
            raise ArgumentError(
                f"positions holds {outside[0]}: expected whole numbers in [0, {self.num_clients}). "
                "Draw the cohort for these clients."
            )
        starts = self._offsets[chosen]
        return Cohort(
            self._x,
            self._y,
            starts,
            self._offsets[chosen + 1] - starts,
            batch_size=batch_size,
            epochs=epochs,
            rng=rng if shuffle else None,
        )

    def subset(self, positions: Sequence[int] | Array) -> Clients:
        """Returns some of the clients, in the order given.

        Args:
          positions: Distinct positions in [0, num_clients), at least one.

        Returns:
          Clients with the same ids. If the positions are consecutive, they share the memory of
          these; otherwise the examples of the chosen clients are copied.

        Raises:
          ArgumentError: A position is outside its bound or occurs twice, or there is none.
        """
        chosen = self._chosen(positions)
        if not len(chosen):
            raise ArgumentError("positions is empty: expected at least one. Choose a client.")
        distinct, times = np.unique(chosen, return_counts=True)
        if len(distinct) != len(chosen):
            repeated = np.isin(chosen, distinct[times > 1])
            raise ArgumentError(
                f"positions has {chosen[np.argmax(repeated)]} twice: expected distinct ones. Remove one "
                "of them."
            )
        sizes = self._offsets[chosen + 1] - self._offsets[chosen]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        if (np.diff(chosen) == 1).all():
            rows = slice(self._offsets[chosen[0]], self._offsets[chosen[-1] + 1])
            x, y = (_fields.apply(lambda a: a[rows], part) for part in (self._x, self._y))
        else:
            # The distance of a row from its client's first row stays the same.
            index = np.arange(offsets[-1]) + np.repeat(self._offsets[chosen] - offsets[:-1], sizes)
            x, y = _storage.take(self._x, self._y, index, map_above=MEMORY_MAP_BYTES, convert=False)
        ids = self.ids_of(chosen)
        return Clients(
            x, y, offsets, ids, allow_empty=True, allow_nonfinite=True
        )  # checked already

    def save(self, folder: str | Path) -> None:
        """Writes the clients into a folder: a .npy file for each field, the offsets, the ids in JSON.

        The folder appears under its name only when it is complete.

        Args:
          folder: The folder, which must be empty or not exist. Its parents are made.

        Raises:
          ArgumentError: `folder` is not a path.
          DataError: The folder is not empty, is a file, or cannot be written.
        """
        _checks.instance("folder", folder, (str, os.PathLike), "Give the path of a new folder.")
        _files.write(Path(folder), self._given_ids(), self._offsets, self._x, self._y)

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = True) -> Self:
        """Reads clients that `save` wrote.

        Args:
          folder: The folder.
          mmap: Whether to map the files, read-only, so that examples are read when they are used.

        Returns:
          The clients. Whether they are finite and not empty was checked, or allowed, before they
          were saved; it is not checked again, which would require reading the files.

        Raises:
          ArgumentError: `folder` is not a path, or `mmap` is not a boolean.
          DataError: The folder is missing, incomplete, damaged, or of another format.
        """
        mmap = _checks.flag("mmap", mmap)
        _checks.instance("folder", folder, (str, os.PathLike), "Give the path of a folder.")
        ids, offsets, x, y = _files.read(Path(folder), mmap=mmap)
        return cls(x, y, offsets, ids, allow_empty=True, allow_nonfinite=True)

    def _given_ids(self) -> tuple[str, ...] | None:
        return None if isinstance(self._ids, _ids.Numbers) else self._ids

    def _chosen(self, positions: Sequence[int] | Array) -> Array:
        """Returns checked positions, int64 [clients]."""
        bound = f"[0, {self.num_clients})"
        if not (isinstance(positions, np.ndarray) and positions.dtype.kind in "iu"):
            positions = [_checks.integer("positions", p, bound) for p in positions]
        chosen = np.asarray(positions, np.int64)
        for wrong in chosen[(chosen < 0) | (chosen >= self.num_clients)][:1]:
            _checks.integer("positions", int(wrong), bound)
        return chosen

    def _rows(self, position: int) -> slice:
        position = _checks.integer("position", position, f"[0, {self.num_clients})")
        return slice(int(self._offsets[position]), int(self._offsets[position + 1]))


def _unpickled(x: Fields, y: Fields, offsets: Array, ids: tuple[str, ...] | None) -> Clients:
    return Clients(x, y, offsets, ids, allow_empty=True, allow_nonfinite=True)  # checked already
