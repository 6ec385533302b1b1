"""The operations that may go to XLA, and those that may stand side by side for several clients.

An operation is in this table if its results under XLA on a CPU, and under `tf.vectorized_map`, have been
compared with those of TensorFlow's own kernel: numbers up to roundoff, integers, what is not finite, and
errors (`tests/test_operations.py` has what each is tried on). Some are the same only as `faithful` writes
them, or with the checks of `ranges`. An operation that is not in the table is not known to be the same.

The table assumes shapes that do not depend on values. What the emitter writes in a way of its own (calls
of functions, loops, variables, batches, checks, random operations) never comes out as it is.
"""

from __future__ import annotations

from collections.abc import Iterable


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BOTH = (
    # Of one number.
    _names("""
    Abs Acos Acosh Asin Asinh Atan Atanh BesselI0e BesselI1e Bitcast Cast Ceil Cos Cosh Digamma
    Elu Erf Erfc Erfinv Exp Expm1 Floor Inv Invert IsFinite IsInf IsNan LeakyRelu Lgamma Log
    Log1p LogicalNot Ndtri Neg OnesLike PopulationCount Reciprocal Relu Relu6 Rint Round Rsqrt
    Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square Tan Tanh ZerosLike
    """)
    # Of two numbers and more.
    | _names("""
    Add AddN AddV2 ApproximateEqual Atan2 BitwiseAnd BitwiseOr BitwiseXor ClipByValue Div
    DivNoNan EluGrad Equal FloorDiv FloorMod Greater GreaterEqual Igamma Igammac LeakyReluGrad
    LeftShift Less LessEqual LogicalAnd LogicalOr Maximum Minimum Mod Mul MulNoNan NotEqual Pow
    RealDiv ReciprocalGrad Relu6Grad ReluGrad RightShift RsqrtGrad Select SelectV2 SeluGrad
    SigmoidGrad SoftplusGrad SoftsignGrad SqrtGrad SquaredDifference Sub TanhGrad TruncateDiv
    TruncateMod Xdivy Xlog1py Xlogy
    """)
    # Shapes, and tensors put in another form.
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
    # Networks.
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
    # Lists of tensors, of loops.
    | _names("""
    EmptyTensorList TensorListFromTensor TensorListGetItem TensorListLength TensorListPopBack
    TensorListPushBack TensorListReserve TensorListSetItem TensorListStack
    """)
    # Random numbers of seeds that the program chose.
    | _names("""
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomNormalV2
    StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2 StatelessRandomUniformV2
    """)
)
# What the emitter writes in a way of its own, wherever the graph goes.
_WRITTEN = _names("""
    AnonymousIteratorV3 Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp Case
    CheckNumerics If IteratorGetNextAsOptional MakeIterator Merge Multinomial NoOp
    OptionalGetValue OptionalHasValue PartitionedCall Placeholder PlaceholderWithDefault Print
    PrintV2 RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt ReadVariableOp
    ReduceDataset ResourceGather RngReadAndSkip StatefulPartitionedCall StatelessCase
    StatelessIf StatelessWhile Switch TruncatedNormal VarHandleOp VarIsInitializedOp VariableShape While
""")
_SINGULAR = "raises for matrices that XLA takes"
_NAN = "treats numbers that are not finite in another way under XLA"
_UNCOMPILED = "is not one that XLA compiles"
_RANDOM = "draws other numbers from the same seed under XLA"
_NOT_XLA = {
    **dict.fromkeys(
        ("Cholesky", "MatrixInverse", "MatrixSolve", "MatrixTriangularSolve"), _SINGULAR
    ),
    **dict.fromkeys(("ExtractImagePatches", "UnsortedSegmentMax", "UnsortedSegmentMin"), _NAN),
    "TopKV2": "orders what is not a number in another way under XLA",
    "InTopK": "counts what is not a number in another way under XLA",
    "InTopKV2": "counts what is not a number in another way under XLA",
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
FOR_XLA = KNOWN - _NOT_XLA.keys() - _NEITHER.keys()
FOR_VMAP = KNOWN - _NOT_VMAP.keys() - _NEITHER.keys()


def xla_obstacle(operations: Iterable[str]) -> str | None:
    """Returns why operations may not go to XLA, or None if they may.

    Args:
      operations: Their names.

    Returns:
      A part of a sentence, about the first by name of those that may not.
    """
    return _obstacle(operations, _NOT_XLA | _NEITHER, "under XLA")


def vmap_obstacle(operations: Iterable[str]) -> str | None:
    """Returns why operations may not be written for clients side by side, or None if they may.

    Args:
      operations: Their names.

    Returns:
      A part of a sentence, about the first by name of those that may not.
    """
    return _obstacle(operations, _NOT_VMAP | _NEITHER, "for clients side by side")


def _obstacle(operations: Iterable[str], refused: dict[str, str], where: str) -> str | None:
    for operation in sorted(operations):
        if operation in refused:
            return f"operation {operation} {refused[operation]}"
        if operation not in KNOWN and operation not in _WRITTEN:
            return f"operation {operation} is not known to give the same numbers {where}"
    return None
