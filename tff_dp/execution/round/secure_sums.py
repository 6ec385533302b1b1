"""Sums that a secure aggregation protocol would compute, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.graph import imported_graph

EXCEEDED = 1 << 30  # as the number of a check: a secure sum's largest input was exceeded


class SecureSums:
    """Sums that a secure aggregation protocol would compute: of integers, exact, in this process.

    Args:
      form: The MapReduce form.
      counts: How many tensors a client gives to sums of each kind: by bit width, by largest input,
        and modular.
    """

    def __init__(self, form: Any, counts: Sequence[int]) -> None:
        self.count = sum(counts)
        _, *kinds = list(form.work.type_signature.result)
        self._types = [leaf for kind in kinds for leaf in values.leaves(kind)]
        bits, largest, moduli = (
            values.spread(
                imported_graph.ImportedGraph(computation)([], tf.zeros([2], tf.uint64)),
                computation.type_signature.result,
                kind,
            )
            if count
            else []
            for count, computation, kind in zip(
                counts,
                (
                    form.secure_sum_bitwidth,
                    form.secure_sum_max_input,
                    form.secure_modular_sum_modulus,
                ),
                kinds,
                strict=True,
            )
        )
        self._largest = [*((1 << int(b)) - 1 for b in bits), *(int(m) for m in largest)]
        self._moduli = [int(modulus) for modulus in moduli]

    @property
    def shapes(self) -> list[tf.TensorShape]:
        """The shapes of the sums."""
        return [tf.TensorShape(leaf.shape) for leaf in self._types]

    @property
    def dtypes(self) -> list[tf.DType]:
        """The data types of the sums."""
        return [tf.as_dtype(leaf.dtype) for leaf in self._types]

    def zeros(self) -> list[tf.Tensor]:
        """Writes the sums over no clients."""
        return [
            tf.zeros(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]

    def add(self, sums: list[tf.Tensor], terms: list[tf.Tensor]) -> list[tf.Tensor]:
        """Writes sums that have one more term, or that are joined."""
        added = [total + term for total, term in zip(sums, terms, strict=True)]
        plain = len(self._largest)
        return added[:plain] + [
            tf.math.floormod(value, tf.constant(modulus, value.dtype))
            for value, modulus in zip(added[plain:], self._moduli, strict=True)
        ]

    def exceeded(self, terms: list[tf.Tensor]) -> tf.Tensor:
        """Writes whether a client's terms exceed what it may give: `EXCEEDED`, or 0."""
        within = tf.constant(True)
        for term, largest in zip(terms, self._largest, strict=False):
            fits = tf.cast(term, tf.int64) <= tf.constant(largest, tf.int64)
            within = tf.logical_and(within, tf.reduce_all(fits))
        return tf.where(within, 0, EXCEEDED)
