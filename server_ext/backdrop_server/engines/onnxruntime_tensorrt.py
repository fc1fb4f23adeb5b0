"""ONNX Runtime's TensorRT provider: it builds engines itself and keeps them. Built, not run.

Building takes minutes the first time; the engines and the timings are kept in a folder beside the
model, named after the machine's device, so the next start loads them; where that folder cannot be
written, in the user's cache. No precision is switched on: with none the provider makes a strongly
typed network, which computes in the graph's own types (microsoft/onnxruntime#18707), while
``trt_fp16_enable`` lets TensorRT take FP16 for what the graph keeps in FP32.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
import torch

from backdrop_server.engines.engine import Precision
from backdrop_server.engines.onnxruntime import CPU, Provider
from backdrop_server.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits


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
        """TensorRT, CUDA for what it lacks, and the CPU.

        An export writes limits without a profile where a single profile, all that the provider
        uses, would be too large for TensorRT: such a graph is left to CUDA.
        """
        if path.with_suffix(".json").is_file() and not path.with_suffix(".profile").is_file():
            return (self._cuda(), CPU)
        options = self._device_options() | self._cache_options(path) | self._profile_options(path)
        return (("TensorrtExecutionProvider", options), self._cuda(), CPU)

    def _cache_options(self, path: Path) -> dict[str, str]:
        folder = cache_folder(path, torch.cuda.get_device_name(self.device))
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


def cache_folder(path: Path, device: str) -> Path:
    """A folder for the engines of the model ``path``; EngineError when none can be written.

    Beside the model, or in the user's cache by the model's place and time, since the provider does
    not see that weights have changed; else one for this process alone: engines are code, and
    must not be read from where others can write.
    """
    name = f"{path.stem}-tensorrt-{device.replace(' ', '-')}"
    cache = _user_cache()
    own = [cache / "backdrop" / f"{name}-{_fingerprint(path)}"] if cache else []
    for folder in (path.parent / name, *own):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    try:
        return Path(tempfile.mkdtemp(prefix=f"backdrop-{name}-"))
    except OSError as error:
        raise EngineError(
            f"no folder for TensorRT's engines of {path.name} can be written: not beside it, "
            f"not in the user's cache (XDG_CACHE_HOME: {cache}), not in the temporary folder (TMPDIR)"
        ) from error


def _user_cache() -> Path | None:
    home = os.environ.get("HOME")
    named = os.environ.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    return Path(named) if named else None


def _fingerprint(path: Path) -> str:
    state = path.stat() if path.is_file() else None
    known = (path.resolve(), state and state.st_mtime_ns, state and state.st_size)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]
