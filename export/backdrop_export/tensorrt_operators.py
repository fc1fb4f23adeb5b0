"""The ONNX operators and types that TensorRT says it supports.

Facts of the table in ``docs/operators.md`` of onnx/onnx-tensorrt, as published for TensorRT 10.15.
Its remarks on single operators are in ``tensorrt_support``, those that our graphs can touch.
"""

from __future__ import annotations

VERSION = "10.15"
"""The TensorRT that the table is of."""
OPSETS = range(9, 25)
"""Versions of the default operator set that it reads."""

_FLOATS = "FP32 FP16 BF16"
_NUMBERS = f"{_FLOATS} INT32 INT64"
_VALUES = f"{_NUMBERS} BOOL"
_CONSTANTS = f"{_FLOATS} FP8 FP4 INT4 INT32 INT64 BOOL"

_TABLE = {
    _FLOATS: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv
        ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool
        GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler
        InstanceNormalization IsInf LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax
        LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu ParametricSoftplus
        QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform
        RandomUniformLike Reciprocal Resize RotaryEmbedding Round ScaledTanh Scan Selu Sigmoid Sin
        Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
        """,
    _NUMBERS: """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual
        Max Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements
        ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
        """,
    _VALUES: """
        Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot Reshape
        ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
        """,
    "FP32 FP16": """
        BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero
        RoiAlign
        """,
    "BOOL": "And Not Or Xor",
    f"{_NUMBERS} UINT8 BOOL": "Cast CastLike",
    _CONSTANTS: "Constant ConstantOfShape",
    f"{_FLOATS} INT8 INT32 INT64": "Gelu",
    f"{_FLOATS} FP8 INT32 INT64": "Mean",
    f"{_FLOATS} INT8 FP8": "Attention",
    f"{_FLOATS} INT32": "TensorScatter",
    "INT8 FP8 FP4 INT4": "DequantizeLinear",
    "FP32": "STFT",
}

OPERATORS: dict[str, tuple[str, ...]] = {
    operator: tuple(types.split())
    for types, operators in _TABLE.items()
    for operator in operators.split()
}
"""Types by operator, in TensorRT's names; what is not a key is not supported."""

TYPE_NAMES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "FLOAT8E4M3FN": "FP8",
    "FLOAT4E2M1": "FP4",
}
"""TensorRT's names of ONNX types, where they differ."""
