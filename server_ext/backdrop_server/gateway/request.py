"""A JSON body to checked options and pictures still to be had; one sentence for a wrong one."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from backdrop_server.contract import (
    MAX_PICTURE_BYTES,
    MAX_PICTURE_SIDE,
    PICTURE_FORMATS,
    ReplaceOptions,
)
from backdrop_server.errors import InvalidInputError
from backdrop_server.picture_files import DamagedFileError, read_picture_file

PICTURES = ("image", "ref_image", "mask_image")
_OPTIONS = tuple(field.name for field in dataclasses.fields(ReplaceOptions))
FIELDS = (*PICTURES, *_OPTIONS, "base64", "dry_run", "webhook_url", "layers", "timeout")
MATTE_FIELDS = ("image", "mask_image")
MAX_URL_CHARACTERS = 2048
MIN_TIMEOUT, MAX_TIMEOUT = 1, 3600
"""Seconds."""
_ALLOWED_PICTURE = "base64, a data URI or an http(s) URL of a {} or {} file".format(
    ", ".join(PICTURE_FORMATS[:-1]), PICTURE_FORMATS[-1]
)


@dataclasses.dataclass(frozen=True)
class Body:
    """A checked body; ``pictures`` holds the text of each picture field that was given."""

    options: ReplaceOptions
    pictures: Mapping[str, str]
    base64: bool | None
    """None: not said."""
    dry_run: bool
    webhook_url: str | None
    layers: bool
    """Whether background, shadow and subject are wanted apart."""
    timeout: float | None
    """Seconds from its acceptance after which the job is cancelled."""


def read_body(data: bytes) -> Body:
    """Check the JSON body of a request for pictures. Raises InvalidInputError."""
    values = _read_object(data, FIELDS)
    options = ReplaceOptions.from_values(
        {name: value for name, value in values.items() if name in _OPTIONS}
    )
    return Body(
        options=options,
        pictures=_picture_texts(values, required=("image", "ref_image")),
        base64=_flag(values, "base64"),
        dry_run=bool(_flag(values, "dry_run")),
        webhook_url=_webhook_url(values.get("webhook_url")),
        layers=bool(_flag(values, "layers")),
        timeout=_timeout(values.get("timeout")),
    )


def read_matte_body(data: bytes) -> Mapping[str, str]:
    """The picture texts of a request for a matte alone. Raises InvalidInputError."""
    return _picture_texts(_read_object(data, MATTE_FIELDS), required=("image",))


def _read_object(data: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    """The body's fields; those that are null were not given."""
    try:
        values = from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        problem = f"it is not valid JSON ({error})"
        raise InvalidInputError("body", problem, "a JSON object in UTF-8") from None
    if not isinstance(values, dict):
        raise InvalidInputError("body", "it is no JSON object", "a JSON object in UTF-8")
    for name in values:
        if name not in known:
            shown = name if len(name) <= 60 else name[:57] + "..."
            raise InvalidInputError(ascii(shown)[1:-1], "it is not known", ", ".join(known))
    return {name: value for name, value in values.items() if value is not None}


def _picture_texts(values: Mapping[str, Any], required: tuple[str, ...]) -> dict[str, str]:
    texts = {}
    for name in PICTURES:
        value = values.get(name)
        if value is None:
            if name in required:
                raise InvalidInputError(name, "it is missing", _ALLOWED_PICTURE)
            continue
        if not isinstance(value, str):
            raise InvalidInputError(name, "it is not text", _ALLOWED_PICTURE)
        texts[name] = value
    return texts


def _flag(values: Mapping[str, Any], name: str) -> bool | None:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidInputError(name, "it is not a boolean", "true, false")
    return value


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    allowed = f"seconds from {MIN_TIMEOUT} to {MAX_TIMEOUT}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError("timeout", "it is not a number", allowed)
    if not MIN_TIMEOUT <= value <= MAX_TIMEOUT:
        raise InvalidInputError("timeout", f"{value} is out of range", allowed)
    return float(value)


def _webhook_url(value: object) -> str | None:
    if value is None:
        return None
    allowed = f"an http(s) URL of at most {MAX_URL_CHARACTERS} characters"
    if not isinstance(value, str) or not is_url(value) or len(value) > MAX_URL_CHARACTERS:
        raise InvalidInputError("webhook_url", "it is no such URL", allowed)
    return value


def is_url(text: str) -> bool:
    """Whether a picture's text says where the picture is, rather than being it."""
    return text[:8].lower().startswith(("http://", "https://"))


def decode_picture(text: str, field: str) -> bytes:
    """The file in base64 or in a data URI. Raises InvalidInputError naming ``field``."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidInputError(field, "its data URI is not base64", _ALLOWED_PICTURE)
    if len(text) > MAX_PICTURE_BYTES * 4 // 3 + 4096:
        raise InvalidInputError(field, "it is too large", f"at most {MAX_PICTURE_BYTES} bytes")
    try:
        return _decode_base64(text)
    except (binascii.Error, ValueError):
        raise InvalidInputError(field, "it is not valid base64", _ALLOWED_PICTURE) from None


def _decode_base64(text: str) -> bytes:
    """Base64 as people write it: with line breaks, without padding, or in the URL alphabet."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        plain = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def picture_size(data: bytes, field: str) -> tuple[int, int]:
    """Width and height of a picture file, upright. Raises InvalidInputError naming ``field``.

    Only the header is read; pixels that are damaged show when the picture is decoded.
    """
    if not data:
        raise InvalidInputError(field, "it is empty", _ALLOWED_PICTURE)
    if len(data) > MAX_PICTURE_BYTES:
        allowed = f"at most {MAX_PICTURE_BYTES} bytes"
        raise InvalidInputError(field, f"it has {len(data)} bytes", allowed)
    try:
        file = read_picture_file(data)
    except DamagedFileError:
        problem = "it is damaged or cut short"
        raise InvalidInputError(field, problem, "a complete picture file") from None
    if file is None or not file.width or not file.height:
        raise InvalidInputError(field, "it is not a picture of a known format", _ALLOWED_PICTURE)
    if max(file.width, file.height) > MAX_PICTURE_SIDE:
        allowed = f"at most {MAX_PICTURE_SIDE}x{MAX_PICTURE_SIDE} px"
        raise InvalidInputError(field, f"it is {file.width}x{file.height} px", allowed)
    turned = file.orientation >= 5
    return (file.height, file.width) if turned else (file.width, file.height)


def check_pictures(pictures: Mapping[str, bytes]) -> tuple[int, int]:
    """Check every picture's header, and the mask's size; the photo's width and height."""
    sizes = {name: picture_size(data, name) for name, data in pictures.items()}
    mask, photo = sizes.get("mask_image"), sizes["image"]
    if mask is not None and mask != photo:
        problem = "it is {}x{} px, the photo {}x{} px".format(*mask, *photo)
        raise InvalidInputError("mask_image", problem, "a mask of the photo's size")
    return photo
