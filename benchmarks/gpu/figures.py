"""From measured seconds to the figures of a row: the arithmetic, and nothing else."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomllib
import torch

from backdrop_server.errors import SetupError

PRICES = Path(__file__).parent / "prices.toml"


@dataclasses.dataclass(frozen=True)
class Price:
    """What an hour of a device costs, where that was read, and when."""

    match: str
    dollars_per_hour: float
    date: str
    source: str


def price_of(device_name: str, path: Path = PRICES) -> Price | None:
    """The price of the device called ``device_name``; None when the file has none for it."""
    entries = tomllib.loads(path.read_text()).get("price", [])
    try:
        prices = [Price(**entry) for entry in entries]
    except TypeError as error:
        raise SetupError(f"{path.name} has an entry that is no price: {error}") from error
    return next((price for price in prices if price.match in device_name), None)


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """What seconds are turned into other units with: the ceiling of this run, and a price."""

    ceiling_flop_per_second: float
    price: Price | None = None


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most of ``values``, and how many there are."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": len(values),
    }


def figures(
    seconds: Sequence[float], pictures: int, flop: float, yardstick: Yardstick
) -> dict[str, Any]:
    """The figures of runs that each took ``seconds`` for ``pictures`` pictures of ``flop`` in all."""
    median = statistics.median(seconds)
    each = median / pictures
    price = yardstick.price
    return {
        "seconds": spread(seconds),
        "pictures": pictures,
        "seconds_per_picture": spread([value / pictures for value in seconds]),
        "pictures_per_second": 1 / each,
        "tflop": flop / 1e12,
        "tflop_per_second": flop / median / 1e12,
        "ceiling_share": flop / median / yardstick.ceiling_flop_per_second,
        "dollars_per_1000": price and price.dollars_per_hour / 3600 * each * 1000,
    }


def error_of(latents: torch.Tensor, reference: torch.Tensor) -> dict[str, float | None]:
    """Distance from ``reference`` as a share of its norm, and in decibels (None: no distance)."""
    exact = reference.double().cpu()
    found = latents.double().cpu()
    if found.shape != exact.shape:
        raise SetupError(f"latents are {list(found.shape)}, the reference {list(exact.shape)}")
    relative = float((found - exact).norm() / exact.norm())
    return {
        "relative": relative,
        "decibels": None if relative == 0 else -20 * math.log10(relative),
    }
