"""The server's overhead at SDXL's size, on paper: its stages measured here, its engines by their FLOP.

    python -m benchmarks.paper

The stages beside the engines run at 1024 x 1024 on this machine's CPU, as the server runs them, and
what they hand to another thread or to the time of the loop is told apart. The engines' time is the
FLOP of one request of 25 steps over the rate that `RATE` names, for there is no such GPU here, and the
matting network's on this CPU. A device has its next step queued while the host takes the sampler's
last one, so of the loop its beginning counts and one step (which has run on no device yet: the share
without that is told, too). What Triton takes is from the solo bench, with a photo of this size. Left
out: a photo of another size than the working picture's is resized, beside the matte.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from backdrop_server.contract import PREPROCESS_INSTANCES, PREPROCESS_THREADS, ReplaceOptions
from backdrop_server.stages import canny, denoise, pictures, subject
from backdrop_server.stages.composite import paste_back
from backdrop_server.stages.fidelity import fidelity, product_of
from backdrop_server.stages.foreground import edge_colours, with_colours
from backdrop_server.stages.matting import MattingNetwork
from backdrop_server.triton.install import find_tritonserver
from backdrop_server.triton.matting import EngineTime
from benchmarks.conditions import RESULTS, write_result
from benchmarks.gpu.architecture import FULL, IMAGE_TOKENS
from benchmarks.gpu.load import make_inputs, plain_request
from benchmarks.gpu.samplers import Samplers
from benchmarks.gpu.work import flop_of
from benchmarks.load.mix import photo
from benchmarks.quality.mattes import shipped_network

SIDE = 1024
ROUNDS = 9
RATE = 283e12
"""FLOP a second: SDXL by TensorRT in fp16 on an H100, one picture at a time (Stability AI's card:
30 steps in 1471 ms)."""
MATTING = "matting network, on this CPU"
BESIDE = ("finished matte", "foreground's colours")
"""Stages that run while the engines do: `cutout`."""
OF_TRITON = (
    "encode, beside its engines",
    "decode, beside its engine",
    "gRPC and Triton's own",
)
UNHIDDEN = "denoise, beside its engine (sampler, tensors)"
"""What the loop does beside its engine where nothing of it is hidden, on a CPU."""
_CORES = len(os.sched_getaffinity(0))
THREADS = max(1, _CORES // PREPROCESS_INSTANCES)
"""Of one instance of `preprocess`, for OpenCV."""
_BESIDE = ThreadPoolExecutor(min(PREPROCESS_THREADS, _CORES))


def main() -> None:
    """Measure, print, write the result file."""
    # As the server has them: how its processes take memory is settled when one starts.
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        command = [sys.executable, "-m", "benchmarks.paper"]
        os.execve(sys.executable, command, find_tritonserver().environment())  # noqa: S606
    torch.set_num_threads(1)
    cv2.setNumThreads(THREADS)
    stages = measure()
    solo = json.loads((RESULTS / "solo-demo-openvino-fp32.json").read_text())
    handed = solo[f"milliseconds_of_photo_{SIDE}"]
    stages["Triton and what it hands on, as in the solo bench"] = sum(handed[i] for i in OF_TRITON)
    matting = stages.pop(MATTING)
    beside = {name: stages.pop(name) for name in BESIDE}
    loop, usual = solo["milliseconds"][UNHIDDEN], ReplaceOptions("").scheduler
    result = figures(stages, _engines("Euler"), matting, beside, loop)
    default = figures(stages, _engines(usual), matting, beside, loop)["overhead_share"]
    result["api_default"] = {"sampler": usual, "overhead_share": default}
    console = Console()
    for name, value in result["milliseconds"].items():
        console.print(f"{name}: {value:.1f} ms")
    console.print(f"not engine time: {result['overhead_share']:.1%}")
    console.print(f"with {usual}, the API's default: {default:.1%}")
    console.print(f"if a device hid nothing of the loop: {result['overhead_share_unhidden']:.1%}")
    console.print(f"written: {write_result('paper-sdxl', result)}")


def _engines(sampler: str) -> float:
    """Milliseconds of one request's engines by their FLOP."""
    return 1000 * flop_of(FULL, [plain_request(FULL, sampler)]) / RATE


