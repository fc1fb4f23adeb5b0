"""The web playground at ``/``: its files, the example pictures, and what its form is made of."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from backdrop_client import examples
from backdrop_server.contract import MAX_PICTURE_BYTES, MAX_PICTURE_SIDE, PICTURE_FORMATS
from backdrop_server.gateway import openapi
from backdrop_server.gateway.entrance import gateway_of
from backdrop_server.gateway.errors import NotFoundError

_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
# The order of the form; fields that are no setting (pictures, prompts) are in the page itself.
_LABELS = {
    "samples": "How many pictures",
    "seed": "Seed",
    "output_format": "File format",
    "ip_adapter_weight": "Reference strength",
    "cn_weight": "Edge hold",
    "guidance_scale": "Prompt strength",
    "strength": "Repaint strength",
    "num_inference_steps": "Steps",
    "scheduler": "Sampler",
    "preserve_subject": "Keep the product's own pixels",
    "shadow": "Shadow",
    "shadow_direction": "Shadow direction",
    "shadow_strength": "Shadow strength",
    "harmonize": "Blend light into the edge",
}
_EXAMPLES = {
    "image": {"product.jpg": "a bottle on grey", "product-cutout.png": "a bottle, cut out"},
    "ref_image": {"reference.jpg": "a wooden deck at sunset"},
}
router = APIRouter(include_in_schema=False)


def _servable(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if path.suffix in _MEDIA_TYPES}


_FILES = _servable(Path(str(files("backdrop_server.playground"))))
_PICTURES = _servable(examples.path("product.jpg").parent)


@router.get("/")
async def root() -> Response:
    """The page."""
    return _file(_FILES, "index.html")


@router.get("/playground/form.json")
async def form(request: Request) -> JSONResponse:
    """Fields with ranges, defaults and help, limits, and examples: the page has none of its own."""
    fields = openapi.replace_schema(webhook=False)["properties"]
    limits = {
        "picture_bytes": MAX_PICTURE_BYTES,
        "picture_side": MAX_PICTURE_SIDE,
        "picture_formats": PICTURE_FORMATS,
        "body_bytes": gateway_of(request).settings.max_body_bytes,
    }
    content: dict[str, Any] = {
        "settings": [{"name": n, "label": label, **fields[n]} for n, label in _LABELS.items()],
        "prompts": {name: fields[name] for name in ("prompt", "negative_prompt")},
        "limits": limits,
        "examples": _EXAMPLES,
    }
    return JSONResponse(content, headers=_HEADERS)


@router.get("/playground/examples/{name}")
async def example(name: str) -> Response:
    """An example picture."""
    return _file(_PICTURES, name)


@router.get("/playground/{name}")
async def file(name: str) -> Response:
    """A file of the page. Raises NotFoundError."""
    return _file(_FILES, name)


def _file(known: dict[str, Path], name: str) -> Response:
    path = known.get(name)
    if path is None:
        raise NotFoundError("there is no such file")
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)
