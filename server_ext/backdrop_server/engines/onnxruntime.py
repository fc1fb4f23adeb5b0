"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backdrop_server.engines.engine import Arrays, Precision, check_inputs
from backdrop_server.errors import EngineError

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
}


class OnnxRuntimeEngine:
    """An ONNX file in an ``onnxruntime.InferenceSession``; FP32 only."""

    device = "cpu"

    def __init__(self, path: Path, precision: Precision, threads: int = 0) -> None:
        if precision is not Precision.FP32:
            raise EngineError(f"onnxruntime on the CPU runs fp32, not {precision.value}")
        if not path.is_file():
            raise EngineError(f"engine file {path.name} is missing in {path.parent}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Arenas keep the largest batch's memory for each shape seen; sizes vary too much for that.
        options.enable_mem_pattern = False
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exception types are private
            raise EngineError(f"{path.name} is not a graph that onnxruntime can load") from error
        inputs = self._session.get_inputs()
        self._expected = {i.name: (_DTYPES[i.type], len(i.shape)) for i in inputs}
        self.input_names = tuple(self._expected)
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See ``Engine.run``."""
        check_inputs(inputs, self._expected)
        try:
            outputs = self._session.run(
                None, {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            )
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {_first_line(error)}") from error
        return dict(zip(self.output_names, outputs, strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
