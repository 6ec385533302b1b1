"""The bridges to the TensorFlow of today do what is missing, and nothing else."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib
import importlib.metadata
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tff_dp import _compat, errors
from tff_dp._compat.tff import placeholders


def test_the_installed_packages_are_a_tested_combination():
    assert _compat.stack.check_stack() == []


def test_a_deviating_or_missing_package_is_named(monkeypatch):
    def version(name):
        if name == "jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"tensorflow": "2.14.0"}.get(name, _compat.stack.TESTED[name][0] + "0")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    problems = "; ".join(_compat.stack.check_stack())
    assert "tensorflow is 2.14.0, tested is 2.21." in problems
    assert "jax is not installed, tested is 0.5.3" in problems
    assert "Python is" in problems


def test_only_the_three_dead_modules_are_placeholders(tff):
    replaced = [
        name
        for name, module in sys.modules.items()
        if getattr(getattr(module, "__spec__", None), "origin", None) == "placeholder of tff_dp"
    ]
    assert sorted(replaced) == sorted(p.module for p in placeholders.PLACEHOLDERS)
    with pytest.raises(ImportError):
        importlib.import_module("tensorflow_estimator")


def test_using_a_placeholder_says_what_is_missing(tff):
    import tensorflow_privacy

    with pytest.raises(ImportError, match="'tensorflow_estimator'"):
        tensorflow_privacy.DNNClassifier(hidden_units=[1])
    with pytest.raises(ImportError, match="'vizier'"):
        tff.learning.programs.train_model_with_vizier()


def test_nothing_is_replaced_where_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with placeholders.placeholders():
        finder = sys.meta_path[0]
        for placeholder in placeholders.PLACEHOLDERS:
            assert finder.find_spec(placeholder.module, None) is None


def test_the_finder_is_gone_after_the_import(tff):
    assert not any(isinstance(f, placeholders.PlaceholderFinder) for f in sys.meta_path)


def test_keras_is_keras_3_and_tf_keras_is_keras_2(tff):
    import keras
    import tensorflow as tf

    assert keras.__version__.startswith("3.")
    assert _compat.keras.tf_keras_is_legacy()
    assert tf.keras.Model is not keras.Model


def test_a_failing_import_reports_the_stack(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_federated", None)
    with pytest.raises(errors.StackError, match="cannot be imported"):
        _compat.tff.load()


def test_quiet_import_shows_what_was_written_only_on_failure(capfd):

    with _compat.quiet.quiet_import():
        os.write(2, b"noise of a native library\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ValueError, match="broken"), _compat.quiet.quiet_import():
        os.write(2, b"the cause\n")
        raise ValueError("broken")
    assert "the cause" in capfd.readouterr().err


def test_the_iterator_over_data_sets_can_be_copied_and_gives_the_same_data(tff):
    import tensorflow as tf

    datasets = [tf.data.Dataset.range(n).map(lambda i: i + 1) for n in (1, 2)]
    iterator = tff.program.DatasetDataSource(datasets).iterator()
    copied = copy.deepcopy(iterator)
    assert copied is not iterator
    assert copied == iterator
    assert sorted(map(len, copied.select(2))) == [1, 2]
    with pytest.raises(TypeError):  # if that works one day, the bridge can go
        copy.deepcopy(datasets[0])


AFTER_A_FAILED_IMPORT = """
import importlib
for name in ("tensorflow_privacy", "tensorflow_federated", "tensorflow_federated"):
    try:
        importlib.import_module(name)
    except ImportError:
        print("failed")
import tff_dp
import tensorflow_federated as tff, tensorflow_privacy
from tff_dp import _compat
assert tff_dp.tff is tff
assert tff.__version__ and tff.learning.algorithms.build_fed_sgd and not hasattr(tff, "python")
assert tensorflow_privacy.privacy.dp_query
assert _compat.keras.tf_keras_is_legacy()
# Of each class there is one: what was imported first is not mixed with what was imported later.
from tensorflow_federated.python.core.impl.types import computation_types
assert tff.TensorType is computation_types.TensorType
print("works")
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_tff_can_be_imported_after_a_plain_import_has_failed():
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_FAILED_IMPORT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["failed"] * 3 + ["works"]


TF_KERAS_FIRST = """
import tf_keras
import numpy as np
import tff_dp
x = np.ones([2, 2], np.float32)
clients = tff_dp.data.from_arrays({"a": (x, x[:, :1])})
model = tf_keras.Sequential([tf_keras.layers.Input([2]), tf_keras.layers.Dense(1)])
result = tff_dp.fit(model, clients, loss="mse", privacy=tff_dp.NoPrivacy(), rounds=1)
assert isinstance(result.model, tf_keras.Model)
from tff_dp import _compat
assert _compat.keras.tf_keras_is_legacy()
import keras
assert keras.__version__.startswith("3.")
print("trained")
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_tf_keras_may_be_imported_first():
    """It imports parts of TensorFlow, which look for another Keras unless they are told."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", TF_KERAS_FIRST],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "trained"


def test_operations_of_a_block_share_its_stack_trace_and_those_of_others_do_not(tff):
    import tensorflow as tf

    from tff_dp._compat import tensorflow as tf_compat

    def trace_of(name: str) -> list[str]:
        with tf.Graph().as_default():
            return [frame.name for frame in tf.constant(1.0, name=name).op.traceback]

    def in_a_thread() -> list[str]:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(trace_of, "other").result()

    with tf_compat.one_stack_trace():
        assert "trace_of" not in trace_of("shared")
        with tf_compat.one_stack_trace():
            assert "trace_of" not in trace_of("nested")
        assert "trace_of" not in trace_of("third")
        assert "trace_of" in in_a_thread()
    assert "trace_of" in trace_of("own")
    with pytest.raises(ValueError, match="in the block"), tf_compat.one_stack_trace():
        raise ValueError("in the block")
    assert "trace_of" in trace_of("fourth")
