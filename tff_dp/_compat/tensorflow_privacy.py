"""The names of tensorflow-privacy that tff_dp uses: its queries, on which TFF's aggregators are built.

tensorflow-privacy cannot be imported by itself on current versions of TensorFlow: loading TFF puts
the placeholders in place that it needs (`tff.placeholders`).
"""

from __future__ import annotations

from tff_dp._compat.tff import load

load()

from tensorflow_privacy import SumAggregationDPQuery  # noqa: E402

__all__ = ["SumAggregationDPQuery"]
