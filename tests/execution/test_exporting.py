"""Exported rounds: JAX alone gives what `fast` gives, noise included; others are refused."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import warnings
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tree

import tff_dp
from tests.support.contract_models import FEATURES, LAYERS
from tests.support.paths import ROOT
from tff_dp import data, execution, exported, ledger
from tff_dp.errors import ArgumentError, ComputationError, DataError
from tff_dp.execution.cohort import batches
from tff_dp.execution.graph import randomness
from tff_dp.execution.round import client_loop
from tff_dp.model import ModelSpec
from tff_dp.process import build_process

pytestmark = pytest.mark.heavy

CLIENTS, EXAMPLES, BATCH, ROUNDS, SEED = 9, 8, 3, 3, 11
SIZES = (9, 4, 7)  # clients in the rounds: all, fewer than are side by side, and neither
APART = tff_dp.MinSeparationSampler(size=3, min_separation=3)
CYCLIC = tff_dp.CyclicPoissonSampler(rate=0.8, cycle=3)
SIZE = {"clip_norm": 0.1, "noise_multiplier": 0.5}


def clients_of(features: int = FEATURES) -> data.Clients:
    rng = np.random.default_rng(3)
    x = rng.normal(size=[CLIENTS * EXAMPLES, features]).astype(np.float32)
    y = np.tanh(x.sum(1, keepdims=True)).astype(np.float32)
    return data.Clients(x, y, np.arange(CLIENTS + 1) * EXAMPLES)


def plan(mechanism, sampler=None) -> tff_dp.PrivacyPlan:
    return tff_dp.PrivacyPlan(
        mechanism=mechanism,
        population=CLIENTS,
        sampler=sampler or tff_dp.FullParticipation(),
        rounds=ROUNDS,
        delta=1e-3,
    )


def central(layers="dense", algorithm=None, privacy=None, policy="float32"):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        made = [keras.layers.Input([FEATURES]), *LAYERS[layers](keras)]
        spec = ModelSpec(model=keras.Sequential(made), loss="mse")
    finally:
        keras.config.set_dtype_policy(before)
    bound = spec.bind(clients_of().element_spec())
    return build_process(
        bound,
        algorithm=algorithm or tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1)),
        privacy=privacy or tff_dp.NoPrivacy(),
    )


def of_records():
    mechanism = tff_dp.RecordGaussianMechanism(**SIZE, batch_size=2, local_steps=2)
    return tff_dp.PrivacyPlan(
        unit="record", mechanism=mechanism, records=(EXAMPLES,) * CLIENTS, rounds=ROUNDS, delta=1e-3
    )


def of_16_bits(policy):
    with warnings.catch_warnings():  # of losses that nobody scales in float16
        warnings.filterwarnings("ignore", "The model .* computes in float16", UserWarning)
        return central(privacy=plan(tff_dp.GaussianMechanism(**SIZE)), policy=policy)


PROCESSES = {
    "fedavg": central,
    "fedprox": lambda: central(algorithm=tff_dp.FedProx(proximal_strength=0.5)),
    "fedadam": lambda: central(
        algorithm=tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.01))
    ),
    "gaussian": lambda: central(privacy=plan(tff_dp.GaussianMechanism(**SIZE))),
    "laplace": lambda: central(
        privacy=plan(tff_dp.LaplaceMechanism(clip_norm=1.0, noise_multiplier=0.5))
    ),
    "adaptive": lambda: central(
        privacy=plan(tff_dp.AdaptiveGaussianMechanism(initial_clip_norm=0.1, noise_multiplier=0.5))
    ),
    "banded": lambda: central(privacy=plan(tff_dp.BandedMechanism(**SIZE, bands=2), CYCLIC)),
    "records": lambda: central(privacy=of_records()),
    "tree": lambda: central(privacy=plan(tff_dp.TreeMechanism(**SIZE), APART)),
    "convolution": lambda: central("convolution"),
    "normalization": lambda: central("group normalization"),
    "float16": lambda: of_16_bits("float16"),
    "bfloat16": lambda: of_16_bits("bfloat16"),
    "mixed_bfloat16": lambda: of_16_bits("mixed_bfloat16"),
}
# How many clients run at once.
WIDTHS = {
    "gaussian": (1, 4),
    "convolution": (1, 4),
    "tree": (1,),
    "records": (1,),
    "normalization": (1,),
    "bfloat16": (1, 4),
}
BY_DEFAULT = [("gaussian", 4)]
# DP-SGD reads all records of a client, whose number is known where they are one batch.
BATCHES = {"records": EXAMPLES}
# Relative to 1: 16 bits round to 5e-4 or 4e-3, and XLA may keep more of them in between.
TOLERANCES = {"float16": 1e-2, "bfloat16": 1e-2, "mixed_bfloat16": 1e-2}
CASES = [
    pytest.param(name, width, marks=[] if (name, width) in BY_DEFAULT else pytest.mark.slow)
    for name in PROCESSES
    for width in WIDTHS.get(name, (4,))
]


@pytest.fixture(scope="module")
def found(tff, tmp_path_factory, jax_python):
    """A function from a name and a number side by side to the process, what `fast` gives, and the file.

    What JAX gives is beside the file.
    """
    folder = tmp_path_factory.mktemp("exported")
    clients = clients_of()
    keys = np.stack([randomness.root(SEED, call + 2) for call in range(ROUNDS)])  # 1: `initialize`

    @functools.cache
    def expected(name):
        process, results, batch_size = PROCESSES[name](), [], BATCHES.get(name, BATCH)
        with execution.fast("scan", xla=True, seed=SEED, random_bits="philox", strict=True):
            state = process.initialize()
            for count in SIZES:
                output = process.next(state, clients.cohort(range(count), batch_size=batch_size))
                state = output.state
                results.append(output)
        return process, results

    @functools.cache
    def run(name, width):
        process, results = expected(name)
        path = folder / f"{name}-{width}" / "one.round"
        path.parent.mkdir()
        shape = exported.CohortShape(
            clients=CLIENTS,
            examples=EXAMPLES,
            batch_size=BATCHES.get(name, BATCH),
            side_by_side=width,
        )
        execution.export(process, shape, path)
        given = {"keys": keys}
        names = [each.name for each in exported.load_exported(path).manifest.data]
        fields = clients.cohort(range(CLIENTS), batch_size=BATCH).arrays().fields
        for number, count in enumerate(SIZES):
            for each, field in zip(names, fields, strict=True):
                rows = np.asarray(field).reshape(CLIENTS, EXAMPLES, -1)
                given[f"{number}.{each}"] = rows[:count]
        np.savez(path.with_suffix(".npz"), **given)
        program = ROOT / "tests" / "support" / "exported_rounds.py"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [jax_python, str(program), str(path.parent)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return process, results, path

    return run


@pytest.mark.parametrize(("name", "width"), CASES)
def test_jax_gives_what_the_fast_context_gives(found, name, width):
    process, results, path = found(name, width)
    manifest = exported.load_exported(path).manifest
    arrays = np.load(path.with_suffix(".found.npz"))
    for number, output in enumerate(results):
        own = {
            each.name: arrays[f"{number}.{each.name}"].astype(
                tf.as_dtype(each.dtype).as_numpy_dtype
            )
            for each in manifest.state
        }
        state = execution.restored_state(process, manifest, own)
        for actual, expected in zip(tree.flatten(state), tree.flatten(output.state), strict=True):
            _assert_close(actual, expected, TOLERANCES.get(name))
        if name != "records":  # whose losses nobody is told
            loss = arrays[f"{number}.metrics.client_work.train.loss"]
            expected = output.metrics["client_work"]["train"]["loss"]
            _assert_close(loss, expected, TOLERANCES.get(name))


def _assert_close(actual, expected, tolerance=None):
    actual, expected = np.asarray(actual), np.asarray(expected)
    if expected.dtype.name == "bfloat16":  # of a kind of its own to numpy
        assert actual.dtype == expected.dtype
        actual, expected = actual.astype(np.float32), expected.astype(np.float32)
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
    else:
        rtol, atol = (tolerance or 1e-4), (tolerance or 1e-5)
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("name", "is_noised"),
    [("gaussian", True), pytest.param("fedavg", False, marks=pytest.mark.slow)],
)
def test_the_same_round_with_another_key_differs_by_its_noise_alone(found, name, is_noised):
    """A negative control for the equality above: the noise is far larger than its tolerance."""
    _, _, path = found(name, 4)
    arrays = np.load(path.with_suffix(".found.npz"))
    weights = [key.partition(".")[2] for key in arrays if key.startswith("0.global_model_weights")]
    moved = max(np.abs(arrays[f"0.{w}"] - arrays[f"other key.{w}"]).max() for w in weights)
    # The difference of two draws has a standard deviation of .5 x .1 x sqrt(2) / 9 = .0079 in each of 19
    # weights: all of them are below .001 with a probability below 1e-18.
    assert moved > 1e-3 if is_noised else moved == 0


@pytest.mark.slow
def test_the_page_runs_where_there_is_no_tensorflow(tff, jax_python, tmp_path, monkeypatch):
    """Both blocks of docs/exported.md, the second one in the environment of JAX."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "exported.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(first, "exported.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [jax_python, "-c", f"{second}\nprint('tensorflow' in __import__('sys').modules)"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("False")
    path = tmp_path / "logistic.jsonl"
    (plan,) = ledger.summarize(path).plans
    with ledger.Ledger(path, plan) as book:
        assert book.charges == 3


def read(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)


@pytest.fixture
def one(found, tmp_path):
    """A copy of an exported round."""
    path = tmp_path / "one.round"
    path.write_bytes(found("gaussian", 4)[2].read_bytes())
    return path


def test_the_file_holds_no_code(one):
    members = read(one)
    assert sorted(members) == ["manifest.json", "round.stablehlo", "state.npz"]
    assert members["round.stablehlo"].startswith(b"ML\xefR")  # MLIR's bytecode
    with np.load(one.parent / "one.round", allow_pickle=False) as outer:
        assert len(outer.files) == 3
    exported.load_exported(one)


@pytest.mark.parametrize("name", ["round.stablehlo", "state.npz"])
def test_a_changed_member_is_refused(one, name):
    members = read(one)
    changed = bytearray(members[name])
    changed[len(changed) // 2] ^= 1
    rewrite(one, {**members, name: bytes(changed)})
    with pytest.raises(ArgumentError, match="SHA-256"):
        exported.load_exported(one)


@pytest.mark.parametrize(
    "damage",
    [
        lambda members: {},
        lambda members: {**members, "manifest.json": b"{"},
        lambda members: {**members, "manifest.json": b"[]"},
        lambda members: {k: v for k, v in members.items() if k != "state.npz"},
        lambda members: {
            **members,
            "manifest.json": members["manifest.json"].replace(b'"format": 1', b'"format": 2'),
        },
        lambda members: {
            **members,
            "manifest.json": members["manifest.json"].replace(b'"clients": 9', b'"clients": 0'),
        },
    ],
    ids=["empty", "no JSON", "no object", "no state", "another format", "no clients"],
)
def test_a_damaged_file_is_refused(one, damage):
    rewrite(one, damage(read(one)))
    with pytest.raises(ArgumentError):
        exported.load_exported(one)


def test_a_module_that_calls_code_outside_is_refused(one, tmp_path):
    whole = exported.load_exported(one)
    with pytest.raises(ArgumentError, match="custom_call"):
        exported.write(
            tmp_path / "x.round", whole.manifest, b"...vhlo.custom_call_v1...", whole.initial_state
        )
    assert list(tmp_path.iterdir()) == [one]


def test_a_state_of_bfloat16_is_kept(one, tmp_path):
    """Numpy's files have no such type: they hold its bits."""
    whole = exported.load_exported(one)
    values = np.array([1.5, -0.0, np.inf, 3e38], tf.bfloat16.as_numpy_dtype)
    manifest = dataclasses.replace(
        whole.manifest, state=(exported.Tensor("weights", (4,), "bfloat16"),)
    )
    path = tmp_path / "bfloat16.round"
    exported.write(path, manifest, read(one)["round.stablehlo"], {"weights": values})
    found = exported.load_exported(path)
    assert found.manifest == manifest
    assert found.initial_state["weights"].dtype == values.dtype
    assert found.initial_state["weights"].tobytes() == values.tobytes()


KILLED = """
import os, signal, sys, zipfile
from tff_dp import exported

moment, source, target = sys.argv[1:]
whole = exported.load_exported(source)
members = []
original = zipfile.ZipFile.writestr


def writing(archive, *args):
    original(archive, *args)
    members.append(args)
    if moment == "between members" and len(members) == 2:
        archive.fp.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def renaming(*args):
    os.kill(os.getpid(), signal.SIGKILL)


zipfile.ZipFile.writestr, os.replace = writing, renaming
module = zipfile.ZipFile(source).read("round.stablehlo")
exported.write(target, whole.manifest, module, whole.initial_state)
"""


@pytest.mark.parametrize("moment", ["between members", "before the rename"])
def test_a_process_killed_while_it_writes_leaves_no_half_round(one, tmp_path, moment):
    folder = tmp_path / "folder"
    folder.mkdir()
    new, older = folder / "new.round", folder / "older.round"
    older.write_bytes(one.read_bytes())
    for target in (new, older):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, moment, str(one), str(target)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not new.exists()
    assert older.read_bytes() == one.read_bytes()
    left = sorted(folder.glob(".*"))  # under names that nobody asks for
    assert len(left) == 2
    if moment == "between members":
        for path in left:
            with pytest.raises(ArgumentError, match="is not an exported round"):
                exported.load_exported(path)


@pytest.mark.parametrize(("allowed", "precision"), [(True, "DEFAULT"), (False, "HIGHEST")])
def test_tensorflow_writes_the_precision_of_products_into_a_module(allowed, precision):
    """docs/exported.md: JAX's setting comes too late."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        products = client_loop.jitted(lambda a, b, x, k: [a @ b, tf.nn.conv2d(x, k, 1, "VALID")])
        shapes = [2, 3], [3, 4], [2, 8, 8, 3], [3, 3, 3, 4]
        lowered = products.experimental_get_compiler_ir(*(tf.zeros(shape) for shape in shapes))
        text = lowered(stage="stablehlo")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    assert re.findall(r"stablehlo\.dot .* precision = \[(\w+), (\w+)\]", text) == [(precision,) * 2]
    assert re.findall(r"stablehlo<precision (\w+)>", text) == [precision] * 2


def test_wrong_inputs_are_refused_before_anything_runs(one):
    whole = exported.load_exported(one)
    x, y = (np.zeros([CLIENTS, EXAMPLES, *each.shape], np.float32) for each in whole.manifest.data)
    state = whole.initial_state
    with pytest.raises(ArgumentError, match="state lacks"):
        whole.step({}, [x, y])
    with pytest.raises(DataError, match="1 fields: expected 2"):
        whole.step(state, [x])
    with pytest.raises(DataError, match="at most 9"):
        whole.step(state, [np.zeros([10, *x.shape[1:]], np.float32)] * 2)
    with pytest.raises(ArgumentError, match=r"float64 \[9, 8, 4\]: expected float32"):
        whole.step(state, [x.astype(np.float64), y])
    with pytest.raises(ArgumentError, match=r"expected float32 \[9, 8, 1\]"):
        whole.step(state, [x, y[:, :-1]])
    with pytest.raises(ArgumentError, match="key is int64"):
        whole.step(state, [x, y], key=np.zeros([2], np.int64))
    clients = clients_of()
    for wrong in (
        clients.cohort([0], batch_size=2),
        clients.cohort([0], batch_size=BATCH, epochs=2),
    ):
        with pytest.raises(DataError, match="expected batch_size=3 and epochs=1"):
            whole.step(state, wrong)
    uneven = data.Clients(x[:2].reshape(-1, FEATURES)[:15], y[:2].reshape(-1, 1)[:15], [0, 8, 15])
    with pytest.raises(DataError, match="client 1 of the cohort has 7 examples: expected 8"):
        whole.step(state, uneven.cohort([0, 1], batch_size=BATCH))


def test_what_cannot_be_one_module_is_refused(tff, tmp_path):
    shape = exported.CohortShape(clients=CLIENTS, examples=EXAMPLES, batch_size=BATCH)
    # Records in several batches are read in a loop whose state grows.
    with pytest.raises(ComputationError, match="depends on values"):
        execution.export(central(privacy=of_records()), shape, tmp_path / "x.round")
    with pytest.raises(ArgumentError, match="has no next"):
        execution.export(object(), shape, tmp_path / "x.round")
    assert not list(tmp_path.iterdir())


def test_a_table_that_becomes_a_constant_is_found(monkeypatch, tmp_path):
    """Planted: a slice for each client, whose starts XLA needs as constants."""

    class Slicing(batches.Examples):
        def __init__(self, *args, side_by_side=False, **kwargs):
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(batches, "Examples", Slicing)
    shape = exported.CohortShape(
        clients=CLIENTS, examples=EXAMPLES, batch_size=BATCH, side_by_side=4
    )
    with pytest.raises(ComputationError, match="a constant to XLA"):
        execution.export(central(), shape, tmp_path / "x.round")


@pytest.mark.parametrize("name", ["clients", "examples", "batch_size", "epochs", "side_by_side"])
def test_shapes_of_cohorts_are_checked(name):
    with pytest.raises(ArgumentError, match=f"{name}=0"):
        exported.CohortShape(**{"clients": 1, "examples": 1, "batch_size": 1, name: 0})
