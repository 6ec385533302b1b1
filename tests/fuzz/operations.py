"""The operations that random graphs are made of.

A row is "operands | expression". Operands are capital letters with data types (f float32, d float64,
i int32, l int64, u uint8, b bool, s string, c complex64; several are alternatives) and, if it matters, a
rank: "A:f1" is a vector of float32. In an expression, K is a small whole number and R a small real one.
Whether operands fit each other (shapes that have to be equal, say) is found out by running the graph.
"""

from __future__ import annotations

import dataclasses
import re

from tests.fuzz import prelude

_ELEMENTWISE = """
A:fd B:fd | A + B
A:fd B:fd | A - B
A:fd B:fd | A * B
A:fd B:fd | A / (B * B + 1)
A:fd B:fd | tf.maximum(A, B)
A:fd B:fd | tf.minimum(A, B)
A:fd B:fd | tf.math.squared_difference(A, B)
A:fd B:fd | tf.math.divide_no_nan(A, B)
A:fd B:fd | tf.math.multiply_no_nan(A, B)
A:f B:f | tf.math.atan2(tf.where(A == 0, tf.zeros_like(A), A), tf.where(B == 0, tf.zeros_like(B), B))
A:f B:f | tf.math.floormod(A, tf.abs(B) + 0.75)
A:f B:f | tf.math.floordiv(A, tf.abs(B) + 0.75)
A:f B:f | tf.math.mod(A, 0.625)
A:f B:f | tf.math.xlogy(A, tf.abs(B))
A:f B:f | tf.where(A > B, A, B)
A:f B:f | tf.pow(tf.abs(A) + 0.1, tf.clip_by_value(B, -2., 2.))
A:fd | tf.abs(A)
A:fd | -A
A:f | tf.exp(tf.clip_by_value(A, -5., 5.))
A:f | tf.math.log(A)
A:f | tf.math.log1p(tf.abs(A))
A:f | tf.math.expm1(tf.clip_by_value(A, -5., 5.))
A:f | tf.sqrt(A)
A:f | tf.math.rsqrt(A)
A:f | tf.square(A)
A:f | tf.sin(A)
A:f | tf.math.erf(A)
A:f | tf.math.lgamma(tf.abs(A) + 0.5)
A:f | tf.math.digamma(tf.abs(A) + 0.5)
A:f | tf.math.reciprocal(A)
A:f | tf.math.reciprocal_no_nan(A)
A:f | tf.floor(A)
A:f | tf.math.ceil(A)
A:f | tf.round(A)
A:f | tf.math.rint(A)
A:f | tf.sign(A)
A:f | tf.clip_by_value(A, -R, R + 0.5)
A:f | tf.clip_by_norm(A, R + 0.1)
A:f | tf.nn.relu(A)
A:f | tf.nn.relu6(A)
A:f | tf.nn.leaky_relu(A, 0.1)
A:f | tf.nn.elu(A)
A:f | tf.nn.selu(A)
A:f | tf.nn.gelu(A)
A:f | tf.nn.softplus(A)
A:f | tf.nn.softsign(A)
A:f | tf.nn.silu(A)
A:f | tf.sigmoid(A)
A:f | tf.tanh(A)
A:f | tf.keras.activations.hard_sigmoid(A)
A:f | tf.cast(tf.math.is_nan(A), tf.float32)
A:f | tf.math.is_finite(A)
A:f | tf.where(tf.math.is_nan(A), tf.zeros_like(A), A)
A:f | tf.cast(A, tf.float64)
A:d | tf.cast(A, tf.float32)
A:f | tf.cast(tf.cast(A, tf.float16), tf.float32)
A:f | tf.cast(tf.cast(A, tf.bfloat16), tf.float32)
A:f | tf.stop_gradient(A) * 2.
A:f | tf.grad_pass_through(tf.round)(A)
A:f | tf.quantization.fake_quant_with_min_max_args(A, -2., 2.)
A:f | tf.debugging.check_numerics(A, "case")
A:f B:f | tf.cast(A > B, tf.float32)
A:f B:f | tf.equal(A, B)
A:f | tf.math.bessel_i0e(A)
A:f | tf.math.nextafter(A, 9.)
"""

