"""The first thing a new user runs: one real request over gRPC, the same one over HTTP."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from PIL import Image
from rich.console import Console
from rich.table import Table

from backdrop_client import examples
from backdrop_client.triton import Replaced, replace
from backdrop_server.errors import BackdropError
from backdrop_server.triton.launcher import TritonServer

PROMPT = "a bottle on a sandy beach by the sea"
SEED = 6
GUIDANCE_SCALE = 3.0
"""Kinder to the demo bundle's small weights than the usual 7.5."""
_STRIP_HEIGHT = 512


def run_demo(server: TritonServer, out: Path, console: Console) -> None:
    """Send the request twice, write the pictures to ``out``, print where the time went.

    Raises BackdropError when the two protocols do not return the same bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    product = examples.path("product.jpg").read_bytes()
    reference = examples.path("reference.jpg").read_bytes()
    fields: dict[str, Any] = {
        "image": product,
        "ref_image": reference,
        "prompt": PROMPT,
        "seed": SEED,
        "guidance_scale": GUIDANCE_SCALE,
        "shadow": "soft",
        "output_format": "png",
    }
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        over_grpc = _timed("gRPC", console, lambda: replace(client, grpcclient, **fields))
    with httpclient.InferenceServerClient(server.http_url, network_timeout=600.0) as client:
        over_http = _timed("HTTP", console, lambda: replace(client, httpclient, **fields))
    if over_grpc.images != over_http.images:
        raise BackdropError("gRPC and HTTP returned different pictures for one seed")
    (out / "grpc.png").write_bytes(over_grpc.images[0])
    (out / "http.png").write_bytes(over_http.images[0])
    _strip([product, reference, over_grpc.images[0]]).save(out / "comparison.png")
    _print_report(over_grpc, console)
    console.print(f"pictures: {out}/grpc.png, {out}/http.png (equal), {out}/comparison.png")


def _timed(protocol: str, console: Console, send: Callable[[], Replaced]) -> Replaced:
    begun = time.monotonic()
    with console.status(f"one request over {protocol}"):
        result = send()
    console.print(f"one request over {protocol}: {time.monotonic() - begun:.2f} s")
    return result


def _strip(pictures: list[bytes]) -> Image.Image:
    """Product, reference and result side by side."""
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    scaled = [
        image.resize((round(image.width * _STRIP_HEIGHT / image.height), _STRIP_HEIGHT))
        for image in images
    ]
    strip = Image.new("RGB", (sum(image.width for image in scaled), _STRIP_HEIGHT))
    left = 0
    for image in scaled:
        strip.paste(image, (left, 0))
        left += image.width
    return strip


def _print_report(result: Replaced, console: Console) -> None:
    report = result.report
    width, height = report["working_size"]
    title = (
        f"{report['sampler']}, {report['unet_evaluations']} UNet evaluations, {width}x{height} px"
    )
    table = Table("stage", "seconds", title=title)
    for stage, seconds in report["seconds"].items():
        table.add_row(stage, f"{seconds:.3f}")
    console.print(table)
