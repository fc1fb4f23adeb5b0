"""Choosing an engine by its name; a kind that is not asked for need not be installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backdrop_server.engines.engine import Engine, Precision
from backdrop_server.engines.limits import check_kind, read_limits
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits

ENGINE_PACKAGES = {
    "onnxruntime": ("onnxruntime", "server"),
    "onnxruntime-tensorrt": ("onnxruntime", "gpu"),
    "openvino": ("openvino", "server"),
    "tensorrt": ("tensorrt", "gpu"),
    "aotinductor": ("torch", "server"),
}
"""Engine by name: the package that it needs, and the extra of ours that brings it."""


def load_engine(kind: str, path: Path, precision: Precision, threads: int = 0) -> Engine:
    """Load the engine file at ``path`` (without suffix) with the engine called ``kind``.

    ``threads``: CPU threads of one call, 0 = all cores. Raises EngineError for a missing or
    damaged file, for a precision that the engine does not have, for a file that was built for
    another engine, version or GPU, and for an engine that is not installed.
    """
    maker, find = _maker(kind)
    file = find(path)
    limits = read_limits(file)
    if limits is not None:
        check_kind(limits, kind, precision)
    engine: Engine = maker(file, precision, threads, limits)
    return engine


def is_installed(kind: str) -> bool:
    """Whether the package that the engine needs can be imported; a GPU it may still lack."""
    return importlib.util.find_spec(ENGINE_PACKAGES[kind][0]) is not None


Maker = Callable[[Path, Precision, int, EngineLimits | None], Any]
Find = Callable[[Path], Path]


def _maker(kind: str) -> tuple[Maker, Find]:
    """The class of the engine, and how its file is found."""
    if kind not in ENGINE_PACKAGES:
        allowed = ", ".join(ENGINE_PACKAGES)
        raise EngineError(f"engine {kind!r} is not known; allowed: {allowed}")
    if not is_installed(kind):
        package, extra = ENGINE_PACKAGES[kind]
        raise EngineError(
            f"engine {kind} needs {package}, which is not installed: "
            f"pip install 'backdrop[{extra}]'"
        )
    if kind == "onnxruntime":
        return _onnxruntime(), _with("onnx")
    if kind == "onnxruntime-tensorrt":
        from backdrop_server.engines.onnxruntime_tensorrt import OnnxRuntimeTensorRtEngine

        return OnnxRuntimeTensorRtEngine, _with("onnx")
    if kind == "openvino":
        from backdrop_server.engines.openvino import OpenVinoEngine

        return OpenVinoEngine, _with("xml")
    if kind == "tensorrt":
        from backdrop_server.engines.tensorrt import TensorRtEngine, find_plan

        return TensorRtEngine, find_plan
    from backdrop_server.engines.aotinductor import AotInductorEngine

    return AotInductorEngine, _with("pt2")


def _with(suffix: str) -> Find:
    return lambda path: path.with_suffix(f".{suffix}")


def _onnxruntime() -> Maker:
    """On the CUDA device where there is one; only then does the process pay for torch."""
    import onnxruntime

    from backdrop_server.engines.onnxruntime import OnnxRuntimeEngine

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return OnnxRuntimeEngine
    from backdrop_server.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, cuda_is_here

    return OnnxRuntimeCudaEngine if cuda_is_here() else OnnxRuntimeEngine
