"""Distributed noise under secure aggregation: sensitivity, what clients send, and training.

Stock TFF has no runtime that sums securely; there, such sums are written out. Statistical tests reject a
right implementation with probability 1e-6 or less (FALSE_POSITIVE), and each is run on wrong noise as
well, which it must reject.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from typing import Any

import keras
import numpy as np
import pytest
from scipy import stats

import tff_dp
from tests.support.distributed import BETA, CLIP, KINDS, a_plan, both_kinds, mechanism
from tests.support.helpers import run_rounds, without_secure_sums
from tests.support.oracles import discrete_gaussian_sum_log_pmf, skellam_log_pmf, variance_p
from tests.support.tables import covered, slow
from tff_dp import accounting, data, execution, process
from tff_dp.aggregation import build_aggregator, distributed
from tff_dp.errors import ArgumentError, ComputationError
from tff_dp.execution.graph import randomness
from tff_dp.mechanisms import (
    DistributedGaussianMechanism,
    DistributedMechanism,
    DistributedSkellamMechanism,
)
from tff_dp.sampling import FixedSizeSampler, FullParticipation

pytestmark = pytest.mark.heavy

FALSE_POSITIVE = 1e-6


@functools.cache
def process_of(mechanism: DistributedMechanism, clients: int) -> Any:
    """Returns the aggregation process of a mechanism, composed and traced once for all tests."""
    from tff_dp import tff

    vector = tff.types.TensorType(np.float32, [mechanism.dimension])
    return build_aggregator(mechanism, float(clients)).create(vector)


@functools.cache
def next_on_stock(mechanism: DistributedMechanism, clients: int) -> Any:
    from tff_dp import tff

    return without_secure_sums(tff, process_of(mechanism, clients).next)


@pytest.fixture(scope="module", autouse=True)
def processes_end_with_the_module():
    yield
    process_of.cache_clear()
    next_on_stock.cache_clear()


class Aggregator:
    """An aggregation process of a mechanism over one float32 vector a client.

    Args:
      mechanism: The mechanism.
      clients: The number of clients.
      on_stock: Whether secure sums are written out.
      made_anew: Whether the process shares nothing with other tests: for those that plant a defect.
    """

    def __init__(
        self, mechanism: DistributedMechanism, clients: int, *, on_stock=False, made_anew=False
    ):
        self.mechanism, self.clients = mechanism, clients
        self.grid = mechanism.grid(clients)
        make = process_of.__wrapped__ if made_anew else process_of
        self._process = make(mechanism, clients)
        self._next = next_on_stock(mechanism, clients) if on_stock else self._process.next
        self.state = self._process.initialize()

    def __call__(self, updates) -> np.ndarray:
        self.before = self.state
        output = self._next(self.state, [np.asarray(update, np.float32) for update in updates])
        self.state, self.measurements = output.state, output.measurements
        return np.asarray(output.result)

    @property
    def query_state(self) -> Any:
        return self.state[0]["inner_agg"]["inner_agg_process"].query_state

    def in_steps(self, result: np.ndarray) -> np.ndarray:
        """Returns a result as the sum of what clients sent, up to the rotation, in steps of the grid."""
        return result.astype(np.float64) * self.clients / CLIP * self.grid.scale

    def integers(self, updates) -> np.ndarray:
        """Aggregates, and returns the sum of the integers that clients sent."""
        import tensorflow as tf
        from tensorflow_federated.python.aggregators import rotation

        assert self.mechanism.dimension == self.grid.padded_dimension
        while True:
            result = self(updates)
            seed = tf.constant(self.before[1])
            signs = rotation.sample_rademacher([self.mechanism.dimension], tf.float32, seed).numpy()
            if signs.all():  # TFF draws a 0 once in 2^23 times, and loses that coordinate
                break
        rotated = hadamard(self.in_steps(result) * signs)
        whole = np.round(rotated)
        assert np.abs(rotated - whole).max() < 0.1
        return whole.astype(int)


def hadamard(vector: np.ndarray) -> np.ndarray:
    size = 1
    while size < len(vector):
        pairs = vector.reshape(-1, 2, size)
        vector = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        size *= 2
    return vector / math.sqrt(len(vector))


@pytest.fixture(params=["fast", "stock"])
def context(request):
    """Both contexts; on stock TFF, secure sums are written out."""
    if request.param == "stock":
        request.getfixturevalue("stock")
        yield {"on_stock": True}
    else:
        with execution.fast(strict=True):
            yield {}


def fits(sample: np.ndarray, log_pmf: np.ndarray) -> bool:
    """Chi-squared test in cells of 20 or more; fails a right sample with FALSE_POSITIVE / 2."""
    middle = len(log_pmf) // 2
    expected = np.exp(log_pmf) * sample.size
    counts = np.bincount(sample + middle, minlength=len(log_pmf))
    inner = np.flatnonzero(expected >= 20)
    low, high = inner[0], inner[-1] + 1

    def cells(values: np.ndarray) -> np.ndarray:
        return np.array([values[:low].sum(), *values[low:high], values[high:].sum()])

    observed, expected = cells(counts), cells(expected)
    statistic = np.sum((observed - expected) ** 2 / expected)
    return bool(stats.chi2.sf(statistic, len(observed) - 1) > FALSE_POSITIVE / 2)


def has_law(sample: np.ndarray, log_pmf: np.ndarray) -> bool:
    """Tests a sample's shape and its variance; fails a right one with FALSE_POSITIVE."""
    values = np.arange(len(log_pmf)) - len(log_pmf) // 2
    variance = float(np.exp(log_pmf) @ values**2)
    return fits(sample, log_pmf) and variance_p(sample, variance) > FALSE_POSITIVE / 2


