"""The server's overhead at SDXL's size, on paper: its stages measured here, its engines by their FLOP.

    python -m benchmarks.paper

The stages beside the engines run at 1024 x 1024 on this machine's CPU, as the server runs them. The
engines' time is the FLOP of one request of 25 steps over the rate that `RATE` names, for there is no
such GPU here, and the matting network's on this CPU. What the loop does between its steps is taken
from the solo bench.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from backdrop_server.stages import canny, pictures, subject
from backdrop_server.stages.composite import paste_back
from backdrop_server.stages.fidelity import fidelity
from backdrop_server.stages.foreground import estimate_foreground
from backdrop_server.stages.matting import MattingNetwork
from backdrop_server.triton.matting import EngineTime
from benchmarks.conditions import RESULTS, write_result
from benchmarks.gpu.architecture import FULL
from benchmarks.gpu.load import plain_request
from benchmarks.gpu.work import flop_of
from benchmarks.load.mix import photo
from benchmarks.quality.mattes import shipped_network

SIDE = 1024
ROUNDS = 9
RATE = 283e12
"""FLOP a second: SDXL by TensorRT in fp16 on an H100, one picture at a time (Stability AI's card:
30 steps in 1471 ms)."""
MATTING = "matting network, on this CPU"
_BESIDE = ThreadPoolExecutor(2)
LOOP = "denoise, beside its engine (sampler, tensors)"


def main() -> None:
    """Measure, print, write the result file."""
    stages = measure()
    solo = json.loads((RESULTS / "solo-demo-openvino-fp32.json").read_text())
    stages["between the steps, as in the solo bench"] = solo["milliseconds"][LOOP]
    matting = stages.pop(MATTING)
    result = figures(stages, 1000 * flop_of(FULL, [plain_request(FULL, "Euler")]) / RATE, matting)
    console = Console()
    for name, value in result["milliseconds"].items():
        console.print(f"{name}: {value:.1f} ms")
    console.print(f"not engine time: {result['overhead_share']:.1%}")
    console.print(f"written: {write_result('paper-sdxl', result)}")


def figures(stages: dict[str, float], engines: float, matting: float) -> dict[str, Any]:
    """The result of stages, SDXL's engines and the matting network, all in milliseconds."""
    overhead = sum(stages.values())
    parts = {"engines, by their FLOP": engines, MATTING: matting, **stages, "overhead": overhead}
    return {
        "size": f"{SIDE}x{SIDE}",
        "flop_per_second": RATE,
        "milliseconds": {name: round(value, 1) for name, value in parts.items()},
        "overhead_share": round(overhead / (overhead + engines + matting), 4),
    }


def measure() -> dict[str, float]:
    """Medians in milliseconds of each stage of one request, its pictures JPEG of SIDE x SIDE."""
    engine_time = EngineTime()
    network = shipped_network()
    if network is not None:
        network = dataclasses.replace(network, run=engine_time.of(network.run))
    rounds = [_request(network, engine_time) for _ in track(range(1 + ROUNDS), "rounds")][1:]
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def _request(network: MattingNetwork | None, engine_time: EngineTime) -> dict[str, float]:
    took: dict[str, float] = {}
    before = engine_time.seconds

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        made = work()
        took[name] = took.get(name, 0) + 1000 * (time.perf_counter() - begun)
        return made

    image, reference = photo(SIDE, SIDE), photo(SIDE, SIDE, "reference.jpg")
    picture = timed("decoding", lambda: pictures.decode(image, "image"))
    seen = timed("decoding", lambda: pictures.decode(reference, "ref_image"))
    # As `preprocess` does it: what needs no matte is made ready beside it.
    pixels = _BESIDE.submit(pictures.clip_pixels, seen.rgb, FULL.clip_side)
    alpha = timed("matte", lambda: subject.find_matte(picture, None, network, _BESIDE).alpha)
    timed("the reference's pixels, after the matte", pixels.result)
    took[MATTING] = 1000 * (engine_time.seconds - before)
    took["matte"] -= took[MATTING]
    mask = timed("mask and edges", lambda: subject.working_mask(alpha, SIDE, SIDE))
    timed("mask and edges", lambda: canny.edge_map(picture.rgb, mask))
    behind = np.ascontiguousarray(seen.rgb)
    front = timed("foreground's colours", lambda: estimate_foreground(picture.rgb, alpha))
    result = timed("paste-back", lambda: paste_back(front, alpha, behind))
    timed("fidelity of the report", lambda: fidelity(picture.rgb, alpha, result))
    timed("encoding", lambda: pictures.encode(result, "jpeg"))
    return took


if __name__ == "__main__":
    main()
