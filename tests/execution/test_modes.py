"""Settings of the fast context, several rounds in one call, blocks, devices, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest
import tree

import tff_dp
from tests.support.paths import ROOT
from tests.support.rounds import assert_close, cohort_of
from tests.support.tables import slow
from tests.support.workers import workers
from tff_dp import _caching, data, execution
from tff_dp.errors import ArgumentError, ComputationError
from tff_dp.execution import compilation
from tff_dp.execution.cohort import arrays
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(("strategy", "xla"), [slow("scan", True), ("scan", False), ("call", None)])
@pytest.mark.parametrize("cohort", [[0, 1, 6], [0, 5, 7]], ids=["equal", "ragged"])
def test_iterated_rounds_are_the_rounds_one_by_one(linear, strategy, xla, cohort):
    bound, process, clients = linear
    cohorts = [clients.cohort(cohort, batch_size=4), clients.cohort(cohort[:2], batch_size=4)] * 2

    def start():
        return initialize_from(process, bound.initial_weights)

    with execution.fast(strategy, xla=xla, seed=2, strict=True):
        state, metrics = start(), []
        for each in cohorts:
            output = process.next(state, each)
            state = output.state
            metrics.append(output.metrics)
    with execution.fast(strategy, xla=xla, seed=2, strict=True):
        fused, measured = execution.iterate(process.next, start(), cohorts)
    assert type(fused) is type(state)
    tree.assert_same_structure(measured, metrics)
    assert_close(fused, state)
    assert_close(measured, metrics)


def test_iterating_takes_few_calls_where_it_can_and_needs_a_state(linear, monkeypatch, tff):
    bound, process, clients = linear
    cohorts = [clients.cohort([0, 1, 6], batch_size=4)] * 5
    with execution.fast(strict=True) as context:
        state = initialize_from(process, bound.initial_weights)
        calls = []
        invoke = type(context).invoke
        monkeypatch.setattr(type(context), "invoke", lambda *a: (calls.append(a[1]), invoke(*a))[1])
        execution.iterate(process.next, state, cohorts)
        assert process.next not in calls
        assert execution.iterate(process.next, state, []) == (state, [])

        @tff.tensorflow.computation(np.int32)
        def stateless(value):
            return value

        with pytest.raises(ArgumentError, match="expected a structure whose first element"):
            execution.iterate(stateless, 1, [])


def test_long_training_is_fused_and_gives_what_single_rounds_give(linear, monkeypatch):
    from tff_dp.training import run as run_module

    clients = cohort_of([8] * 6)
    monkeypatch.setattr(run_module, "_FUSED", 4)
    results = {}
    for fused_from in (10, 1000):
        monkeypatch.setattr(run_module, "_FUSED_FROM", fused_from)
        model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
        model.set_weights([np.zeros([5, 1]), np.zeros([1])])
        results[fused_from] = tff_dp.fit(
            model, clients, loss="mse", privacy=tff_dp.NoPrivacy(), rounds=10, seed=3, batch_size=4
        )
    for fused, single in zip(results[10].history, results[1000].history, strict=True):
        assert fused.round_number == single.round_number
        assert_close(dict(fused.metrics), dict(single.metrics))
    assert_close(results[10].model.get_weights(), results[1000].model.get_weights())


def test_explain_tells_the_strategy_and_the_reasons(linear, tff):
    _, process, _ = linear
    text = execution.explain(process)
    assert "initialize: one graph" in text
    assert "strategy scan, with XLA: the clients' part fits one graph" in text
    assert "random numbers in update, keyed by the system" in text
    with execution.fast("vmap", xla=False, seed=1):
        text = execution.explain(process.next)
        assert "strategy vmap, without XLA: the strategy was given" in text
        assert "keyed by a seed: not private" in text

    @tff.tensorflow.computation(np.int64)
    def count(n):
        import tensorflow as tf

        return tf.data.Dataset.range(n)

    assert "on stock TFF, because it returns a sequence" in execution.explain(count)
    with pytest.raises(ArgumentError, match=r"expected a tff\.Computation"):
        execution.explain(3)


def test_a_convolution_runs_without_xla_on_a_cpu(tff):
    clients = data.Clients(np.zeros([2, 4, 4, 1], np.float32), np.zeros([2, 1], np.float32), [0, 2])
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input([4, 4, 1]), layers.Conv2D(1, 2), layers.Flatten(), layers.Dense(1)]
    )
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    assert "slow for convolutions on a CPU" in execution.explain(process.next)
    with execution.fast(xla=True):
        assert "with XLA, as was asked" in execution.explain(process.next)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "map"}, r"strategy='map'"),
        ({"device": "tpu"}, r"device='tpu'"),
        ({"seed": -1}, r"seed=-1"),
    ],
)
def test_settings_outside_their_bounds_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message), execution.fast(**arguments):
        pass


def test_a_gpu_that_is_not_there_is_refused():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ArgumentError, match="TensorFlow sees no GPU"), execution.fast(device="gpu"):
        pass


def test_arrays_too_large_for_the_device_stream_in_blocks(linear, monkeypatch):
    bound, process, _ = linear
    many = cohort_of([8, 5, 4] * 20)
    cohorts = [
        many.cohort(range(60), batch_size=4),
        many.cohort(
            range(0, 60, 2), batch_size=4, epochs=2, shuffle=True, rng=np.random.default_rng(0)
        ),
    ]

    def trained(resident_bytes):
        with execution.fast(seed=1, strict=True) as context:
            context.settings.resident.limit = resident_bytes
            state = initialize_from(process, bound.initial_weights)
            for cohort in cohorts:
                state = process.next(state, cohort).state
            return state

    expected = trained(1 << 28)
    monkeypatch.setattr(arrays, "_BYTES", 1000)  # about five clients
    count = []
    original = arrays._alone
    monkeypatch.setattr(
        arrays, "_alone", lambda *a: (count.append(threading.active_count()), original(*a))[1]
    )
    before = threading.active_count()
    assert_close(trained(0), expected)
    assert len(count) > 10
    assert max(count) <= before + 1  # one block is prepared ahead, by one thread,
    assert threading.active_count() == before  # which has ended


# Importing TFF takes seconds: a child is forked for each number of devices, of a process that has run
# nothing of TensorFlow's.
DEVICES = """
import json, os, pathlib, sys
import tensorflow as tf
import keras, numpy as np, tff_dp
from tff_dp import execution
sys.path.insert(0, sys.argv[1])
from tests.support.rounds import cohort_of
from tff_dp.execution.graph import traced

