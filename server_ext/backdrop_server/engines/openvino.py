"""OpenVINO on the CPU, in fp32 or bf16 (in hardware with AMX or AVX-512 BF16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from backdrop_server.engines.engine import Arrays, Precision, check_inputs
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits

_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16"}


class OpenVinoEngine:
    """An OpenVINO IR (``.xml`` with its ``.bin``) compiled for the CPU with dynamic shapes."""

    device = "cpu"

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        if precision not in _HINTS:
            known = ", ".join(known.value for known in _HINTS)
            raise EngineError(f"openvino on the CPU runs {known}, not {precision.value}")
        self.limits = limits
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise EngineError(f"engine file {file.name} is missing in {file.parent}")
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = ov.Core().compile_model(str(path), "CPU", config)
        except Exception as error:
            raise EngineError(f"{path.name} is not a graph that openvino can load") from error
        self._expected = {
            port.get_any_name(): (
                np.dtype(port.get_element_type().to_dtype()),
                port.get_partial_shape().rank.get_length(),
            )
            for port in compiled.inputs
        }
        self.input_names = tuple(self._expected)
        self.output_names = tuple(port.get_any_name() for port in compiled.outputs)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See ``Engine.run``."""
        check_inputs(inputs, self._expected)
        tensors = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            result = self._request.infer(tensors, share_inputs=True, share_outputs=False)
        except Exception as error:
            raise EngineError(
                f"openvino failed at these input shapes: {_shapes(inputs)}"
            ) from error
        return {name: np.array(result[name]) for name in self.output_names}


def _shapes(inputs: Arrays) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
