"""The names of tensorflow-privacy that are used: its queries, which TFF's aggregators are made of.

The package cannot be imported by itself on the TensorFlow of today: TFF's loading brings the placeholders
that it needs (`tff.placeholders`).
"""

from __future__ import annotations

from tff_dp._compat.tff import load

load()

from tensorflow_privacy import SumAggregationDPQuery  # noqa: E402

__all__ = ["SumAggregationDPQuery"]
