"""Triton's side of the Python backend, as far as `denoise` uses it: requests, responses, flags."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass
class Tensor:
    name: str
    array: npt.NDArray[Any]

    def as_numpy(self) -> npt.NDArray[Any]:
        return self.array


@dataclasses.dataclass
class InferenceResponse:
    output_tensors: list[Tensor] = dataclasses.field(default_factory=list)
    error: Any = None


@dataclasses.dataclass
class TritonError:
    message: str
    code: str = "INTERNAL"
    INVALID_ARG = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


@dataclasses.dataclass
class Request:
    """One request in the iterative sequence; it is its own response sender."""

    number: int
    inputs: dict[str, npt.NDArray[Any]]
    cancelled: bool = False
    flags: int | None = None
    answer: InferenceResponse | None = None

    def correlation_id(self) -> int:
        return self.number

    def is_cancelled(self) -> bool:
        return self.cancelled

    def set_release_flags(self, flags: int) -> None:
        self.flags = flags

    def get_response_sender(self) -> Request:
        return self

    def send(self, answer: InferenceResponse, flags: int) -> None:
        self.answer = answer

    def output(self, name: str) -> npt.NDArray[Any]:
        assert self.answer is not None
        assert self.answer.error is None, self.answer.error
        return next(tensor.array for tensor in self.answer.output_tensors if tensor.name == name)


class MetricFamily:
    COUNTER = 0
    GAUGE = 1

    def __init__(self, **kwargs: Any) -> None:
        self.value = 0.0

    def Metric(self, labels: dict[str, str]) -> MetricFamily:  # noqa: N802 - Triton's name
        return self

    def increment(self, by: float) -> None:
        self.value += by

    def set(self, value: float) -> None:
        self.value = value


class Logger:
    errors: list[str] = []  # noqa: RUF012 - Triton's is one for the process too

    @classmethod
    def log_error(cls, text: str) -> None:
        cls.errors.append(text)


def module() -> types.ModuleType:
    """What ``import triton_python_backend_utils`` gives inside Triton."""
    made = types.ModuleType("triton_python_backend_utils")
    made.__dict__.update(
        Tensor=Tensor,
        InferenceResponse=InferenceResponse,
        TritonError=TritonError,
        MetricFamily=MetricFamily,
        Logger=Logger,
        TRITONSERVER_REQUEST_RELEASE_ALL=1,
        TRITONSERVER_REQUEST_RELEASE_RESCHEDULE=2,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
        get_input_tensor_by_name=lambda request, name: (
            Tensor(name, request.inputs[name]) if name in request.inputs else None
        ),
    )
    return made


def request(number: int, inputs: dict[str, Any]) -> Request:
    """A request with the batch dimension in front of each input."""
    arrays = {}
    for name, value in inputs.items():
        if isinstance(value, bytes):
            arrays[name] = np.array([[value]], np.object_)
        else:
            arrays[name] = np.asarray(value)[None]
    return Request(number, arrays)