def log_pmf(kind, grid, factor=1.0) -> np.ndarray:
    """Returns the law of the sum of all shares, or of one with another standard deviation."""
    if kind is DistributedSkellamMechanism:
        return skellam_log_pmf(grid.clients * (factor * grid.local_stddev) ** 2, reach=60)
    stddev = math.ceil(grid.local_stddev) * factor
    return discrete_gaussian_sum_log_pmf(stddev, grid.clients, reach=60)


def small_noise(kind, dimension=2**14, **changes) -> DistributedMechanism:
    """A mechanism whose noise has about 5 steps of the grid, and wraps around once in 10^9 times."""
    return mechanism(kind, z=2.0, dimension=dimension, bits=6, modclip_prob=1e-9, **changes)


by_kind_and_context = pytest.mark.parametrize(
    ("kind", "context"),
    covered(
        KINDS,
        ["fast", "stock"],
        by=[
            *((kind, "fast") for kind in KINDS),
            (DistributedSkellamMechanism, "stock"),
        ],
        slow=None,
    ),
    indirect=["context"],
)


@pytest.fixture(scope="module")
def two_rounds(tff):
    """A function to the grid of the noise, and the noise of two rounds, drawn once for two tests."""
    drawn = {}

    def rounds(kind, context):
        # On stock TFF, clients that draw Skellam noise in the same microsecond would share it.
        alone = bool(context) and kind is DistributedSkellamMechanism
        clients = 1 if alone else 4
        key = (kind, *context)
        if key not in drawn:
            aggregator = Aggregator(small_noise(kind), clients, **context)
            samples = [aggregator.integers([np.zeros(2**14)] * clients) for _ in range(2)]
            drawn[key] = aggregator.grid, *samples
        return drawn[key]

    return rounds


@by_kind_and_context
def test_the_sum_of_the_shares_has_the_law_that_is_accounted_for(two_rounds, context, kind):
    # 16,384 integers show a standard deviation that is off by 6 %.
    grid, sample, _ = two_rounds(kind, context)
    assert 4 < math.sqrt(grid.clients) * grid.local_stddev < 6
    assert has_law(sample, log_pmf(kind, grid))
    for factor in (2 / 3, 0.94, 1.06, 3 / 2):  # negative controls
        assert not has_law(sample, log_pmf(kind, grid, factor))


@by_kind_and_context
def test_noise_is_independent_between_rounds_and_coordinates(two_rounds, context, kind):
    _, first, second = two_rounds(kind, context)
    # Correlations of n independent pairs are about N(0, 1/n); 5 deviations have probability 6e-7.
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))
    assert abs(np.corrcoef(first, first + 0.1 * second)[0, 1]) > 5 / math.sqrt(len(first))