_REDUCTIONS = """
A:fd | tf.reduce_sum(A)
A:f | tf.reduce_sum(A, axis=0)
A:f2 | tf.reduce_sum(A, axis=-1, keepdims=True)
A:fd | tf.reduce_mean(A)
A:f2 | tf.reduce_mean(A, axis=0)
A:fdil | tf.reduce_max(A)
A:fdil | tf.reduce_min(A)
A:f2 | tf.reduce_max(A, axis=1)
A:f | tf.reduce_prod(tf.clip_by_value(A, -1.5, 1.5))
A:f | tf.math.reduce_std(A)
A:f2 | tf.math.reduce_variance(A, axis=0)
A:f | tf.reduce_logsumexp(A)
A:f | tf.math.reduce_euclidean_norm(A)
A:f | tf.norm(A)
A:f2 | tf.norm(A, ord=1, axis=1)
A:f | tf.nn.l2_loss(A)
A:f | tf.linalg.global_norm([A])
A:f1 | tf.nn.softmax(A)
A:f2 | tf.nn.log_softmax(A)
A:f2 | tf.nn.softmax(A, axis=0)
A:f1 | tf.argmax(A, output_type=tf.int32)
A:f2 | tf.argmin(A, axis=1, output_type=tf.int32)
A:f1 | tf.nn.l2_normalize(A)
A:b | tf.reduce_any(A)
A:b | tf.reduce_all(A)
A:b | tf.math.count_nonzero(A)
A:i | tf.reduce_sum(A)
A:il | tf.reduce_prod(tf.clip_by_value(A, -2, 2))
A:f2 | tf.nn.moments(A, axes=[0])[1]
A:f B:f | tf.keras.losses.mse(A, B)
A:f1 B:f1 | tf.nn.sigmoid_cross_entropy_with_logits(labels=A, logits=B)
A:f1 B:f1 | tf.nn.softmax_cross_entropy_with_logits(labels=tf.nn.softmax(A), logits=B)
A:f1 B:f1 | tf.keras.losses.huber(A, B)
A:f1 B:f1 | tf.keras.losses.binary_crossentropy(tf.sigmoid(A), tf.sigmoid(B))
A:f2 B:f2 | tf.keras.losses.cosine_similarity(A, B)
"""

_CUMULATIVE = """
A:fdil1 | tf.cumsum(A)
A:f1 | tf.cumsum(A, exclusive=True, reverse=True)
A:f2 | tf.cumsum(A, axis=1)
A:f1 | tf.math.cumprod(tf.clip_by_value(A, -1.2, 1.2))
A:f1 | tf.math.cumulative_logsumexp(A)
A:f1 | tf.scan(lambda total, e: total * 0.5 + e, A)
A:f1 | tf.scan(lambda total, e: total + e, A, initializer=tf.constant(R))
A:f1 | tf.foldl(lambda total, e: total * 0.5 + e, A)
A:f1 | tf.sort(A)
A:f1 | tf.sort(A, direction="DESCENDING")
A:fi1 | tf.argsort(A, stable=True)
A:f1 | tf.math.top_k(A, 2)[0]
A:f1 | tf.math.top_k(A, 2)[1]
A:i1 | tf.sort(A)
A:f1 | tf.reverse(A, [0])
A:f1 | tf.roll(A, K, axis=0)
A:f2 | tf.roll(A, [K, 1], axis=[0, 1])
A:f1 | tf.nn.avg_pool1d(A[None, :, None], 2, 1, "VALID")[0, :, 0]
A:f1 | tf.nn.max_pool1d(A[None, :, None], 2, 1, "SAME")[0, :, 0]
A:f1 | tf.nn.conv1d(A[None, :, None], tf.constant([[[.5]], [[1.]]]), 1, "SAME")[0, :, 0]
A:f1 | tf.searchsorted(tf.sort(A), tf.constant([-R, 0., R]))
A:f1 | tf.histogram_fixed_width(A, [-2., 2.], nbins=4)
A:f1 | tf.math.bincount(tf.cast(A > 0., tf.int32), minlength=2, maxlength=2)
A:i1 | tf.math.bincount(tf.clip_by_value(A, 0, 5), minlength=6, maxlength=6)
A:f1 | tf.signal.frame(A, 2, 1)
A:f1 | tf.abs(tf.signal.rfft(A))
"""

