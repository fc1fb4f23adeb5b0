"""Encoders' answers for the same prompt or reference are reused: the same bytes, in bounded memory."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from tests.gateway.servers import wait_until
from tests.triton.flight import Flight, fields_of

pytestmark = pytest.mark.triton

SMALL = 2**20
"""Bytes; a tiny bundle's prompt takes 60 KiB, so some dozens fill it."""


@pytest.fixture(scope="module")
def small_cache(repository: Path) -> Iterator[TritonServer]:
    settings = LaunchSettings(
        repository, http_port=0, grpc_port=0, metrics_port=0, cache_bytes=SMALL
    )
    with TritonServer(settings) as running:
        yield running


@pytest.fixture
def flight(small_cache: TritonServer) -> Iterator[Flight]:
    with Flight(small_cache) as opened:
        yield opened


def counted(server: TritonServer, what: str) -> dict[str, float]:
    """A metric of the cache by model; by an empty name where it has none."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as page:
        text = page.read().decode()
    found = re.findall(rf'^{what}(?:\{{model="(\w+)".*\}})? (\S+)$', text, re.MULTILINE)
    assert found, f"{what} is not on the metrics page"
    return {model: float(value) for model, value in found}


def hits_and_misses(server: TritonServer) -> dict[str, tuple[float, float]]:
    hits = counted(server, "nv_cache_num_hits_per_model")
    misses = counted(server, "nv_cache_num_misses_per_model")
    return {model: (hits[model], misses[model]) for model in ("text_encoder", "image_encoder")}


def new(before: dict[str, tuple[float, float]], server: TritonServer) -> dict[str, list[float]]:
    after = hits_and_misses(server)
    return {name: list(np.subtract(after[name], before[name])) for name in after}


def test_the_same_prompt_and_reference_again_are_hits_and_give_the_same_picture(
    small_cache: TritonServer, flight: Flight
) -> None:
    before = hits_and_misses(small_cache)
    first, again = (flight.ask(fields_of(prompt="a jetty")) for _ in range(2))
    assert again.images == first.images
    text, image = new(before, small_cache).values()
    assert text == [1, 1]
    assert image[0] >= 1  # the server's own first pictures may have had this reference


def test_another_prompt_is_a_miss_and_another_picture(
    small_cache: TritonServer, flight: Flight
) -> None:
    before = hits_and_misses(small_cache)
    first, second = (flight.ask(fields_of(prompt=text)) for text in ("a dune", "a glacier"))
    assert first.images != second.images
    assert new(before, small_cache)["text_encoder"] == [0, 2]


def ids(number: int) -> list[grpcclient.InferInput]:
    inputs = []
    for name in ("input_ids", "input_ids_2"):
        item = grpcclient.InferInput(name, [1, 2, 77], "INT64")
        item.set_data_from_numpy(np.full((1, 2, 77), number, np.int64))
        inputs.append(item)
    return inputs


def test_a_cached_answer_is_the_encoders_bit_for_bit(flight: Flight) -> None:
    first, again = (flight.client.infer("text_encoder", ids(7)) for _ in range(2))
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        assert first.as_numpy(name).tobytes() == again.as_numpy(name).tobytes()


def test_a_full_cache_lets_the_oldest_answers_go(small_cache: TritonServer, flight: Flight) -> None:
    for number in range(1, 100):
        flight.client.infer("text_encoder", ids(number))
    wait_until(lambda: counted(small_cache, "nv_cache_num_evictions")[""] > 0, 10)
    assert 0.5 < counted(small_cache, "nv_cache_util")[""] <= 1
    before = hits_and_misses(small_cache)
    flight.client.infer("text_encoder", ids(99))
    flight.client.infer("text_encoder", ids(1))
    assert new(before, small_cache)["text_encoder"] == [1, 1]
