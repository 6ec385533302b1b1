"""The sums that a secure aggregation protocol would compute, computed in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.graph import imported_graph

EXCEEDED = 1 << 30  # in place of a check's number: an input of a secure sum was too large


class SecureSums:
    """Computes exact sums of integers, those of a secure aggregation protocol without cryptography.

    Args:
      form: The `tff.backends.mapreduce.MapReduceForm`.
      counts: Three numbers: how many tensors a client contributes to sums that are bounded by a bit
        width, to sums that are bounded by a largest input, and to modular sums.

    Attributes:
      count: The number of tensors in all of these sums.
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
        """Writes the sums over no clients.

        Returns:
          A tensor of zeros for each sum.
        """
        return [
            tf.zeros(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]

    def add(self, sums: list[tf.Tensor], terms: list[tf.Tensor]) -> list[tf.Tensor]:
        """Writes the addition of one more term to each sum, or of other sums.

        Args:
          sums: The sums; those that are modular come last.
          terms: What is added to each, in the same order, shapes and data types.

        Returns:
          The new sums; modular ones are reduced by their modulus.
        """
        added = [total + term for total, term in zip(sums, terms, strict=True)]
        plain = len(self._largest)
        return added[:plain] + [
            tf.math.floormod(value, tf.constant(modulus, value.dtype))
            for value, modulus in zip(added[plain:], self._moduli, strict=True)
        ]

    def exceeded(self, terms: list[tf.Tensor]) -> tf.Tensor:
        """Writes the check that a client's terms are at most the largest input of their sums.

        Args:
          terms: The client's term for each sum. Those of modular sums are not checked.

        Returns:
          `EXCEEDED` if a term is too large, otherwise 0; int32 [].
        """
        within = tf.constant(True)
        for term, largest in zip(terms, self._largest, strict=False):
            fits = tf.cast(term, tf.int64) <= tf.constant(largest, tf.int64)
            within = tf.logical_and(within, tf.reduce_all(fits))
        return tf.where(within, 0, EXCEEDED)
