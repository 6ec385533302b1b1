"""A plain `import tensorflow_federated` works once tff_dp has been imported, and nothing else changes."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SET_BY_IMPORTS = ("TF_USE_LEGACY_KERAS", "TF_XLA_FLAGS")


def run(program: str, *path: pathlib.Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, with folders in front of Python's path."""
    folders = os.pathsep.join(map(str, [*path, ROOT]))
    # Without what importing TFF and tff_dp has set in this process.
    clean = {k: v for k, v in os.environ.items() if k not in SET_BY_IMPORTS}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "PYTHONPATH": folders, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done


# As TFF's tutorials have it, after the one line that is added.
SCRIPT = """
import tff_dp

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

rng = np.random.default_rng(0)
weights = np.array([[1.0], [-2.0]], np.float32)


def client():
    x = rng.normal(size=(20, 2)).astype(np.float32)
    return collections.OrderedDict(features=x, label=x @ weights)


train = tff.simulation.datasets.TestClientData({f"client_{i}": client() for i in range(4)})


def preprocess(dataset):
    return dataset.map(lambda e: (e["features"], e["label"])).batch(5)


train = train.preprocess(preprocess)
example = train.create_tf_dataset_for_client(train.client_ids[0])


def model_fn():
    model = tf.keras.Sequential([tf.keras.layers.InputLayer([2]), tf.keras.layers.Dense(1)])
    return tff.learning.models.from_keras_model(
        model,
        input_spec=example.element_spec,
        loss=tf.keras.losses.MeanSquaredError(),
        metrics=[tf.keras.metrics.MeanAbsoluteError()],
    )


process = tff.learning.algorithms.build_weighted_fed_avg(
    model_fn,
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
    server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
)
state = process.initialize()
for _ in range(10):
    result = process.next(
        state, [train.create_tf_dataset_for_client(c) for c in train.client_ids]
    )
    state = result.state
print(result.metrics["client_work"]["train"]["num_examples"])
found = process.get_model_weights(state).trainable[0]
assert np.abs(found - weights).max() < 0.05, found
# With the same TFF, in this process.
with tff_dp.execution.fast():
    process.next(state, [example])
import sys
assert tff_dp.tff is tff is sys.modules["tensorflow_federated"]
print([type(each).__module__ for each in sys.meta_path if "tff_dp" in type(each).__module__])
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_a_script_of_tff_runs_with_one_line_added():
    done = run(SCRIPT)
    assert done.stdout.splitlines()[-2:] == ["80", "[]"], done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.heavy
def test_tensorflow_privacy_can_be_imported_by_itself_too():
    program = (
        "import tff_dp, sys, tensorflow_privacy as tfp\n"
        "assert 'tensorflow_federated' not in sys.modules\n"
        "print(tfp.GaussianSumQuery(1.0, 1.0).initial_global_state())"
    )
    assert "l2_norm_clip" in run(program).stdout


# What follows is tried on packages that have TFF's name and nothing of it.
FAKE = "__version__ = '99'\n"


def fake(folder: pathlib.Path, **packages: str) -> pathlib.Path:
    """Returns a folder of packages, by the text of their `__init__`."""
    for name, text in packages.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    return folder


def test_an_unknown_tff_is_imported_as_it_is(tmp_path):
    program = (
        "import importlib.util, sys, warnings, tff_dp, os\n"
        "ours = lambda: sum('tff_dp' in type(each).__module__ for each in sys.meta_path)\n"
        "before = set(sys.modules)\n"
        "spec = importlib.util.find_spec('tensorflow_federated')\n"  # asking changes nothing
        "assert ours() == 1 and 'tensorflow_federated' not in sys.modules\n"
        "assert 'TF_USE_LEGACY_KERAS' not in os.environ\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    import tensorflow_federated as tff\n"
        "assert tff.__version__ == '99' and ours() == 0\n"
        "assert 'not the version that it was tested with' in str(said[-1].message)\n"
        "for loader in (tff.__loader__, tff.__spec__.loader):\n"
        "    assert type(loader).__name__ == 'SourceFileLoader', loader\n"
        "from tff_dp._compat.tff import finder\n"
        "finder.register()\n"
        "assert ours() == 0\n"
    )
    run(program, fake(tmp_path, tensorflow_federated=FAKE))


def test_without_tff_its_import_fails_as_ever(tmp_path):
    program = (
        "import sys, tff_dp, importlib.util\n"
        "sys.path = [each for each in sys.path if 'site-packages' not in each]\n"
        "assert importlib.util.find_spec('tensorflow_federated') is None\n"
        "try:\n"
        "    import tensorflow_federated\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    assert run(program).stdout == "No module named 'tensorflow_federated'\n"


def test_an_import_that_fails_says_what_differs_and_can_be_repeated(tmp_path):
    folder = fake(tmp_path, tensorflow_federated="import no_such_package\n")
    program = (
        "import sys, tff_dp, pathlib\n"
        "from tff_dp._compat import stack\n"
        "stack.TESTED['numpy'] = ('1.',)\n"
        "try:\n"
        "    import tensorflow_federated\n"
        "except ImportError as error:\n"
        "    print(error, *error.__notes__)\n"
        "assert 'tensorflow_federated' not in sys.modules\n"
        f"pathlib.Path({str(folder)!r}, 'no_such_package.py').write_text('')\n"
        "import importlib; importlib.invalidate_caches()\n"
        "import tensorflow_federated\n"
    )
    said = run(program, folder).stdout
    assert said.startswith("No module named 'no_such_package' Packages that differ from those")
    assert "numpy is 2." in said
    assert "docs/stack.md" in said


def test_threads_that_import_tff_at_once_get_one_whole_module(tmp_path):
    text = "import time\ntime.sleep(0.3)\nimport counted\ncounted.times += 1\n" + FAKE
    (tmp_path / "counted.py").write_text("times = 0\n")
    program = (
        "import tff_dp, threading\n"
        "found, barrier = [], threading.Barrier(8)\n"
        "def load():\n"
        "    barrier.wait()\n"
        "    import tensorflow_federated\n"
        "    found.append(tensorflow_federated.__version__)\n"
        "threads = [threading.Thread(target=load) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "import counted\n"
        "print(found, counted.times)\n"
    )
    found = run(program, fake(tmp_path, tensorflow_federated=text)).stdout
    assert found == f"{['99'] * 8} 1\n"


@pytest.mark.parametrize("installed", [False, True])
def test_a_package_that_is_installed_is_not_hidden(tmp_path, installed):
    """Of TFF's module that needs vizier, a placeholder takes the place only where vizier is missing."""
    module = "tensorflow_federated.python.learning.programs.vizier_program_logic"
    path = tmp_path.joinpath(*module.split("."))
    for folder in list(path.parents)[: len(module.split(".")) - 1]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text("")
    path.with_suffix(".py").write_text("import vizier\nreal = vizier.real\n")
    (tmp_path / "tensorflow_federated" / "__init__.py").write_text(
        f"from {module.rpartition('.')[0]} import vizier_program_logic as found\n{FAKE}"
    )
    if installed:
        fake(tmp_path, vizier="real = True\n")
    program = (
        "import tff_dp, tensorflow_federated as tff\n"
        "print(hasattr(tff.found, 'real'), hasattr(tff.found, 'train_model_with_vizier'))\n"
    )
    assert run(program, tmp_path).stdout == f"{installed} {not installed}\n"


def test_other_finders_of_the_same_kind_do_not_go_around_in_circles(tmp_path):
    program = (
        "import sys, tff_dp, warnings\n"
        "class Other:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tensorflow_federated':\n"
        "            for each in sys.meta_path:\n"
        "                if each is not self and (found := each.find_spec(name, path, target)):\n"
        "                    return found\n"
        "sys.meta_path.insert(0, Other())\n"
        "warnings.simplefilter('ignore')\n"
        "import tensorflow_federated as tff\n"
        "print(tff.__version__)\n"
    )
    assert run(program, fake(tmp_path, tensorflow_federated=FAKE)).stdout == "99\n"
