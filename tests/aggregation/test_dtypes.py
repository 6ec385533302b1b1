"""Models whose weights, or whose arithmetic, are of another type than float32, under plans for clients.

Record-level plans are in test_dp_sgd_sums.py.
"""

from __future__ import annotations

import contextlib
import warnings

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.helpers import regression_clients
from tests.support.tables import covered, slow
from tff_dp import execution
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    DistributedGaussianMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    PerLayerGaussianMechanism,
    TreeMechanism,
)
from tff_dp.model import ModelSpec
from tff_dp.noise import clipping

DTYPES = ("float16", "bfloat16", "float64")
CLIP = 0.75

# Without noise, which local mechanisms add in the clients.
MECHANISMS = {
    "gaussian": GaussianMechanism(clip_norm=CLIP, noise_multiplier=0.0),
    "adaptive": AdaptiveGaussianMechanism(noise_multiplier=0.0, initial_clip_norm=CLIP),
    "per layer": PerLayerGaussianMechanism(clip_norms=(0.6 * CLIP, 0.8 * CLIP), noise_multiplier=0),
    "laplace": LaplaceMechanism(clip_norm=CLIP, noise_multiplier=0.0),
    "tree": TreeMechanism(clip_norm=CLIP, noise_multiplier=0.0),
    "banded": BandedMechanism(clip_norm=CLIP, noise_multiplier=0.0, bands=2),
    "local": LocalGaussianMechanism(clip_norm=CLIP, noise_multiplier=0.0),
}
SHAPES = ([5000], [3])


class Summing:
    """The clients' part of a mechanism's aggregator for updates of a type, and exact sums of it."""

    def __init__(self, mechanism, dtype: str) -> None:
        import tensorflow as tf

        specs = [tf.TensorSpec(shape, dtype) for shape in SHAPES]
        self._query = build_aggregator(mechanism, 10.0, rounds=4)._query(specs)
        self._params = self._query.derive_sample_params(self._query.initial_global_state())
        self.steps = int(self._query._grid.steps)

    def __call__(self, update) -> np.ndarray:
        """Returns a client's update in steps, all tensors in one."""
        record = self._query.preprocess_record(self._params, list(update))
        parts = record[0] if isinstance(record, tuple) else record
        assert all(part.dtype == "int64" for part in parts)
        return np.concatenate([part.numpy().ravel() for part in parts])


def updates_of(dtype: str) -> dict[str, list]:
    """Returns updates that may be hard to bound in a type of few bits."""
    import tensorflow as tf

    rng = np.random.default_rng(2)
    one = np.zeros(5000)
    one[17] = 1.0
    many = rng.normal(size=5000)
    updates = {
        "random": (many, rng.normal(size=3)),
        "equal": (np.full(5000, 0.3), np.full(3, 0.3)),
        "one large": (one * 6e4 + 1e-3, np.zeros(3)),
        "largest": (np.full(5000, 6e4), np.full(3, -6e4)),
        "small": (many * 1e-6, np.zeros(3)),
        "NaN": (np.where(one > 0, np.nan, 0.0), np.zeros(3)),
        "infinite": (np.where(one > 0, np.inf, 0.0), np.zeros(3)),
    }
    return {k: [tf.cast(part, dtype) for part in parts] for k, parts in updates.items()}


def squared(steps: np.ndarray, order: int) -> int:
    """Returns a norm, squared where it is L2, as a whole number."""
    return sum(abs(int(v)) ** order for v in steps)