@pytest.mark.parametrize(
    ("strategy", "kind"),
    covered(
        ["scan", "call", "vmap"],
        KINDS,
        by=[
            ("scan", DistributedGaussianMechanism),
            ("call", DistributedSkellamMechanism),
            ("vmap", DistributedGaussianMechanism),
        ],
        slow=None,
    ),
)
def test_clients_draw_independent_shares_in_every_strategy(tff, kind, strategy):
    with execution.fast(strategy, strict=True):
        aggregator = Aggregator(small_noise(kind), 4)
        sample = aggregator.integers([np.zeros(2**14)] * 4)
    # Shares that two or more clients had in common would add up to a larger variance.
    assert has_law(sample, log_pmf(kind, aggregator.grid))


def test_the_test_of_independence_sees_clients_that_share_a_seed(tff, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(randomness, "integers", lambda like, key: tf.ones_like(like))
    with execution.fast(strict=True):
        aggregator = Aggregator(small_noise(DistributedSkellamMechanism), 4, made_anew=True)
        sample = aggregator.integers([np.zeros(2**14)] * 4)
    assert not fits(sample, log_pmf(DistributedSkellamMechanism, aggregator.grid))
    assert (sample % 4 == 0).all()  # one share, four times


def test_stock_tensorflow_privacy_draws_the_same_share_in_the_same_microsecond(tff, monkeypatch):
    # Why a deployment has to seed the noise itself: whoever knows the time knows the noise.
    import tensorflow as tf
    import tensorflow_privacy as tfp

    query = tfp.DistributedSkellamSumQuery(10**6, 1e6, 5.0)
    params = query.derive_sample_params(query.initial_global_state())

    def share() -> np.ndarray:
        return query.preprocess_record(params, tf.zeros([1000], tf.int32)).numpy()

    def share_at(seconds: float) -> np.ndarray:
        monkeypatch.setattr(tf, "timestamp", lambda: tf.constant(seconds, tf.float64))
        return share()

    np.testing.assert_array_equal(share_at(1.7e9), share_at(1.7e9))
    assert (share_at(1.7e9) != share_at(1.7e9 + 1e-5)).any()


@pytest.mark.parametrize(
    ("kind", "z", "dimension", "clients", "bits", "beta", "modclip_prob"),
    [
        slow(DistributedSkellamMechanism, 1.0, 1000, 4, 20, 0.0, 1e-4),
        slow(DistributedGaussianMechanism, 0.3, 1, 3, 16, 0.0, 1e-4),
        (DistributedSkellamMechanism, 2.0, 513, 10, 12, BETA, 1e-3),
        (DistributedGaussianMechanism, 7.0, 300, 30, 14, 0.9, 1e-7),
        # Where the scale is at its largest.
        (DistributedSkellamMechanism, 0.0, 64, 5, 20, 0.0, 1e-4),
    ],
)
def test_the_numbers_that_are_accounted_for_are_those_that_run(
    tff, kind, z, dimension, clients, bits, beta, modclip_prob
):
    made = mechanism(kind, z, dimension, bits=bits, beta=beta, modclip_prob=modclip_prob)
    with execution.fast(strict=True):
        aggregator = Aggregator(made, clients)
        aggregator([np.zeros(dimension)] * clients)
    grid, measured = aggregator.grid, aggregator.measurements
    assert measured["l2_clip"] == 1
    assert measured["padded_dim"] == grid.padded_dimension
    assert measured["actual_num_clients"] == grid.clients == clients
    assert measured["scale_factor"] == pytest.approx(grid.scale, rel=1e-6)
    assert measured["scaled_inflated_l2"] == pytest.approx(grid.l2_sensitivity, rel=1e-6)
    assert measured["scaled_local_stddev"] == pytest.approx(grid.local_stddev, rel=1e-6)
    if kind is DistributedSkellamMechanism:
        bound = aggregator.query_state.l1_norm_bound
        assert bound == pytest.approx(grid.l1_sensitivity, rel=1e-6, abs=1)
    # And with their slack, those that are accounted for are never the more favorable ones.
    one_round = accounting.round_of(made, FullParticipation(), clients)
    assert one_round.sensitivities()[1] > measured["scaled_inflated_l2"]


HOSTILE = {
    "norm 1e9": np.array([1e9, -1e9, *np.zeros(62)]),
    "overflowing norm": np.full(64, 1e30),
    "largest": np.full(64, np.finfo(np.float32).max),
    "NaN": np.array([np.nan, *np.zeros(63)]),
    "infinity": np.array([-np.inf, *np.zeros(63)]),
    "tiny": np.full(64, 1e-40),
    "at the bound": np.full(64, CLIP / 8),
    "just above": np.full(64, CLIP / 8 * (1 + 1e-6)),
}


@pytest.mark.parametrize(
    ("context", "beta", "kind"),
    covered(
        ["fast", "stock"],
        [0.0, BETA],
        KINDS,
        by=[
            ("fast", 0.0, DistributedGaussianMechanism),
            ("fast", BETA, DistributedSkellamMechanism),
            ("stock", 0.0, DistributedSkellamMechanism),
            ("stock", BETA, DistributedGaussianMechanism),
        ],
        slow=None,
    ),
    indirect=["context"],
)
def test_one_hostile_client_moves_the_noiseless_sum_by_at_most_the_sensitivity(
    tff, context, kind, beta
):
    # A coarse grid, on which rounding inflates a norm by up to a quarter.
    made = mechanism(kind, z=0.0, dimension=64, bits=7, beta=beta)
    aggregator = Aggregator(made, 4, **context)
    assert aggregator.grid.l2_sensitivity > 1.01 * aggregator.grid.scale
    others = [np.zeros(64)] * 3
    for name, hostile in HOSTILE.items():
        sent = aggregator.integers([*others, hostile])
        norm = np.linalg.norm(sent)
        assert norm <= aggregator.grid.l2_sensitivity * (1 + 1e-6), name
        assert np.abs(sent).sum() <= aggregator.grid.l1_sensitivity, name
        if name in ("NaN", "infinity", "tiny"):
            assert norm <= 8, name  # zeros, or the rounding of next to nothing
        else:
            assert norm > 0.5 * aggregator.grid.scale, name
    assert not aggregator.integers([np.zeros(64)] * 4).any()  # the neighbor's contribution


def test_without_our_bound_one_hostile_client_would_stop_the_round(tff):
    from tensorflow_federated.python.aggregators import distributed_dp

    factory = distributed_dp.DistributedDpSumFactory(
        0.0, 4, 20, 1.0, rotation_type="hd", mechanism="distributed_skellam"
    )
    process = factory.create(tff.types.TensorType(np.float32, [64]))
    with execution.fast(strict=True):
        state = process.initialize()
        for name in ("NaN", "infinity"):
            updates = [HOSTILE[name].astype(np.float32)] + [np.zeros(64, np.float32)] * 3
            try:
                spoiled = np.asarray(process.next(state, updates).result)
            except ComputationError:
                continue
            assert not np.linalg.norm(spoiled) <= 1.1, name


@pytest.mark.parametrize("ours", [True, False])
def test_the_server_learns_nothing_from_the_count_of_clipped_clients(tff, ours):
    # TFF's aggregator drops the count from its output, but the server sees that sum, without noise.
    dimension = 64
    factory = build_aggregator(mechanism(z=0.1, dimension=dimension), 4.0)._noised_sum
    factory._client_dim = dimension
    update_type = tff.types.TensorType(np.float32, [dimension])
    inner = factory._build_aggregation_factory().create(update_type)

    @tff.tensorflow.computation(update_type)
    def bounded(update):
        return distributed._bounded(update, CLIP)

    def measurements(updates):
        sent = [bounded(np.asarray(update, np.float32)) for update in updates] if ours else updates
        return inner.next(inner.initialize(), sent).measurements["hd"]

    rng = np.random.default_rng(0)
    with execution.fast(strict=True):
        directions = rng.normal(size=[32, dimension])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        updates = [*HOSTILE.values(), *(2 * CLIP * directions), *(CLIP * directions)]
        if ours:
            found = measurements(updates)
            assert found["clipped_count"] == 0
            sums = found["clipping"]["discretize"]["dp"]["modclip"]["modclip"]
            assert sums["secure_upper_clipped_count"] == 0
            assert sums["secure_lower_clipped_count"] == 0
        else:
            large = [(2 * d).astype(np.float32) for d in directions]
            assert measurements(large)["clipped_count"] == len(large)


@pytest.mark.parametrize("context", ["fast", slow("stock")], indirect=True)
def test_the_denominator_is_the_expected_number_of_clients(tff, context):
    rng = np.random.default_rng(0)
    updates = rng.normal(size=[6, 300]) * np.array([[0.001, 0.1, 0.02, 1.0, 0.0, 0.03]]).T
    clipped = [u * min(1, CLIP / max(np.linalg.norm(u), 1e-9)) for u in updates]
    for clients in (4, 6):
        aggregator = Aggregator(mechanism(z=0.0, dimension=300), clients, **context)
        result = aggregator(updates)
        # Each of six clients is off by a rounding of each coordinate, by less than a step.
        step = CLIP / aggregator.grid.scale / clients
        expected = np.sum(clipped, axis=0) / clients
        assert np.linalg.norm(result - expected) < 6 * step * math.sqrt(512) + 2e-5 * CLIP
        assert np.linalg.norm(result - expected * clients / 5) > 0.01  # a denominator of five


def test_sums_of_many_clients_do_not_overflow(tff):
    # 3000 numbers modulo 2^20 add up to more than 32 bits hold.
    clients = 3000
    update = np.array([-0.3, 0.2], np.float32)
    with execution.fast(strict=True):
        aggregator = Aggregator(mechanism(z=0.0, dimension=2), clients)
        result = aggregator([update] * clients)
    np.testing.assert_allclose(result, update, atol=2 * CLIP / aggregator.grid.scale)


@pytest.mark.parametrize(
    ("context", "kind"),
    covered(
        ["fast", "stock"],
        KINDS,
        by=[("fast", DistributedGaussianMechanism), ("stock", DistributedSkellamMechanism)],
        slow=None,
    ),
    indirect=["context"],
)
def test_a_sum_that_lacks_shares_of_the_noise_is_not_released(tff, context, kind):
    aggregator = Aggregator(mechanism(kind, dimension=8), 4, **context)
    updates = [np.zeros(8)] * 5
    state = aggregator.state
    for count in (3, 1, 0):
        error = Exception if context else ComputationError
        with pytest.raises(error, match="fewer than the 4 clients"):
            aggregator(updates[:count])
        assert aggregator.state is state
    for count in (4, 5):  # more noise than is needed
        assert np.isfinite(aggregator(updates[:count])).all()


def test_updates_keep_their_structure_and_types(tff):
    tensors = tff.types
    struct = tensors.StructWithPythonType(
        [
            ("a", tensors.TensorType(np.float32, [2, 3])),
            ("b", tensors.StructWithPythonType([tensors.TensorType(np.float64, [4])], list)),
        ],
        OrderedDict,
    )
    process = build_aggregator(mechanism(z=0.0, dimension=10), 2.0).create(struct)
    assert process.next.type_signature.result.result.member == struct
    update = OrderedDict(a=np.full([2, 3], 0.1, np.float32), b=[np.full([4], -0.2)])
    with execution.fast(strict=True):
        result = process.next(process.initialize(), [update, update]).result
    np.testing.assert_allclose(result["a"], update["a"], atol=1e-4)
    np.testing.assert_allclose(result["b"][0], update["b"][0], atol=1e-4)
    assert result["b"][0].dtype == np.float64


@both_kinds
def test_a_model_of_another_dimension_is_refused(kind):
    clients = some_clients()
    with pytest.raises(ArgumentError, match=r"dimension=7 .* fit the model.*parameters, 4"):
        tff_dp.fit(a_model(), clients, loss="mse", privacy=a_plan(kind, dimension=7, population=8))


def test_conditional_rounding_is_built_without_a_warning(tff):
    with execution.fast(strict=True):
        assert Aggregator(mechanism(dimension=8, beta=BETA), 2)([np.zeros(8)] * 2).shape == (8,)


def some_clients(count=8) -> data.Clients:
    rng = np.random.default_rng(0)
    x = rng.normal(size=[count * 20, 3]).astype(np.float32)
    y = (x @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32)
    return data.Clients(x, y, np.arange(0, count * 20 + 1, 20))


def a_model() -> keras.Model:
    layers = [keras.layers.Input([3]), keras.layers.Dense(1, kernel_initializer="zeros")]
    return keras.Sequential(layers)


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [
        (DistributedGaussianMechanism, FullParticipation()),
        slow(DistributedSkellamMechanism, FixedSizeSampler(size=8)),
        # Nothing depends on the pair.
        pytest.param(
            DistributedGaussianMechanism, FixedSizeSampler(size=8), marks=pytest.mark.full
        ),
        pytest.param(DistributedSkellamMechanism, FullParticipation(), marks=pytest.mark.full),
    ],
)
def test_training_learns_and_reports_the_plans_epsilon(kind, sampler, tmp_path):
    clients = some_clients()
    plan = a_plan(
        kind, 0.05, 4, population=8, sampler=sampler, rounds=30, mechanism=mechanism(kind, 0.05, 4)
    )
    with execution.fast(strict=True):
        result = tff_dp.fit(
            a_model(),
            clients,
            loss="mse",
            privacy=plan,
            algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1)),
            ledger=tmp_path / "ledger.jsonl",
        )
    kernel, bias = result.model.get_weights()
    np.testing.assert_allclose(kernel.ravel(), [1.0, -2.0, 0.5], atol=0.2)
    np.testing.assert_allclose(bias, [0.3], atol=0.2)
    assert result.epsilon == plan.epsilon().epsilon
    assert result.history[0].epsilon == plan.epsilon(1).epsilon
    statement = result.statement()
    assert "drop out" in statement
    assert "zero-out" in statement
    assert "float" not in statement.split("Not covered")[1]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [tff_dp.FedSGD(), tff_dp.FedProx(proximal_strength=0.1)])
