"""What makes a run the same run: the arguments, the model and the data that may not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tff_dp import _compat
from tff_dp.charges import Charges, shortened
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError
from tff_dp.ledger.lines import hash_of
from tff_dp.model import BoundModel
from tff_dp.training.setup import Setup


def identity_of(setup: Setup) -> dict[str, Any]:
    """Describes a run by plain values, which have to be equal when it is resumed.

    Args:
      setup: The prepared arguments of `fit`.

    Returns:
      The parts "arguments", "model" and "data" of config.json. None of them depends on the values of
      the data or of the weights.
    """
    return {
        "arguments": {
            "privacy": _plain(setup.privacy.to_dict()),
            "algorithm": _plain(setup.algorithm.to_dict()),
            "batch_size": setup.batch_size,
            "epochs": setup.epochs,
            "shuffle": setup.shuffle,
            "seeded": setup.seeded,
            "release_metrics": setup.release,
            **{name: _plain(given) for name, given in setup.weights.items() if given is not None},
        },
        "model": _model(setup.bound),
        "data": _data(setup.clients),
    }


def origin_of(setup: Setup) -> dict[str, Any]:
    """Describes by plain values what a run began with, and what a resumed run takes from the folder.

    Args:
      setup: The prepared arguments of `fit`.

    Returns:
      The parts "plan_hash", "restorable", "disjoint_data", "adjustable_rates", "carried" and
      "foreign_algorithm" of config.json.
    """
    plan = setup.plan
    descriptions = {"privacy": setup.privacy.to_dict(), "algorithm": setup.algorithm.to_dict()}
    return {
        "restorable": {name: _plain(each) == each for name, each in descriptions.items()},
        "plan_hash": None if plan is None else hash_of(plan.to_dict()),
        "disjoint_data": setup.disjoint_data,
        "adjustable_rates": setup.adjustable_rates,
        "carried": [[each.to_dict() for each in group] for group in setup.groups],
        "foreign_algorithm": setup.foreign_algorithm,
    }


def carried_in(config: Mapping[str, Any]) -> list[list[Charges]]:
    """Returns the charges that the model had before the run, from the configuration.

    Args:
      config: The configuration.

    Returns:
      The charges in groups, as `Setup.groups`.
    """
    return [[Charges.from_dict(each) for each in group] for group in config["carried"]]


def check_same(config: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a run is resumed with what it was begun with.

    Args:
      config: The configuration in the run folder.
      now: The result of `identity_of` for the arguments of this call.

    Raises:
      ArgumentError: Something differs; the message names it, with both values.
    """
    now = json.loads(json.dumps(now))  # as it would be read from the folder
    saved_versions = config["openings"][-1]["versions"] if config["openings"] else {}
    for name, what in (("arguments", ""), ("data", "clients"), ("model", "model")):
        before, after = config[name], now[name]
        found = {
            key: (before.get(key), after.get(key))
            for key in (*before, *(key for key in after if key not in before))
            if before.get(key) != after.get(key) and (name, key) not in _NOT_COMPARED
        }
        if found:
            raise ArgumentError(_message(what, shortened(found), saved_versions))


_IDS_AT_ONCE = 1 << 16  # of clients, that are made and hashed together
_NOT_COMPARED = {("model", "name"), ("model", "library")}


def _message(what: str, found: Mapping[str, tuple[str, str]], versions: Mapping[str, str]) -> str:
    listed = "; ".join(f"{name}: {one}, and now {two}" for name, (one, two) in found.items())
    if not what:
        return (
            f"The run in run_dir was begun with other arguments: {listed}. Pass the same ones, or begin "
            "another run in another folder."
        )
    names = {"clients": "data", "model": "model"}
    remedy = (
        f"Pass the {names[what]} with which it was begun, or begin another run in another folder."
    )
    if what == "model":
        versions_said = ", ".join(f"{name} {version}" for name, version in versions.items())
        remedy += (
            f" Other versions of packages may build another graph; the run had {versions_said}."
        )
    return f"{what} differs from that of the run in run_dir: {listed}. {remedy}"


def _plain(values: Any) -> Any:
    """Returns values that JSON can hold; of an object of a user's, the class alone."""
    if isinstance(values, Mapping):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, np.generic):
        return values.item()
    if values is None or isinstance(values, bool | int | float | str):
        return values
    return f"{type(values).__module__}:{type(values).__qualname__}"


def _model(bound: BoundModel) -> dict[str, Any]:
    legacy = _compat.keras.is_legacy(bound.source)
    return {
        "name": str(getattr(bound.source, "name", "")),
        "library": "tf_keras" if legacy else "keras",
        "fingerprint": bound.fingerprint(),
        **{
            part: [{"shape": list(np.shape(w)), "dtype": np.asarray(w).dtype.name} for w in weights]
            for part, weights in bound.initial_weights._asdict().items()
        },
    }


def _data(clients: Clients) -> dict[str, Any]:
    hashed = hashlib.sha256()
    count = clients.num_clients
    for begin in range(0, count, _IDS_AT_ONCE):
        names = clients.ids_of(np.arange(begin, min(begin + _IDS_AT_ONCE, count)))
        hashed.update("".join(f"{name}\0" for name in names).encode())
    hashed.update(clients.sizes.astype("<i8").tobytes())
    x, y = clients.element_spec()
    return {
        "clients": clients.num_clients,
        "examples": clients.num_examples,
        "fingerprint": hashed.hexdigest(),
        "x": _specs(x),
        "y": _specs(y),
    }


def _specs(spec: Any) -> dict[str, Any]:
    if isinstance(spec, tuple):
        spec = {f"[{place}]": each for place, each in enumerate(spec)}
    named = spec if isinstance(spec, Mapping) else {"": spec}
    return {
        key: {"shape": list(each.shape[1:]), "dtype": each.dtype.name}
        for key, each in named.items()
    }
