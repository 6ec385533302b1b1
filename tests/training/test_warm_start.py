"""A model that was trained before carries what it has cost, and no run leaves that out."""

from __future__ import annotations

import gc
import importlib
import json
import math
import weakref

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.ledgers import charged
from tests.support.training import FEATURES, legacy_model, linear_model, make_clients, plan
from tff_dp import _seeds, execution, provenance
from tff_dp.accounting import spend_jointly
from tff_dp.charges import ChargedRun, Charges
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.ledger import Ledger, replay
from tff_dp.provenance import carried_by, load_model, mark
from tff_dp.training.warm_start import charged_before, elsewhere

pytestmark = pytest.mark.usefixtures("tff")

FIRST = plan(mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=10.0))
SECOND = plan(
    mechanism=tff_dp.GaussianMechanism(clip_norm=0.2, noise_multiplier=20.0), delta=1e-6, rounds=3
)
BOTH = spend_jointly(
    [(FIRST.one_round(), 5), (SECOND.one_round(), 3)],
    1e-6,
    arithmetic=[FIRST.arithmetic, SECOND.arithmetic],
)


# --- What a model carries -------------------------------------------------------------------------


RECORDS = (charged(FIRST), charged(SECOND, run="b" * 32))
both_keras = pytest.mark.parametrize(
    "make", [linear_model, legacy_model], ids=["keras", "tf_keras"]
)


@both_keras
def test_the_record_survives_the_model_s_own_save_and_the_file_loads_without_it(make, tmp_path):
    model, path = make(), tmp_path / "model.keras"
    mark(model, RECORDS)
    assert carried_by(model) == RECORDS
    model.save(path)
    loaded = load_model(path)
    assert carried_by(loaded) == RECORDS
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    # It goes on through the next file, with the weights that the model has then.
    loaded.set_weights([weight + 1 for weight in loaded.get_weights()])
    loaded.save(tmp_path / "next.keras")
    assert carried_by(load_model(tmp_path / "next.keras")) == RECORDS
    module = importlib.import_module("keras" if make is linear_model else "tf_keras")
    plain = module.saving.load_model(path)
    np.testing.assert_array_equal(plain.get_weights()[0], model.get_weights()[0])
    assert carried_by(plain) == ()  # as the documentation says


@both_keras
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_the_record_is_beside_any_file(make, name, tmp_path):
    model, path = make(), tmp_path / name
    provenance.save(model, path, RECORDS)
    beside = tmp_path / f"{name}.privacy.json"
    assert json.loads(beside.read_text())["records"] == [r.to_dict() for r in RECORDS]
    assert carried_by(load_model(path)) == RECORDS
    other = make()
    other.set_weights([weight + 1 for weight in other.get_weights()])
    other.save(path)  # another model in its place
    with pytest.raises(ModelError, match="other weights"):
        load_model(path)
    beside.write_text("{}")
    with pytest.raises(ModelError, match="no record that this version"):
        load_model(path)
    beside.unlink()
    with pytest.raises(ModelError, match="has no record"):
        load_model(path)


def test_layers_and_parts_carry_the_record_into_other_models(tmp_path):
    model = linear_model()
    mark(model, RECORDS)
    around = keras.Sequential([keras.layers.Input([FEATURES]), model, keras.layers.Dense(2)])
    headless = keras.Sequential([keras.layers.Input([FEATURES]), *model.layers])
    assert carried_by(around) == carried_by(headless) == RECORDS
    around.save(tmp_path / "around.keras")
    assert carried_by(load_model(tmp_path / "around.keras")) == RECORDS
    assert carried_by(linear_model()) == ()
    odd = keras.layers.Dense(1)
    odd.layers = [3, "three", keras.layers.Dense(1)]  # a name that is also the layer's own
    mark(keras.Sequential([keras.layers.Input([FEATURES]), odd]), RECORDS)
    assert carried_by(odd) == RECORDS
    odd.layers = 3
    assert carried_by(odd) == RECORDS
    assert carried_by(keras.models.clone_model(model)) == ()  # it has other weights


@pytest.mark.slow
def test_a_model_with_assets_of_its_own_keeps_them_and_models_are_not_kept_alive(tmp_path):
    @keras.saving.register_keras_serializable("test_warm_start")
    class WithAssets(keras.Sequential):
        def save_assets(self, folder):
            with open(f"{folder}/words.txt", "w") as file:
                file.write("words")

        def load_assets(self, folder):
            with open(f"{folder}/words.txt") as file:
                self.words = file.read()

    model = WithAssets([keras.layers.Input([FEATURES]), keras.layers.Dense(1)])
    mark(model, RECORDS)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert (loaded.words, carried_by(loaded)) == ("words", RECORDS)
    reference = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert reference() is None


