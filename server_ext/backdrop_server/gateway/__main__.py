"""``python -m backdrop_server.gateway``: the gateway alone, as `backdrop serve` starts it."""

from __future__ import annotations

import sys

from backdrop_server.errors import SetupError
from backdrop_server.gateway.server import run_gateway
from backdrop_server.settings import load_settings

if __name__ == "__main__":
    try:
        run_gateway(load_settings())
    except SetupError as error:
        sys.exit(f"error: {error}")
