"""The fields of a request: their kinds, and pictures in every form that a caller may have them in.

Ranges and defaults are the server's alone: it answers a wrong value with a sentence.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union

from backdrop_client.errors import invalid

if TYPE_CHECKING:
    from PIL import Image

PICTURES = ("image", "ref_image", "mask_image")
TEXTS = ("prompt", "negative_prompt", "scheduler", "output_format", "shadow")
INTEGERS = ("samples", "num_inference_steps", "seed")
NUMBERS = (
    "guidance_scale", "strength", "cn_weight", "ip_adapter_weight",
    "shadow_direction", "shadow_strength",
)  # fmt: skip
FLAGS = ("preserve_subject", "harmonize")
FIELDS = (*PICTURES, *TEXTS, *INTEGERS, *NUMBERS, *FLAGS)
FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
"""``output_format`` by a file's suffix."""

Picture = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "Image.Image"]
"""A path, an http(s) URL, a data URI, the bytes of a file, an open binary file, or a PIL image."""

_ALLOWED = "a path, an http(s) URL, bytes, an open binary file or a PIL image"
_OURS = ("base64", "dry_run")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_OTHER_ALPHAS = ("PA", "La", "RGBa")
_EVERY_FIELD = (*FIELDS, "webhook_url")


def suffix_of(output_format: str | None) -> str:
    """Of a file in this format; the server's default is JPEG."""
    wanted = (output_format or "jpeg").strip().lower()
    return next((suffix for suffix, name in FORMATS.items() if name == wanted), ".jpg")


def is_link(value: object) -> bool:
    """Whether ``value`` is an http(s) URL or a data URI: text that the server reads by itself."""
    return isinstance(value, str) and value[:8].lower().startswith(("http://", "https://", "data:"))


def picture_file(field: str, value: Picture) -> bytes:
    """The bytes of a picture file. Raises InvalidInput naming ``field``; links are not for here."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (str, os.PathLike)):
        return _read_path(field, Path(value))
    if _is_pil_image(value):
        return _encode(field, value)
    if callable(getattr(value, "read", None)):
        return _read_file(field, value)
    raise invalid(field, f"it is of the type {type(value).__name__}", _ALLOWED)


def loaded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given, each picture that is no link as bytes. Raises InvalidInput."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if name not in _EVERY_FIELD:
            problem = "the client sets it itself" if name in _OURS else "it is not known"
            raise invalid(name, problem, ", ".join(_EVERY_FIELD))
        if name in PICTURES and not is_link(value):
            given[name] = picture_file(name, value)
    return given


def json_body(fields: Mapping[str, Any], **more: object) -> bytes:
    """The body of a request; the same fields always give the same bytes. Raises InvalidInput."""
    values = {name: _as_json(name, value) for name, value in loaded(fields).items()}
    return json.dumps(values | more, sort_keys=True, separators=(",", ":")).encode()


def _as_json(name: str, value: object) -> object:
    if isinstance(value, bytes):
        if name not in PICTURES:
            raise invalid(name, "it is bytes", "text")
        return base64.b64encode(value).decode()
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise invalid(name, f"{value!r:.60} is no value", "text, a finite number, a bool") from None
    return value


def _read_path(field: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no path"
        raise invalid(field, f"{str(path)[:200]!r} cannot be read ({reason})", _ALLOWED) from None


def _read_file(field: str, file: Any) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise invalid(field, f"its file cannot be read ({error})", _ALLOWED) from None
    if not isinstance(data, bytes):
        raise invalid(field, "its file is open as text", "a file that is open in mode 'rb'")
    return data


def _is_pil_image(value: object) -> bool:
    """Without importing PIL: who has such an image has imported it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _encode(field: str, image: Any) -> bytes:
    """PNG, upright, in eight bits; nothing is lost but what no photo of eight bits has."""
    from PIL import ImageOps

    options: dict[str, Any] = {}
    data = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:  # a profile of CMYK, say, says nothing about RGB
            upright = upright.convert("RGBA" if upright.mode in _OTHER_ALPHAS else "RGB")
            options["icc_profile"] = None
        upright.save(data, "PNG", compress_level=1, **options)
    except (OSError, ValueError, SyntaxError) as error:
        raise invalid(field, f"the image cannot be encoded ({error})", _ALLOWED) from None
    return data.getvalue()
