"""Makes clients from arrays, data frames, TFF's client data and tf.data.

All of these functions copy the examples and convert float64 to float32, the type in which Keras
computes; integers of any width, booleans and strings stay as they are. Copies of more than
`tff_dp.data.clients.MEMORY_MAP_BYTES` bytes go into temporary files.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import DTypeLike

from tff_dp import _checks
from tff_dp.data import _elements, _fields, _frames, _ids, _storage
from tff_dp.data import clients as _clients
from tff_dp.data._fields import Fields
from tff_dp.data.clients import Clients
from tff_dp.errors import DataError


def from_arrays(
    arrays: Mapping[Any, Any], *, allow_empty: bool = False, allow_nonfinite: bool = False
) -> Clients:
    """Makes clients from one pair of arrays for each client.

    Args:
      arrays: A mapping from client ids to (x, y), or to {"x": x, "y": y}. x and y are each an
        array-like [examples, ...], or a dictionary, list or tuple of arrays.
      allow_empty: Whether clients may have no examples.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, in the order of the mapping.

    Raises:
      ArgumentError: A flag is not a boolean.
      DataError: A client's data are malformed, differ from those of other clients in fields, shape
        or type, or are empty or not finite and that is not allowed.
    """
    _check_flags(allow_empty, allow_nonfinite)
    _check_mapping("arrays", arrays, "For pooled data, use a partition.")
    clients = ((client, *_pair(_ids.as_id(client), value)) for client, value in arrays.items())
    return _joined(clients, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite)


def from_datasets(
    datasets: Mapping[Any, Any], *, allow_empty: bool = False, allow_nonfinite: bool = False
) -> Clients:
    """Makes clients from one `tf.data.Dataset` for each client.

    Args:
      datasets: A mapping from client ids to finite data sets of single examples (x, y), not
        batched. x and y are each a tensor, or a dictionary or tuple of tensors.
      allow_empty: Whether clients may have no examples.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, in the order of the mapping.

    Raises:
      ArgumentError: A flag is not a boolean.
      DataError: A client's data set is batched, infinite or not one of pairs; differs from those of
        other clients in fields, shape or type; or is empty or not finite and that is not allowed.
    """
    _check_flags(allow_empty, allow_nonfinite)
    _check_mapping("datasets", datasets, "Key the datasets by client ids.")
    clients = (
        (client, *_elements.read(_ids.as_id(client), dataset, None, None))
        for client, dataset in datasets.items()
    )
    return _joined(clients, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite)


def from_client_data(
    client_data: Any,
    *,
    x: str | Sequence[str] | None = None,
    y: str | Sequence[str] | None = None,
    allow_empty: bool = False,
    allow_nonfinite: bool = False,
) -> Clients:
    """Makes clients from a `tff.simulation.datasets.ClientData`.

    Args:
      client_data: Client data whose examples are pairs (x, y), or dictionaries.
      x: For dictionaries, the name of the input, or several names for a model with several inputs;
        otherwise None.
      y: The name or names of the target, in the same form.
      allow_empty: Whether clients may have no examples.
      allow_nonfinite: Whether floats may be NaN or infinite.

    Returns:
      The clients, in the order of `client_ids`.

    Raises:
      ArgumentError: x or y is given for pairs, missing for dictionaries, does not name a field, or
        names a field twice; or a flag is not a boolean.
      DataError: As `from_datasets`, or the argument is not client data.
    """
    _check_flags(allow_empty, allow_nonfinite)
    try:
        ids, create = client_data.client_ids, client_data.create_tf_dataset_for_client
    except AttributeError:
        raise DataError(
            f"client_data is of type {type(client_data).__name__}: expected a "
            "tff.simulation.datasets.ClientData. For a dictionary of datasets, use from_datasets."
        ) from None
    clients = (
        (client, *_elements.read(_ids.as_id(client), create(client), x, y)) for client in ids
    )
    return _joined(clients, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite)


def from_frame(
    frame: Any,
    *,
    client: Hashable,
    features: Sequence[Hashable],
    label: Hashable,
    dtype: DTypeLike = "float32",
    label_dtype: DTypeLike | None = None,
    allow_empty: bool = False,
    allow_nonfinite: bool = False,
) -> Clients:
    """Makes clients from a pandas DataFrame with one example in each row.

    Args:
      frame: The frame.
      client: The column of client ids: strings, numbers or dates.
      features: The columns of x, in their order in x; at least one.
      label: The column of y.
      dtype: The type of x, a numeric or boolean type. If "float64" is given here, it is kept.
      label_dtype: The type of y. If None, the column's own type, with float64 as float32.
      allow_empty: Accepted for uniformity with the other sources; no client of a frame is empty.
      allow_nonfinite: Whether floats may be infinite. Missing values, which pandas does not
        distinguish from NaN, are refused in any case.

    Returns:
      The clients, sorted by their ids as strings, with x [examples, features] and y [examples]. The
      rows of a client keep their order.

    Raises:
      ArgumentError: A column is unknown or occurs twice in the frame; `features` is not a list, has
        a column twice, or has the column of the clients or of the label; or a flag is not a
        boolean.
      DataError: A value is missing, does not fit its type, or is not finite and that is not
        allowed.
    """
    _check_flags(allow_empty, allow_nonfinite)
    x, y, ids, order, offsets = _frames.read(frame, client, features, label, dtype, label_dtype)
    fields = _storage.take(x, y, order, map_above=_clients.MEMORY_MAP_BYTES, convert=False)
    return Clients(*fields, offsets, ids, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite)


def _check_flags(allow_empty: bool, allow_nonfinite: bool) -> None:
    _checks.flag("allow_empty", allow_empty)
    _checks.flag("allow_nonfinite", allow_nonfinite)


def _check_mapping(name: str, value: object, remedy: str) -> None:
    if not isinstance(value, Mapping):
        raise DataError(
            f"{name} is of type {type(value).__name__}: expected a dictionary of clients. {remedy}"
        )


def _pair(client: str, value: Any) -> tuple[Fields, Fields]:
    if isinstance(value, Mapping) and value.keys() == {"x", "y"}:
        value = (value["x"], value["y"])
    if not isinstance(value, tuple) or len(value) != 2:
        keys = f" with the keys {list(value)}" if isinstance(value, Mapping) else ""
        raise DataError(
            f"client {client!r} has a {type(value).__name__}{keys}: expected (x, y) or "
            "{'x': ..., 'y': ...}."
        )
    x, y = (
        _fields.converted(f"client {client!r}: {name}", part)
        for name, part in zip("xy", value, strict=True)
    )
    return x, y


def _joined(
    clients: Iterable[tuple[Any, Fields, Fields]], *, allow_empty: bool, allow_nonfinite: bool
) -> Clients:
    ids = []
    with _storage.Builder(map_above=_clients.MEMORY_MAP_BYTES) as builder:
        for client, x, y in clients:
            ids.append(client)
            builder.append(_ids.as_id(client), x, y)
        x, y, offsets = builder.finish()
    return Clients(x, y, offsets, ids, allow_empty=allow_empty, allow_nonfinite=allow_nonfinite)
