"""Memory of every server process and of /dev/shm over many mixed requests."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backdrop_server.contract import MODELS, SCHEDULERS
from backdrop_server.triton.board import SHM_FOLDER
from backdrop_server.triton.launcher import TritonServer
from tests.conftest import launch
from tests.triton.flight import Flight, fields_of

pytestmark = pytest.mark.triton

ROUND = 30
TOLERANCE = 1.05


@pytest.fixture
def fresh_server(repository: Path) -> Iterator[TritonServer]:
    with launch(repository) as running:
        yield running


def mixed() -> list[dict[str, Any]]:
    """A round of requests of every kind: sampler, steps, size, samples, weights, format, bad ones."""
    draw = random.Random(3)
    sides = [(200, 200), (300, 100), (100, 300), (640, 480), (1000, 700)]
    requests = []
    for number in range(ROUND):
        fields = fields_of(
            sides[number % len(sides)],
            scheduler=SCHEDULERS[number % len(SCHEDULERS)],
            num_inference_steps=draw.randint(20, 24),
            samples=draw.choice([1, 1, 1, 2, 4]),
            guidance_scale=draw.choice([1.0, 7.5]),
            strength=draw.choice([0.0, 0.5, 1.0]),
            cn_weight=draw.random(),
            ip_adapter_weight=draw.random(),
            preserve_subject=draw.random() < 0.5,
            output_format=draw.choice(["png", "jpeg", "webp"]),
        )
        if number % 10 == 9:
            fields["image"] = fields["image"][: draw.randrange(1, 400)]
        requests.append(fields)
    return requests


def resident(server: TritonServer) -> dict[str, int]:
    """Resident bytes of tritonserver and each stub, and what lies in shared memory, by name."""
    root = psutil.Process(server.pid)
    sizes = {"tritonserver": root.memory_info().rss}
    for child in root.children(recursive=True):
        found = re.search(
            rf"\b({'|'.join(model.name for model in MODELS)})_\d", str(child.cmdline())
        )
        sizes[f"{found[1] if found else child.name()} {child.pid}"] = child.memory_info().rss
    sizes["shared memory"] = sum(path.stat().st_blocks * 512 for path in SHM_FOLDER.iterdir())
    return sizes


def run(flight: Flight, rounds: int) -> None:
    """Send whole rounds, six requests at a time; bad ones must fail and good ones must not."""
    requests = mixed()
    for number in range(rounds):
        for start in range(0, ROUND, 6):
            six = [
                fields | {"seed": 1000 * number + start} for fields in requests[start : start + 6]
            ]
            futures = [flight.send(fields) for fields in six]
            for fields, future in zip(six, futures, strict=True):
                good = fields["image"].endswith(b"IEND\xaeB`\x82")
                assert (future.exception() is None) == good, future.exception()


def grown(
    before: dict[str, int], after: dict[str, int], tolerance: float = TOLERANCE
) -> dict[str, str]:
    """What has grown beyond ``tolerance`` times what it was, in MiB."""
    assert before.keys() == after.keys(), "a process of the server was replaced"
    return {
        name: f"{before[name] / 2**20:.1f} -> {size / 2**20:.1f} MiB"
        for name, size in after.items()
        if size > before[name] * tolerance
    }


def test_memory_is_flat_over_300_mixed_requests(fresh_server: TritonServer) -> None:
    with Flight(fresh_server) as flight:
        run(flight, 1)
        before = resident(fresh_server)
        run(flight, 9)
        after = resident(fresh_server)
    assert not grown(before, after)