def test_noise_is_added_to_what_clients_learn_by_every_algorithm(algorithm):
    clients = some_clients()
    plan = a_plan(z=1e-3, dimension=4, population=8, bits=20)
    spec = tff_dp.ModelSpec(model=a_model(), loss="mse")
    with execution.fast(strict=True):
        run = run_rounds(spec, clients, algorithm, privacy=plan, rounds=2)
    assert np.linalg.norm(run.weights[-1].trainable[0] - run.weights[0].trainable[0]) > 0.01


def test_the_account_of_a_round_names_the_clients_as_those_who_draw(tff):
    factory = build_aggregator(mechanism(dimension=8), 2.0)
    process = factory.create(tff.types.TensorType(np.float32, [8]))
    assert "random numbers in work" in execution.explain(process.next)


@pytest.mark.slow
def test_a_round_of_training_is_stock_tffs_but_for_the_rounding(tff, stock):
    clients = some_clients()
    plan = a_plan(z=0.0, dimension=4, population=8)
    bound = tff_dp.ModelSpec(model=a_model(), loss="mse").bind(clients.element_spec())
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1))
    learning = tff_dp.build_process(bound, algorithm=algorithm, privacy=plan)
    cohort = [clients.dataset(position, batch_size=5) for position in range(8)]
    state = process.initialize_from(learning, bound.initial_weights)
    on_stock = without_secure_sums(tff, learning.next)(state, cohort).state
    with execution.fast(strict=True):
        here = learning.next(state, cohort).state
        found = [process.model_weights(learning, each).trainable for each in (on_stock, here)]
    # Each of four weights is a mean of roundings to one of 10^6 steps of the clip norm.
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=4 * 2e-6)
        assert np.abs(a).max() > 0.01