_SHAPES = """
A:f | tf.reshape(A, [-1])
A:f2 | tf.transpose(A)
A:f1 | A[:, None]
A:f1 | A[::-1]
A:f1 | A[-1]
A:f1 | A[K:]
A:f2 | A[:, K:]
A:f2 | A[-1]
A:f2 | A[..., 0]
A:fi1 | A[:-1]
A:fi1 | A[::2]
A:f1 B:f1 | tf.concat([A, B], 0)
A:i1 B:i1 | tf.concat([A, B], 0)
A:f2 B:f2 | tf.concat([A, B], 1)
A:f B:f | tf.stack([A, B])
A:f2 | tf.unstack(A, axis=1, num=A.shape[1])[0]
A:f1 | tf.pad(A, [[1, K]])
A:f1 | tf.pad(A, [[1, 1]], mode="REFLECT")
A:f2 | tf.pad(A, [[0, 1], [K, 0]], constant_values=R)
A:f1 | tf.tile(A, [2])
A:f1 | tf.repeat(A, 2)
A:f2 | tf.repeat(A, 2, axis=1)
A:f1 | tf.broadcast_to(A, [2, A.shape[0]])
A:f | tf.expand_dims(A, 0)
A:f | tf.squeeze(A[None])
A:f1 | tf.linalg.diag(A)
A:f2 | tf.linalg.diag_part(A)
A:f2 | tf.linalg.band_part(A, 1, 0)
A:i1 | tf.one_hot(A, 4)
A:f | tf.cast(tf.size(A), tf.float32)
A:f | tf.shape(A)
A:f1 B:f1 | tf.meshgrid(A, B)[0]
A:f1 | tf.split(A, 2)[1]
A:f1 | tf.sequence_mask(tf.cast(tf.abs(A), tf.int32), 4, dtype=tf.float32)
A:f2 | tf.image.resize(A[:, :, None], [2, 2])[:, :, 0]
A:f1 | tf.eye(3) * tf.reduce_sum(A)
A:f | tf.ones_like(A) * R
A:f | tf.zeros_like(A)
"""

_GATHER = """
A:f1 | tf.gather(A, [1, 0, 1])
A:f2 | tf.gather(A, [1, 0], axis=1)
A:f1 B:i1 | tf.gather(A, tf.clip_by_value(B, 0, tf.size(A) - 1))
A:f2 B:i1 | tf.gather(A, B % tf.shape(A)[0])
A:f2 B:i1 | tf.nn.embedding_lookup(A, tf.math.floormod(B, tf.shape(A)[0]))
A:f1 | tf.gather_nd(A, [[0], [1]])
A:f2 | tf.gather_nd(A, [[0, 1], [1, 0]])
A:f1 | tf.scatter_nd([[1], [3], [1]], A[:3], [5])
A:f1 | tf.tensor_scatter_nd_update(A, [[0]], [R])
A:f1 | tf.tensor_scatter_nd_add(A, [[1], [1]], [R, 1.])
A:f1 | tf.tensor_scatter_nd_max(A, [[1]], [R])
A:f1 B:i1 | tf.math.unsorted_segment_sum(A, B % 3, 3)
A:f1 B:i1 | tf.math.unsorted_segment_max(A, B % 3, 3)
A:f1 B:i1 | tf.math.unsorted_segment_mean(A, B % 3, 3)
A:f1 B:i1 | tf.math.unsorted_segment_prod(A, B % 3, 3)
A:f1 | tf.math.segment_sum(A, tf.range(tf.size(A)) // 2)
A:f2 | tf.math.segment_mean(A, tf.range(tf.shape(A)[0]) // 2)
A:f1 | tf.dynamic_stitch([[0, 2], [1]], [A[:2], A[2:3]])
A:f1 | tf.sparse.to_dense(tf.sparse.SparseTensor([[0], [2]], A[:2], [4]))
A:f2 | tf.sparse.to_dense(tf.sparse.from_dense(A))
A:f2 | tf.sparse.reduce_sum(tf.sparse.from_dense(A))
A:f2 B:f2 | tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(A), B)
A:f1 B:i1 | tf.math.segment_max(A, tf.sort(B % 3))
"""

