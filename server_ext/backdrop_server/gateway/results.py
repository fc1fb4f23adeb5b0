"""The files of a job's result, and what the database keeps of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from backdrop_client.triton import OUTPUTS, Replaced
from backdrop_server.gateway.jobs import JobRequest


def outputs_of(request: JobRequest) -> tuple[str, ...]:
    """What Triton is asked for."""
    return (*OUTPUTS, "layers") if request.layers else OUTPUTS


@dataclasses.dataclass(frozen=True)
class Result:
    """``files`` by name, as the store has them; ``content`` as the database has it."""

    files: Mapping[str, bytes]
    content: Mapping[str, Any]


def result_of(job_id: str, request: JobRequest, answer: Replaced) -> Result:
    """The result of an answer: a file for each picture, and for each layer that was asked for."""
    pictures = {
        f"{k}.{request.options.output_format}": image for k, image in enumerate(answer.images)
    }
    layers = dict(zip(_layer_names(len(answer.images)), answer.layers, strict=bool(answer.layers)))
    report = {**answer.report, "request_id": job_id}
    content = {"seeds": answer.seeds, "names": list(pictures), "report": report}
    if layers:
        content["layers"] = list(layers)
    return Result({**pictures, **layers}, content)


def _layer_names(samples: int) -> list[str]:
    return [*(f"background-{k}.png" for k in range(samples)), "shadow.png", "subject.png"]
