"""What the answer to a fetch must be to count as a picture."""

from __future__ import annotations

import re

import httpcore
import httpx

from backdrop_server.gateway.urls import RefusedUrlError
from backdrop_server.picture_files import DamagedFileError, read_picture_file

ALLOWED_PICTURE = "the URL of a PNG, JPEG, GIF or WebP picture"

_OTHER_TYPE = re.compile(
    r"(?:audio|font|multipart|video)/.*"
    r"|text/(?!plain$).*"  # some servers call every file text/plain that they do not know
    r"|application/(?:.*\+)?(?:html|javascript|json|pdf|xml|zip)"
)


def check_headers(response: httpcore.Response, max_bytes: int) -> None:
    """Raise RefusedUrlError unless status and headers fit a picture of at most ``max_bytes``."""
    if response.status != 200:
        raise RefusedUrlError(f"the URL answers with status {response.status}", ALLOWED_PICTURE)
    headers = httpx.Headers(response.headers)
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusedUrlError("the answer is compressed", "an answer without Content-Encoding")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if _OTHER_TYPE.fullmatch(kind):
        raise RefusedUrlError("the answer is declared as no picture", ALLOWED_PICTURE)
    # The HTTP parser has refused what is not one number.
    if int(headers.get("content-length", "0")) > max_bytes:
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> RefusedUrlError:
    """The refusal of a file of more than ``max_bytes``."""
    return RefusedUrlError("the file at the URL is too large", f"at most {max_bytes} bytes")


def check_picture(data: bytes) -> None:
    """Raise RefusedUrlError unless ``data`` is a PNG, JPEG, GIF or WebP file by its header."""
    try:
        file = read_picture_file(data)
    except DamagedFileError as error:
        raise RefusedUrlError(f"the picture is damaged: {error}", ALLOWED_PICTURE) from error
    if file is None:
        raise RefusedUrlError("the file at the URL is not a picture", ALLOWED_PICTURE)
