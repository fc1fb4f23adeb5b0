"""The engine kinds that an export can make, and running their files to compare them with torch."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from backdrop_export.external_data import graph_files
from backdrop_server.errors import SetupError

Arrays = dict[str, npt.NDArray[Any]]
Network = Callable[[Arrays], Arrays]
"""Named arrays in, named arrays out."""


@dataclasses.dataclass(frozen=True)
class EngineKind:
    """A compiler, what it computes in, and how far its answers may be from torch's."""

    backend: str
    precision: str
    suffixes: tuple[str, ...]
    """Of the engine's files; the first is the one that is loaded."""
    relative_tolerance: float
    """Of the largest value of an FP32 output."""
    level_tolerance: int
    """Of an 8-bit output."""

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.backend}-{self.precision}"

    @property
    def graph_precision(self) -> str:
        """Of the ONNX files that it starts from; OpenVINO itself lowers FP32 to BF16."""
        return "fp16" if self.precision == "fp16" else "fp32"


ENGINE_KINDS = {
    kind.name: kind
    for kind in (
        EngineKind("openvino", "fp32", (".xml", ".bin"), 1e-3, 1),
        EngineKind("openvino", "bf16", (".xml", ".bin"), 0.2, 64),
        EngineKind("onnxruntime", "fp32", (".onnx",), 1e-3, 1),
        EngineKind("onnxruntime", "fp16", (".onnx",), 0.05, 16),
    )
}
DEFAULT_ENGINE = "openvino-fp32"


def engine_kind(name: str) -> EngineKind:
    """The kind called ``name``; raises SetupError with the known names."""
    if name not in ENGINE_KINDS:
        known = ", ".join(ENGINE_KINDS)
        raise SetupError(f"there is no engine called {name!r}; engines: {known}")
    return ENGINE_KINDS[name]


def compile_engine(kind: EngineKind, graph: Path, target: Path) -> None:
    """Make the engine files of the ONNX file ``graph``: ``target`` with the kind's suffixes."""
    if kind.backend == "onnxruntime":
        for file in graph_files(graph):  # the weights' file is named in the graph
            name = target.with_suffix(".onnx").name if file == graph else file.name
            _link_or_copy(file, target.with_name(name))
        return
    import openvino as ov

    model = ov.convert_model(graph)
    ov.save_model(model, target.with_suffix(".xml"), compress_to_fp16=False)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def load_network(kind: EngineKind, path: Path) -> Network:
    """Load the engine file ``path`` (any suffix) for a comparison on the CPU."""
    if kind.backend == "onnxruntime":
        return _onnxruntime(path.with_suffix(".onnx"))
    return _openvino(path.with_suffix(".xml"), kind.precision)


def _onnxruntime(path: Path) -> Network:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if len(graph_files(path)) > 1:
        # Folding would hold these weights a second time, in FP32; so would casting them early.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(None, arrays), strict=True))


def _openvino(path: Path, precision: str) -> Network:
    import openvino as ov

    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    names = [output.get_any_name() for output in compiled.outputs]

    def run(arrays: Arrays) -> Arrays:
        results = compiled(arrays)
        return {name: results[name].copy() for name in names}

    return run
