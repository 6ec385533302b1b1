"""What is mended in TFF 0.87.0 once it has been imported."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from tff_dp._compat.tff import worker_process


@functools.cache
def mend(tff: Any, *, is_new: bool) -> None:
    """Mends what does not work in TFF on the packages of today; docs/stack.md has the list.

    Args:
      tff: The module.
      is_new: Whether it has just been imported, so that its default context is nobody's yet.
    """
    _allow_deep_protos()
    _let_data_sources_be_copied(tff)
    worker_process.let_them_end(renew_default=is_new)


def _let_data_sources_be_copied(tff: Any) -> None:
    """Lets TFF's iterator over data sets be copied, as `train_model` of TFF does in each round.

    TensorFlow refuses to copy any `tf.data.Dataset` ("cannot pickle 'Graph' object"). Neither the
    iterator nor its data sets change when a cohort is selected: the copy may hold the same ones.
    """

    def copied(iterator: Any, memo: Any) -> Any:
        del memo
        return type(iterator)(iterator._datasets, iterator._federated_type)

    tff.program.DatasetDataSourceIterator.__deepcopy__ = copied


def _allow_deep_protos() -> None:
    """Lifts the bound of 100 on how deep messages nest, which TFF's larger computations exceed.

    Python's protobuf copies a submessage by serializing it, and refuses to read back what nests deeper:
    `tff.learning.ddp_secure_aggregator` could not even be built.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from google._upb import _message  # type: ignore[import-untyped]

        _message.SetAllowOversizeProtos(True)
