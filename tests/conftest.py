"""Real parts for the tests: bundles, exported repositories, and a tritonserver for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# As the server has it, before numpy is loaded: a thread of OpenBLAS's own has been waited for in vain.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import tritonclient.grpc as grpcclient

from backdrop_server.triton.launcher import LaunchSettings, TritonServer

BUILD = Path(__file__).parents[1] / "build"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bundle", default="tiny", help="bundle of the server under test")
    parser.addoption("--engine", default="openvino-fp32", help="engine of the server under test")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--engine"))


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Path:
    """The bundle's folder, made once and kept between runs."""
    from backdrop_export.synthetic import make_bundle

    name = str(request.config.getoption("--bundle"))
    return make_bundle(name, BUILD / "bundles" / name)


@pytest.fixture(scope="session")
def repository(bundle: Path, engine: str) -> Path:
    """The exported repository, kept between runs as long as it is up to date."""
    from backdrop_export.repository import export_repository

    return export_repository(bundle, engine, BUILD)


def launch(repository: Path, log_file: Path | None = None) -> TritonServer:
    """A server on free ports, not started."""
    settings = LaunchSettings(
        repository, http_port=0, grpc_port=0, metrics_port=0, log_file=log_file
    )
    return TritonServer(settings, on_line=lambda line: None)


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[TritonServer]:
    """One server for all tests that leave it as they found it."""
    with launch(repository, BUILD / "test-triton.log") as running:
        yield running


@pytest.fixture
def grpc_client(server: TritonServer) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client
