"""What the routes answer when all is well, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from backdrop_server.gateway.answers import MEDIA_TYPES
from backdrop_server.gateway.openapi import Schema, headers, json_answer

Responses = dict[int | str, Any]
_TEXT: Schema = {"type": "string"}
_URL: Schema = {"type": "string", "format": "uri"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_CREDITS: Schema = {
    "type": "string",
    "pattern": "^-?[0-9]+([.][0-9]+)?$",
    "description": "Credits.",
}
_FILE: Schema = {"type": "string", "format": "binary"}
_PICTURES = {media_type: {"schema": _FILE} for media_type in MEDIA_TYPES.values()}
_MONEY = {
    "x-remaining-credits": "The key's balance.",
    "x-credits-consumed": "The bill of this request.",
}


def _closed(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


_QUOTE = _closed(
    dry_run={"const": True},
    estimate=_closed(
        seconds={"type": "number", "minimum": 0},
        credits=_CREDITS,
        reserved_credits=_CREDITS,
        unet_evaluations=_COUNT,
    ),
    seed=_COUNT,
)
_PROGRESS = _closed(
    fraction={"type": "number", "minimum": 0, "maximum": 1},
    step=_COUNT,
    total=_COUNT,
    preview={"type": ["string", "null"], "description": "A small PNG as data URI."},
)
_STATUSES: Schema = {"enum": ["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]}
_STATUS = _closed(request_id=_TEXT, status=_STATUSES, progress=_PROGRESS)
_STATUS["properties"]["error"] = _TEXT
_RESULT = _closed(
    request_id=_TEXT,
    status=_STATUSES,
    output={"type": ["array", "null"], "items": _TEXT, "description": "Links, or base64."},
)
_RESULT["properties"] |= {
    "metrics": _closed(inference_time={"type": "number"}, billed_seconds={"type": "number"}),
    "credits_consumed": _CREDITS,
    "layers": _closed(backgrounds={"type": "array", "items": _TEXT}, shadow=_TEXT, subject=_TEXT),
    "seeds": {"type": "array", "items": _COUNT},
    "report": {"type": "object", "description": "What was done, and how long each part took."},
    "error": _TEXT,
}
_SUBMITTED = _closed(
    request_id=_TEXT,
    status=_STATUSES,
    poll_url=_URL,
    status_url=_URL,
    response_url=_URL,
    events_url=_URL,
)
CREDITS = json_answer("The balance.", _closed(credits=_CREDITS))
SECRET = json_answer("The secret.", _closed(secret={"type": "string", "pattern": "^whsec_"}))


def _failed(schema: Schema) -> Schema:
    failed = schema | {"required": [*schema["required"], "error"]}
    return json_answer("The job has FAILED; `error` says why.", failed)


STATUS: Responses = {200: json_answer("Where the job is.", _STATUS), 422: _failed(_STATUS)}
RESULT: Responses = {200: json_answer("The job's result.", _RESULT), 422: _failed(_RESULT)}
EVENTS: Responses = {
    200: {
        "description": "Events named `status`, each with the body of `/status` as data; "
        "the last one says COMPLETED or FAILED.",
        "headers": headers(),
        "content": {
            "text/event-stream": {"schema": _closed(event={"const": "status"}, data=_TEXT)}
        },
    }
}
CANCELLED: Responses = {200: json_answer("The job as it is now.", _STATUS)}


def waited_for() -> Schema:
    """v1: the picture itself, or JSON."""
    one = _closed(image=_TEXT)
    several = _closed(images={"type": "array", "items": _TEXT, "minItems": 2})
    content: dict[str, Any] = {"schema": {"oneOf": [one, several, _QUOTE]}}
    return {
        "description": "The picture; JSON with base64, `image` or for several samples `images`; "
        "or, with `dry_run`, what it would cost.",
        "headers": headers(_MONEY)
        | {"x-seed": {"schema": _TEXT, "description": "All seeds, with commas."}},
        "content": {**_PICTURES, "application/json": content},
    }


def submitted() -> Schema:
    """v2: where to ask for the job."""
    description = "Submitted; or, with `dry_run`, what it would cost."
    answer = json_answer(description, {"oneOf": [_SUBMITTED, _QUOTE]})
    answer["headers"] = headers(_MONEY)
    answer["links"] = {
        operation: {
            "operationId": operation,
            "parameters": {"job_id": "$response.body#/request_id"},
        }
        for operation in ("status", "result", "events", "cancel")
    }
    return answer


def file(description: str, *media_types: str) -> Schema:
    """A file of one of these types."""
    content = {media_type: {"schema": _FILE} for media_type in media_types}
    return {"description": description, "headers": headers(), "content": content}