made = []
keep = traced.Graphs._keep
traced.Graphs._keep = lambda self, key, graph: (made.append(graph), keep(self, key, graph))[1]

def calls_by_device():
    # How many calls of functions the graphs since the last time have on each device.
    found = {}
    while made:
        for operation in made.pop().graph.get_operations():
            if operation.type == "PartitionedCall":
                found[operation.device] = found.get(operation.device, 0) + 1
    return found

def results(devices):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if devices == 2:
        both = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, both)
    clients = cohort_of([8] * 200)
    model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    model.set_weights([np.zeros([5, 1]), np.zeros([1])])
    found = {}
    for strategy, xla in (("scan", False), ("scan", True), ("vmap", False)):
        keras_model = keras.models.clone_model(model)
        keras_model.set_weights(model.get_weights())
        with execution.fast(strategy, xla=xla, strict=True) as context:
            result = tff_dp.fit(keras_model, clients, loss="mse", privacy=tff_dp.NoPrivacy(),
                                rounds=2, seed=1, batch_size=4)
            found[f"{strategy} {xla}"] = [w.tolist() for w in result.model.get_weights()]
            found["places"] = context.settings.places.names
            found[f"calls {strategy} {xla}"] = calls_by_device()
    return found

for devices in (1, 2):
    child = os.fork()
    if child == 0:
        try:
            path = pathlib.Path(sys.argv[2]) / f"{devices}.json"
            path.write_text(json.dumps(results(devices)))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def in_process(code: str, *arguments: str, **environment: str) -> list[str]:
    """Returns the lines that a program prints."""
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout.splitlines()


