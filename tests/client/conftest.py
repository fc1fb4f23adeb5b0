"""A gateway of the client's own tests, before the session's tritonserver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backdrop_client import Backdrop
from backdrop_server.triton.launcher import TritonServer
from tests.gateway.servers import GatewayProcess, gateway_process


@pytest.fixture(scope="session")
def gateway(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One that may fetch pictures from this machine."""
    folder = tmp_path_factory.mktemp("gateway")
    with gateway_process(folder, server.http_url, fetch_networks="127.0.0.0/8") as running:
        yield running


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Backdrop]:
    """A client with a key of its own that has plenty of credits."""
    with Backdrop(gateway.url, gateway.make_key()) as opened:
        yield opened
