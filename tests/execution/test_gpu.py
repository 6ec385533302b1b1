"""The fast context on GPUs: the same numbers as on the CPU, and no more memory than it needs."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.rounds import assert_close, cohort_of
from tff_dp import execution
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", autouse=True)
def gpus(tff):
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        pytest.skip("TensorFlow sees no GPU on this machine")
    return found


MODELS = {
    "dense": lambda: keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)]),
    "convolution": lambda: keras.Sequential(
        [
            keras.layers.Input([5]),
            keras.layers.Reshape([5, 1]),
            keras.layers.Conv1D(3, 2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    ),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("strategy", "xla"),
    [
        ("auto", None),
        ("scan", False),
        ("scan", True),
        ("vmap", False),
        ("vmap", True),
        ("call", None),
    ],
)
def test_the_gpu_gives_what_the_cpu_gives(model, strategy, xla):
    clients = cohort_of([8, 8, 5, 12, 8, 3] * 12)
    bound = ModelSpec(model=MODELS[model](), loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())

    def trained(device, *how):
        with execution.fast(how[0], device, xla=how[1], strict=True):
            state = initialize_from(process, bound.initial_weights)
            for positions in (range(72), range(0, 72, 5)):
                output = process.next(state, clients.cohort(positions, batch_size=4))
                state = output.state
            return output

    expected = trained("cpu", "scan", False)
    actual = trained("gpu", strategy, xla)
    for a, b in zip(
        actual.state.global_model_weights.trainable,
        expected.state.global_model_weights.trainable,
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # TF32 and another order of sums
    assert_close(
        actual.metrics["client_work"]["train"]["num_examples"],
        expected.metrics["client_work"]["train"]["num_examples"],
    )


def test_memory_is_taken_as_needed(gpus):
    import tensorflow as tf

    with execution.fast():
        pass
    assert all(tf.config.experimental.get_memory_growth(gpu) for gpu in gpus)


def test_explain_names_the_gpu_and_its_rule():
    clients = cohort_of([8, 8])
    bound = ModelSpec(model=MODELS["dense"](), loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    text = execution.explain(process.next)
    assert "strategy vmap, with XLA" in text
    assert "the device is a GPU" in text
