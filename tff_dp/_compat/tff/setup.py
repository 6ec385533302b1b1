"""Repairs of TFF 0.87.0 after its import."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from tff_dp._compat.tff import worker_process


@functools.cache
def mend(tff: Any, *, is_new: bool) -> None:
    """Repairs what does not work in TFF with current packages; docs/stack.md has the list.

    Args:
      tff: The module `tensorflow_federated`.
      is_new: Whether TFF has just been imported. Only then is its default context replaced: later,
        the user may have set a context of their own.
    """
    _allow_deep_protos()
    _let_data_sources_be_copied(tff)
    worker_process.let_them_end(renew_default=is_new)


def _let_data_sources_be_copied(tff: Any) -> None:
    """Makes TFF's iterator over data sets copyable, since `train_model` of TFF copies it each round.

    TensorFlow refuses to copy any `tf.data.Dataset` ("cannot pickle 'Graph' object"). Selecting a
    cohort changes neither the iterator nor its data sets, so that the copy can share the data sets.
    """

    def copied(iterator: Any, memo: Any) -> Any:
        del memo
        return type(iterator)(iterator._datasets, iterator._federated_type)

    tff.program.DatasetDataSourceIterator.__deepcopy__ = copied


def _allow_deep_protos() -> None:
    """Lifts protobuf's limit of 100 nested messages, which TFF's larger computations exceed.

    Python's protobuf copies a submessage by serializing it, and refuses to parse one that is nested
    more
    deeply: without this, `tff.learning.ddp_secure_aggregator` cannot even be built.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from google._upb import _message  # type: ignore[import-untyped]

        _message.SetAllowOversizeProtos(True)
