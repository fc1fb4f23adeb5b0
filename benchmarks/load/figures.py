"""From outcomes to figures: latencies, pictures a second, seconds billed, dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomllib

from backdrop_client.load import Outcome, percentile

PRICES = Path(__file__).with_name("prices.toml")
STAGES = ("preprocess", "encode", "denoise", "decode", "postprocess", "total")


def figures(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """What a run of ``seconds`` gave; the rate counts pictures until the last one was there."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    if not good:
        raise ValueError(f"no request succeeded: {[outcome.error for outcome in outcomes][:3]}")
    latencies = [outcome.latency for outcome in good]
    span = max(seconds, *(outcome.ended for outcome in good))
    p50, p95, p99 = (percentile(latencies, share) for share in (0.5, 0.95, 0.99))
    billed = [o.report["seconds_billed"] for o in good if "seconds_billed" in o.report]
    return {
        "requests": len(outcomes),
        "failed": len(outcomes) - len(good),
        "latency_s": {"p50": _short(p50), "p95": _short(p95), "p99": _short(p99)},
        "p99_by_p50": _short(p99 / p50),
        "pictures_per_second": _short(sum(outcome.samples for outcome in good) / span),
        "requests_per_second": _short(len(good) / span),
        "seconds_billed_per_picture": _short(sum(billed) / sum(o.samples for o in good))
        if billed
        else None,
        "stage_seconds": _stages(good),
    }


def rows_per_call(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Rows that shared an engine call, from Triton's counters; None where there was none."""
    calls = after["calls"] - before["calls"]
    return _short((after["rows"] - before["rows"]) / calls) if calls else None


def dollars(pictures_per_second: float, per_hour: float) -> dict[str, float]:
    """What a second and a thousand pictures cost at ``per_hour`` dollars for the machine."""
    per_second = per_hour / 3600
    return {
        "per_second": round(per_second, 9),
        "per_1000_pictures": round(1000 * per_second / pictures_per_second, 6),
    }


def price(machine: str) -> dict[str, Any]:
    """The machine's entry in prices.toml. Raises KeyError with the names that there are."""
    prices = tomllib.loads(PRICES.read_text(encoding="utf-8"))
    if machine not in prices:
        raise KeyError(f"no price for {machine!r}; prices.toml has: {', '.join(prices)}")
    return dict(prices[machine])


def _stages(good: Sequence[Outcome]) -> dict[str, float] | None:
    told = [o.report["seconds"] for o in good if "seconds" in o.report]
    if not told:
        return None
    return {
        name: _short(percentile([row[name] for row in told], 0.5))
        for name in STAGES
        if all(name in row for row in told)
    }


def _short(value: float) -> float:
    return round(value, 4)
