"""The weights from which training starts, where they are not those of the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp import provenance
from tff_dp._compat import keras as keras_compat
from tff_dp.charges import Charges
from tff_dp.errors import ArgumentError
from tff_dp.model import BoundModel, ModelWeights
from tff_dp.model.weights import variables_of


def start_from(bound: BoundModel, given: Any) -> tuple[tuple[Charges, ...], ...]:
    """Replaces the initial weights of a model by those of `initial_weights` of `fit`.

    Args:
      bound: The model. Its `initial_weights` are replaced.
      given: A trained Keras model of the same architecture; a list of arrays as its `get_weights`
        returns them; or None, which changes nothing.

    Returns:
      The charges that the weights carry, in groups as `groups_carried_by` returns them: those of the
      model, or of a model of this process that has exactly these weights.

    Raises:
      ArgumentError: It is neither, or the number, the shapes or the types of the weights differ.
    """
    if given is None:
        return ()
    if hasattr(given, "get_weights"):
        arrays, groups = given.get_weights(), provenance.groups_carried_by(given)
        arrays = [np.asarray(array) for array in arrays]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        arrays = [np.asarray(array) for array in given]
        groups = ()
    else:
        raise ArgumentError(
            f"initial_weights={given!r} is outside its bound: expected a list of arrays, as "
            "get_weights() returns it, or a Keras model."
        )
    _check(bound, arrays)
    bound.initial_weights = _ordered(bound, arrays)
    return groups or provenance.groups_of_weights(arrays)


def _check(bound: BoundModel, arrays: Sequence[np.ndarray]) -> None:
    own = bound.source.get_weights()
    if len(arrays) != len(own):
        raise ArgumentError(
            f"initial_weights has {len(arrays)} arrays: expected {len(own)}, as get_weights() of the "
            f"model {bound.source.name!r} has. Take those of a model with the same layers."
        )
    for position, (array, mine) in enumerate(zip(arrays, own, strict=True)):
        if array.shape != np.shape(mine):
            raise ArgumentError(
                f"initial_weights[{position}] has shape {list(array.shape)}: expected "
                f"{list(np.shape(mine))}, that of the model {bound.source.name!r}. Take the weights of a "
                "model with the same layers."
            )
        if array.dtype != mine.dtype and (array.dtype.kind == "f") != (mine.dtype.kind == "f"):
            raise ArgumentError(
                f"initial_weights[{position}] has type {array.dtype}: expected {mine.dtype}, that of the "
                f"model {bound.source.name!r}. Take the weights of a model with the same layers."
            )


def _ordered(bound: BoundModel, arrays: Sequence[np.ndarray]) -> ModelWeights:
    """Returns arrays in the order of `get_weights` as `ModelWeights`."""
    model = bound.source
    before = model.get_weights()
    try:  # Keras alone knows which weight is where
        model.set_weights([array.astype(b.dtype) for array, b in zip(arrays, before, strict=True)])
        parts = variables_of(model)
        return ModelWeights(*(tuple(v.numpy() for v in part) for part in parts))
    finally:
        model.set_weights(before)
        if keras_compat.is_legacy(model):
            keras_compat.restore_classes(model)