_LINEAR = """
A:f2 B:f2 | tf.matmul(A, B)
A:f2 B:f2 | tf.matmul(A, B, transpose_b=True)
A:f2 B:f1 | tf.linalg.matvec(A, B)
A:f1 B:f1 | tf.tensordot(A, B, 1)
A:f1 B:f1 | tf.einsum("i,j->ij", A, B)
A:f2 B:f2 | tf.einsum("ij,kj->ik", A, B)
A:f2 | tf.linalg.inv(tf.matmul(A, A, transpose_b=True) + tf.eye(tf.shape(A)[0]))
A:f2 | tf.linalg.det(tf.matmul(A, A, transpose_b=True) + tf.eye(tf.shape(A)[0]))
A:f2 | tf.linalg.cholesky(tf.matmul(A, A, transpose_b=True) + tf.eye(tf.shape(A)[0]))
A:f2 | tf.linalg.svd(A, compute_uv=False)
A:f2 | tf.linalg.trace(tf.matmul(A, A, transpose_b=True))
A:f2 | tf.abs(tf.linalg.qr(A)[1])
A:f2 | tf.linalg.eigvalsh(tf.matmul(A, A, transpose_b=True))
A:f2 | tf.linalg.solve(tf.matmul(A, A, transpose_b=True) + tf.eye(tf.shape(A)[0]), A)
A:f2 | tf.nn.conv2d(A[None, :, :, None], tf.ones([2, 2, 1, 1]), 1, "SAME")[0, :, :, 0]
A:f2 | tf.nn.max_pool2d(A[None, :, :, None], 2, 1, "VALID")[0, :, :, 0]
A:f2 | tf.nn.depthwise_conv2d(A[None, :, :, None], tf.ones([2, 2, 1, 1]), [1, 1, 1, 1], "SAME")[0, :, :, 0]
A:f2 B:f1 | tf.nn.bias_add(A, B)
"""

