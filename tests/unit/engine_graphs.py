"""One small graph in the form of every engine that can be made on this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from backdrop_export.aotinductor import build_package, builder
from backdrop_export.dimensions import Grid
from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import ENGINE_PACKAGES
from backdrop_server.plan import EngineLimits

CHANNELS = 3
DRAW = np.random.default_rng(0)
WEIGHT = DRAW.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to run the graph, and how near to float64 it has to come."""

    engine: str
    precision: Precision
    tolerance: float

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.precision.value}"


SUFFIXES = {".onnx", ".xml", ".bin", ".pt2", ".plan"}
# On a GPU torch's convolutions are TF32 by default, whose products have ten bits.
_FP32_TOLERANCE = 2e-3 if torch.cuda.is_available() else 1e-5
SAMPLE_STEP = 5 / 127
"""Of the samples in INT8: they are drawn from a normal distribution, so that few lie beyond."""
WEIGHT_STEPS = (np.abs(WEIGHT).max((1, 2, 3)) / 127).astype(np.float32)
INT8_TOLERANCE = 4e-2
"""Twice what both roundings were seen to cost over 40 draws (2.1e-2) where outputs do not cancel."""
ALL = (
    Kind("onnxruntime", Precision.FP32, 1e-5),
    Kind("onnxruntime", Precision.FP16, 2e-3),
    Kind("onnxruntime", Precision.INT8, INT8_TOLERANCE),
    Kind("openvino", Precision.FP32, 1e-5),
    Kind("openvino", Precision.BF16, 2e-2),
    Kind("aotinductor", Precision.FP32, _FP32_TOLERANCE),
    Kind("aotinductor", Precision.BF16, 2e-2),
    Kind("onnxruntime-tensorrt", Precision.FP16, 2e-3),
    Kind("tensorrt", Precision.FP16, 2e-3),
)


def absence(engine: str) -> str | None:
    """Why the engine cannot be tried on this machine; None if it can."""
    package = ENGINE_PACKAGES[engine][0]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    if engine == "aotinductor" and shutil.which("g++") is None:
        return "there is no g++ to compile with"
    if "tensorrt" in engine and not torch.cuda.is_available():
        return "there is no CUDA device"
    return None


PRESENT = {kind.name: kind for kind in ALL if absence(kind.engine) is None}


def write_files(kind: Kind, folder: Path) -> None:
    """The graph's files for ``kind``; one more in any other form would be a kind of its own."""
    folder.mkdir(parents=True)
    if kind.engine == "aotinductor":
        _write_package(folder / "graph.pt2", kind.precision)
        return
    onnx_file = folder / "graph.onnx"
    half, quantized = kind.precision is Precision.FP16, kind.precision is Precision.INT8
    write_onnx(onnx_file, half=half, quantized=quantized)
    if kind.engine == "tensorrt":
        _write_plan(onnx_file, folder)
        onnx_file.unlink()
    if kind.engine == "openvino":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ov.convert_model(str(onnx_file))
        ov.save_model(model, folder / "graph.xml", compress_to_fp16=False)
        onnx_file.unlink()


def engine_files(folder: Path) -> list[str]:
    """Names of the files without which the engine cannot be."""
    return sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)


def write_onnx(path: Path, *, half: bool = False, quantized: bool = False) -> None:
    """``features`` = conv(sample) * scale of its row; ``levels`` = the mask; ``ids`` + 1.

    ``half``: the convolution is FP16, between casts. ``quantized``: both of its sides are INT8, as
    `nvidia-modelopt` writes it.
    """
    nodes = [
        *(_quantized_convolution() if quantized else _convolution(half)),
        helper.make_node("Reshape", ["scale", "column"], ["scales"]),
        helper.make_node("Mul", ["painted", "scales"], ["features"]),
        helper.make_node("Cast", ["mask"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["ids", "one"], ["next_ids"]),
    ]
    inputs = [
        _info("sample", TensorProto.FLOAT, "rows", CHANNELS, "h", "w"),
        _info("scale", TensorProto.FLOAT, "rows"),
        _info("mask", TensorProto.UINT8, "rows", "H", "W"),
        _info("ids", TensorProto.INT64, "rows", 2),
    ]
    outputs = [
        _info("features", TensorProto.FLOAT, "rows", CHANNELS, "h", "w"),
        _info("levels", TensorProto.FLOAT, "rows", "H", "W"),
        _info("next_ids", TensorProto.INT64, "rows", 2),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT.astype(np.float16) if half else WEIGHT, "weight"),
        numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "column"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
    ]
    if quantized:
        constants += _quantization_constants()
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _convolution(half: bool) -> list[Any]:
    if not half:
        return [helper.make_node("Conv", ["sample", "weight"], ["painted"], pads=[1, 1, 1, 1])]
    return [
        helper.make_node("Cast", ["sample"], ["halves"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["halves", "weight"], ["painted_halves"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["painted_halves"], ["painted"], to=TensorProto.FLOAT),
    ]


def _quantized_convolution() -> list[Any]:
    """The samples rounded with one step, the weights with one for each output channel."""
    samples, weights = ["sample_step", "sample_zero"], ["weight_steps", "weight_zeros"]
    return [
        helper.make_node("QuantizeLinear", ["sample", *samples], ["sample_int8"]),
        helper.make_node("DequantizeLinear", ["sample_int8", *samples], ["sample_again"]),
        helper.make_node("QuantizeLinear", ["weight", *weights], ["weight_int8"], axis=0),
        helper.make_node("DequantizeLinear", ["weight_int8", *weights], ["weight_again"], axis=0),
        helper.make_node("Conv", ["sample_again", "weight_again"], ["painted"], pads=[1, 1, 1, 1]),
    ]


def _quantization_constants() -> list[Any]:
    arrays = {
        "sample_step": np.array(SAMPLE_STEP, np.float32),
        "sample_zero": np.array(0, np.int8),
        "weight_steps": WEIGHT_STEPS,
        "weight_zeros": np.zeros(CHANNELS, np.int8),
    }
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def _info(name: str, kind: int, *dims: str | int) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


class Graph(nn.Module):
    """The same as a torch module."""

    def __init__(self) -> None:
        super().__init__()
        self.paint = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.paint.weight = nn.Parameter(torch.from_numpy(WEIGHT.copy()), requires_grad=False)

    def forward(
        self, sample: torch.Tensor, scale: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return self.paint(sample) * scale.view(-1, 1, 1, 1), mask.float(), ids + 1


def limits(engine: str, precision: Precision, built_by: str) -> EngineLimits:
    """No tighter than the tests' largest batch and side."""
    return EngineLimits(engine, precision, built_by, max_rows=16, heights=(1, 64), widths=(1, 64))


def _write_package(path: Path, precision: Precision) -> None:
    examples = {
        "sample": torch.randn(2, CHANNELS, 5, 7),
        "scale": torch.rand(2),
        "mask": torch.zeros(2, 40, 56, dtype=torch.uint8),
        "ids": torch.zeros(2, 2, dtype=torch.int64),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bounds = limits("aotinductor", precision, builder())
    outputs = ("features", "levels", "next_ids")
    build_package(Graph(), examples, outputs, path, device, precision, bounds, Grid(8, 1))


def _write_plan(graph: Path, folder: Path) -> None:
    from backdrop_export import tensorrt_plans

    bounds = limits("tensorrt", Precision.FP16, tensorrt_plans.builder())
    grid = Grid(8, 1)
    tensorrt_plans.build_plan(
        graph, folder / "graph", Precision.FP16, bounds, folder / "timings", grid
    )