# --- What is counted ------------------------------------------------------------------------------


def before(privacy=SECOND, carried=RECORDS[:1], **changes) -> Charges:
    arguments = {"in_ledger": Charges(), "spent_before": None, "disjoint_data": False} | changes
    return charged_before(privacy, carried, **arguments)


def test_a_trained_model_is_refused_unless_somebody_says_how_to_count_it():
    with pytest.raises(
        ModelError, match=r"trained before, at epsilon 0\.7.*ledger=.*spent_before="
    ):
        before()
    assert before(spent_before=RECORDS[0]) == RECORDS[0]
    assert before(in_ledger=RECORDS[0]) == RECORDS[0]
    assert before(disjoint_data=True) == Charges()
    assert before(carried=()) == Charges()
    assert before(carried=(), spent_before=RECORDS[0]) == RECORDS[0]  # weights copied by hand
    # The same plan and rounds in another run are not what the model has cost.
    with pytest.raises(ModelError):
        before(spent_before=charged(FIRST, run="c" * 32))
    with pytest.raises(ModelError):
        before(in_ledger=charged(FIRST, 3))
    both = before(in_ledger=RECORDS[1], spent_before=RECORDS[0])
    assert both == RECORDS[1] | RECORDS[0]


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ArgumentError, match="disjoint_data=True says"):
        before(spent_before=RECORDS[0], disjoint_data=True)
    with pytest.raises(ArgumentError, match=r"spent_before=0\.94"):
        before(spent_before=0.94)
    with pytest.raises(ArgumentError, match="needs a PrivacyPlan"):
        before(privacy=tff_dp.NoPrivacy(), spent_before=RECORDS[0])
    other = plan(adjacency="replace-one")
    with pytest.raises(ArgumentError, match="adjacency: 'add-or-remove-one' and 'replace-one'"):
        before(privacy=other, spent_before=RECORDS[0])


def test_training_without_privacy_leaves_no_bound_behind():
    without = before(privacy=tff_dp.NoPrivacy())
    assert without.unbounded
    others = elsewhere(RECORDS[:1], without, private=False, disjoint_data=False)
    assert [record.unbounded for record in others] == [True]
    carried = (*others, without)
    for known in ({"in_ledger": RECORDS[0]}, {"spent_before": RECORDS[0]}):
        with pytest.raises(ModelError, match="no bound"):
            before(carried=carried, **known)
    assert before(carried=carried, spent_before=without).unbounded
    # On other clients it changes nothing for the first ones.
    assert elsewhere(RECORDS[:1], without, private=False, disjoint_data=True) == RECORDS[:1]
    assert before(carried=(RECORDS[0], without), in_ledger=RECORDS[0]) == RECORDS[0]


def test_runs_of_one_seed_on_the_same_clients_draw_cohorts_of_their_own():
    assert _seeds.later(7, 0) == 7
    roots = {_seeds.later(seed, charges) for seed in (7, 8) for charges in range(50)}
    assert len(roots) == 100
    assert _seeds.later(7, 5) == _seeds.later(7, 5) < 2**128


@pytest.mark.parametrize("defect", ["nothing is asked", "any record will do"])
def test_a_warm_start_that_is_not_counted_is_caught(defect, monkeypatch):
    if defect == "nothing is asked":
        asked = charged_before

        def unasked(privacy, carried, **known):
            return asked(privacy, (), **known)

        monkeypatch.setitem(globals(), "charged_before", unasked)
    else:
        monkeypatch.setattr(Charges, "covers", lambda self, other: bool(self.runs))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a_trained_model_is_refused_unless_somebody_says_how_to_count_it()


# --- Training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tff):
    with execution.fast(xla=False):
        return trained(linear_model, FIRST)


