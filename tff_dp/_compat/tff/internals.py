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
from tensorflow_federated.python.program import native_platform  # noqa: E402

__all__ = [
    "DistributedDpSumFactory",
    "is_compatible_dtype",
    "is_compatible_shape",
    "make_data_set_from_elements",
    "materialized",
    "predict_function",
]


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
