"""A loop of `denoise` to test: a toy engine, a lane like a device's, requests that come back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backdrop_server import contract
from backdrop_server.engines.engine import Arrays, Precision
from backdrop_server.plan import EngineLimits
from backdrop_server.triton.board import Board
from backdrop_server.triton.pacing import HostStopwatch, Lane, OneStepAhead
from tests.unit import triton_stub
from tests.unit.test_contract import make_plan
from tests.unit.test_denoise import make_encoded, toy_unet
from tests.unit.test_residence import FakeQueue

LIMITS = EngineLimits("toy", Precision.FP32, "toy 1", max_rows=8, min_rows=2, row_buckets=(2, 4, 8))


class ToyEngine:
    """The toy network as an engine; after ``spoil_after`` calls it gives no numbers any more."""

    device = "cpu"
    input_names = tuple(tensor.name for tensor in contract.UNET_CONTROLNET_INPUTS)
    output_names = ("noise_pred",)

    def __init__(self, limits: EngineLimits | None) -> None:
        self.limits = limits
        self.rows: list[int] = []
        self.spoil_after: int | None = None

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        assert torch.is_inference_mode_enabled()
        self.rows.append(len(inputs["timestep"]))
        noise = toy_unet({name: torch.from_numpy(np.array(a)) for name, a in inputs.items()})
        if self.spoil_after is not None and len(self.rows) > self.spoil_after:
            noise = noise * torch.nan
        return {"noise_pred": noise.numpy()}


class DeviceLane(Lane):
    """The host's lane, paced as if its work were queued on a device."""

    def __init__(self, queue: FakeQueue) -> None:
        super().__init__("cpu")
        self.pace = OneStepAhead(queue.event)
        self.stopwatch = HostStopwatch


@dataclasses.dataclass
class Loop:
    """A model and the requests that Triton would bring back to it."""

    model: Any
    engine: ToyEngine
    board: Board
    calls: int = 0

    def run(self, *requests: triton_stub.Request) -> None:
        """Until every request has its answer."""
        alive = list(requests)
        while alive:
            self.step(*alive)
            alive = [request for request in alive if request.answer is None]
            assert self.calls < 100

    def step(self, *requests: triton_stub.Request) -> None:
        self.model.execute(list(requests))
        self.calls += 1


def request(number: int, **changes: Any) -> triton_stub.Request:
    plan = make_plan(
        **{"request_id": f"r{number}", "width": 64, "height": 64, "num_inference_steps": 20}
        | changes
    )
    inputs = dataclasses.asdict(make_encoded()) | {"plan": plan.to_json()}
    return triton_stub.request(number, inputs)


def three() -> list[triton_stub.Request]:
    return [
        request(1, scheduler="Euler", seeds=(1,)),
        request(2, scheduler="DPM2 Karras", seeds=(2, 3)),
        request(3, scheduler="Euler a", seeds=(4,), guidance_scale=1.0),
    ]
