"""The page in a real browser, at a real gateway before a real tritonserver."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from backdrop_server.triton.launcher import TritonServer
from tests.gateway.servers import GatewayProcess, gateway_process
from tests.playground.visit import Visit, visiting

Open = Callable[..., Visit]


# Not for the session: an event loop runs as long as playwright does, and other tests need their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The machine's Chromium. Where there is none the tests fail."""
    path = shutil.which("chromium")
    assert path, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def gateway(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway for all tests that leave it as they found it."""
    with gateway_process(tmp_path_factory.mktemp("playground"), server.http_url) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, gateway: GatewayProcess) -> Iterator[Open]:
    """Open the page as a new visitor; at the end no visit may have seen anything untoward."""
    with contextlib.ExitStack() as visits:

        def enter(at: GatewayProcess = gateway, **options: Any) -> Visit:
            return visits.enter_context(visiting(browser, at, **options))

        yield enter


@pytest.fixture
def visit(open_page: Open) -> Visit:
    """A visitor whose key has plenty of credits."""
    return open_page()