_INTEGERS = """
A:il B:il | A + B
A:il B:il | A * B
A:il B:il | A - B
A:il B:il | A // (B * B + 1)
A:il B:il | A % (B * B + 1)
A:il B:il | tf.math.floormod(A, -(B * B + 1))
A:il B:il | tf.truncatediv(A, B * B + 1)
A:il B:il | tf.truncatemod(A, B * B + 1)
A:il B:il | tf.bitwise.bitwise_and(A, B)
A:il B:il | tf.bitwise.bitwise_or(A, B)
A:il B:il | tf.bitwise.bitwise_xor(A, B)
A:il | tf.bitwise.invert(A)
A:il | tf.bitwise.left_shift(A, tf.ones_like(A))
A:i | tf.bitwise.left_shift(A, 40 * tf.ones_like(A))
A:i | tf.bitwise.right_shift(A, 33 * tf.ones_like(A))
A:il | tf.bitwise.right_shift(A, tf.ones_like(A))
A:il B:il | tf.maximum(A, B)
A:il B:il | A > B
A:i | A * 1000000007
A:i | tf.abs(A)
A:i | tf.abs(A * 0 - 2147483648)
A:i | tf.pow(A, K)
A:i | tf.cast(A, tf.float32)
A:i | tf.cast(A, tf.int64)
A:l | tf.cast(A, tf.int32)
A:l | tf.cast(A * 3000000019, tf.int32)
A:i | tf.cast(tf.cast(A, tf.uint8), tf.int32)
A:i | tf.cast(A * 100, tf.int8)
A:i | tf.cast(tf.cast(A, tf.uint32), tf.float32)
A:f | tf.cast(tf.clip_by_value(A * 10., -99., 99.), tf.int32)
A:f | tf.cast(tf.clip_by_value(A, 0., 9.), tf.uint8)
A:f | tf.saturate_cast(A * 1000., tf.int8)
A:f | tf.bitcast(A, tf.int32)
A:i | tf.bitcast(tf.bitwise.bitwise_and(A, 1023) + 1065353216, tf.float32)
A:u B:u | A + B
A:u | tf.cast(A, tf.int32)
A:u | tf.raw_ops.PopulationCount(x=A)
A:i | tf.raw_ops.PopulationCount(x=A)
A:b | tf.cast(A, tf.int32)
A:b B:b | tf.logical_and(A, B)
A:b B:b | tf.math.logical_xor(A, B)
A:b | tf.logical_not(A)
A:b B:f C:f | tf.where(A, B, C)
A:i | tf.size(A)
A:i1 | tf.reduce_max(A)
A:i | tf.clip_by_value(A, -2, 2)
"""

_RANDOM = """
A:f1 | A * tf.random.stateless_uniform([A.shape[0]], seed=[1, 2])
A:f | A + tf.random.stateless_normal(tf.shape(A), seed=[3, K])
A:f | tf.random.stateless_uniform([3], seed=[5, 6], minval=0, maxval=10, dtype=tf.int32)
A:f | tf.random.stateless_truncated_normal([3], seed=[5, 6])
A:i | tf.random.stateless_uniform([2], seed=[K, 6], minval=None, maxval=None, dtype=tf.int32)
A:f1 | tf.random.experimental.stateless_shuffle(A, seed=[1, 2])
A:f1 | tf.random.stateless_categorical([A], 3, seed=[1, 2])
A:f1 | tf.random.stateless_binomial([2], seed=[1, 2], counts=5., probs=0.3)
A:f1 | tf.random.stateless_poisson([2], seed=[1, 2], lam=3., dtype=tf.float32)
A:f1 | tf.random.stateless_gamma([2], seed=[1, 2], alpha=1.5)
A:f1 | tf.nn.experimental.stateless_dropout(A, 0.4, seed=[1, 2])
A:f | tf.random.stateless_uniform([2], seed=[1, 2], dtype=tf.float64)
A:i | tf.random.stateless_uniform([2], seed=tf.stack([tf.reduce_sum(A), 1]))
"""

