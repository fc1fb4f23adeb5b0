"""Choosing an engine by its name; a kind that is not asked for need not be installed."""

from __future__ import annotations

from pathlib import Path

from backdrop_server.engines.engine import Engine, Precision
from backdrop_server.errors import EngineError


def load_engine(kind: str, path: Path, precision: Precision, threads: int = 0) -> Engine:
    """Load the engine file at ``path`` (without suffix) with the engine called ``kind``.

    ``threads``: CPU threads of one call, 0 = all cores. Raises EngineError for a missing or
    damaged file and for a precision that the engine does not have.
    """
    if kind == "onnxruntime":
        from backdrop_server.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path.with_suffix(".onnx"), precision, threads)
    if kind == "openvino":
        from backdrop_server.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path.with_suffix(".xml"), precision, threads)
    raise EngineError(f"engine {kind!r} is not known; allowed: onnxruntime, openvino")
