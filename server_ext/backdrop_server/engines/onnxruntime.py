"""ONNX Runtime on the CPU; the base of its kinds on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backdrop_server.engines.engine import Arrays, Precision, check_inputs, first_line
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
}
Provider = tuple[str, Mapping[str, str]]
CPU: Provider = ("CPUExecutionProvider", {})


class OnnxRuntimeEngine:
    """An ONNX file in an ``onnxruntime.InferenceSession``.

    The graph carries its own precision. What the CPU has no kernel for in FP16, it casts.
    """

    device = "cpu"
    precisions: ClassVar[frozenset[Precision]] = frozenset(
        {Precision.FP32, Precision.FP16, Precision.INT8}
    )

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        if precision not in self.precisions:
            known = ", ".join(known.value for known in Precision if known in self.precisions)
            raise EngineError(f"onnxruntime runs {known} here, not {precision.value}")
        if not path.is_file():
            raise EngineError(f"engine file {path.name} is missing in {path.parent}")
        self.limits = limits
        self._session = _open(path, self.providers(path), threads)
        inputs = self._session.get_inputs()
        self._expected = {i.name: (_DTYPES[i.type], len(i.shape)) for i in inputs}
        self.input_names = tuple(self._expected)
        self.output_names = tuple(o.name for o in self._session.get_outputs())
        self._output_dtypes = {o.name: _DTYPES[o.type] for o in self._session.get_outputs()}

    def providers(self, path: Path) -> Sequence[Provider]:
        """Execution providers with their options, the preferred one first."""
        return (CPU,)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See ``Engine.run``."""
        check_inputs(inputs, self._expected)
        try:
            outputs = self._session.run(
                None, {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            )
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {first_line(error)}") from error
        return dict(zip(self.output_names, outputs, strict=True))


def _open(path: Path, providers: Sequence[Provider], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Each model is a process, and all share the cores: threads may spin in a run, not after it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Arenas keep the largest batch's memory for each shape seen; sizes vary too much for that.
    options.enable_mem_pattern = False
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[(name, dict(values)) for name, values in providers]
        )
    except Exception as error:  # onnxruntime's exception types are private
        raise EngineError(f"{path.name} is not a graph that onnxruntime can load") from error
    if session.get_providers()[0] != providers[0][0]:  # it falls back in silence
        raise EngineError(f"onnxruntime cannot use {providers[0][0]} on this machine")
    return session
