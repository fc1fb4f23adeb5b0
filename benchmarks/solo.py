"""Where the time of one request by itself goes: stages, steps, and all that is not engine time.

    python -m benchmarks.solo --repository build/demo-openvino-fp32

Real requests over gRPC, one after another, a JPEG photo of the demo's native size; each has its own
prompt and reference, so that no encoder's answer is known already. Engine time is what the report
says of the loop's calls, of the edge encoder and of the matting network, and what Triton's own
statistics say of the decoder and of the encoder that takes longest: the others run beside it, or it
waits for them where they share a CPU's cores.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import tritonclient.grpc as grpcclient
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backdrop_client.triton import replace
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.load.mix import photo

WARM_UP = 3
STEPS = 25
SIDE = 256
LARGE, LARGE_REQUESTS = 1024, 5
"""A photo that is larger than the demo paints, and how often it is asked for: what Triton takes to hand
it on, for `benchmarks.paper`."""
ENCODERS_AND_DECODER = ("text_encoder", "image_encoder", "vae_encoder", "vae_decoder")
console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")] = Path(
        "build/demo-openvino-fp32"
    ),
    requests: Annotated[int, typer.Option(help="Counted requests.", min=1)] = 20,
) -> None:
    """Measure, print a table, write the result file."""
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(settings, on_line=lambda line: None) as server,
        grpcclient.InferenceServerClient(server.grpc_url) as client,
    ):
        medians = _medians(client, SIDE, requests)
        large = _medians(client, LARGE, LARGE_REQUESTS)
    result = {
        "bundle_and_engine": repository.name,
        "request": {
            "scheduler": "Euler",
            "num_inference_steps": STEPS,
            "photo": f"JPEG {SIDE}x{SIDE}",
        },
        "requests": requests,
        "milliseconds": {name: round(1000 * value, 2) for name, value in medians.items()},
        "overhead_share": round(medians["overhead"] / medians["whole"], 4),
        f"milliseconds_of_photo_{LARGE}": {
            name: round(1000 * value, 2) for name, value in large.items()
        },
    }
    path = write_result(f"solo-{repository.name}", result)
    _show(result)
    console.print(f"written: {path}")


def _medians(client: Any, side: int, requests: int) -> dict[str, float]:
    numbers = track(range(WARM_UP + requests), f"requests of {side}x{side}")
    rows = [_ask(client, side, n) for n in numbers][WARM_UP:]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _ask(client: Any, side: int, seed: int) -> dict[str, float]:
    """Seconds of one request by what they went to."""
    image, reference = photo(side, side), photo(side + seed, side, "reference.jpg")
    before = _engines(client)
    begun = time.perf_counter()
    answer = replace(
        client, grpcclient, image=image, ref_image=reference,
        prompt=f"bottle {seed} on a sandy beach by the sea", scheduler="Euler",
        num_inference_steps=STEPS, seed=seed,
    )  # fmt: skip
    whole = time.perf_counter() - begun
    took = {name: seconds - before[name] for name, seconds in _engines(client).items()}
    decoder = took.pop("vae_decoder")
    encoders = max(took.values())
    stages, report = answer.report["seconds"], answer.report
    loop, matting = float(report["engine_seconds"]), float(report["matting_seconds"])
    edges = float(report["edge_encoder_seconds"])
    engines = matting + encoders + edges + loop + decoder
    return {
        "whole": whole,
        "engine: loop": loop,
        "engine: one step": loop / STEPS,
        "engine: encoders": encoders,
        "engine: edge encoder, in torch": edges,
        "engine: decoder": decoder,
        "engine: matting network": matting,
        "preprocess, beside its engine (codecs, matte, edges, tokens)": stages["preprocess"]
        - matting,
        "encode, beside its engines": stages["encode"] - encoders,
        "denoise, beside its engine (sampler, tensors)": stages["denoise"] - loop - edges,
        "decode, beside its engine": stages["decode"] - decoder,
        "postprocess (paste-back, report, codec)": stages["postprocess"],
        "gRPC and Triton's own": whole - stages["total"],
        "overhead": whole - engines,
    }


def _engines(client: Any) -> dict[str, float]:
    """Seconds that each of Triton's own backends has run so far."""
    told = client.get_inference_statistics(as_json=True)["model_stats"]
    ran = {one["name"]: int(one["inference_stats"]["compute_infer"].get("ns", 0)) for one in told}
    return {name: ran[name] / 1e9 for name in ENCODERS_AND_DECODER}


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['bundle_and_engine']}: one request by itself")
    for title in ("what", "ms"):
        table.add_column(title)
    for name, value in result["milliseconds"].items():
        table.add_row(name, f"{value:.1f}")
    console.print(table)
    console.print(f"not engine time: {result['overhead_share']:.1%}")


if __name__ == "__main__":
    typer.run(main)