def bounds_hold(mechanism, dtype: str) -> bool:
    """Tests that updates, and differences of two of them, have the norms that are accounted for."""
    summing = Summing(mechanism, dtype)
    found = {name: summing(update) for name, update in updates_of(dtype).items()}
    order = 1 if isinstance(mechanism, LaplaceMechanism) else 2
    assert not found["NaN"].any()
    assert not found["infinite"].any()
    assert squared(found["one large"], order) > (0.5 * summing.steps) ** order
    opposite = summing([-part for part in updates_of(dtype)["random"]])
    return (
        all(squared(v, order) <= summing.steps**order for v in found.values())
        and squared(found["random"] - opposite, order) <= (2 * summing.steps) ** order
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", MECHANISMS)
def test_one_client_moves_the_sum_by_at_most_the_bound_whatever_the_type(tff, kind, dtype):
    assert bounds_hold(MECHANISMS[kind], dtype)


def test_a_norm_in_float16_breaks_the_bound(tff, monkeypatch):
    import tensorflow as tf

    right = clipping._l2_norm

    def narrow(wide, leading):
        return tf.cast(tf.cast(right(wide, leading), tf.float16), tf.float64)

    monkeypatch.setattr(clipping, "_l2_norm", narrow)
    assert not bounds_hold(MECHANISMS["gaussian"], "float64")


def aggregate(mechanism, dtype: str, updates) -> np.ndarray:
    from tff_dp import _compat

    tff = _compat.tff.load()
    kind = tff.types.TensorType(updates[0].dtype, [len(updates[0])])
    process = build_aggregator(mechanism, float(len(updates))).create(kind)
    return np.asarray(process.next(process.initialize(), updates).result)


# A sum of equal numbers in float16 stays at 2048 of them, in bfloat16 at 256.
@pytest.mark.parametrize(
    ("dtype", "count"), [("float16", 3000), ("bfloat16", 400), ("float64", 400)]
)
def test_a_mean_over_many_clients_is_exact_to_a_step_of_the_grid(context, dtype, count):
    import tensorflow as tf

    kind = tf.as_dtype(dtype).as_numpy_dtype
    updates = [np.full(4, 2.0**-8, kind)] * count
    alone = np.zeros([], kind)
    for update in updates:  # negative control: what is tested shows only beyond those numbers
        alone += update[0]
    assert (alone < count * 2.0**-8) == (dtype != "float64")
    result = aggregate(MECHANISMS["gaussian"], dtype, updates)
    assert result.dtype == kind
    np.testing.assert_allclose(result.astype(np.float64), 2.0**-8, rtol=2.0**-21)


def model_of(policy: str) -> keras.Model:
    kind = keras.dtype_policies.DTypePolicy(policy)
    layers = [keras.layers.Dense(4, "relu", dtype=kind), keras.layers.Dense(1, dtype=kind)]
    return keras.Sequential([keras.layers.Input([4], dtype="float32"), *layers])


def legacy_of(policy: str):
    import tf_keras

    kind = tf_keras.mixed_precision.Policy(policy)
    layers = [
        tf_keras.layers.Input([4]),
        tf_keras.layers.Dense(4, "relu", dtype=kind),
        tf_keras.layers.Dense(1, dtype=kind),
    ]
    return tf_keras.Sequential(layers)


POLICIES = (*DTYPES, "mixed_float16", "mixed_bfloat16")


def half_is_warned_of(policy: str):
    if policy.endswith("float16") and not policy.endswith("bfloat16"):
        return pytest.warns(UserWarning, match="computes in float16.*'mixed_bfloat16'")
    return contextlib.nullcontext()


def client_plan() -> tff_dp.PrivacyPlan:
    return tff_dp.PrivacyPlan(
        mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=0.5),
        population=3,
        cohort=2,
        rounds=2,
        delta=1e-2,
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("make", "policy"),
    covered(
        [model_of, legacy_of],
        POLICIES,
        by=[(model_of, "float16")],
        slow=[
            (legacy_of, "mixed_bfloat16"),
            (legacy_of, "bfloat16"),
            (model_of, "float64"),
            # Only mixed precision is treated in a way of each Keras.
            (model_of, "mixed_float16"),
            (legacy_of, "mixed_float16"),
        ],
    ),
)
def test_models_of_any_type_train_under_a_plan_for_clients(tff, policy, make):
    clients = regression_clients()
    model = make(policy)
    with half_is_warned_of(policy):
        result = tff_dp.fit(model, clients, loss="mse", privacy=client_plan())
    for before, after in zip(model.get_weights(), result.model.get_weights(), strict=True):
        assert after.dtype == before.dtype
        after, before = np.asarray(after, np.float64), np.asarray(before, np.float64)
        assert np.isfinite(after).all()
        assert np.abs(after - before).max() > 0


