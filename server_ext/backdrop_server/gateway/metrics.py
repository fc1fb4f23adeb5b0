"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

STAGES = ("read", "admit", "wait", "triton", "finish")


class Metrics:
    """The gateway's counters, on a page of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "backdrop_requests",
            "Answers by route and status",
            ["route", "status"],
            registry=registry,
        )
        self.stages = Histogram(
            "backdrop_stage_seconds",
            "Latency of a request by stage",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.jobs = Gauge("backdrop_jobs", "Jobs in this gateway", ["state"], registry=registry)
        self.ended = Counter("backdrop_jobs_ended", "Jobs by end", ["status"], registry=registry)
        self.lost = Counter(
            "backdrop_jobs_lost", "Tries that were lost with their Triton", registry=registry
        )
        self.seconds = Counter("backdrop_billed_seconds", "Seconds billed", registry=registry)
        self.credits = Counter("backdrop_billed_credits", "Credits billed", registry=registry)
        self.errors = Counter(
            "backdrop_errors", "Requests refused or failed", ["kind"], registry=registry
        )
        self.tritons = Gauge(
            "backdrop_triton_up", "Whether a Triton makes pictures", ["url"], registry=registry
        )

        for state in ("waiting", "in_triton"):  # there from the start, as zeros
            self.jobs.labels(state)
        for stage in STAGES:
            self.stages.labels(stage)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one of STAGES."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.monotonic() - begun)

    def page(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