@pytest.mark.slow
def test_several_devices_share_a_cohort_and_give_the_same(tmp_path):
    in_process(DEVICES, str(ROOT), str(tmp_path))
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in "12")
    assert len(two["places"]) == 2
    assert all("CPU" in name for name in two["places"])
    for how in ("scan False", "scan True", "vmap False"):
        for a, b in zip(two[how], one[how], strict=True):
            np.testing.assert_array_equal(a, b)
        # Each device has half of the parts; the rest of the calls join their sums.
        calls = two[f"calls {how}"]
        assert calls["/device:CPU:0"] == calls["/device:CPU:1"] > 0
        assert set(calls) <= {"/device:CPU:0", "/device:CPU:1", ""}
        assert set(one[f"calls {how}"]) <= {""}


COHORTS = """
import json, os, pathlib
import keras, numpy as np, tff_dp
from tff_dp import data, execution
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

x = np.zeros([80, 3], np.float32)
clients = data.Clients(x, x[:, :1], np.arange(0, 81, 4))
model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
compiled = pathlib.Path(os.environ["TFF_DP_CACHE"])
with execution.fast("scan", xla=True):
    state = initialize_from(process, bound.initial_weights)
    for cohort in ([0, 1, 2], [4, 7, 9], [3, 5], [19, 2, 1, 8]):
        state = process.next(state, clients.cohort(cohort, batch_size=4)).state
        files = {str(p): p.stat().st_mtime_ns for p in compiled.rglob("*") if p.is_file()}
        print("compiled", json.dumps(files))
"""


def compile_in(folder: str) -> list[dict[str, int]]:
    """Returns the files of what XLA has compiled, after each cohort, in a process of its own."""
    lines = in_process(COHORTS, TFF_DP_CACHE=folder, TF_XLA_FLAGS="", PYTHONPATH=str(ROOT))
    told = [line.split(" ", 1) for line in lines]
    return [json.loads(rest) for first, rest in told if first == "compiled"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder, and what a first process has compiled in it."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    return folder, compile_in(folder)


@pytest.mark.slow
def test_another_cohort_needs_no_compilation(compiled):
    """XLA keeps a file of what it has compiled; a table taken for a constant would add one a round.

    TensorFlow's own slices ask for a constant start: rounds under Poisson sampling, each with another
    cohort, took 800 times as long as those of one and the same.
    """
    _, first = compiled
    assert [len(files) for files in first] == [1] * 4


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(compiled):
    folder, first = compiled
    assert compile_in(folder) == first  # nothing was compiled and written anew


def test_the_cache_of_compiled_code_is_bounded_private_and_can_be_refused(tmp_path, monkeypatch):
    for number in range(5):
        path = tmp_path / str(number)
        path.write_bytes(b"x" * 100)
        os.utime(path, (number, number))
    _caching.remove_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]

    monkeypatch.setenv("TF_XLA_FLAGS", "--other")
    monkeypatch.setenv("TFF_DP_CACHE", "")
    assert _caching.tell_xla() is None
    assert prepare() is None
    assert os.environ["TF_XLA_FLAGS"] == "--other"
    monkeypatch.setenv("TFF_DP_CACHE", str(tmp_path / "cache"))
    folder = _caching.tell_xla()
    told = f"--other --tf_xla_persistent_cache_directory={folder}"
    assert os.environ["TF_XLA_FLAGS"] == told
    assert not folder.exists()
    assert prepare() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TF_XLA_FLAGS"] == told
    assert _caching.tell_xla() is None  # the flag is set
    # What is old is removed when the cache is used, not when it is named.
    monkeypatch.setattr(_caching, "_MOST_BYTES", 150)
    for number in range(3):
        (folder / str(number)).write_bytes(b"x" * 100)
        os.utime(folder / str(number), (number, number))
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    assert _caching.tell_xla() == folder
    assert len(list(folder.iterdir())) == 3
    assert prepare() == folder
    assert [path.name for path in folder.iterdir()] == ["2"]


