"""How far the pictures of each engine and precision are from those of the exact one.

    python -m benchmarks.precision --bundle build/bundles/demo

Exports what is missing, starts a real tritonserver on each repository in turn, sends the same
requests to all, and compares the raw pictures with those of ONNX Runtime in FP32.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backdrop_client import examples
from backdrop_client.triton import replace
from backdrop_export.engines import ENGINE_KINDS, why_absent
from backdrop_export.reporting import Report
from backdrop_export.repository import export_repository
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import RESULTS, commit, write_result

REFERENCE = "onnxruntime-fp32"
REQUESTS: tuple[dict[str, Any], ...] = (
    {"scheduler": "Euler", "seed": 1, "prompt": "a bottle of soap on a beach at sunset"},
    {"scheduler": "DPM2 Karras", "seed": 2, "prompt": "a bottle on a marble plinth"},
    {"scheduler": "DDIM", "seed": 3, "prompt": "a wooden table in a garden", "strength": 0.7},
    {"scheduler": "UniPC", "seed": 4, "prompt": "snow", "negative_prompt": "blurry"},
    {"scheduler": "Euler a", "seed": 5, "prompt": "city at night", "guidance_scale": 5.0},
)
console = Console()
Picture = npt.NDArray[np.uint8]


def main(
    bundle: Annotated[Path, typer.Option(help="A bundle's folder.")] = Path("build/bundles/demo"),
    engine: Annotated[list[str] | None, typer.Option(help="Only these; all here if none.")] = None,
    out: Annotated[Path, typer.Option(help="Where repositories are built.")] = Path("build"),
) -> None:
    """Measure, print a table, and write the result file."""
    absent = {name: why_absent(kind) for name, kind in ENGINE_KINDS.items()}
    here = [name for name, reason in absent.items() if reason is None and name != REFERENCE]
    names = [REFERENCE, *(engine or here)]
    painted = {name: paint(export_repository(bundle, name, out, report=Report())) for name in names}
    exact = painted.pop(REFERENCE)
    measured = {name: compare(pictures, exact) for name, pictures in painted.items()}
    kept = _earlier(f"precision-{bundle.name}") if engine else {}
    result = {
        "bundle": bundle.name,
        "reference": REFERENCE,
        "requests": list(REQUESTS),
        "psnr_db": kept.get("psnr_db", {}) | measured,
        "commits": kept.get("commits", {}) | dict.fromkeys(measured, commit()),
        "absent": {name: reason for name, reason in absent.items() if reason},
    }
    path = write_result(f"precision-{bundle.name}", result)
    table = Table("engine", *(request["scheduler"] for request in REQUESTS), title="PSNR, dB")
    for name, values in measured.items():
        table.add_row(name, *(f"{value:.1f}" for value in values))
    console.print(table, f"written: {path}")


def _earlier(name: str) -> dict[str, Any]:
    """The result of an earlier run on the same requests, whose other engines are kept."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if found.get("requests") != list(REQUESTS):
        return {}
    of_all = dict.fromkeys(found["psnr_db"], found["conditions"]["commit"])
    return found | {"commits": of_all | found.get("commits", {})}


def paint(repository: Path, requests: Sequence[dict[str, Any]] = REQUESTS) -> list[Picture]:
    """The raw picture of each of ``requests`` from a real server, uint8 [H, W, 3]."""
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(settings) as server,
        grpcclient.InferenceServerClient(server.grpc_url) as client,
    ):
        return [
            _paint(client, request) for request in track(requests, repository.name, console=console)
        ]


def _paint(client: grpcclient.InferenceServerClient, request: dict[str, Any]) -> Picture:
    answer = replace(
        client,
        grpcclient,
        image=examples.path("product.jpg").read_bytes(),
        ref_image=examples.path("reference.jpg").read_bytes(),
        preserve_subject=False,
        output_format="png",
        **request,
    )
    return np.array(Image.open(io.BytesIO(answer.images[0])))


def compare(pictures: list[Picture], exact: list[Picture]) -> list[float]:
    """PSNR in dB of each picture; 99 where no pixel differs by a level."""
    return [psnr(*pair) for pair in zip(pictures, exact, strict=True)]


def psnr(picture: Picture, exact: Picture) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, at most 99 dB."""
    error = float(np.mean((picture.astype(np.float64) - exact.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else round(min(99.0, float(10 * np.log10(255**2 / error))), 1)


if __name__ == "__main__":
    typer.run(main)
