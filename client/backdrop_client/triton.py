"""Requests to Triton as tensors, over gRPC or HTTP, with the field names of the REST API."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

OUTPUTS = ("images", "seeds", "report")
MODEL = "replace_background"
CONTROL = "control"

_ENSEMBLE = re.compile(r"^in ensemble '\w+', ")

_TYPES: Mapping[str, tuple[str, Any]] = {
    "image": ("BYTES", np.object_),
    "ref_image": ("BYTES", np.object_),
    "mask_image": ("BYTES", np.object_),
    "prompt": ("BYTES", np.object_),
    "negative_prompt": ("BYTES", np.object_),
    "scheduler": ("BYTES", np.object_),
    "output_format": ("BYTES", np.object_),
    "samples": ("INT32", np.int32),
    "num_inference_steps": ("INT32", np.int32),
    "seed": ("INT64", np.int64),
    "guidance_scale": ("FP32", np.float32),
    "strength": ("FP32", np.float32),
    "cn_weight": ("FP32", np.float32),
    "ip_adapter_weight": ("FP32", np.float32),
    "preserve_subject": ("BOOL", np.bool_),
    "shadow": ("BYTES", np.object_),
    "shadow_direction": ("FP32", np.float32),
    "shadow_strength": ("FP32", np.float32),
    "harmonize": ("BOOL", np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Replaced:
    """The answer to one request: encoded pictures, their seeds, and the server's report."""

    images: tuple[bytes, ...]
    seeds: tuple[int, ...]
    report: Mapping[str, Any]
    matte: bytes = b""
    edge_map: bytes = b""
    layers: tuple[bytes, ...] = ()
    """PNG files, RGBA: the background of each sample, then the shadow, then the subject."""


def infer_inputs(module: Any, fields: Mapping[str, object]) -> list[Any]:
    """``InferInput`` of each field, all of shape [1, 1].

    ``module`` is ``tritonclient.grpc`` or ``tritonclient.http``; ``fields`` maps names of the API to
    bytes, str, int, float or bool. Raises TypeError for a name that the server does not have.
    """
    inputs = []
    for name, value in fields.items():
        if name not in _TYPES:
            raise TypeError(f"{name} is not a field of the request; fields: {', '.join(_TYPES)}")
        datatype, dtype = _TYPES[name]
        encoded = value.encode() if isinstance(value, str) else value
        item = module.InferInput(name, [1, 1], datatype)
        item.set_data_from_numpy(np.array([[encoded]], dtype))
        inputs.append(item)
    return inputs


def read_result(result: Any) -> Replaced:
    """The answer from an ``InferResult`` of either protocol."""

    def first(name: str) -> bytes:
        array = result.as_numpy(name)
        return b"" if array is None else bytes(array.reshape(-1)[0])

    layers = result.as_numpy("layers")
    return Replaced(
        images=tuple(bytes(image) for image in result.as_numpy("images").reshape(-1)),
        seeds=tuple(int(seed) for seed in result.as_numpy("seeds").reshape(-1)),
        report=json.loads(first("report")),
        matte=first("matte"),
        edge_map=first("edge_map"),
        layers=() if layers is None else tuple(bytes(layer) for layer in layers.reshape(-1)),
    )


def replace(
    client: Any,
    module: Any,
    *,
    request_id: str = "",
    outputs: tuple[str, ...] = OUTPUTS,
    **fields: object,
) -> Replaced:
    """Send one request with ``client`` (an ``InferenceServerClient`` of ``module``) and wait.

    Raises tritonclient's ``InferenceServerException`` with the server's sentence.
    """
    result = client.infer(
        MODEL,
        infer_inputs(module, fields),
        request_id=request_id,
        outputs=[module.InferRequestedOutput(name) for name in outputs],
    )
    return read_result(result)


def control_inputs(module: Any, action: str, target: str) -> list[Any]:
    """Inputs of the model `control`: ``action`` (status, cancel) on the request of id ``target``."""
    inputs = []
    for name, value in (("action", action), ("target", target)):
        item = module.InferInput(name, [1, 1], "BYTES")
        item.set_data_from_numpy(np.array([[value.encode()]], np.object_))
        inputs.append(item)
    return inputs


def read_control(result: Any) -> dict[str, Any]:
    """What `control` says of a request, with ``preview``: a PNG file, or no bytes."""
    status: dict[str, Any] = json.loads(result.as_numpy("status")[0, 0])
    return {**status, "preview": bytes(result.as_numpy("preview")[0, 0])}


def sentence_of(error: Any) -> str:
    """The sentence of an ``InferenceServerException``, without Triton's words for where it was."""
    return _ENSEMBLE.sub("", error.message() or "")