@pytest.mark.parametrize("kind", [DistributedGaussianMechanism, slow(DistributedSkellamMechanism)])
def test_rounds_in_one_graph_call_draw_noise_of_their_own(kind):
    width, rounds = 1023, 4
    clients = data.Clients(
        np.zeros([4, width], np.float32), np.zeros([4, 1], np.float32), np.arange(5)
    )
    layers = [keras.layers.Input([width]), keras.layers.Dense(1, kernel_initializer="zeros")]
    bound = tff_dp.ModelSpec(model=keras.Sequential(layers), loss="mse").bind(
        clients.element_spec()
    )
    plan = a_plan(mechanism=mechanism(kind, 2.0, width + 1), population=4)
    algorithm = tff_dp.FedSGD(server_optimizer=tff_dp.SGD(learning_rate=1.0))
    learning = tff_dp.build_process(bound, algorithm=algorithm, privacy=plan)
    with execution.fast(strict=True):
        state = process.initialize_from(learning, bound.initial_weights)
        cohorts = [clients.cohort(range(4), batch_size=1) for _ in range(rounds)]
        state, _ = execution.iterate(learning.next, state, cohorts)
        weights = process.model_weights(learning, state).trainable[0].ravel()
    stddev = 2.0 * CLIP / 4  # of a weight's noise in a round
    assert variance_p(weights, rounds * stddev**2) > FALSE_POSITIVE
    for shared in (2 * rounds, rounds**2):  # rounds that had noise in common
        assert variance_p(weights, shared * stddev**2) < FALSE_POSITIVE