@pytest.mark.heavy
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_of_tf_keras_is_refused_for_records_before_a_charge(tff, tmp_path, policy):
    clients = regression_clients((8, 8))
    plan = tff_dp.PrivacyPlan(
        unit="record",
        mechanism=tff_dp.RecordGaussianMechanism(clip_norm=1.0, noise_multiplier=1.0, batch_size=2),
        records=clients.sizes,
        rounds=3,
        delta=1e-3,
    )
    ledger = tmp_path / "ledger.jsonl"
    dtype = policy.removeprefix("mixed_")
    with (
        half_is_warned_of(policy),
        pytest.raises(ModelError, match=f"mixed precision .this one computes in {dtype}.*Keras 3"),
    ):
        tff_dp.fit(legacy_of(policy), clients, loss="mse", privacy=plan, ledger=ledger)
    assert not ledger.exists()


class Counting(keras.layers.Layer):
    """A layer with a trainable weight that is a whole number."""

    def build(self, shape):
        self.count = self.add_weight(shape=(1,), dtype="int32", initializer="zeros")

    def call(self, x):
        return x + keras.ops.cast(self.count, x.dtype)


@pytest.mark.heavy
def test_trainable_weights_of_other_types_are_refused_for_records(tff):
    clients = regression_clients((8, 8))
    plan = tff_dp.PrivacyPlan(
        unit="record",
        mechanism=tff_dp.RecordGaussianMechanism(clip_norm=1.0, noise_multiplier=1.0, batch_size=2),
        records=clients.sizes,
        rounds=3,
        delta=1e-3,
    )
    model = keras.Sequential([keras.layers.Input([4]), Counting(), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match=r"dtype='int32'.*float16, bfloat16, float32, float64"):
        tff_dp.fit(model, clients, loss="mse", privacy=plan)


def test_float16_is_warned_of_by_the_names_of_its_layers(tff):
    half = model_of("float16")
    names = ", ".join(repr(layer.name) for layer in half.layers)
    with pytest.warns(UserWarning, match=f"layers {names}"):
        ModelSpec(model=half, loss="mse").bind(regression_clients().element_spec())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for policy in ("float32", "mixed_bfloat16"):
            bound = ModelSpec(model=model_of(policy), loss="mse").bind(
                regression_clients().element_spec()
            )
            assert bound.compute_dtypes == {"float32", policy.removeprefix("mixed_")}


@pytest.mark.heavy
def test_updates_of_other_types_than_floating_point_are_refused(tff):
    kind = tff.types.TensorType(np.int32, [3])
    with pytest.raises(ArgumentError, match=r"dtype='int32'.*floating-point"):
        build_aggregator(MECHANISMS["gaussian"], 10.0).create(kind)


@pytest.mark.heavy
@pytest.mark.parametrize("policy", ["float16", slow("bfloat16")])
def test_noise_in_shares_takes_weights_of_16_bits(tff, policy):
    mechanism = DistributedGaussianMechanism(clip_norm=1.0, noise_multiplier=1.0, dimension=25)
    plan = tff_dp.PrivacyPlan(
        mechanism=mechanism, population=3, sampler=tff_dp.FullParticipation(), rounds=1, delta=1e-2
    )
    with half_is_warned_of(policy), execution.fast():  # stock TFF has no secure sums
        result = tff_dp.fit(model_of(policy), regression_clients(), loss="mse", privacy=plan)
    weights = [np.asarray(w, np.float64) for w in result.model.get_weights()]
    assert all(np.isfinite(w).all() for w in weights)
