"""The OpenAPI document's parts that FastAPI cannot see, since bodies are read by ourselves.

Fields, defaults and ranges come from the contract. The examples are small, whole pictures, so that
a reader can send them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw

from backdrop_server.contract import (
    MAX_PICTURE_SIDE,
    MAX_PROMPT_CHARACTERS,
    NUMBERS,
    OUTPUT_FORMATS,
    SCHEDULERS,
    SHADOWS,
    ReplaceOptions,
)
from backdrop_server.gateway.request import MAX_TIMEOUT, MAX_URL_CHARACTERS, MIN_TIMEOUT

Schema = dict[str, Any]

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "string",
            "description": "One sentence: the field, what is wrong, what is allowed.",
            "example": "samples: 5 is out of range; allowed: a whole number from 1 to 4",
        }
    },
}
_MEANINGS = {
    400: "The body is refused; the sentence names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such request, or it is another key's, or its results are gone.",
    406: "Not enough credits.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Over the key's rate.",
    500: "The server failed; the header x-request-id says at what.",
    503: "At capacity, or no Triton is up.",
}
_HELP = {
    "samples": "Pictures to make at once; sample k has the seed seed + k.",
    "num_inference_steps": "Steps of the sampler. More take longer; 25 are enough for most.",
    "guidance_scale": "How strongly the prompt is followed. Recommended: 5 to 9.",
    "seed": "-1 is random. The same seed with the same settings gives the same picture.",
    "strength": "How much of the background is repainted. Recommended: 1, all of it.",
    "cn_weight": "ControlNet: how strongly the product's edges hold. Recommended: high, 0.9 or more.",
    "ip_adapter_weight": "IP-Adapter: how strongly the reference picture speaks. Recommended: 0.5; "
    "above, its colours creep into the product.",
    "shadow_direction": "Where the shadow falls, degrees clockwise from the right.",
    "shadow_strength": "How much light the shadow takes.",
}


def errors(*statuses: int) -> dict[int | str, Any]:
    """The ``responses`` of a route that can answer with these errors."""
    found: dict[int | str, Any] = {}
    for status in statuses:
        answer: Schema = {
            "description": _MEANINGS[status],
            "headers": headers(),
            "content": {"application/json": {"schema": ERROR}},
        }
        if status in {429, 503}:
            seconds: Schema = {"type": "integer", "minimum": 1}
            answer["headers"] |= {
                "Retry-After": {"schema": seconds, "required": True, "description": "Seconds."}
            }
        found[status] = answer
    return found


def json_answer(description: str, schema: Schema) -> Schema:
    """A response of JSON."""
    content = {"application/json": {"schema": schema}}
    return {"description": description, "headers": headers(), "content": content}


def headers(named: Mapping[str, str] = {}) -> Schema:
    """Headers that an answer always has, by name with what each says; every answer has its id."""
    named = {"x-request-id": "What the log knows this request by.", **named}
    return {
        name: {"schema": {"type": "string"}, "required": True, "description": text}
        for name, text in named.items()
    }


def body(schema: Schema, example: Mapping[str, Any]) -> Schema:
    """``openapi_extra`` of a route that reads its JSON body by itself."""
    content = {"application/json": {"schema": schema, "example": dict(example)}}
    return {"requestBody": {"required": True, "content": content}}


def replace_schema(*, webhook: bool = True) -> Schema:
    """The body of ``bg-replace``; v1 has no ``webhook`` and no layers."""
    fields = _replace_fields()
    if not webhook:
        del fields["webhook_url"], fields["layers"]
    return _object(fields, required=("image", "ref_image", "prompt"))


def _replace_fields() -> Schema:
    return {
        "image": _picture("The product."),
        "ref_image": _picture("The wanted surroundings."),
        "mask_image": _optional(_picture("White: repaint, black: keep; the photo's size.")),
        "prompt": _text("What the surroundings are."),
        "negative_prompt": _optional(_text("What they are not.")),
        **{name: _number(name) for name in NUMBERS},
        "scheduler": _optional(
            {
                "type": "string",
                "enum": list(SCHEDULERS),
                "default": ReplaceOptions("").scheduler,
                "description": "Heun and the two DPM2 evaluate the network twice a step.",
            }
        ),
        "preserve_subject": _flag(True, "False: the model's raw output at its working size."),
        "output_format": _optional(
            {
                "type": "string",
                "enum": list(OUTPUT_FORMATS),
                "default": "jpeg",
                "description": "Of the picture's file.",
            }
        ),
        "shadow": _optional(
            {
                "type": "string",
                "enum": list(SHADOWS),
                "default": "off",
                "description": "A shadow of the product on the new ground.",
            }
        ),
        "harmonize": _flag(False, "Let the surroundings' light fall on the product's edge."),
        "base64": _flag(None, "JSON with base64 in place of bytes (v1) or links (v2)."),
        "layers": _flag(False, "v2: background, shadow and product apart, as RGBA PNG files."),
        "dry_run": _flag(False, "Only check the request and say what it would cost."),
        "timeout": _optional(
            {
                "type": "number",
                "minimum": MIN_TIMEOUT,
                "maximum": MAX_TIMEOUT,
                "description": "Seconds from its acceptance after which it is cancelled.",
            }
        ),
        "webhook_url": _optional(
            {
                "type": "string",
                "format": "uri",
                "maxLength": MAX_URL_CHARACTERS,
                "description": "v2: where to send the result; signed.",
            }
        ),
    }


def matte_schema() -> Schema:
    """The body of ``bg-replace/matte``."""
    return _object(
        {
            "image": _picture("The product."),
            "mask_image": _optional(_picture("White: repaint, black: keep; the photo's size.")),
        },
        required=("image",),
    )


def replace_example() -> Schema:
    """A request that is in order."""
    return {
        "image": example_picture("white", "teal"),
        "ref_image": example_picture("wheat", "sienna"),
        "prompt": "a teal box on a wooden table at sunset",
        "num_inference_steps": 20,
        "scheduler": "Euler",
        "seed": 7,
    }


def matte_example() -> Schema:
    """A request for a matte that is in order."""
    return {"image": example_picture("white", "teal")}


def example_picture(ground: str, thing: str) -> str:
    """A box on a plain ground, 64 x 64 px, as base64 of a PNG file."""
    picture = Image.new("RGB", (64, 64), ground)
    ImageDraw.Draw(picture).rectangle((18, 14, 45, 49), fill=thing)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _object(properties: Schema, required: tuple[str, ...]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def _picture(what: str) -> Schema:
    limits = f"up to {MAX_PICTURE_SIDE}x{MAX_PICTURE_SIDE} px"
    form = "as base64, data URI or http(s) URL"
    return {
        "type": "string",
        "format": "picture",
        "minLength": 1,
        "description": f"{what} A PNG, JPEG, GIF or WebP file {form}, {limits}.",
    }


def _text(what: str) -> Schema:
    return {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS, "description": what}


def _number(name: str) -> Schema:
    number = NUMBERS[name]
    kind = "integer" if number.integer else "number"
    limits = {"minimum": number.low, "maximum": number.high, "default": number.default}
    return _optional({"type": kind, **limits, "description": _HELP[name]})


def _flag(default: bool | None, what: str) -> Schema:
    schema: Schema = {"type": "boolean", "description": what}
    return _optional(schema if default is None else schema | {"default": default})


def _optional(schema: Schema) -> Schema:
    """Null stands for absent."""
    if "format" in schema:  # which null does not have
        return {"anyOf": [schema, {"type": "null"}]}
    nullable = schema | {"type": [schema["type"], "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable
