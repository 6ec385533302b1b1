"""Plans that take the place of others, and plans as dictionaries."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle

import numpy as np
import pytest

from tests.support.plans import a_plan, gaussian, refused
from tff_dp.accounting import accountants
from tff_dp.config import Config
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    PerLayerGaussianMechanism,
    PrivateMetric,
    RecordGaussianMechanism,
    TreeMechanism,
)
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.sampling import (
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
)

# --- Plans that replace others ------------------------------------------------------------------

RECORDS = {
    "mechanism": RecordGaussianMechanism(clip_norm=0.1, noise_multiplier=10.0, batch_size=8),
    "unit": "record",
    "records": (8, 30, 9, 12),
    "rounds": 5,
    "delta": 1e-3,
}
CENTRAL = {"mechanism": gaussian(10.0), "population": 100, "rounds": 5, "delta": 1e-4}
# Every way to make a plan, by its arguments.
MADE = {
    "cohort": CENTRAL | {"cohort": 10},
    "fractional cohort": CENTRAL | {"cohort": 7.3},
    "whole cohort": CENTRAL | {"cohort": 100},
    "cohort and adjacency": CENTRAL | {"cohort": 10, "adjacency": "replace-one"},
    "rate": CENTRAL | {"sampler": PoissonSampler(rate=0.1)},
    "size": CENTRAL | {"sampler": FixedSizeSampler(size=10)},
    "all": CENTRAL | {"sampler": FullParticipation()},
    "metrics": CENTRAL | {"cohort": 10, "metrics": (PrivateMetric(name="loss", clip_value=4.0),)},
    "apart": CENTRAL
    | {
        "mechanism": BandedMechanism(clip_norm=0.5, noise_multiplier=10.0, bands=2),
        "sampler": MinSeparationSampler(size=10, min_separation=4),
    },
    "cyclic": CENTRAL
    | {
        "mechanism": BandedMechanism(clip_norm=0.5, noise_multiplier=10.0, bands=2),
        "sampler": CyclicPoissonSampler(rate=0.1, cycle=2),
    },
    "records": RECORDS,
    "records and cohort": RECORDS | {"cohort": 2},
    "records and rate": RECORDS | {"sampler": PoissonSampler(rate=0.5)},
}
# Changes of every field, one at a time or together.
CHANGES = [
    {"population": 50},
    {"population": 200},
    {"population": 9},
    {"population": None},
    {"rounds": 7},
    {"delta": 1e-5},
    {"mechanism": gaussian(12.0)},
    {"mechanism": RecordGaussianMechanism(clip_norm=1, noise_multiplier=12.0, batch_size=4)},
    {"sampler": PoissonSampler(rate=0.25)},
    {"sampler": PoissonSampler(rate=0.25), "population": 200},
    {"sampler": FullParticipation()},
    {"sampler": None, "cohort": 3},
    {"sampler": None, "cohort": 3, "population": 60},
    {"adjacency": "add-or-remove-one"},
    {"adjacency": "zero-out"},
    {"adjacency": None},
    {"adjacency": None, "sampler": FixedSizeSampler(size=4)},
    {"unit": "record"},
    {"metrics": ()},
    {"metrics": (PrivateMetric(name="loss", clip_value=2.0, budget_fraction=0.1),)},
    {"records": (9, 30, 20, 12)},
    {"records": (8, 30, 9, 12, 14)},
    {"records": (8, 30, 9, 12, 14), "population": None},
    {"max_dimension": 1000},
]


def _made_or_refused(make):
    try:
        return make()
    except ArgumentError as error:
        return type(error)


def test_every_field_is_changed():
    fields = {field.name for field in dataclasses.fields(PrivacyPlan)} | {"cohort", "unit"}
    assert {name for changes in CHANGES for name in changes} == fields


@pytest.mark.parametrize("way", MADE)
def test_a_replaced_plan_is_the_one_of_the_same_arguments_with_the_changes(way):
    given = MADE[way]
    plan = PrivacyPlan(**given)
    for changes in CHANGES:
        # The relation that a guarantee holds for does not change by itself. None is that of the sampler.
        arguments = given | {"adjacency": plan.adjacency, "population": plan.population} | changes
        if "sampler" in changes and "cohort" not in changes:
            arguments.pop("cohort", None)
        expected = _made_or_refused(lambda a=arguments: PrivacyPlan(**a))
        found = _made_or_refused(lambda c=changes: dataclasses.replace(plan, **c))
        assert found == expected, changes
        if isinstance(found, PrivacyPlan):
            assert found.epsilon() == expected.epsilon(), changes
            assert found.clients_per_round == expected.clients_per_round, changes
            # And once more: the arguments have not been lost on the way.
            again = _made_or_refused(lambda f=found: dataclasses.replace(f, rounds=3))
            assert again == _made_or_refused(lambda a=arguments: PrivacyPlan(**a | {"rounds": 3}))


def test_another_population_keeps_a_cohort_that_was_given_and_a_rate_that_was_given():
    of_cohort = PrivacyPlan(**CENTRAL, cohort=10)
    of_rate = PrivacyPlan(**CENTRAL, sampler=PoissonSampler(rate=0.1))
    assert of_cohort == of_rate  # which does not show where they come from
    larger = dataclasses.replace(of_cohort, population=200)
    assert (larger.clients_per_round, larger.sampler) == (10, PoissonSampler(rate=0.05))
    assert larger.epsilon().epsilon < of_cohort.epsilon().epsilon
    larger = dataclasses.replace(of_rate, population=200)
    assert (larger.clients_per_round, larger.sampler) == (20, PoissonSampler(rate=0.1))
    with pytest.raises(ArgumentError, match=r"cohort=10\.0 .*\(0, 9\]"):
        dataclasses.replace(of_cohort, population=9)


@pytest.mark.parametrize(
    "copied",
    [
        lambda plan: pickle.loads(pickle.dumps(plan)),
        copy.deepcopy,
        copy.copy,
        lambda plan: plan.calibrated(target_epsilon=2.0),
        lambda plan: dataclasses.replace(plan, rounds=6),
    ],
)
def test_a_cohort_that_was_given_goes_along_with_copies(copied):
    plan = copied(PrivacyPlan(**CENTRAL, cohort=10))
    assert dataclasses.replace(plan, population=200).clients_per_round == 10
    other = dataclasses.replace(plan, sampler=PoissonSampler(rate=0.1))
    assert dataclasses.replace(other, population=200).clients_per_round == 20


def test_a_sampler_of_another_plan_keeps_its_rate():
    plan = PrivacyPlan(**CENTRAL, cohort=10)
    other = PrivacyPlan(**CENTRAL | {"population": 200}, sampler=plan.sampler)
    assert other.clients_per_round == 20
    restored = PrivacyPlan.from_dict(plan.to_dict())
    assert restored == plan
    assert dataclasses.replace(restored, population=200).clients_per_round == 20


def test_a_cohort_beside_a_sampler_is_refused_with_what_to_pass():
    plan = PrivacyPlan(**CENTRAL, cohort=10)
    with pytest.raises(ArgumentError, match=r"cohort=20: give exactly one.*replace, sampler=None"):
        dataclasses.replace(plan, cohort=20)
    assert dataclasses.replace(plan, cohort=20, sampler=None).clients_per_round == 20
    assert dataclasses.replace(plan, sampler=None) == plan


# --- Dictionaries -------------------------------------------------------------------------------

CONFIGS = [
    GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
    AdaptiveGaussianMechanism(noise_multiplier=1.0),
    AdaptiveGaussianMechanism(noise_multiplier=1.0, clipped_count_stddev=3.0),
    DistributedGaussianMechanism(clip_norm=0.5, noise_multiplier=1.0, dimension=10, beta=0.5),
    DistributedSkellamMechanism(clip_norm=0.5, noise_multiplier=1.0, dimension=10, bits=16),
    RecordGaussianMechanism(clip_norm=0.1, noise_multiplier=1.0, batch_size=8, local_steps=3),
    PoissonSampler(rate=0.1),
    FixedSizeSampler(size=3),
    FullParticipation(),
    NoPrivacy(),
    NoPrivacy(sampler=FixedSizeSampler(size=3)),
    a_plan(),
    a_plan(sampler=FixedSizeSampler(size=10)),
    a_plan(sampler=None, cohort=500, adjacency="replace-one"),
    a_plan(mechanism=AdaptiveGaussianMechanism(noise_multiplier=5.0)),
    PerLayerGaussianMechanism(clip_norms=(0.1, 0.2), noise_multiplier=1.0),
    LaplaceMechanism(clip_norm=0.5, noise_multiplier=1.0),
    TreeMechanism(clip_norm=0.5, noise_multiplier=1.0, restart_every=16),
    BandedMechanism(clip_norm=0.5, noise_multiplier=1.0, bands=4),
    LocalGaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
    LocalLaplaceMechanism(clip_norm=0.5, noise_multiplier=1.0),
    PrivateMetric(name="loss", clip_value=4.0),
    MinSeparationSampler(size=3, min_separation=4),
    MinSeparationSampler(size=3, min_separation=4, max_participations=2),
    CyclicPoissonSampler(rate=0.1, cycle=4),
    a_plan(
        mechanism=TreeMechanism(clip_norm=0.5, noise_multiplier=9.0),
        sampler=MinSeparationSampler(size=10, min_separation=20),
    ),
    a_plan(
        mechanism=BandedMechanism(clip_norm=0.5, noise_multiplier=9.0, bands=4),
        sampler=CyclicPoissonSampler(rate=0.1, cycle=4),
    ),
    a_plan(
        unit="record",
        mechanism=RecordGaussianMechanism(clip_norm=0.1, noise_multiplier=10.0, batch_size=8),
        population=None,
        sampler=None,
        records=(8, 30, 9),
    ),
]


def test_every_configuration_of_these_modules_is_tried():
    names = {
        name
        for name, kind in Config._classes.items()
        if dataclasses.is_dataclass(kind)
        and not inspect.isabstract(kind)
        and kind.__module__.startswith(("tff_dp.mechanisms", "tff_dp.sampling", "tff_dp.plan"))
    }
    assert names == {type(config).__name__ for config in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_round_trip_through_json(config):
    values = config.to_dict()
    assert values["type"] == type(config).__name__
    text = json.dumps(values, allow_nan=False)
    assert Config.from_dict(json.loads(text)) == config
    assert type(config).from_dict(json.loads(text)) == config
    del values["type"]
    assert type(config).from_dict(values) == config


def test_numpy_scalars_become_plain_ones():
    plan = a_plan(
        population=np.int64(1000),
        rounds=np.int32(100),
        delta=np.float64(1e-5),
        mechanism=GaussianMechanism(clip_norm=np.float32(0.5), noise_multiplier=np.float64(10)),
    )
    assert json.dumps(plan.to_dict()) == json.dumps(a_plan().to_dict())
    assert Config.from_dict(plan.to_dict()) == a_plan()
    refused(lambda: a_plan(population=np.int64(6), delta=np.float64(1 / 6)), "delta=", "(0, 0.16")


def test_from_dict_leaves_its_argument_as_it_is():
    values = a_plan().to_dict()
    copy = json.loads(json.dumps(values))
    Config.from_dict(values)
    assert values == copy


@pytest.mark.parametrize(
    "name", ["Nothing", "", None, 1, ["PoissonSampler"], "Sampler", "Mechanism", "Config"]
)
def test_unknown_type(name):
    refused(
        lambda: Config.from_dict({"type": name, "rate": 0.1}),
        f"type={name!r} is unknown",
        "PoissonSampler",
    )


def test_a_type_from_elsewhere_is_unknown_to_a_class():
    values = gaussian().to_dict()
    refused(lambda: PoissonSampler.from_dict(values), "type='GaussianMechanism'", "PoissonSampler")
    values = a_plan().to_dict() | {"sampler": gaussian().to_dict()}
    refused(lambda: PrivacyPlan.from_dict(values), "sampler=GaussianMechanism", "Sampler")


def test_unknown_missing_and_wrong_fields():
    refused(lambda: PoissonSampler.from_dict({"rat": 0.1}), "no field 'rat'", "rate")
    refused(lambda: PoissonSampler.from_dict({}), "PoissonSampler", "rate")
    refused(lambda: PoissonSampler.from_dict({"rate": 1.5}), "rate=1.5", "(0, 1]")
    values = a_plan().to_dict()
    refused(lambda: Config.from_dict(values | {"noise": 1}), "no field 'noise'", "mechanism")
    del values["delta"]
    refused(lambda: Config.from_dict(values), "PrivacyPlan", "delta")


def test_a_restored_plan_is_checked_again():
    values = a_plan(sampler=FixedSizeSampler(size=10)).to_dict()
    values["adjacency"] = "add-or-remove-one"
    refused(lambda: Config.from_dict(values), "FixedSizeSampler", kind=AccountingError)


def test_refusals_leave_no_report_behind():
    before = accountants._spend.cache_info().currsize
    refused(lambda: a_plan(delta=0.5), "delta=0.5")
    refused(lambda: a_plan(sampler=FixedSizeSampler(size=2000)), "size=2000")
    assert accountants._spend.cache_info().currsize == before


def test_values_that_are_nearly_right_are_told_the_remedy():
    remedy = "metrics=(PrivateMetric(name='loss', clip_value=10.0),)"
    refused(lambda: a_plan(metrics="loss"), "metrics='loss'", "a tuple of PrivateMetric", remedy)
    refused(lambda: a_plan(metrics=("loss",)), "metrics='loss'", "PrivateMetric", remedy)
    loss = PrivateMetric(name="mae", clip_value=2.0)
    refused(lambda: a_plan(metrics=loss), "metrics=PrivateMetric(", "(name='mae'")
    refused(lambda: a_plan(metrics=3), "metrics=3", "a tuple of PrivateMetric")
    for mechanism in ("gaussian", GaussianMechanism):
        refused(
            lambda mechanism=mechanism: a_plan(mechanism=mechanism),
            "mechanism=",
            "GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)",
            "privacy=NoPrivacy()",
        )
    assert a_plan(metrics=[loss], sampler=PoissonSampler(rate=0.01)).metrics == (loss,)


def test_the_unit_follows_from_the_mechanism_and_may_be_said_as_well():
    for unit in (None, "client", Unit.CLIENT):
        assert a_plan(unit=unit) == a_plan()
        assert a_plan(unit=unit).unit is Unit.CLIENT
    for unit in (None, "record", Unit.RECORD):
        plan = PrivacyPlan(**RECORDS | {"unit": unit})
        assert (plan.unit, plan.population) == (Unit.RECORD, 4)
        assert plan == PrivacyPlan(**RECORDS)
        assert plan.to_dict()["unit"] == "record"
    other = RECORDS["mechanism"]
    refused(lambda: a_plan(unit="record"), "unit='record'", "leave it out")
    refused(lambda: PrivacyPlan(**RECORDS | {"unit": "client"}), "unit='client'", "leave it out")
    refused(lambda: a_plan(mechanism=other), "records=None")
    # Of plans that others replace, too: the unit is that of the new mechanism.
    of_records = dataclasses.replace(
        PrivacyPlan(**CENTRAL, cohort=2), mechanism=other, records=(9, 8), population=None
    )
    assert of_records.unit is Unit.RECORD
    values = a_plan().to_dict() | {"unit": "record"}
    refused(lambda: Config.from_dict(values), "unit='record'", "does not fit")
