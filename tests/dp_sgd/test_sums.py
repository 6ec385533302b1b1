"""One record moves the sum of a batch's gradients by at most the clip norm, to the last bit.

Sums are whole numbers of steps, which are compared exactly; sizes, types, order and compiler may be any.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.silos import Silos, inside, linear, mechanism, sum_of
from tests.support.tables import covered, slow
from tff_dp import data, noise
from tff_dp.dp_sgd import gradients
from tff_dp.model import ModelSpec
from tff_dp.noise import Grid, clipping

DTYPES = ("float16", "bfloat16", "float32", "float64")

# --- Clipping of each example ---------------------------------------------------------------------


def norms_of(parts) -> list[int]:
    """Returns squared norms, one an example, exact for parts of up to 2^47."""

    def squared(v: np.ndarray) -> int:
        high, low = np.divmod(v.ravel(), 2**15)
        sums = [int(np.sum(product)) for product in (high * high, high * low, low * low)]
        return (sums[0] << 30) + (sums[1] << 16) + sums[2]

    return [sum(squared(part[example]) for part in parts) for example in range(len(parts[0]))]


def clipped(examples, clip_norm, grid, compiled=False, counted=None):
    """Returns the clipped examples of `clip_l2_each`, as numpy arrays."""
    import tensorflow as tf

    counted = np.ones(len(examples[0]), bool) if counted is None else counted

    @tf.function(jit_compile=compiled, autograph=False)
    def run(*parts):
        return noise.clip_l2_each(parts, clip_norm, grid, tf.constant(counted)).parts

    return [part.numpy() for part in run(*map(tf.constant, examples))]


def as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    import tensorflow as tf

    return values.astype(tf.as_dtype(dtype).as_numpy_dtype)


def gradients_of(dtype: str, wide: int) -> list[np.ndarray]:
    """Returns gradients of several sizes, [6, ...] each: random, equal, with one large part, tiny."""
    rng = np.random.default_rng(3)
    flat = rng.normal(size=[6, wide + 6])
    flat[1] = 0.7
    flat[2] = np.where(np.arange(wide + 6) == 5, 100.0, 1e-3)
    flat[3] = rng.exponential(size=wide + 6) ** 4
    flat[4] *= 1e-3 / math.sqrt(wide)
    flat[5] *= 100 if dtype == "float16" else 1e12
    parts = [flat[:, :wide].reshape([6, 2, wide // 2]), flat[:, wide:].reshape([6, 3, 2])]
    return [as_type(part, dtype) for part in parts]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "wide",
    [
        4,
        pytest.param(2000, marks=pytest.mark.full),  # the widest has the most to round
        30_000,
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_example_is_in_the_ball_whatever_its_type_size_and_compiler(dtype, wide, compiled):
    for clip_norm in (1e-2, 1.0, 37.0):
        examples = gradients_of(dtype, wide)
        exact = np.sqrt(sum((np.float64(p) ** 2).reshape([6, -1]).sum(1) for p in examples))
        for grid in (Grid.of(1.0), Grid(12)):
            parts = clipped(examples, clip_norm, grid, compiled)
            # Truncation takes up to a step off each of the parts, and the margin 2^-15 of the norm.
            lost = grid.steps * 2.0**-14 + math.sqrt(wide + 6)
            for found, norm in zip(norms_of(parts), exact, strict=True):
                assert found <= int(grid.steps) ** 2
                aim = min(norm / clip_norm, 1) * grid.steps
                assert math.sqrt(found) >= aim - lost
            for part, own in zip(parts, examples, strict=True):
                assert part.dtype == np.int64
                assert np.all(part * np.sign(np.float64(own)) >= 0)


def test_examples_that_do_not_count_or_are_not_finite_are_zero():
    examples = [np.ones([4, 5000], np.float32), np.ones([4, 2], np.float16)]
    examples[0][1, 77] = np.nan
    examples[1][2, 1] = np.inf
    parts = clipped(examples, 1.0, Grid.of(1.0), counted=np.array([True, True, True, False]))
    assert [found > 0 for found in norms_of(parts)] == [True, False, False, False]


def within_the_ball() -> bool:
    """Tests norms where rounding shows: many equal parts, and norms of many sizes."""
    rng = np.random.default_rng(4)
    equal = np.repeat(np.linspace(0.5, 3, 40, dtype=np.float32)[:, None], 6000, 1)
    random = (rng.normal(size=[40, 50]) * np.linspace(0.2, 9, 40)[:, None]).astype(np.float32)
    cases = [
        ([equal], Grid(9)),
        ([random], Grid.of(1.0)),
        ([as_type(equal[10:], "float16")], Grid(22)),
    ]
    return all(
        max(norms_of(clipped(examples, 1.0, grid))) <= int(grid.steps) ** 2
        for examples, grid in cases
    )


def to_nearest(part):
    """Defect: what is rounded to the nearest step may grow."""
    import tensorflow as tf

    return tf.cast(tf.round(part), tf.int64)


def norm_in_float16(wide, leading):
    """Defect: a norm of eleven bits."""
    import tensorflow as tf

    return tf.cast(tf.cast(RIGHT_NORM(wide, leading), tf.float16), tf.float64)


def not_widened(updates):
    """Defect: squares are summed in the type of the gradients."""
    return list(updates)


RIGHT_NORM = clipping._l2_norm


@pytest.mark.parametrize(
    ("name", "defect"),
    [("_truncated", to_nearest), ("_l2_norm", norm_in_float16), ("_widened", not_widened)],
)
def test_the_test_of_norms_catches_planted_defects(monkeypatch, name, defect):
    assert within_the_ball()
    monkeypatch.setattr(clipping, name, defect)
    assert not within_the_ball()


# --- Sums -----------------------------------------------------------------------------------------

CLIP = 1.0
FULL, HALVES, LATER = 32, 256, 40 * 32
LARGE = 1 - 2.0**-13
# A sum that is 128 without the large record drifts where it is below 128, and stays where it is above:
# each pass of 32 later records adds less than half the distance of the type's numbers above 128.
BELOW = {"float16": 2.0**-4, "bfloat16": 2.0**-1, "float32": 2.0**-17}


def records_for(dtype: str, first: float) -> np.ndarray:
    """Returns gradients, one a record, of which only the first one is given."""
    x = np.zeros(FULL + HALVES + LATER)
    x[0] = first
    x[FULL : FULL + HALVES] = 0.5
    x[FULL + HALVES :] = -0.9 * BELOW.get(dtype, 2.0**-17) / 32
    return x[:, None].astype(np.float32)


def summed(policy: str, x: np.ndarray) -> int:
    """Returns the sum of the clipped gradients of all records, for a weight whose gradient is x."""
    import tensorflow as tf

    layers = [
        keras.layers.Input([1], dtype="float32"),
        keras.layers.Dense(
            1, use_bias=False, dtype=keras.dtype_policies.DTypePolicy(policy), name="one"
        ),
    ]
    y = np.zeros([len(x), 1], np.float32)
    spec = data.Clients(x, y, [0, len(x)]).element_spec()
    bound = ModelSpec(model=keras.Sequential(layers), loss=sum_of).bind(spec)
    weights, kept = (tuple(map(tf.constant, part)) for part in bound.initial_weights)
    own = mechanism(noise_multiplier=0.0, batch_size=1000, clip_norm=CLIP)
    rows = tf.range(len(x))
    size = tf.constant(len(x), tf.int64)

    @tf.function(autograph=False)
    def run(weights, x, y):
        return gradients.sum_of_clipped(
            bound.tff_model, own, Grid.of(0), weights, kept, (x, y), rows, size
        )

    (total,) = run(weights, tf.constant(x), tf.constant(y))
    assert total.dtype == tf.int64
    return total.numpy().item()


def moves(policy: str, weak: str) -> tuple[int, int]:
    """Returns by how much the sum moves if the first record leaves, and if it is replaced."""
    present, absent, other = (
        summed(policy, records_for(weak, first)) for first in (LARGE, 0.0, -LARGE)
    )
    return abs(present - absent), abs(present - other)


POLICIES = [
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float32", "float32"),
    ("float64", "float32"),
    ("mixed_float16", "float16"),
    ("mixed_bfloat16", "bfloat16"),
]


@pytest.mark.filterwarnings("ignore:The model.*computes in float16")
@pytest.mark.parametrize(("policy", "weak"), POLICIES)
def test_one_record_moves_the_sum_by_its_own_gradient(tff, policy, weak):
    left, replaced = moves(policy, weak)
    # LARGE itself, or, where 16 bits make it 1, what clipping leaves of that.
    own = 1 - 2.0**-15 if weak in ("float16", "bfloat16") else LARGE
    assert left == int(own * Grid.of(0).steps)
    assert replaced == 2 * left <= 2 * Grid.of(0).steps


def summed_in(dtype: str):
    """Defect: a sum of examples in a floating-point type."""
    import tensorflow as tf

    def added(total, parts):
        steps = Grid.of(0).steps
        start, more = (tf.cast(tf.cast(v, tf.float64) / steps, dtype) for v in (total, parts))
        found = start + tf.reduce_sum(more, 0)
        return tf.cast(tf.cast(found, tf.float64) * steps, tf.int64)

    return added


@pytest.mark.filterwarnings("ignore:The model.*computes in float16")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_sums_in_floating_point_break_the_bound(tff, monkeypatch, dtype):
    monkeypatch.setattr(gradients, "_added", summed_in(dtype))
    left, replaced = moves(dtype, dtype)
    steps = Grid.of(0).steps
    assert left > steps  # one record that leaves moves it by more than C
    if dtype != "float32":
        assert replaced > 2 * steps


def test_3104_records_in_float16_move_a_sum_by_no_more_than_the_bound(tff, monkeypatch):
    # The sum is 2050 or 2048 before the last 32 passes, each of which adds -.75: in float16 that is lost
    # above 2048, and -1 at and below it.
    parts = [np.ones(2050), np.zeros(30), np.full(1024, -0.75 / 32)]
    x = np.concatenate(parts)[:, None].astype(np.float32)
    other = x.copy()
    x[5], other[5] = 1.0, -1.0

    def moved() -> float:
        with pytest.warns(UserWarning, match="computes in float16"):
            return abs(summed("float16", x) - summed("float16", other)) / Grid.of(0).steps

    assert 1.99 < moved() <= 2
    monkeypatch.setattr(gradients, "_added", summed_in("float16"))
    # Without the margin the ones stay ones, and their sum a whole number.
    monkeypatch.setattr(clipping, "MARGIN", 0.0)
    assert moved() > 30


# --- Order ----------------------------------------------------------------------------------------


def orders_agree(context: str) -> bool:
    rng = np.random.default_rng(6)
    # Whole numbers, so that each gradient's norm is the same wherever in a pass it is computed.
    x = (rng.integers(-9, 10, size=[150, 40]) * rng.choice([1, 1000], size=[150, 1])).astype("f")
    orders = [np.arange(150), np.arange(150)[::-1], rng.permutation(150), rng.permutation(150)]
    silos = Silos(linear(40), one_client(x), all_at_once(150), loss=sum_of)
    with inside(context):
        first, *others = (silos.change(clients=one_client(x[order]))[0] for order in orders)
    return all(np.array_equal(first, other) for other in others)


def one_client(x: np.ndarray) -> data.Clients:
    return data.Clients(x, np.zeros([len(x), 1], np.float32), [0, len(x)])


def all_at_once(records: int):
    """Returns a mechanism without noise whose one step is over all records."""
    return mechanism(noise_multiplier=0.0, batch_size=records, local_steps=1)


@pytest.mark.heavy
@pytest.mark.parametrize("context", ["stock", "scan", slow("xla")])
def test_sums_do_not_depend_on_the_order_of_the_records(stock, context):
    assert orders_agree(context)


@pytest.mark.heavy
def test_the_test_of_orders_catches_a_sum_in_float32(tff, monkeypatch):
    monkeypatch.setattr(gradients, "_added", summed_in("float32"))
    assert not orders_agree("scan")


# --- Models of other types ------------------------------------------------------------------------


def model_of(policy: str, dtype_of_input="float32") -> keras.Model:
    kind = keras.dtype_policies.DTypePolicy(policy)
    layers = [
        keras.layers.Input([3], dtype=dtype_of_input),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", dtype=kind),
    ]
    return keras.Sequential(layers)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:The model.*computes in float16")
@pytest.mark.parametrize(
    ("policies", "context"),
    covered(
        POLICIES,
        ["stock", "scan", "xla"],
        by=list(zip(POLICIES, ["scan", "xla", "stock"] * 2, strict=True)),
        slow=None,
    ),
)
def test_silos_train_models_of_any_type(stock, context, policies):
    policy, weak = policies
    # More records than float16 has numbers for, which are the silo's weight.
    x = np.zeros([70_000 if context == "scan" else 200, 3], np.float32)
    x[:] = [0.5, -0.25, 0.125]
    clients = data.Clients(x, np.zeros([len(x), 1], np.float32), [0, len(x) // 2, len(x)])
    own = mechanism(noise_multiplier=0.0, batch_size=20, local_steps=1)
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=1.0), weighting="examples")
    silos = Silos(model_of(policy), clients, own, loss=sum_of, algorithm=algorithm)
    with inside(context):
        (change,) = silos.change()
    # Batches have 40 records together, give or take; the step is a multiple of the record.
    share = change / [-0.5, 0.25, -0.125]
    assert 0.3 < share[0] < 2.5
    np.testing.assert_allclose(share, share[0], rtol=2.0**-6 if weak == "bfloat16" else 2.0**-9)
