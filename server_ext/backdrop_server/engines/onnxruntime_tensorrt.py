"""ONNX Runtime's TensorRT provider: it builds engines itself and keeps them. Built, not run.

Building takes minutes the first time; the engines and the timings are kept in a folder beside the
model, named after the machine's device, so the next start loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
import torch

from backdrop_server.engines.engine import Precision
from backdrop_server.engines.onnxruntime import CPU, Provider
from backdrop_server.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits

_SWITCHES = {
    Precision.FP16: "trt_fp16_enable",
    Precision.BF16: "trt_bf16_enable",
    Precision.INT8: "trt_int8_enable",
}


class OnnxRuntimeTensorRtEngine(OnnxRuntimeCudaEngine):
    """The TensorRT provider, then the CUDA one. Built, not run: no GPU was at hand."""

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        if "TensorrtExecutionProvider" not in ort.get_available_providers():
            raise EngineError(
                "this onnxruntime has no TensorRT provider; install one with: "
                "pip install 'backdrop[gpu]'"
            )
        super().__init__(path, precision, threads, limits)

    def providers(self, path: Path) -> Sequence[Provider]:
        """TensorRT, CUDA for what it lacks, and the CPU."""
        options = self._device_options() | self._cache_options(path)
        if self._precision in _SWITCHES:
            options[_SWITCHES[self._precision]] = "1"
        return (
            ("TensorrtExecutionProvider", options | self._profile_options(path)),
            self._cuda(),
            CPU,
        )

    def _cache_options(self, path: Path) -> dict[str, str]:
        device = torch.cuda.get_device_name(self.device).replace(" ", "-")
        folder = path.parent / f"{path.stem}-tensorrt-{device}"
        folder.mkdir(exist_ok=True)
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }

    def _profile_options(self, path: Path) -> dict[str, str]:
        """One profile over all rows and sizes; empty, one shape after another, without limits."""
        shapes = path.with_suffix(".profile")
        if not shapes.is_file():
            return {}
        lines = shapes.read_text(encoding="utf-8").split()
        names = ("min", "opt", "max")
        return {f"trt_profile_{name}_shapes": line for name, line in zip(names, lines, strict=True)}
