"""Keras models, Keras 3 and tf-keras, as models that TFF trains."""

from tff_dp.model.bound import BoundModel, ModelWeights
from tff_dp.model.labels import loss_name
from tff_dp.model.spec import ModelSpec

__all__ = ["BoundModel", "ModelSpec", "ModelWeights", "loss_name"]