def figures(
    stages: dict[str, float],
    engines: float,
    matting: float,
    beside: dict[str, float],
    loop: float,
) -> dict[str, Any]:
    """The result of stages, SDXL's engines and the matting network, all in milliseconds.

    ``beside``: stages that only count as far as they take longer than the engines. ``loop``: what the
    loop's steps would add if a device did not have the next one queued meanwhile.
    """
    waited = max(0.0, sum(beside.values()) - engines)
    overhead = sum(stages.values()) + waited
    parts = {"engines, by their FLOP": engines, MATTING: matting, **stages, "overhead": overhead}
    parts |= {f"beside the engines: {name}": took for name, took in beside.items()}
    return {
        "size": f"{SIDE}x{SIDE}",
        "flop_per_second": RATE,
        "milliseconds": {name: round(value, 1) for name, value in parts.items()},
        "overhead_share": _share(overhead, engines + matting),
        "overhead_share_unhidden": _share(overhead + loop, engines + matting),
    }


def _share(overhead: float, engines: float) -> float:
    return round(overhead / (overhead + engines), 4)


def measure() -> dict[str, float]:
    """Medians in milliseconds of each stage of one request, its pictures JPEG of SIDE x SIDE."""
    engine_time = EngineTime()
    network = shipped_network()
    if network is not None:
        network = dataclasses.replace(network, run=engine_time.of(network.run))
    rounds = [_request(network, engine_time) for _ in track(range(1 + ROUNDS), "rounds")][1:]
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


class _Clock:
    """Milliseconds by what they went to."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        made = work()
        self.took[name] = self.took.get(name, 0) + 1000 * (time.perf_counter() - begun)
        return made


def _request(network: MattingNetwork | None, engine_time: EngineTime) -> dict[str, float]:
    timed = _Clock()
    before = engine_time.seconds
    image, reference = photo(SIDE, SIDE), photo(SIDE, SIDE, "reference.jpg")
    # As `preprocess` does it: what needs no matte is made ready beside it.
    seen = _BESIDE.submit(_reference, reference)
    picture = timed("decoding", lambda: pictures.decode(image, "image"))
    edges = _BESIDE.submit(canny.edges_of, picture.rgb)
    rough = timed("rough matte", lambda: subject.rough_matte(picture, None, network, _BESIDE))
    timed.took[MATTING] = 1000 * (engine_time.seconds - before)
    timed.took["rough matte"] -= timed.took[MATTING]
    behind = timed("what was made ready meanwhile", seen.result)
    timed("what was made ready meanwhile", edges.result)
    mask = timed("mask and edges", lambda: subject.working_mask(rough.alpha, SIDE, SIDE))
    timed("mask and edges", lambda: canny.at_matte(edges.result(), mask))
    _loop(timed)
    alpha = timed(BESIDE[0], lambda: subject.refined(picture.rgb, rough).alpha)
    colours = timed(BESIDE[1], lambda: edge_colours(picture.rgb, alpha))
    product = _BESIDE.submit(product_of, picture.rgb, alpha)
    front = timed("paste-back", lambda: with_colours(picture.rgb, alpha, colours))
    result = timed("paste-back", lambda: paste_back(front, alpha, behind))
    file = _BESIDE.submit(pictures.encode, result, "jpeg")
    timed("report, and the picture's file", lambda: fidelity(product.result(), result))
    timed("report, and the picture's file", file.result)
    return timed.took


def _reference(data: bytes) -> pictures.Pixels:
    seen = pictures.decode(data, "ref_image").rgb
    pictures.clip_pixels(seen, FULL.clip_side)
    return np.ascontiguousarray(seen)


@torch.inference_mode()
def _loop(timed: _Clock) -> None:
    """The loop's own work that no device is busy meanwhile: the edges' network runs on the device."""
    plan = plain_request(FULL, "Euler").plan()
    encoded, facts = _encoded(), FULL.facts()
    embeds = torch.zeros(FULL.unet_channels[0], FULL.side // 8, FULL.side // 8)
    state = timed(
        "the loop's beginning",
        lambda: denoise.start(plan, encoded, facts, _SAMPLERS, lambda _: embeds),
    )
    noise = torch.zeros(state.rows, *state.latents.shape[1:])
    state.scheduler.scale_model_input(state.latents, state.timesteps[0])  # makes the rows of a step
    timed("a step of the sampler", lambda: denoise.advance(state, noise))


_SAMPLERS = Samplers()


@functools.cache
def _encoded() -> denoise.Encoded:
    side, width = FULL.side // 8, FULL.text.width + FULL.text_2.width
    inputs = make_inputs(FULL, FULL.side, FULL.side, 0, "cpu")
    return denoise.Encoded(
        prompt_embeds=np.zeros((2, 77, width), np.float32),
        pooled_prompt_embeds=np.zeros((2, FULL.text_2.projection), np.float32),
        image_embeds=np.zeros((2, IMAGE_TOKENS, width), np.float32),
        image_moments=np.zeros((2, 8, side, side), np.float32),
        latent_mask=inputs.latent_mask.numpy(),
        edges=inputs.edges.numpy(),
    )


if __name__ == "__main__":
    main()
