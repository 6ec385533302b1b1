"""Which models record-level privacy is for."""

from __future__ import annotations

from tff_dp.dp_sgd.coupling import refuse_coupled
from tff_dp.errors import ModelError
from tff_dp.model import BoundModel

_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_model(model: BoundModel) -> None:
    """Checks that a model has gradients of single examples, which can be clipped.

    Args:
      model: The model.

    Raises:
      ModelError: It is not functional; or a weight has a type whose gradients cannot be clipped; or the
        loss of one example depends on the others of its batch.
    """
    if not model.is_functional:
        raise ModelError(
            "The tf-keras model cannot be trained with record-level privacy: gradients of single "
            "examples need a functional model, which TFF makes of no tf-keras model with batch "
            "normalization, random layers, added losses or mixed precision (this one computes in "
            f"{', '.join(sorted(model.compute_dtypes))}). Make the model with Keras 3, without "
            "BatchNormalization."
        )
    for weight in model.initial_weights.trainable:
        if weight.dtype.name not in _DTYPES:
            raise ModelError(
                f"A trainable weight has dtype={weight.dtype.name!r}: expected one of "
                f"{', '.join(_DTYPES)}, whose gradients can be clipped. Make the layer with one of these."
            )
    refuse_coupled(model.tff_model)