_BY_VALUE = """
A:f1 | tf.boolean_mask(A, A > 0.)
A:f2 | tf.boolean_mask(A, A[:, 0] > -0.5)
A:f1 | tf.reshape(tf.where(A > 0.), [-1])
A:f1 | tf.gather(A, tf.where(A > 0.)[:, 0])
A:f2 | tf.cast(tf.where(A > 0.), tf.int32)
A:fi1 | tf.unique(A)[0]
A:i1 | tf.unique_with_counts(A)[2]
A:f1 | A[:tf.reduce_sum(tf.cast(A > 0., tf.int32))]
A:f1 B:i1 | A[tf.abs(B[0]) % 3:]
A:f1 B:i | A[: tf.abs(tf.reduce_max(B)) % 4]
A:f2 B:i | A[:, : tf.abs(tf.reduce_max(B)) % 3 + 1]
A:f1 B:i | tf.slice(A, [0], [tf.abs(tf.reduce_max(B)) % 3])
A:i | tf.range(tf.abs(tf.reduce_sum(A)) % 6)
A:i | tf.ones([tf.abs(tf.reduce_sum(A)) % 5])
A:i | tf.zeros([tf.abs(tf.reduce_sum(A)) % 5 + 1])
A:i | tf.fill([tf.abs(tf.reduce_max(A)) % 5], R)
A:f1 B:i | tf.repeat(A, tf.abs(tf.reduce_max(B)) % 3)
A:f1 B:i1 | tf.repeat(A, tf.abs(B) % 3)
A:f1 B:i | tf.tile(A, [tf.abs(tf.reduce_max(B)) % 3])
A:f1 B:i | tf.pad(A, [[0, tf.abs(tf.reduce_max(B)) % 3]])
A:f1 B:i | tf.math.top_k(A, tf.abs(tf.reduce_max(B)) % 3)[0]
A:f1 B:i | tf.split(A, [tf.abs(tf.reduce_max(B)) % 3, -1])[1]
A:f1 B:i | tf.reshape(tf.tile(A, [tf.abs(tf.reduce_max(B)) % 3 + 1]), [tf.abs(tf.reduce_max(B)) % 3 + 1, -1])
A:f1 B:i | tf.linspace(0., tf.reduce_max(A), tf.abs(tf.reduce_max(B)) % 4 + 1)
A:f1 | tf.dynamic_partition(A, tf.cast(A > 0., tf.int32), 2)[1]
A:i1 | tf.sequence_mask(tf.abs(A) % 4, dtype=tf.float32)
A:i1 | tf.one_hot(A, tf.abs(tf.reduce_max(A)) % 4 + 1)
A:i1 | tf.math.bincount(tf.abs(A))
A:i1 B:i1 | tf.sets.intersection(A[None], B[None]).values
A:i1 B:i1 | tf.sparse.to_dense(tf.sets.union(A[None], B[None]))[0]
A:f1 B:i | tf.eye(tf.abs(tf.reduce_max(B)) % 3 + 1) * A[0]
A:f1 | tf.RaggedTensor.from_row_lengths(A[:4], [1, 3]).to_tensor()
A:f1 B:i | tf.broadcast_to(A, [tf.abs(tf.reduce_max(B)) % 3, tf.size(A)])
A:f1 | tf.image.non_max_suppression(tf.stack([A, A, A + 1., A + 1.], 1), A, 3)
A:f1 B:i | tf.scatter_nd([[0]], A[:1], [tf.abs(tf.reduce_max(B)) % 3 + 1])
A:f1 B:i | tf.signal.frame(A, tf.abs(tf.reduce_max(B)) % 2 + 1, 1)
"""