def prepare():
    """Makes the cache ready as the first context of a process does."""
    _caching.prepare.cache_clear()
    return _caching.prepare()


def test_code_that_others_could_have_written_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setenv("TFF_DP_CACHE", str(tmp_path / "cache"))
    folder = _caching.tell_xla()
    told = os.environ["TF_XLA_FLAGS"]
    # Between the import and the first use, somebody else makes the folder.
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert prepare() is None
    assert os.environ["TF_XLA_FLAGS"] == ""
    assert _caching.tell_xla() is None
    assert os.environ["TF_XLA_FLAGS"] == ""
    folder.rmdir()
    # A folder that would be made in one that others can write to is named once it has been made.
    folder.parent.chmod(0o777)
    assert _caching.tell_xla() is None
    assert os.environ["TF_XLA_FLAGS"] == ""
    assert prepare() == folder
    assert os.environ["TF_XLA_FLAGS"] == told
    # Another cache that the user has chosen stays as it is.
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/elsewhere")
    assert _caching.tell_xla() is None
    assert prepare() is None
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_persistent_cache_directory=/elsewhere"


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setenv("TFF_DP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert _caching.tell_xla() is None
    assert prepare() is None
    assert os.environ["TF_XLA_FLAGS"] == ""


def test_runners_go_with_their_computations(tff):
    import gc

    @tff.tensorflow.computation(np.int32)
    def same(value):
        return value

    with execution.fast(strict=True):
        before = len(compilation._runners)
        assert same(3) == 3
        assert len(compilation._runners) == before + 1
    del same
    gc.collect()
    assert len(compilation._runners) <= before


INSTALLED = """
import json
import numpy as np
from tff_dp import execution, tff
context = execution.install(strict=True)
@tff.tensorflow.computation(np.int32)
def double(value):
    return 2 * value
print(json.dumps([int(double(4)), tff.framework.get_context_stack().current is context]))
"""


@pytest.mark.slow
def test_install_serves_the_whole_process():
    assert json.loads(in_process(INSTALLED)[-1]) == [8, True]


def test_cohorts_check_what_they_are_given(linear):
    _, _, clients = linear
    with pytest.raises(
        ArgumentError, match=r"positions holds 8: expected whole numbers in \[0, 8\)"
    ):
        clients.cohort([0, 8], batch_size=2)
    with pytest.raises(ArgumentError, match="expected a sequence of whole numbers"):
        clients.cohort([0.5], batch_size=2)
    with pytest.raises(ArgumentError, match="rng"):
        clients.cohort([0], batch_size=2, shuffle=True)
    assert len(clients.cohort([], batch_size=2)) == 0


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_cohort_is_a_sequence_of_the_data_sets_it_stands_for(linear, shuffle):
    _, _, clients = linear
    rng = np.random.default_rng(0)
    cohort = clients.cohort([5, 4, 3], batch_size=4, epochs=2, shuffle=shuffle, rng=rng)
    for position, dataset in zip([5, 4, 3], cohort, strict=True):
        batches = list(dataset.as_numpy_iterator())
        x, y = clients.client(position)
        assert [len(b[1]) for b in batches] == [
            min(4, len(y) - begin) for _ in range(2) for begin in range(0, len(y), 4)
        ]
        half = len(batches) // 2
        for epoch in (batches[:half], batches[half:]):
            if not epoch:
                continue
            seen = np.concatenate([b[0] for b in epoch])
            if shuffle:  # the same examples in another order
                seen, x = seen[np.argsort(seen[:, 0])], x[np.argsort(x[:, 0])]
            np.testing.assert_array_equal(seen, x)
    assert len(cohort[1:]) == 2
    with pytest.raises(IndexError):
        cohort[3]


def test_no_warning_and_no_fallback_in_ordinary_use(linear):
    bound, process, clients = linear
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with execution.fast():
            state = initialize_from(process, bound.initial_weights)
            output = process.next(state, clients.cohort(range(8), batch_size=4))
            weights = model_weights(process, output.state)
    assert np.isfinite(weights.trainable[0]).all()


def test_errors_of_a_process_are_not_taken_for_missing_forms(linear):
    bound, process, _ = linear
    with execution.fast(strict=True):
        state = initialize_from(process, bound.initial_weights)
        with pytest.raises((ComputationError, TypeError)):
            process.next(state, [3])


def test_what_cannot_be_traced_by_one_strategy_runs_by_another(linear, monkeypatch):
    from tff_dp.execution.cohort import batches

    bound, _, clients = linear
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    cohort = clients.cohort([0, 1, 5], batch_size=4)

    def trained(strategy):
        with execution.fast(strategy, xla=False, strict=True):
            state = initialize_from(process, bound.initial_weights)
            return process.next(state, cohort).state, execution.explain(process.next)

    expected, _ = trained("call")

    def refuse(*_):
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(batches.Regular, "reduce", refuse)
    actual, text = trained("vmap")
    assert_close(actual, expected)
    assert "side by side without XLA given up: no such operation" in text
    monkeypatch.setattr(batches.Listed, "reduce", refuse)
    fresh = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    with execution.fast("scan", xla=False, strict=True):
        state = initialize_from(fresh, bound.initial_weights)
        assert_close(fresh.next(state, cohort).state, expected)
        assert "strategy call" in execution.explain(fresh.next)
        assert "no such operation" in execution.explain(fresh.next)


def test_batches_whose_parts_are_no_columns_run_by_calls(tff):
    import tensorflow as tf

    element = (tff.TensorType(np.float32, [None]), tff.TensorType(np.float32, [None]))

    @tff.tensorflow.computation(tff.SequenceType(element))
    def total(batches):
        return batches.reduce(0.0, lambda s, b: s + tf.reduce_sum(b[0]) * tf.reduce_sum(b[1]))

    @tff.federated_computation(tff.FederatedType(total.type_signature.parameter, tff.CLIENTS))
    def summed(clients):
        return tff.federated_sum(tff.federated_map(total, clients))

    def client(*lengths):
        sets = [
            tf.data.Dataset.from_tensor_slices(np.ones(sum(lengths[part::2]), np.float32)).batch(
                lengths[part]
            )
            for part in (0, 1)
        ]
        return tf.data.Dataset.zip(tuple(sets))

    with execution.fast(strict=True):
        assert summed([client(2, 3), client(1, 1)]) == 7.0
        # Lists of elements are data sets, too.
        assert summed([[(np.ones(2, np.float32), np.ones(3, np.float32))], client(1, 1)]) == 7.0


def test_scalars_that_come_back_are_known_by_identity_alone(linear):
    import tensorflow as tf

    from tff_dp.execution import values

    scalars = values.Scalars()
    tensors = [tf.constant(2.0), tf.constant([2.0]), tf.constant("a"), tf.constant(True)]
    given = scalars.returned(tensors)
    assert [scalars.known(value) is t for value, t in zip(given, tensors, strict=True)] == [
        True, False, True, True,
    ]  # fmt: skip  # arrays may have been written to since
    equal = np.float32(2.0)
    assert scalars.known(equal) is equal
    scalars.returned([])
    assert scalars.known(given[0]) is given[0]  # only the last call's are held

    # A state that was changed between calls is the one that counts.
    bound, process, clients = linear
    cohort = clients.cohort([0, 1], batch_size=4)
    with execution.fast(seed=4, strict=True):
        state = process.next(initialize_from(process, bound.initial_weights), cohort).state
        for array in state.global_model_weights.trainable:
            array[:] = 70.0
        changed = model_weights(process, process.next(state, cohort).state).trainable
    for array in changed:
        np.testing.assert_allclose(array, 70.0, atol=1.0)  # a clipped step and little noise


def test_weights_outside_of_any_context_start_no_worker(linear):
    before = set(workers(os.getpid()))
    bound, process, _ = linear
    state = initialize_from(process, bound.initial_weights)
    for a, b in zip(model_weights(process, state).trainable, bound.initial_weights.trainable,
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    assert set(workers(os.getpid())) == before
