"""Names of classes in plans and ledgers: those of tff_dp stay its own, and no name stands for two."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import types

import pytest

import tff_dp
from tff_dp.config import Config, is_own, name_of
from tff_dp.errors import ArgumentError
from tff_dp.ledger import lines
from tff_dp.optimizers import SGD
from tff_dp.sampling import Sampler

PLAN = tff_dp.PrivacyPlan(
    mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=2.0),
    population=1000, rounds=10, delta=1e-5, cohort=20,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMechanism(tff_dp.GaussianMechanism):
    """A user's class of a name that tff_dp has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """A user's own."""

    rate: float
    inner: Config | None = None


def named(name: str, module: str = __name__, **attributes: object) -> type:
    """Returns a dataclass as one that is defined in a function, or in another module."""
    kind = type("Named", (Config,), {"__module__": module, "__qualname__": name} | attributes)
    kind.__name__ = name.rpartition(".")[2]
    kind.__annotations__ = {"rate": float}
    return dataclasses.dataclass(frozen=True, kw_only=True)(kind)


def test_a_users_class_of_the_same_name_does_not_take_the_place_of_ours(tmp_path):
    values = json.loads(json.dumps(PLAN.to_dict()))
    assert values["mechanism"]["type"] == "GaussianMechanism"
    read = tff_dp.PrivacyPlan.from_dict(values)
    assert type(read.mechanism) is tff_dp.GaussianMechanism
    with tff_dp.Ledger(tmp_path / "ledger", PLAN) as ledger:
        ledger.charge(1)
    (plan,) = tff_dp.ledger.summarize(tmp_path / "ledger").plans
    assert type(plan.mechanism) is tff_dp.GaussianMechanism
    # And the user's is read back as the user's.
    mine = GaussianMechanism(clip_norm=0.5, noise_multiplier=2.0)
    assert mine.to_dict()["type"] == "tests.plan.test_config:GaussianMechanism"
    assert type(Config.from_dict(mine.to_dict())) is GaussianMechanism
    assert type(GaussianMechanism.from_dict({"clip_norm": 0.5, "noise_multiplier": 2.0})) is (
        GaussianMechanism
    )


def test_a_class_that_pretends_to_be_one_of_ours_is_refused():
    with pytest.raises(ArgumentError, match=r"class PoissonSampler .*another name"):
        type("PoissonSampler", (Sampler,), {"__module__": "tff_dp.sampling.mine"})
    assert type(Config.from_dict({"type": "PoissonSampler", "rate": 0.1})) is tff_dp.PoissonSampler


def test_names_are_bare_for_our_classes_and_full_for_those_of_users():
    assert name_of(SGD) == "SGD"
    assert name_of(Settings) == "tests.plan.test_config:Settings"
    assert all(is_own(kind) for kind in Config._classes.values())
    other = named("Own", module="tff_dp_extras.plans")
    assert not is_own(other)
    assert name_of(other) == "tff_dp_extras.plans:Own"


def test_users_classes_are_restored_with_what_they_hold():
    settings = Settings(rate=0.5, inner=PLAN)
    assert Config.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    # As older versions wrote them, by bare name; and without one, on the class itself.
    assert Config.from_dict({"type": "Settings", "rate": 0.5}) == Settings(rate=0.5)
    assert Settings.from_dict({"rate": 0.5}) == Settings(rate=0.5)


def test_a_name_of_two_classes_is_refused_with_both():
    one, two = named("Twice", "one"), named("Twice", "two")
    with pytest.raises(ArgumentError, match=r"type='Twice' is ambiguous.*2 .*one:Twice, two:Twice"):
        Config.from_dict({"type": "Twice", "rate": 1.0})
    for kind in (one, two):
        assert type(Config.from_dict(kind(rate=1.0).to_dict())) is kind
    local = [named("f.<locals>.Again") for _ in range(2)]
    with pytest.raises(
        ArgumentError, match=r"is ambiguous: there are 2 classes.*define each class once"
    ):
        Config.from_dict(local[0](rate=1.0).to_dict())


def test_a_class_that_was_defined_again_is_the_one_that_has_the_name_now():
    module = types.ModuleType("of_a_notebook")
    first, second = (named("Cell", "of_a_notebook") for _ in range(2))
    values = first(rate=1.0).to_dict()
    sys.modules["of_a_notebook"] = module
    try:
        module.Cell = second
        assert type(Config.from_dict(values)) is second
    finally:
        del sys.modules["of_a_notebook"]


def test_a_class_that_is_gone_leaves_no_name_behind():
    values = named("Gone")(rate=1.0).to_dict()
    gc.collect()
    with pytest.raises(ArgumentError, match=f"is unknown here.*Import {__name__} first"):
        Config.from_dict(values)


@pytest.mark.parametrize("kind", [tff_dp.NoPrivacy, Settings])
def test_a_class_of_another_kind_is_refused(kind):
    with pytest.raises(ArgumentError, match="type='GaussianMechanism' is unknown here"):
        kind.from_dict(PLAN.mechanism.to_dict())


# Hashes of plans as they stood in ledgers before classes of users had full names.
@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (PLAN, "07df0e322f4ae5d862a2db1a07e7d3158927b6e2b206b852978dc5aeff6926b0"),
        (
            tff_dp.PrivacyPlan(
                mechanism=tff_dp.RecordGaussianMechanism(
                    clip_norm=0.5, noise_multiplier=2.0, batch_size=2
                ),
                unit="record", records=(30, 20), rounds=10, delta=1e-5,
            ),
            "00088bd1467758af878f70e68a25083c7ad5606bb59290f275bb13943fe90e52",
        ),
        (
            tff_dp.PrivacyPlan(
                mechanism=tff_dp.AdaptiveGaussianMechanism(noise_multiplier=1.0),
                population=1000, rounds=10, delta=1e-5, adjacency="replace-one",
                sampler=tff_dp.FixedSizeSampler(size=50), max_dimension=1000,
                metrics=(tff_dp.PrivateMetric(name="loss", clip_value=4.0, budget_fraction=0.1),),
            ),
            "92d45b1f0341d4bbebff7f6830c11bb1daaaa32ca47df678863e6088f47c0f79",
        ),
    ],
    ids=["clients", "records", "metrics"],
)  # fmt: skip
def test_hashes_of_plans_have_not_changed(plan, expected):
    assert lines.hash_of(plan.to_dict()) == expected


def test_fields_that_were_renamed_are_stored_under_their_earlier_names():
    metric = tff_dp.PrivateMetric(name="loss", clip_value=4.0, budget_fraction=0.1)
    stored = {"type": "PrivateMetric", "name": "loss", "largest": 4.0, "share": 0.1}
    assert metric.to_dict() == stored
    now = {"name": "loss", "clip_value": 4.0, "budget_fraction": 0.1}
    for values in (stored, now, now | {"type": "PrivateMetric"}):
        assert tff_dp.PrivateMetric.from_dict(values) == metric
    with pytest.raises(ArgumentError, match="has 'clip_value' twice, also as 'largest'"):
        tff_dp.PrivateMetric.from_dict(now | {"largest": 9.0})
