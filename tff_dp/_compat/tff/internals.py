"""The names that are used from `tensorflow_federated.python`, which have no public equivalent.

Importing this module imports TFF.
"""

from __future__ import annotations

from typing import Any

from tff_dp._compat.tff.loading import load

_tff = load()

from tensorflow_federated.python.aggregators.distributed_dp import (  # noqa: E402
    DistributedDpSumFactory,
)
from tensorflow_federated.python.core.impl.compiler.array import (  # noqa: E402
    is_compatible_dtype,
    is_compatible_shape,
)
from tensorflow_federated.python.core.impl.utils.tensorflow_utils import (  # noqa: E402
    make_data_set_from_elements,
)
from tensorflow_federated.python.learning.templates import (  # noqa: E402
    model_delta_client_work,
)
from tensorflow_federated.python.program import native_platform  # noqa: E402

__all__ = [
    "DistributedDpSumFactory",
    "client_training",
    "is_compatible_dtype",
    "is_compatible_shape",
    "make_data_set_from_elements",
    "materialized",
    "predict_function",
]


def client_training(model: Any, *, weigh_by_examples: bool) -> Any:
    """Returns the training of one client in TFF's federated averaging, which takes the optimizer.

    TFF's public client work for functional models fixes the optimizer, and with it the learning rate,
    when it is built.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      weigh_by_examples: Whether the weight of a client's update is its number of examples; otherwise
        it is 1.

    Returns:
      A `tf.function` from an optimizer, the weights (trainable and others) and a data set to a
      `tff.learning.templates.ClientResult` and the unfinalized metrics.
    """
    weighting = _tff.learning.ClientWeighting
    return model_delta_client_work.build_functional_model_delta_update(
        model=model,
        weighting=weighting.NUM_EXAMPLES if weigh_by_examples else weighting.UNIFORM,
        loop_implementation=_tff.learning.LoopImplementation.DATASET_REDUCE,
    )


def predict_function(model: Any) -> Any:
    """Returns the Python function with which a `FunctionalModel` predicts, in place of its graph.

    Loops, such as those of recurrent layers, cannot be vectorized in a finished graph; they can be
    when the function is traced again.

    Args:
      model: A `tff.learning.models.FunctionalModel`.

    Returns:
      The function behind `model.predict_on_batch`, with the same arguments.
    """
    return model._predict_on_batch_fn.python_function


async def materialized(value: Any, value_type: Any) -> Any:
    """Replaces the references in an argument by their values.

    The public `tff.program.materialize_value` does not know the type, and returns a structure in
    its Python containers instead of the `Struct`s that executors expect.

    Args:
      value: A structure of values and `tff.program.MaterializableValueReference`s.
      value_type: Its TFF type.

    Returns:
      The structure with a value in place of each reference.
    """
    return await native_platform._materialize_structure_of_references(value, value_type)
