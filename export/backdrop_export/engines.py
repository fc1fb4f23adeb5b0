"""The engine kinds that an export can make, and running their files to compare them with torch."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from backdrop_export.bundles import GRAPH_FOLDERS, Bundle
from backdrop_export.external_data import graph_files
from backdrop_server.engines.loading import ENGINE_PACKAGES, is_installed, load_engine
from backdrop_server.engines.padding import run_padded
from backdrop_server.errors import SetupError
from backdrop_server.plan import Precision

Arrays = dict[str, npt.NDArray[Any]]
Network = Callable[[Arrays], Arrays]
"""Named arrays in, named arrays out."""

_TOLERANCES = {
    Precision.FP32: (1e-3, 1),
    Precision.FP16: (0.05, 16),
    Precision.BF16: (0.2, 64),
    Precision.FP8: (0.3, 64),
    Precision.INT8: (0.3, 64),
}
QUANTIZED = (Precision.FP8, Precision.INT8)


@dataclasses.dataclass(frozen=True)
class EngineKind:
    """A compiler, what it computes in, and how far its answers may be from torch's."""

    backend: str
    """As ``backdrop_server.engines.loading`` calls it."""
    precision: Precision

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.backend}-{self.precision.value}"

    @property
    def triton_backend(self) -> str:
        """The backend of the plain graphs' models; Triton's `onnxruntime` runs TensorRT's provider."""
        return "onnxruntime" if self.backend == "onnxruntime-tensorrt" else self.backend

    @property
    def graph_precision(self) -> str:
        """Of the ONNX files that it starts from; OpenVINO itself lowers FP32 to BF16."""
        return "fp16" if self.precision is Precision.FP16 else "fp32"

    @property
    def file_precision(self) -> str:
        """Of the weights in its files; of a quantized kind only the denoiser has fewer bits."""
        if self.backend == "openvino" or self.precision in QUANTIZED:
            return self.graph_precision
        return self.precision.value

    @property
    def is_built_for_a_device(self) -> bool:
        """Whether its files fit only the device that they were built on."""
        return self.backend in ("tensorrt", "aotinductor")

    @property
    def relative_tolerance(self) -> float:
        """Of the largest value of an FP32 output."""
        return _TOLERANCES[self.precision][0]

    @property
    def level_tolerance(self) -> int:
        """Of an 8-bit output."""
        return _TOLERANCES[self.precision][1]


_MADE = {
    "openvino": (Precision.FP32, Precision.BF16),
    "onnxruntime": (Precision.FP32, Precision.FP16, Precision.INT8),
    "onnxruntime-tensorrt": (Precision.FP32, Precision.FP16),
    "tensorrt": (Precision.FP32, Precision.FP16, Precision.INT8, Precision.FP8),
    "aotinductor": (Precision.FP32, Precision.FP16, Precision.BF16),
}
ENGINE_KINDS = {
    kind.name: kind
    for kind in (
        EngineKind(backend, precision)
        for backend, precisions in _MADE.items()
        for precision in precisions
    )
}
DEFAULT_ENGINE = "openvino-fp32"


def engine_kind(name: str) -> EngineKind:
    """The kind called ``name``; raises SetupError with the known names."""
    if name not in ENGINE_KINDS:
        known = ", ".join(ENGINE_KINDS)
        raise SetupError(f"there is no engine called {name!r}; engines: {known}")
    return ENGINE_KINDS[name]


def kind_for_graph(kind: EngineKind, bundle: Bundle, graph: str) -> EngineKind:
    """``kind``, in FP32 where fewer bits cost more than they save.

    That is a VAE that `must_be_upcast`, and in BF16 text and vision towers: a thousandth of a
    picture's work, but 6 dB of its likeness to the one in FP32.
    """
    is_vae = GRAPH_FOLDERS[graph] == ("vae",)
    upcast = is_vae and must_be_upcast(bundle, kind.precision)
    is_tower = graph in ("text_encoder", "image_encoder")
    exact = upcast or (is_tower and kind.precision is Precision.BF16)
    return dataclasses.replace(kind, precision=Precision.FP32) if exact else kind


def must_be_upcast(bundle: Bundle, precision: Precision) -> bool:
    """Whether the bundle's VAE stays in FP32, as its ``force_upcast`` says, which is true if absent.

    Its values overflow FP16. BF16 has the range of FP32, and a picture loses less than 1 dB by it.
    """
    if precision is Precision.BF16:
        return False
    return bool(bundle.config("vae/config.json").get("force_upcast", True))


def why_absent(kind: EngineKind) -> str | None:
    """Why this machine cannot make and run ``kind``; None when it can."""
    if not is_installed(kind.backend):
        package, extra = ENGINE_PACKAGES[kind.backend]
        return f"{package} is not installed (backdrop[{extra}])"
    if kind.backend in ("tensorrt", "onnxruntime-tensorrt") and not _has_cuda():
        return "there is no CUDA device"
    if kind.backend == "aotinductor" and not _has_cuda() and shutil.which("g++") is None:
        return "there is no CUDA device, and no g++ to compile for the CPU"
    if kind.backend == "aotinductor" and not _has_cuda() and kind.precision is Precision.FP16:
        return "there is no CUDA device, and torch is too slow in FP16 on a CPU"
    if kind.precision in QUANTIZED and importlib.util.find_spec("modelopt") is None:
        return "nvidia-modelopt is not installed"
    return None


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def load_network(kind: EngineKind, path: Path) -> Network:
    """Load the engine file ``path`` (any suffix) for a comparison."""
    if kind.backend == "onnxruntime":
        return _onnxruntime(path.with_suffix(".onnx"))
    engine = load_engine(kind.backend, path, kind.precision)
    return lambda arrays: run_padded(engine, arrays)


def _onnxruntime(path: Path) -> Network:
    """On the CPU, and of large graphs no more in memory than must be."""
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
