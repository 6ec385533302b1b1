"""The operations that XLA may compile, and those that may be vectorized over clients.

An operation is in this table if its results under XLA on a CPU, and under `tf.vectorized_map`, have
been compared with those of TensorFlow's own kernel: floats up to roundoff, integers, infinities and
NaN, and errors (`tests/execution/test_operations.py` has the inputs of each comparison). Some
operations agree only in the form in which `xla_numerics` writes them, or with the checks of
`range_checks`. An operation that is not in the table is not known to agree.

The table assumes shapes that do not depend on values. It need not contain the operations that the
emitter always replaces: calls of functions, loops, variables, batches, checks and random
operations.
"""

from __future__ import annotations

from collections.abc import Iterable


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BOTH = (
    # Elementwise, of one argument.
    _names("""
    Abs Acos Acosh Asin Asinh Atan Atanh BesselI0e BesselI1e Bitcast Cast Ceil Cos Cosh Digamma
    Elu Erf Erfc Erfinv Exp Expm1 Floor Inv Invert IsFinite IsInf IsNan LeakyRelu Lgamma Log
    Log1p LogicalNot Ndtri Neg OnesLike PopulationCount Reciprocal Relu Relu6 Rint Round Rsqrt
    Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square Tan Tanh ZerosLike
    """)
    # Elementwise, of several arguments.
    | _names("""
    Add AddN AddV2 ApproximateEqual Atan2 BitwiseAnd BitwiseOr BitwiseXor ClipByValue Div
    DivNoNan EluGrad Equal FloorDiv FloorMod Greater GreaterEqual Igamma Igammac LeakyReluGrad
    LeftShift Less LessEqual LogicalAnd LogicalOr Maximum Minimum Mod Mul MulNoNan NotEqual Pow
    RealDiv ReciprocalGrad Relu6Grad ReluGrad RightShift RsqrtGrad Select SelectV2 SeluGrad
    SigmoidGrad SoftplusGrad SoftsignGrad SqrtGrad SquaredDifference Sub TanhGrad TruncateDiv
    TruncateMod Xdivy Xlog1py Xlogy
    """)
    # Shapes, and the rearrangement of tensors.
    | _names("""
    BatchToSpaceND BroadcastArgs BroadcastGradientArgs BroadcastTo Concat ConcatOffset ConcatV2
    Const DepthToSpace Diag DiagPart DynamicStitch EnsureShape ExpandDims Fill Identity
    IdentityN InvertPermutation LinSpace MatrixBandPart MatrixDiag MatrixDiagPart
    MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2
    MatrixSetDiagV3 MirrorPad MirrorPadGrad OneHot Pack Pad PreventGradient Range Rank Reshape
    ReverseSequence ReverseV2 Roll Shape ShapeN Size Slice Snapshot SpaceToBatchND SpaceToDepth
    Split SplitV Squeeze StopGradient StridedSlice StridedSliceGrad Tile Transpose Unpack
    """)
    # Indices.
    | _names("""
    Bincount DenseBincount GatherNd GatherV2 LowerBound ScatterNd TensorScatterAdd
    TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate UnsortedSegmentProd
    UnsortedSegmentSum UpperBound
    """)
    # Reductions.
    | _names("""
    All Any ArgMax ArgMin Cumprod Cumsum CumulativeLogsumexp L2Loss Max Mean Min Prod Sum
    """)
    # Linear algebra.
    | _names("""
    BatchMatMul BatchMatMulV2 BatchMatMulV3 Cross Einsum MatMul Qr
    """)
    # Neural networks.
    | _names("""
    AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad BiasAdd BiasAddGrad BiasAddV1 Conv2D
    Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2 Conv3DBackpropInputV2
    DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput
    FusedBatchNormGradV3 FusedBatchNormV3 LRN LRNGrad LogSoftmax MaxPool MaxPool3D MaxPool3DGrad
    MaxPoolGrad ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor Softmax
    SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits
    """)
    # Complex numbers.
    | _names("""
    Angle Complex ComplexAbs Conj FFT IFFT IRFFT Imag RFFT Real
    """)
    # Lists of tensors, which loops use.
    | _names("""
    EmptyTensorList TensorListFromTensor TensorListGetItem TensorListLength TensorListPopBack
    TensorListPushBack TensorListReserve TensorListSetItem TensorListStack
    """)
    # Random numbers from seeds that the program chooses.
    | _names("""
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomNormalV2
    StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2 StatelessRandomUniformV2
    """)
)
# Operations that the emitter writes in another form in every style.
_WRITTEN = _names("""
    AnonymousIteratorV3 Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp Case
    CheckNumerics If IteratorGetNextAsOptional MakeIterator Merge Multinomial NoOp
    OptionalGetValue OptionalHasValue PartitionedCall Placeholder PlaceholderWithDefault Print
    PrintV2 RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt ReadVariableOp
    ReduceDataset ResourceGather RngReadAndSkip StatefulPartitionedCall StatelessCase
    StatelessIf StatelessWhile Switch TruncatedNormal VarHandleOp VarIsInitializedOp VariableShape While
""")
_SINGULAR = "raises an error for matrices that XLA accepts"
_NAN = "treats infinities and NaN differently under XLA"
_UNCOMPILED = "cannot be compiled by XLA"
_RANDOM = "draws other numbers from the same seed under XLA"
_NOT_XLA = {
    **dict.fromkeys(
        ("Cholesky", "MatrixInverse", "MatrixSolve", "MatrixTriangularSolve"), _SINGULAR
    ),
    **dict.fromkeys(("ExtractImagePatches", "UnsortedSegmentMax", "UnsortedSegmentMin"), _NAN),
    "TopKV2": "orders NaN differently under XLA",
    "InTopK": "counts NaN differently under XLA",
    "InTopKV2": "counts NaN differently under XLA",
    **dict.fromkeys(
        (
            "ConjugateTranspose",
            "EuclideanNorm",
            "InvGrad",
            "LogMatrixDeterminant",
            "MatrixDeterminant",
            "ResizeNearestNeighborGrad",
            "TensorStridedSliceUpdate",
        ),
        _UNCOMPILED,
    ),
    **dict.fromkeys(
        (
            "StatelessRandomPoisson",
            "StatelessTruncatedNormalV2",
            "StatelessRandomNormal",
            "StatelessRandomUniform",
            "StatelessRandomUniformInt",
            "StatelessRandomUniformFullInt",
            "StatelessTruncatedNormal",
        ),
        _RANDOM,
    ),
    "Timestamp": "reads the clock",
}
_NOT_VMAP = {
    "PadV2": "pads with zeros where clients stand side by side",
    "Gather": "cannot be written for clients side by side",
    "TensorListElementShape": "gives other shapes where clients stand side by side",
}
_VALUE_SHAPED = "gives a shape that depends on values"
_STRINGS = "works on strings"
_NEITHER = {
    **dict.fromkeys(
        ("DynamicPartition", "ListDiff", "Unique", "UniqueV2", "UniqueWithCounts", "Where"),
        _VALUE_SHAPED,
    ),
    **dict.fromkeys(
        ("AsString", "ReduceJoin", "StringFormat", "StringJoin", "StringToHashBucketFast"), _STRINGS
    ),
    "SelfAdjointEigV2": "gives other results for clients side by side and under XLA",
    "Svd": "gives other results for clients side by side and under XLA",
}
KNOWN = _BOTH | _NOT_XLA.keys() | _NOT_VMAP.keys() | _NEITHER.keys()
"""All operations that have been compared, whatever the result."""
FOR_XLA = KNOWN - _NOT_XLA.keys() - _NEITHER.keys()
"""The operations that XLA may compile."""
FOR_VMAP = KNOWN - _NOT_VMAP.keys() - _NEITHER.keys()
"""The operations that may be vectorized over clients."""


def xla_obstacle(operations: Iterable[str]) -> str | None:
    """Returns why XLA may not compile operations.

    Args:
      operations: The names of the operations.

    Returns:
      The reason for the alphabetically first operation that is refused, as part of a sentence; None
      if XLA may compile all of them.
    """
    return _obstacle(operations, _NOT_XLA | _NEITHER, "under XLA")


def vmap_obstacle(operations: Iterable[str]) -> str | None:
    """Returns why operations may not be vectorized over clients.

    Args:
      operations: The names of the operations.

    Returns:
      The reason for the alphabetically first operation that is refused, as part of a sentence; None
      if all of them may be vectorized.
    """
    return _obstacle(operations, _NOT_VMAP | _NEITHER, "for clients side by side")


def _obstacle(operations: Iterable[str], refused: dict[str, str], where: str) -> str | None:
    for operation in sorted(operations):
        if operation in refused:
            return f"operation {operation} {refused[operation]}"
        if operation not in KNOWN and operation not in _WRITTEN:
            return f"operation {operation} is not known to give the same numbers {where}"
    return None
