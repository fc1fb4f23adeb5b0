"""Triton's requests and responses to arrays and errors, and back."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from backdrop_server.contract import Tensor
from backdrop_server.errors import (
    BackdropError,
    CancelledError,
    InvalidInputError,
    UnavailableError,
)

Array = npt.NDArray[Any]
log = logging.getLogger("backdrop")


def read(request: Any, tensor: Tensor) -> Array | None:
    """The named input without its batch dimension; None when an optional one is absent."""
    found = pb_utils.get_input_tensor_by_name(request, tensor.name)
    if found is None:
        if tensor.optional:
            return None
        raise InvalidInputError(tensor.name, "it is missing", f"{tensor.dtype} {tensor.dims}")
    array: Array = found.as_numpy()
    if array.ndim != len(tensor.dims) + 1 or array.shape[0] != 1:
        shape = [1, *tensor.dims]
        raise InvalidInputError(tensor.name, f"its shape is {list(array.shape)}", f"{shape}")
    first: Array = array[0]
    return first


def read_required(request: Any, tensor: Tensor) -> Array:
    """The named input, which is not optional, without its batch dimension."""
    array = read(request, tensor)
    if array is None:
        raise TypeError(f"{tensor.name} is not optional here")
    return array


def read_scalar(request: Any, tensor: Tensor) -> Any:
    """The value of an input of dims [1]: bytes, int, float or bool; None when absent.

    An FP32 becomes the decimal that it stands for (0.7, not 0.699999988), since
    ``int(steps * strength)`` would floor one step too low.
    """
    array = read(request, tensor)
    if array is None:
        return None
    value = array.reshape(-1)[0]
    if tensor.dtype == "FP32":
        return float(str(value))
    return bytes(value) if tensor.dtype == "BYTES" else value.item()


def read_text(request: Any, tensor: Tensor) -> str | None:
    """The value of a BYTES input of dims [1] as text; InvalidInputError when not UTF-8."""
    value = read_scalar(request, tensor)
    if value is None:
        return None
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(tensor.name, "it is not valid UTF-8", "text in UTF-8") from error


def response(outputs: Mapping[Tensor, Any]) -> Any:
    """An InferenceResponse; each value gets the batch dimension in front."""
    return pb_utils.InferenceResponse([_output(tensor, value) for tensor, value in outputs.items()])


def _output(tensor: Tensor, value: Any) -> Any:
    if tensor.dtype == "BYTES":
        values = [value] if isinstance(value, bytes) else list(value)
        array = np.empty((1, len(values)), np.object_)
        array[0, :] = values
        return pb_utils.Tensor(tensor.name, array)
    return pb_utils.Tensor(tensor.name, np.ascontiguousarray(value)[None])


def error_response(error: Exception) -> Any:
    """The caller's errors as they are; ours as one plain sentence, with the trace in the log."""
    return pb_utils.InferenceResponse(error=_triton_error(error))


def _triton_error(error: Exception) -> Any:
    codes = pb_utils.TritonError
    if isinstance(error, InvalidInputError):
        return codes(str(error), codes.INVALID_ARG)
    if isinstance(error, UnavailableError):
        return codes(str(error), codes.UNAVAILABLE)
    if isinstance(error, CancelledError):
        return codes(str(error), codes.CANCELLED)
    if isinstance(error, BackdropError):
        return codes(str(error), codes.INTERNAL)
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return codes("the server failed at this request; its log says why", codes.INTERNAL)


def answer_each(requests: Iterable[Any], answer: Callable[[Any], Any]) -> list[Any]:
    """One response a request; what ``answer`` raises for one request is that one's error alone."""
    responses = []
    for request in requests:
        try:
            responses.append(answer(request))
        except Exception as error:
            responses.append(error_response(error))
    return responses


def parameter(model_config: Mapping[str, Any], name: str) -> str:
    """A parameter of ``config.pbtxt``; raises KeyError naming it when it is absent."""
    return str(model_config["parameters"][name]["string_value"])
