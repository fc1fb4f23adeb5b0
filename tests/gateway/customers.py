"""Customers that never give up: requests sent again, with their key, until they are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.gateway.servers import body

ATTEMPTS_FOR = 120.0
"""Seconds after which a customer has waited long enough for an answer."""
THREADS = 8


class Customers:
    """Threads that submit job after job to whichever gateway answers, as far as they are let."""

    def __init__(self, urls: Sequence[str], key: str, count: int) -> None:
        """``count`` jobs, with the seeds 0 to ``count`` - 1; none before ``let``."""
        self._urls = urls
        self._key = key
        self._given_up = False
        self._let = threading.Semaphore(0)
        self._threads = ThreadPoolExecutor(THREADS)
        self._answers = [self._threads.submit(self._submit, seed) for seed in range(count)]

    def let(self, count: int) -> None:
        """Let ``count`` more jobs be submitted."""
        self._let.release(count)

    def job_ids(self) -> list[str]:
        """The id that each job was accepted under; waits for all answers."""
        ids = [answer.result() for answer in self._answers]
        self._threads.shutdown()
        return ids

    def give_up(self) -> None:
        """Send nothing more; for the end of a test that has failed."""
        self._given_up = True
        self._let.release(len(self._answers))
        self._threads.shutdown(cancel_futures=True)

    def _submit(self, seed: int) -> str:
        assert self._let.acquire(timeout=ATTEMPTS_FOR), "it was never let"
        headers = {"x-api-key": self._key, "Idempotency-Key": f"seed-{seed}"}
        deadline = time.monotonic() + ATTEMPTS_FOR
        tries = 0
        while time.monotonic() < deadline and not self._given_up:
            url = self._urls[(seed + tries) % len(self._urls)]
            tries += 1
            try:
                answer = httpx.post(
                    f"{url}/v2/bg-replace", json=request(seed), headers=headers, timeout=30
                )
            except httpx.TransportError:  # killed before or after it took the job in: who knows
                time.sleep(0.1)
                continue
            assert answer.status_code == 200, answer.text
            return str(answer.json()["request_id"])
        raise AssertionError(f"no answer for job {seed} in {ATTEMPTS_FOR} s")


def request(seed: int) -> dict[str, object]:
    """Job ``seed``: its pictures come without loss, so that equal ones can be told."""
    return body(seed=seed, output_format="png", strength=0.5)