_CONTROL = """
A:f | tf.cond(tf.reduce_sum(A) > 0., lambda: A * 2., lambda: A - 1.)
A:f | tf.cond(tf.reduce_sum(A) > R, lambda: tf.reduce_sum(A), lambda: tf.constant(R))
A:f1 | tf.cond(tf.reduce_sum(A) > 0., lambda: tf.cumsum(A), lambda: tf.sort(A))
A:f1 | tf.cond(A[0] > 0., lambda: A[:1], lambda: A)
A:f1 | tf.case([(A[0] > 1., lambda: A * 3.), (A[0] > 0., lambda: -A)], default=lambda: A + 1.)
A:f B:i | tf.switch_case(tf.abs(tf.reduce_max(B)) % 3, [lambda: A, lambda: A * 2., lambda: -A])
A:f B:i | tf.switch_case(tf.reduce_max(B), [lambda: A, lambda: A * 2., lambda: -A])
A:f | tf.while_loop(lambda t: tf.norm(t) > 1., lambda t: [t * 0.5], [A], maximum_iterations=20)[0]
A:f B:i | tf.while_loop(lambda i, t: i < tf.abs(tf.reduce_max(B)) % 4, lambda i, t: [i + 1, t + 1.], [0, A])[1]
A:i | tf.while_loop(lambda i, t: i < 4, lambda i, t: [i + 1, t + i], [0, A])[1]
A:f1 | tf.map_fn(lambda e: e * e + 1., A)
A:f2 | tf.map_fn(tf.reduce_sum, A)
A:f2 | tf.map_fn(lambda row: tf.cond(row[0] > 0., lambda: row, lambda: -row), A)
A:f2 | tf.vectorized_map(lambda row: tf.reduce_max(row) * row, A)
A:f1 | tf.foldr(lambda total, e: tf.maximum(total, e), A)
A:f1 B:f1 | tf.scan(lambda t, e: t * e[1] + e[0], (A, B), initializer=tf.constant(1.))
A:f1 | tf.while_loop(lambda i, t: i < 2, lambda i, t: [i + 1, tf.concat([t, t], 0)], [0, A], shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])])[1]
A:f | tf.function(lambda t: t * 2. + 1.)(A)
A:f | tf.recompute_grad(tf.sin)(A)
A:f | tf.guarantee_const(A)
A:f | tf.identity_n([A, A])[1]
A:f1 B:i | tf.while_loop(lambda i, t: tf.logical_and(i < 5, t < 2.), lambda i, t: [i + 1, t + tf.reduce_max(A)], [tf.reduce_min(B) % 3, 0.])[1]
"""

_STRINGS = """
A:i | tf.strings.as_string(A)
A:f | tf.strings.as_string(A, precision=2)
A:s B:s | tf.strings.join([A, B], "-")
A:s | tf.strings.length(A)
A:s | tf.strings.upper(A)
A:s | tf.strings.substr(A, 0, 2)
A:s | tf.strings.reduce_join(A)
A:s | tf.strings.to_hash_bucket_fast(A, 11)
A:s | tf.strings.regex_replace(A, "[aeiou]", "_")
A:s | tf.strings.regex_full_match(A, ".*a.*")
A:s B:s | tf.equal(A, B)
A:s1 | tf.strings.split(A).values
A:s1 | tf.unique(A)[0]
A:s1 | tf.boolean_mask(A, tf.strings.length(A) > 2)
A:s | tf.io.decode_raw(tf.strings.substr(tf.strings.join([A, "xxxx"]), 0, 4), tf.uint8)
A:s1 | tf.gather(A, [1, 0])
A:s | tf.strings.unicode_decode(tf.strings.reduce_join(A), "UTF-8")
A:s1 | tf.strings.bytes_split(A).values
A:f | tf.strings.to_number(tf.strings.as_string(A, precision=3))
A:s | tf.io.encode_base64(A)
A:f1 | tf.io.parse_tensor(tf.io.serialize_tensor(A), tf.float32)
A:s1 | tf.strings.ngrams(A, 2)
A:s | tf.where(tf.strings.length(A) > 2, A, tf.strings.upper(A))
"""

# Each makes a resource within the graph.
_RESOURCES = """
A:f1 | in_table(A)
A:i1 | in_dense_table(A)
A:f1 | in_queue(A)
A:f1 | in_tensor_array(A)
A:f1 | in_variable(A)
A:f1 | in_counter(A)
A:i1 | in_static_table(A)
A:f1 | in_slot(A)
A:f1 | in_stack(A)
A:f2 | in_variable(A)
A:f1 | in_loop_variable(A)
A:f1 | in_cond_variable(A)
A:f1 | in_barrier(A)
A:f1 | in_dataset(A)
A:f1 | in_iterator(A)
A:f1 | in_filtered_dataset(A)
"""

