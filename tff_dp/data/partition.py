"""Partitions of a pooled data set into clients, simulated or by a column.

Each partition is a permutation of the data: no example is lost or occurs twice, and the examples of
a client keep their order. The examples are copied, and 64-bit floats become float32, the type in
which Keras computes. Copies of more than `tff_dp.data.clients.MEMORY_MAP_BYTES` bytes go into
temporary files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tff_dp import _checks, _seeds
from tff_dp.data import _fields, _ids, _storage
from tff_dp.data import clients as _clients
from tff_dp.data._fields import Array, Fields
from tff_dp.data.clients import Clients
from tff_dp.errors import ArgumentError, DataError

_DRAWS = 1000

_Data = ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike]


def iid(
    x: _Data, y: _Data, *, clients: int, seed: int | None, allow_nonfinite: bool = False
) -> Clients:
    """Distributes the examples over clients at random; sizes differ by at most one.

    Args:
      x: Inputs, [examples, ...], or a dictionary, list or tuple of such arrays.
      y: Targets, in the same form.
      clients: Number of clients, in [1, examples].
      seed: A whole number for a reproducible partition; None draws one.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, with ids "0", "1", ...

    Raises:
      ArgumentError: An argument is outside its bound.
      DataError: The data are malformed or not finite.
    """
    _checks.flag("allow_nonfinite", allow_nonfinite)
    x, y, examples = _pooled(x, y)
    clients = _count("clients", clients, examples)
    rows = np.array_split(_generator(seed).permutation(examples), clients)
    return _dealt(x, y, rows, allow_nonfinite=allow_nonfinite)


def shards(
    x: _Data,
    y: _Data,
    *,
    clients: int,
    shards_per_client: int = 2,
    seed: int | None,
    labels: ArrayLike | None = None,
    allow_nonfinite: bool = False,
) -> Clients:
    """Sorts the examples by label, divides them into shards, and distributes the shards at random.

    With few shards per client, most clients have few labels. The sizes of shards differ by at most
    one.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", arXiv:1602.05629, section 3 (the "pathological non-IID" partition).

    Args:
      x: Inputs, [examples, ...], or a dictionary, list or tuple of such arrays.
      y: Targets, in the same form.
      clients: Number of clients, >= 1.
      shards_per_client: Shards that each client gets, >= 1; clients times shards_per_client must
        not exceed the number of examples.
      seed: A whole number for a reproducible partition; None draws one.
      labels: The labels by which to sort, [examples]; y if None.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, with ids "0", "1", ...

    Raises:
      ArgumentError: An argument is outside its bound.
      DataError: The data are malformed or not finite.
    """
    _checks.flag("allow_nonfinite", allow_nonfinite)
    x, y, examples = _pooled(x, y)
    clients = _count("clients", clients, examples)
    shards_per_client = _count("shards_per_client", shards_per_client, examples // clients)
    order = np.argsort(_labels(y, labels, examples), kind="stable")
    cut = np.array_split(order, clients * shards_per_client)
    dealt = _generator(seed).permutation(len(cut)).reshape(clients, shards_per_client)
    rows = [np.concatenate([cut[shard] for shard in hand]) for hand in dealt]
    return _dealt(x, y, rows, allow_nonfinite=allow_nonfinite)


def dirichlet(
    x: _Data,
    y: _Data,
    *,
    clients: int,
    alpha: float,
    seed: int | None,
    min_examples: int = 1,
    labels: ArrayLike | None = None,
    allow_nonfinite: bool = False,
) -> Clients:
    """Distributes each label's examples over the clients by shares from a symmetric Dirichlet law.

    This is a simulated partition for studying skewed labels; it says nothing about the skew of a
    real population. The shares of each label over the clients are drawn, so that every example is
    used exactly once and the sizes of clients vary as well. (Hsu, Qi and Brown, "Measuring the
    Effects of Non-Identical Data Distribution for Federated Visual Classification",
    arXiv:1909.06335, instead draw each client's mix of labels, for clients of equal size.) All
    shares are drawn again, at most 1000 times, until every client has `min_examples`.

    Source: Yurochkin et al., arXiv:1905.12022.

    Args:
      x: Inputs, [examples, ...], or a dictionary, list or tuple of such arrays.
      y: Targets, in the same form.
      clients: Number of clients, >= 1.
      alpha: The concentration, in (0, 1e6]. About 0.1 gives each client few labels; at 100, all
        clients have nearly the same mix.
      seed: A whole number for a reproducible partition; None draws one.
      min_examples: The smallest number of examples of a client; clients times min_examples must not
        exceed the number of examples. 0 allows empty clients.
      labels: The labels, [examples]; y if None.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, with ids "0", "1", ...

    Raises:
      ArgumentError: An argument is outside its bound, or no draw gave every client `min_examples`.
      DataError: The data are malformed or not finite.
    """
    _checks.flag("allow_nonfinite", allow_nonfinite)
    x, y, examples = _pooled(x, y)
    clients = _checks.integer("clients", clients, "[1, inf)")
    alpha = _checks.real("alpha", alpha, "(0, 1e6]", "Smaller is more skewed.")
    min_examples = _checks.integer(
        "min_examples",
        min_examples,
        f"[0, {examples // clients}]",
        f"There are {examples} examples for {clients} clients: lower one of the two.",
    )
    _, codes, counts = np.unique(
        _labels(y, labels, examples), return_inverse=True, return_counts=True
    )
    rng = _generator(seed)
    ends = _label_ends(counts, clients, alpha, min_examples, rng)
    rows: list[list[Array]] = [[] for _ in range(clients)]
    by_label = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    for members, cuts in zip(by_label, ends, strict=True):
        for client, part in enumerate(np.split(rng.permutation(members), cuts[:-1])):
            rows[client].append(part)
    dealt = [np.concatenate(parts) for parts in rows]
    return _dealt(x, y, dealt, allow_empty=min_examples == 0, allow_nonfinite=allow_nonfinite)


def by_column(x: _Data, y: _Data, column: ArrayLike, *, allow_nonfinite: bool = False) -> Clients:
    """Gives each example to the client that a column names, which is a natural partition.

    Args:
      x: Inputs, [examples, ...], or a dictionary, list or tuple of such arrays.
      y: Targets, in the same form.
      column: Client ids, [examples]: strings, numbers or dates.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, sorted by their ids as strings.

    Raises:
      ArgumentError: `allow_nonfinite` is not a boolean.
      DataError: The data are malformed or not finite, or the column has another length or a missing
        entry.
    """
    _checks.flag("allow_nonfinite", allow_nonfinite)
    x, y, examples = _pooled(x, y)
    ids, order, offsets = _ids.group("column", column)
    if len(order) != examples:
        raise DataError(
            f"column has {len(order)} entries where x has {examples} examples. Give one client id "
            "for each example."
        )
    return _built(x, y, order, offsets, ids, allow_empty=False, allow_nonfinite=allow_nonfinite)


def _label_ends(
    counts: Array, clients: int, alpha: float, min_examples: int, rng: np.random.Generator
) -> Array:
    """Returns where each client's part of each label ends, int64 [labels, clients]."""
    for _ in range(_DRAWS):
        shares = rng.dirichlet(np.full(clients, alpha), size=len(counts))
        # Shares may sum to slightly less or more than 1: the last part ends where the label does.
        ends = np.minimum(np.cumsum(shares, axis=1) * counts[:, None], counts[:, None])
        ends = ends.astype(np.int64)
        ends[:, -1] = counts
        sizes = np.diff(ends, axis=1, prepend=0).sum(axis=0)
        if sizes.min() >= min_examples:
            return ends
    raise ArgumentError(
        f"min_examples={min_examples} was not reached by every client in {_DRAWS} draws with "
        f"alpha={alpha} and clients={clients}: raise alpha, or lower clients or min_examples."
    )


def _pooled(x: _Data, y: _Data) -> tuple[Fields, Fields, int]:
    pooled = [_as_arrays("x", x), _as_arrays("y", y)]
    checked_x, checked_y = (_fields.checked(n, p) for n, p in zip("xy", pooled, strict=True))
    examples = _fields.count_examples(checked_x, checked_y)
    if examples == 0:
        raise DataError("x has no examples: expected at least one for each client.")
    return checked_x, checked_y, examples


def _as_arrays(name: str, data: Any) -> Fields:
    # Not converted here: a mapped file is converted while it is copied.
    if isinstance(data, Mapping):
        return {key: _fields.as_array(f"{name}[{key!r}]", leaf) for key, leaf in data.items()}
    if _fields.is_several(data):
        return tuple(_fields.as_array(f"{name}[{place}]", leaf) for place, leaf in enumerate(data))
    return _fields.as_array(name, data)


def _labels(y: Fields, labels: ArrayLike | None, examples: int) -> Array:
    given: Any = y if labels is None else labels
    if not isinstance(given, Mapping | tuple):
        array = _fields.as_array("labels", given)
        if array.shape in ((examples,), (examples, 1)):
            return array.reshape(examples)
        given = f"shape {list(array.shape)}"
    else:
        given = "several fields"
    name = "y" if labels is None else "labels"
    raise ArgumentError(
        f"{name} has {given}: expected one label for each example, [{examples}]. Pass labels=, such "
        "as the argmax of one-hot targets."
    )


def _count(name: str, value: Any, most: int) -> int:
    return _checks.integer(name, value, f"[1, {most}]", "Each shard or client needs an example.")


def _generator(seed: int | None) -> np.random.Generator:
    return _seeds.generator(_seeds.root(seed), "partition")


def _dealt(
    x: Fields,
    y: Fields,
    rows: Sequence[Array],
    *,
    allow_empty: bool = False,
    allow_nonfinite: bool,
) -> Clients:
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in rows])])
    order = np.concatenate([np.sort(part) for part in rows])
    return _built(
        x, y, order, offsets, None, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite
    )


def _built(
    x: Fields,
    y: Fields,
    order: Array,
    offsets: Array,
    ids: Iterable[str] | None,
    *,
    allow_empty: bool,
    allow_nonfinite: bool,
) -> Clients:
    x, y = _storage.take(x, y, order, map_above=_clients.MEMORY_MAP_BYTES, convert=True)
    return Clients(x, y, offsets, ids, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite)
