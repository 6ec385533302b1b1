"""Layers that draw random numbers: fresh draws in every step, and whoever needs a seed gets one."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.dropout import (
    UNIFORM,
    UNITS,
    assert_fresh,
    bit_clients,
    linear_loss,
    masks_of,
    two_dropouts,
)
from tests.support.helpers import (
    run_rounds,
)
from tests.support.models import X4, Y1, sequential
from tests.support.tables import slow
from tff_dp.errors import ModelError
from tff_dp.model import ModelSpec, ModelWeights

pytestmark = pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning")


def naive_model(model, input_spec):
    """Returns the obvious wrapping: a pure function of the weights and a seed's state that stays."""
    from tff_dp import tff

    state = [tf.convert_to_tensor(v).numpy() for v in model.non_trainable_variables]

    @tf.function
    def predict(weights, x, training=True):
        constants = [tf.constant(value) for value in state]
        return model.stateless_call(list(weights[0]), constants, x, training=training)[0]

    initial = ModelWeights(tuple(v.numpy() for v in model.trainable_variables), ())
    functional_model = tff.learning.models.FunctionalModel(
        initial_weights=tuple(initial),
        predict_on_batch_fn=predict,
        loss_fn=lambda output, label, sample_weight=None: tf.reduce_mean(label * output),
        input_spec=input_spec,
    )
    return types.SimpleNamespace(tff_model=functional_model, initial_weights=initial, source=None)


def test_every_step_client_round_and_layer_draws_its_own_mask(stock):
    clients = bit_clients()
    run = run_rounds(
        ModelSpec(model=two_dropouts(keras), loss=linear_loss),
        clients,
        UNIFORM,
        rounds=2,
        batch_size=1,
    )
    assert_fresh(masks_of(run))
    x, _ = clients.pooled()  # inference draws none
    for _ in range(2):
        predicted = run.bound.tff_model.predict_on_batch(tuple(run.weights[-1]), x, training=False)
        expected = x @ sum(run.weights[-1].trainable)
        np.testing.assert_allclose(predicted, expected, rtol=1e-5)

    # Negative control: the obvious wrapping draws one mask a layer, ever, and this test sees it.
    naive = naive_model(two_dropouts(keras), clients.element_spec())
    masks = masks_of(run_rounds(naive, clients, UNIFORM, rounds=2, batch_size=1))
    for branch in range(2):
        assert len(np.unique(masks[:, branch].reshape(-1, UNITS), axis=0)) == 1
    with pytest.raises(AssertionError):
        assert_fresh(masks)


class OwnGenerator(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        return keras.random.dropout(x, 0.5, seed=self.generator) if training else x


class GlobalGenerator(keras.layers.Layer):
    def call(self, x, training=False):
        return keras.random.dropout(x, 0.5) if training else x


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.GaussianNoise(1.0),
        lambda: keras.layers.SpatialDropout1D(0.5),
        lambda: keras.layers.LSTM(8, dropout=0.5),
        lambda: keras.layers.GRU(8, recurrent_dropout=0.5),
        lambda: keras.layers.Bidirectional(keras.layers.LSTM(8, dropout=0.5)),
        lambda: keras.layers.TimeDistributed(keras.layers.Dropout(0.5)),
        lambda: keras.layers.MultiHeadAttention(2, 2, dropout=0.5),
        OwnGenerator,
        lambda: keras.Sequential([keras.layers.Dropout(0.5, seed=7)]),
    ],
)
@pytest.mark.parametrize("seeded", [False, slow(True)], ids=["", "seeded"])
def test_random_layers_draw_anew_in_training_only(tff, layer, seeded, request):
    x = keras.layers.Input([8, 8])
    random = layer()
    attends = isinstance(random, keras.layers.MultiHeadAttention)
    model = keras.Model(x, keras.layers.Flatten()(random(x, x) if attends else random(x)))
    spec = tf.TensorSpec([None, 8, 8], tf.float32)
    bound = ModelSpec(model=model, loss=linear_loss).bind((spec, Y1))
    weights = tuple(bound.initial_weights)
    assert all("seed" not in v.path for v in model.weights)
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    if seeded:
        request.addfinalizer(lambda: tf.random.set_seed(None))
        tf.random.set_seed(0)

    @tf.function
    def thrice(x):
        predict = bound.tff_model.predict_on_batch
        return [predict(weights, x, training=t) for t in (True, True, False)]

    first, second, inference = thrice(inputs)
    again = thrice(inputs)
    assert not np.allclose(first, second)
    assert not np.allclose(first, again[0])
    np.testing.assert_allclose(inference, model(inputs), rtol=1e-5, atol=1e-5)


def test_the_global_generator_is_refused(tff):
    spec = ModelSpec(model=sequential(GlobalGenerator()), loss="mse")
    with pytest.raises(ModelError, match=r"sequential.*seed_generator_state.*SeedGenerator"):
        spec.bind((X4, Y1))