def trained(model, privacy, **changes):
    return tff_dp.fit(model, make_clients(), loss="mse", privacy=privacy, batch_size=8, **changes)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_warm_start_states_what_both_runs_have_spent(first, tmp_path):
    assert first.charges.of(FIRST) == (range(1, 6),)
    assert first.epsilon == FIRST.epsilon().epsilon
    path = tmp_path / "model.keras"
    first.save(path)
    with execution.fast(xla=False):
        for model in (first.model, lambda: first.model, load_model(path)):
            with pytest.raises(ModelError, match="was trained before"):
                trained(model, SECOND)
        second = trained(load_model(path), SECOND, spent_before=first, max_epsilon=5.0)
        assert second.spent == BOTH
        assert second.epsilon > max(first.epsilon, SECOND.epsilon().epsilon)
        assert second.history[-1].epsilon >= second.epsilon * (1 - 1e-12)
        assert "Of the earlier runs the charges alone" in second.statement()
        assert "Of the earlier runs" not in first.statement()
        for part in ("delta 1e-06", "8 rounds, under 2 plans", "Plan 1: 5 rounds in 1 run",
                     "Plan 2: 3 rounds", "clip_norm=0.5", "clip_norm=0.2"):  # fmt: skip
            assert part in second.statement()
        assert carried_by(second.model) == (second.charges,)
        # The budget is that of both.
        budget = BOTH.epsilon - 1e-3
        less = trained(first.model, SECOND, spent_before=first, max_epsilon=budget)
        assert len(less.history) == 2
        assert less.epsilon <= budget < BOTH.epsilon
        # Other clients: each epsilon is its own clients'.
        apart = trained(first.model, SECOND, disjoint_data=True)
        assert apart.epsilon == SECOND.epsilon().epsilon
        assert apart.other_data == (first.charges,)
        assert "of other clients, as was said by disjoint_data" in apart.statement()
        assert carried_by(apart.model) == (first.charges, apart.charges)
        # Without privacy nothing is claimed, and nothing goes on to be.
        without = trained(second.model, tff_dp.NoPrivacy(), rounds=1)
        assert math.isinf(without.epsilon)
        assert without.statement().startswith("No differential privacy")
        assert "no guarantee" in without.statement()
        with pytest.raises(ModelError, match="no bound"):
            trained(without.model, SECOND, spent_before=second)
        open_ended = trained(without.model, SECOND, spent_before=without, rounds=1)
        assert math.isinf(open_ended.epsilon)
        assert "used before without differential privacy" in open_ended.statement()


@pytest.mark.heavy
def test_a_ledger_counts_a_warm_start_and_takes_in_what_it_lacked(first, tmp_path):
    path = tmp_path / "ledger.jsonl"
    with execution.fast(xla=False):
        with pytest.raises(ModelError, match="was trained before"):
            trained(first.model, SECOND, ledger=path)
        assert replay(path).rounds == 0
        second = trained(first.model, SECOND, ledger=path, spent_before=first, rounds=2)
        assert second.spent == replay(path)
        with Ledger(path, SECOND) as book:
            assert book.all_charges == second.charges
            assert book.all_charges.of(FIRST) == (range(1, 6),)
        third = trained(second.model, SECOND, ledger=path, seed=1)  # what is left
        assert len(third.history) == 1
        assert third.spent == replay(path)
        assert third.epsilon == pytest.approx(BOTH.epsilon, rel=1e-12)
        with pytest.raises(ArgumentError, match="disjoint_data=True says"):
            trained(first.model, SECOND, ledger=path, disjoint_data=True)


# --- What an adversarial reading found ------------------------------------------------------------


def a_run(name: str, coins: str | None = None) -> ChargedRun:
    return ChargedRun(plan=SECOND, rounds=range(1, 3), run=name, coins=coins)


def test_a_model_of_parts_of_several_models_needs_all_of_their_charges():
    """Records of one training are of other data sets; those of several trainings may be of the same."""
    a, b = (Charges(runs=(a_run(name),)) for name in "ab")
    groups = ((a,), (b,))
    with pytest.raises(ModelError, match="trained before"):
        before(carried=(a, b), groups=groups, spent_before=a)
    assert before(carried=(a, b), groups=groups, spent_before=a | b) == a | b
    assert before(carried=(a, b), groups=((a, b),), spent_before=a) == a  # of one training


def test_disjoint_data_is_refused_where_runs_are_known_to_be_of_these_data():
    both = Charges(runs=(a_run("a"), a_run("b")))
    with pytest.raises(ArgumentError, match="disjoint_data=True"):
        before(carried=(both,), in_ledger=Charges(runs=(a_run("a"),)), disjoint_data=True)


def test_runs_of_the_same_coins_are_not_composed():
    a, b = (Charges(runs=(a_run(name, "same"),)) for name in "ab")
    with pytest.raises(ArgumentError, match="same seed"):
        a | b
    assert Charges.from_dict(a.to_dict()) == a
    assert len((a | Charges(runs=(a_run("c", "other"), a_run("d")))).runs) == 3


def test_layers_inside_of_wrappers_carry_their_record():
    model = linear_model()
    mark(model, RECORDS)
    wrapped = keras.Sequential(
        [keras.layers.Input([2, *model.input_shape[1:]]), keras.layers.TimeDistributed(model)]
    )
    assert carried_by(wrapped) == RECORDS


def test_a_ledger_is_refused_where_the_noise_has_a_seed(tff, tmp_path):
    path = tmp_path / "ledger"
    with (
        execution.fast(seed=1),
        pytest.raises(ArgumentError, match=r"ledger=.*noise comes from a seed"),
    ):
        trained(linear_model, SECOND, ledger=path)
    assert not path.exists()
