"""``python -m backdrop_server.gateway``: the gateway alone, as `backdrop serve` starts it."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from backdrop_server.errors import SetupError
from backdrop_server.gateway.server import run_gateway
from backdrop_server.settings import load_settings


def _end(number: int, frame: FrameType | None) -> None:
    """uvicorn raises the signal again once all requests have ended: that is success."""
    del number, frame
    sys.exit(0)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        run_gateway(load_settings())
    except SetupError as error:
        sys.exit(f"error: {error}")
