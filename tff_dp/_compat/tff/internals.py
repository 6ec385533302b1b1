"""What is used of `tensorflow_federated.python`, for which TFF has no public name.

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
    """Returns the Python function by which a `FunctionalModel` predicts, in place of its graph.

    A graph's loops (those of recurrent layers) cannot be vectorized; a function's can.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
    """
    return model._predict_on_batch_fn.python_function


async def materialized(value: Any, value_type: Any) -> Any:
    """Returns an argument with values in place of the references in it.

    `tff.program.materialize_value` does not know the type, and gives a structure back in its own
    containers, not in the `Struct`s by which executors take arguments.

    Args:
      value: A structure of values and `tff.program.MaterializableValueReference`s.
      value_type: Its TFF type.
    """
    return await native_platform._materialize_structure_of_references(value, value_type)
