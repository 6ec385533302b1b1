"""The privacy plan of a configuration, for the data of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tff_dp
from tff_dp import _checks
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.objects import build
from tff_dp.config import Config
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import Unit

_SAMPLE_POPULATION = 1_000_000  # for the checks of a plan whose data could not be read
_OF_THE_DATA = ("population", "cohort", "delta", "records", "sampler")


def privacy_of(path: tuple[str, ...], clients: Clients | None, mistakes: Mistakes) -> Any:
    """Makes the plan that a table of the configuration describes.

    Args:
      path: The keys that lead to the table.
      clients: The clients that the plan is for; None if they could not be made.
      mistakes: The configuration, and where to add what is wrong with it.

    Returns:
      The plan, or `NoPrivacy`; None if there are mistakes.
    """
    values: Any = mistakes.source.values
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping):
        table = ".".join(path)
        mistakes.add(
            path,
            f'missing: expected a table [{table}]; [{table}] with type = "NoPrivacy" is without.',
        )
        return None
    kind = values.get("type", "PrivacyPlan")
    if kind not in ("PrivacyPlan", "NoPrivacy"):
        mistakes.add(
            (*path, "type"), f"type={kind!r} is unknown here: expected PrivacyPlan or NoPrivacy."
        )
        return None
    if kind == "NoPrivacy":
        return build(values, tff_dp.NoPrivacy, path, mistakes)
    values = dict(values)
    target = values.pop("target_epsilon", None)
    mechanism = values.get("mechanism")
    if target is not None:
        try:
            target = _checks.real("target_epsilon", target, "(0, 100]")
        except ArgumentError as error:
            mistakes.add_error((*path, "target_epsilon"), error)
        if isinstance(mechanism, Mapping):  # the noise will be found
            values["mechanism"] = {"noise_multiplier": 1.0, **mechanism}
    found = Mistakes(mistakes.source)
    plan = build(
        values,
        tff_dp.PrivacyPlan,
        path,
        found,
        default=tff_dp.PrivacyPlan,
        make=_maker(clients),
        more=("target_epsilon",),
    )
    # Before the data can be read, what depends on them cannot be checked.
    mistakes.take(found, without=() if clients is not None else _OF_THE_DATA)
    if plan is None or target is None or mistakes.has((*path, "target_epsilon")):
        return plan
    try:
        return plan.calibrated(target)
    except ArgumentError as error:
        mistakes.add_error((*path, "target_epsilon"), error)
        return None


def _maker(clients: Clients | None) -> Callable[..., Config]:
    """Returns a function that makes a plan for the data, whatever they are."""

    def make(**arguments: Any) -> Config:
        mechanism = arguments.get("mechanism")
        if getattr(mechanism, "unit", None) is Unit.RECORD:
            if arguments.get("records") is None:
                sizes = (_SAMPLE_POPULATION,) if clients is None else clients.sizes.tolist()
                arguments["records"] = tuple(sizes)
        elif arguments.get("population") is None:
            arguments["population"] = _SAMPLE_POPULATION if clients is None else clients.num_clients
        plan = tff_dp.PrivacyPlan(**arguments)
        if clients is not None:
            plan.check_population(clients.num_clients)
        return plan

    return make
