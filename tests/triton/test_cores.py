"""Who has the processor's cores: one engine at a time, and what is no engine gives way to it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient

from backdrop_client.triton import infer_inputs
from backdrop_server.contract import MODELS, PREPROCESS_INSTANCES, REPLACE_BACKGROUND
from backdrop_server.triton.board import board_path
from backdrop_server.triton.cores import Cores
from backdrop_server.triton.launcher import TritonServer
from backdrop_server.triton.priority import NICENESS
from tests import pictures

pytestmark = pytest.mark.triton

NAMES = {model.name for model in MODELS} - {REPLACE_BACKGROUND.name}
OF_NAME = re.compile(rf"\b({'|'.join(NAMES)})_\d")
BEHIND = {"preprocess", "cutout"}
WAIT = 1.0
"""Seconds in which an engine that had the cores would be through."""


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc_url) as opened:
        yield opened


def matte(client: Any) -> object:
    inputs = infer_inputs(grpcclient, {"image": pictures.png(pictures.product())})
    wanted = [grpcclient.InferRequestedOutput("alpha")]
    return client.infer("preprocess", inputs, outputs=wanted)


def decoded(client: Any) -> object:
    latents = np.zeros((1, 1, 4, 8, 8), np.float32)
    given = grpcclient.InferInput("latents", latents.shape, "FP32")
    given.set_data_from_numpy(latents)
    return client.infer("vae_decoder", [given])


@pytest.mark.parametrize("ask", [matte, decoded])
def test_an_engine_waits_for_the_cores(
    server: TritonServer, client: Any, ask: Callable[[Any], object]
) -> None:
    ask(client)  # whatever a first time takes is done
    cores = Cores(board_path(server.pid))
    with ThreadPoolExecutor(1) as pool:
        with cores.taken():
            asked = pool.submit(ask, client)
            with pytest.raises(TimeoutError):
                asked.result(timeout=WAIT)
        asked.result(timeout=30)


def stubs(server: TritonServer) -> Iterator[tuple[str, psutil.Process]]:
    for child in psutil.Process(server.pid).children(recursive=True):
        if found := OF_NAME.search(str(child.cmdline())):
            yield found[1], child


def test_keying_and_cutting_out_go_behind_the_engines(server: TritonServer) -> None:
    usual = psutil.Process(server.pid).nice()
    niceness = {name: child.nice() for name, child in stubs(server)}
    assert set(niceness) == NAMES
    for name, nice in niceness.items():
        assert nice == (min(19, usual + NICENESS) if name in BEHIND else usual), name


def test_the_matting_network_keeps_the_engines_priority(server: TritonServer, client: Any) -> None:
    usual = psutil.Process(server.pid).nice()
    own = [child for name, child in stubs(server) if name == "preprocess"]
    assert len(own) == PREPROCESS_INSTANCES

    def seconds() -> float:
        """Of processor time, in threads of the engines' priority."""
        return sum(
            thread.user_time
            for child in own
            for thread in child.threads()
            if os.getpriority(os.PRIO_PROCESS, thread.id) == usual
        )

    before = seconds()
    for _ in range(10):
        matte(client)
    assert seconds() - before > 0.1
