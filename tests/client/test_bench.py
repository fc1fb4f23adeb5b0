"""`backdrop bench` against a real gateway and a real Triton, and what it makes of known outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backdrop_client.cli_bench import figures_of
from backdrop_client.load import Outcome
from backdrop_server.triton.launcher import TritonServer
from tests.client.commands import assert_one_sentence, run
from tests.client.samples import PRODUCT, SCENE
from tests.gateway.books import all_jobs
from tests.gateway.servers import GatewayProcess

ASKED = ("product.png", "--ref", "scene.png", "-p", "a beach", "--scheduler", "Euler")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "product.png").write_bytes(PRODUCT)
    (tmp_path / "scene.png").write_bytes(SCENE)
    return tmp_path


def test_figures_of_known_outcomes() -> None:
    rows = [Outcome(n, n + 2.0, 1, {"seconds_billed": 0.5}) for n in range(8)]
    rows.append(Outcome(8, 8.01, 1, {}, "Overloaded: full", refused=True))
    rows.append(Outcome(9, 9.5, 1, {}, "ServerFailed: it broke"))
    told = figures_of(rows, 10, price_per_hour=3.6)
    assert (told["requests"], told["refused"], told["failed"]) == (10, 1, 1)
    assert told["errors"] == ["ServerFailed: it broke"]
    assert told["p50_seconds"] == told["p99_seconds"] == 2
    assert told["pictures_per_second"] == 0.8
    assert told["seconds_billed_per_picture"] == 0.5
    assert told["dollars_per_1000_pictures"] == pytest.approx(1.25)
    assert figures_of(rows[-1:], 10, 3.6)["p50_seconds"] is None


@pytest.mark.triton
def test_both_loops_against_both_servers(
    folder: Path, gateway: GatewayProcess, server: TritonServer
) -> None:
    key = gateway.make_key()
    before = len(all_jobs(gateway))
    way = ("--rate", 2, "--seconds", 3, "--steps", 20, "--price-per-hour", 1, "--json")
    done = run("bench", *ASKED, *way, cwd=folder, url=gateway.url, key=key)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["failed"], told["refused"]) == (0, 0)
    assert len(all_jobs(gateway)) - before == told["requests"] + 1  # and one to warm up
    assert 0 < told["p50_seconds"] <= told["p99_seconds"]
    assert told["dollars_per_1000_pictures"] > 0

    way_triton = ("--triton", server.grpc_url, "--in-flight", 2, "--seconds", 2)
    done = run("bench", *ASKED, *way_triton, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "pictures per second" in done.stderr


@pytest.mark.triton
def test_a_wrong_key_is_one_sentence(folder: Path, gateway: GatewayProcess) -> None:
    done = run("bench", *ASKED, cwd=folder, url=gateway.url, key="bd_wrong")
    assert_one_sentence(done, 3, "key")
