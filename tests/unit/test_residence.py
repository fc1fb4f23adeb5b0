"""The loop on a device: nothing in it waits, and it stays one step ahead.

Torch's "meta" device stands for the GPU: its tensors are computed with and cannot be read back, so
whatever would make the host wait for a GPU fails on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backdrop_server.contract import SCHEDULERS
from backdrop_server.stages import batches, denoise, transfers
from backdrop_server.stages.denoise import State
from backdrop_server.stages.edge_encoder import EdgeEncoder
from backdrop_server.stages.transfers import _HostTables, download, upload
from backdrop_server.triton.pacing import HostPace, HostStopwatch, Lane, OneStepAhead
from tests.unit.test_contract import make_plan
from tests.unit.test_denoise import FACTS, make_encoded
from tests.unit.test_edge_encoder import edge_encoder_weights
from tests.unit.test_schedulers import SCHEDULERS_OF_SDXL

DEVICE = torch.device("meta")


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts copies between host and device, those that wait and those that do not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waiting = 0
        self.asynchronous = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            target = kwargs.get("device")
            if target is not None and target.type != args[0].device.type:
                self.asynchronous += bool(kwargs.get("non_blocking"))
                self.waiting += not kwargs.get("non_blocking")
        return func(*args, **kwargs)


def start(scheduler: str, device: torch.device = DEVICE, **changes: Any) -> State:
    plan = make_plan(
        width=64, height=64, num_inference_steps=20, scheduler=scheduler, seeds=(1, 2), **changes
    )
    encode_edges = EdgeEncoder(edge_encoder_weights(), device)
    return denoise.start(plan, make_encoded(), FACTS, SCHEDULERS_OF_SDXL, encode_edges, device)


def run(state: State) -> None:
    while not state.finished:
        (noise,) = batches.evaluate([state], lambda batch: batch["sample"] * 0.9, 16)
        denoise.advance(state, noise)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_no_sampler_waits_for_the_device(name: str, strength: float) -> None:
    state = start(name, strength=strength)
    with Copies() as copies:
        run(state)
    assert state.latents.device == DEVICE
    assert state.finite is not None
    assert state.finite.device == DEVICE
    assert copies.waiting == 0


def test_without_host_tables_unipc_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it is for: as diffusers is, UniPC waits several times a step."""
    monkeypatch.setattr(transfers, "_HostTables", lambda device: _Nothing())
    state = start("UniPC")
    with Copies() as copies:
        run(state)
    assert copies.waiting > 2 * state.total


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


@pytest.mark.parametrize("name", SCHEDULERS)
def test_host_tables_change_no_value(name: str) -> None:
    plain, watched = start(name, torch.device("cpu")), start(name, torch.device("cpu"))
    run(plain)
    while not watched.finished:
        (noise,) = batches.evaluate([watched], lambda batch: batch["sample"] * 0.9, 16)
        with _HostTables(torch.device("cpu")):
            denoise.advance(watched, noise)
    assert torch.equal(plain.latents, watched.latents)


def test_all_that_a_request_needs_is_uploaded_when_it_starts() -> None:
    state = start("Euler")
    given = state.conditioning
    places = {getattr(given, field.name).device for field in dataclasses.fields(given)}
    assert places == {DEVICE}
    batch = batches._rows(state)
    assert {tensor.device for tensor in batch.values()} == {DEVICE}
    assert denoise.preview(
        state, upload(torch.ones(4, 3), DEVICE), torch.zeros(3, device=DEVICE)
    ).shape == (8, 8, 3)
    assert state.timesteps.device.type == "cpu"


def test_seeds_draw_the_same_noise_for_every_device() -> None:
    """The host's generators draw it, so what a device gets is what the host would have."""
    on_host, on_device = start("Euler a", torch.device("cpu")), start("Euler a")
    states = [[g.get_state() for g in s.generators] for s in (on_host, on_device)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_the_host_keeps_its_own_tensors() -> None:
    tensor = torch.ones(2)
    assert upload(tensor, torch.device("cpu")) is tensor
    assert download(tensor) is tensor


class FakeQueue:
    """A device's queue: what was recorded and waited for, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.events = 0

    def event(self) -> FakeEvent:
        self.events += 1
        return FakeEvent(self, self.events)


@dataclasses.dataclass
class FakeEvent:
    queue: FakeQueue
    number: int

    def record(self) -> None:
        self.queue.log.append(f"queued {self.number}")

    def synchronize(self) -> None:
        self.queue.log.append(f"waited for {self.number}")


@pytest.fixture
def queue() -> Iterator[FakeQueue]:
    yield FakeQueue()


def test_each_step_waits_for_the_one_before_it(queue: FakeQueue) -> None:
    pace = OneStepAhead(queue.event)
    assert [pace.step_queued() for _ in range(4)] == [-1, 0, 1, 2]
    assert queue.log == [
        "queued 1",
        *("queued 2", "waited for 1"),
        *("queued 3", "waited for 2"),
        *("queued 4", "waited for 3"),
    ]


def test_a_call_without_a_step_waits_for_the_last_one(queue: FakeQueue) -> None:
    pace = OneStepAhead(queue.event)
    pace.step_queued()
    pace.step_queued()
    assert pace.nothing_queued() == 2
    assert queue.log[-1] == "waited for 2"
    assert pace.nothing_queued() == 3
    assert pace.step_queued() == 3  # the call before had no work; this one's is not done
    assert queue.log[-1] == "queued 3"


def test_the_queue_never_holds_more_than_one_step_behind_the_running_one(queue: FakeQueue) -> None:
    pace = OneStepAhead(queue.event)
    for _ in range(10):
        pace.step_queued()
        done = sum(line.startswith("waited") for line in queue.log)
        assert queue.events - done == 1  # when a call returns, only its own step may be running


def test_on_the_host_every_call_is_done_at_once() -> None:
    pace = HostPace()
    assert [pace.step_queued(), pace.nothing_queued(), pace.step_queued()] == [0, 1, 2]


def test_a_lane_on_the_host_has_nothing_to_open() -> None:
    lane = Lane("cpu")
    with lane.open():
        watch = lane.stopwatch()
        watch.stop()
    assert isinstance(watch, HostStopwatch)
    assert watch.seconds() >= 0
    assert isinstance(lane.pace, HostPace)