# Errors for some values: not a pair of these is drawn where a graph has to run.
_RISKY = """
A:f1 B:i1 | tf.gather(A, B)
A:f2 B:i1 | tf.nn.embedding_lookup(A, B)
A:f1 B:i1 | tf.gather_nd(A, B[:, None])
A:f1 B:i1 | tf.scatter_nd(B[:, None], A, [4])
A:f1 B:i1 | tf.tensor_scatter_nd_add(A, B[:, None], tf.cast(B, tf.float32))
A:il B:il | A // B
A:il B:il | A % B
A:il B:il | tf.truncatediv(A, B)
A:f2 | tf.linalg.inv((tf.matmul(A, A, transpose_a=True) + tf.eye(tf.shape(A)[1])) * float(K))
A:f2 | tf.linalg.inv(A[:2, :2])
A:f2 | tf.linalg.cholesky(A[:2, :2])
A:f1 B:i | tf.math.top_k(A, tf.reduce_max(B))[0]
A:f1 B:i1 | tf.math.unsorted_segment_sum(A, B, 3)
A:f1 B:i1 | tf.math.segment_sum(A, B)
A:f1 B:i1 | tf.nn.sparse_softmax_cross_entropy_with_logits(labels=B[0], logits=A)
A:f1 B:i | A[tf.reduce_max(B)]
A:f1 B:i | tf.slice(A, [0], [tf.reduce_max(B)])
A:f1 B:i | tf.slice(A, [tf.reduce_max(B)], [1])
A:f1 | tf.ensure_shape(tf.boolean_mask(A, A > 0.), [2])
A:i | tf.zeros([tf.reduce_min(A)])
A:f1 B:i | tf.repeat(A, tf.reduce_min(B))
A:f1 B:f1 | tf.boolean_mask(A, A > 0.) + tf.boolean_mask(B, B > 0.)
A:f | checked(A)
A:f1 B:i | tf.reshape(A, [tf.reduce_max(B), -1])
A:i1 | tf.one_hot(A, 3)
A:f1 B:i1 | tf.dynamic_partition(A, B, 2)[0]
A:s | tf.strings.to_number(A)
A:il B:il | tf.pow(A, B)
A:f | tf.debugging.check_numerics(tf.math.log(A), "case")
A:f1 B:i1 | tf.sparse.to_dense(tf.sparse.SparseTensor(tf.cast(B[:, None], tf.int64), A, [4]))
A:f1 B:i | tf.split(A, [tf.reduce_max(B), 1])[0]
A:f1 | in_missing_table(A)
"""

_CATEGORIES = {
    "elementwise": _ELEMENTWISE,
    "reductions": _REDUCTIONS,
    "cumulative": _CUMULATIVE,
    "shapes": _SHAPES,
    "gather": _GATHER,
    "linear": _LINEAR,
    "integers": _INTEGERS,
    "random": _RANDOM,
    "by value": _BY_VALUE,
    "control": _CONTROL,
    "strings": _STRINGS,
    "resources": _RESOURCES,
    "risky": _RISKY,
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """A row of the table.

    Attributes:
      category: Of the operation.
      operands: For each letter the data types, as letters, and the rank or None.
      expression: With the operands' letters, K and R.
    """

    category: str
    operands: tuple[tuple[str, str, int | None], ...]
    expression: str

    def helpers(self) -> list[str]:
        """Returns the names of the functions of `prelude` that it calls."""
        return [name for name in prelude.FUNCTIONS if re.search(rf"\b{name}\(", self.expression)]


def _row(category: str, line: str) -> Operation:
    operands, _, expression = line.partition(" | ")
    found = []
    for operand in operands.split():
        letter, _, kind = operand.partition(":")
        rank = int(kind[-1]) if kind[-1].isdigit() else None
        found.append((letter, kind.rstrip("0123456789"), rank))
    return Operation(category, tuple(found), expression)


TABLE = {
    category: [_row(category, line) for line in text.strip().splitlines()]
    for category, text in _CATEGORIES.items()
}
