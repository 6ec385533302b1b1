"""Converts Keras models, of Keras 3 and of tf-keras, to models that TFF can train."""

from tff_dp.model.bound import BoundModel, ModelWeights
from tff_dp.model.labels import loss_name
from tff_dp.model.spec import ModelSpec

__all__ = ["BoundModel", "ModelSpec", "ModelWeights", "loss_name"]
