"""What a caller gets: pictures as bytes or JSON, a job's status and result, a quote."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from fastapi.responses import JSONResponse, Response

from backdrop_server.errors import BackdropError
from backdrop_server.gateway.errors import NotFoundError
from backdrop_server.gateway.estimates import Estimate
from backdrop_server.gateway.jobs import WAIT, Job
from backdrop_server.gateway.links import Signer
from backdrop_server.gateway.money import plain
from backdrop_server.gateway.pool import TritonPool
from backdrop_server.gateway.store import Store
from backdrop_server.settings import Settings

MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
FAILED_STATUS = 422


@dataclasses.dataclass(frozen=True)
class Money:
    """Credits for an answer's headers."""

    remaining: Decimal
    consumed: Decimal = Decimal(0)

    def headers(self) -> dict[str, str]:
        """``x-remaining-credits`` and ``x-credits-consumed``."""
        return {
            "x-remaining-credits": plain(self.remaining),
            "x-credits-consumed": plain(self.consumed),
        }


def pictures_answer(
    images: Sequence[bytes],
    seeds: Sequence[int],
    output_format: str,
    *,
    as_base64: bool,
    money: Money,
) -> Response:
    """The answer of v1: the picture's bytes, or JSON with base64 of one or of several."""
    headers = money.headers() | {"x-seed": ",".join(str(seed) for seed in seeds)}
    if not as_base64:
        return Response(images[0], media_type=MEDIA_TYPES[output_format], headers=headers)
    # By hand: base64 has nothing to escape, and looking for it takes milliseconds.
    texts = [f'"{base64.b64encode(image).decode()}"' for image in images]
    content = f'{{"image":{texts[0]}}}' if len(texts) == 1 else f'{{"images":[{",".join(texts)}]}}'
    return Response(content, media_type="application/json", headers=headers)


def quote_answer(estimate: Estimate, seed: int, money: Money) -> JSONResponse:
    """The answer to ``dry_run``: what the request would cost, and what would be reserved for it."""
    content = {
        "dry_run": True,
        "estimate": {
            "seconds": round(estimate.seconds, 6),
            "credits": plain(estimate.credits),
            "reserved_credits": plain(estimate.reservation),
            "unet_evaluations": estimate.evaluations,
        },
        "seed": seed,
    }
    return JSONResponse(content, headers=money.headers())


class Answers:
    """Describes jobs to their owners."""

    def __init__(
        self, settings: Settings, public_url: str, signer: Signer, store: Store, pool: TritonPool
    ) -> None:
        self._keep = settings.keep_results
        self._url = public_url
        self._signer = signer
        self._store = store
        self._pool = pool

    def submitted(self, job_id: str) -> dict[str, Any]:
        """The answer to a submission."""
        status_url = f"{self._url}/v2/requests/{job_id}/status"
        return {
            "request_id": job_id,
            "status": "QUEUED",
            "poll_url": status_url,
            "status_url": status_url,
            "response_url": f"{self._url}/v2/requests/{job_id}",
            "events_url": f"{self._url}/v2/requests/{job_id}/events",
        }

    async def status(self, job: Job) -> dict[str, Any]:
        """The body of ``/status``: where the job is, with a preview while it is painted."""
        content: dict[str, Any] = {"request_id": job.id, "status": job.status}
        content["progress"] = await self._progress(job)
        if job.status == "FAILED":
            content["error"] = job.error
        return content

    async def result(self, job: Job) -> dict[str, Any]:
        """The body of the result. Raises NotFoundError when the pictures are gone."""
        content: dict[str, Any] = {"request_id": job.id, "status": job.status, "output": None}
        if job.is_open:
            return content
        content["metrics"] = _metrics(job)
        content["credits_consumed"] = plain(job.billed or Decimal(0))
        if job.status == "FAILED":
            return content | {"error": job.error}
        if job.kind == WAIT:
            raise NotFoundError(
                "the pictures went into the answer of the v1 call, and nowhere else"
            )
        gone = NotFoundError(f"the results were kept for {self._keep:.0f} s and are gone")
        if job.swept_at is not None:
            raise gone
        try:
            content["output"] = await self._files(job, job.result["names"])
            if "layers" in job.result:
                *backgrounds, shadow, subject = await self._files(job, job.result["layers"])
                content["layers"] = {
                    "backgrounds": backgrounds, "shadow": shadow, "subject": subject
                }  # fmt: skip
        except FileNotFoundError:  # swept in this very moment
            raise gone from None
        content["seeds"] = job.result["seeds"]
        content["report"] = job.result["report"]
        return content

    async def _files(self, job: Job, names: Sequence[str]) -> list[str]:
        """Files of the result: base64 where the job asked for it, else signed links."""
        if job.request.base64:
            files = [await self._store.get(job.id, name) for name in names]
            return [base64.b64encode(file).decode() for file in files]
        expires_at = (job.ended_at or job.created_at) + self._keep
        return [self._signer.link(self._url, job.id, name, expires_at) for name in names]

    async def _progress(self, job: Job) -> dict[str, Any]:
        if job.status == "COMPLETED":
            total = job.evaluations
            return {"fraction": 1.0, "step": total, "total": total, "preview": None}
        seen = await self._seen_in_triton(job) if job.status == "PROCESSING" else {}
        step, total = int(seen.get("step", 0)), int(seen.get("total", 0)) or job.evaluations
        preview = seen.get("preview")
        picture = base64.b64encode(preview).decode() if preview else None
        return {
            "fraction": round(step / total, 4) if total else 0.0,
            "step": step,
            "total": total,
            "preview": picture and f"data:image/png;base64,{picture}",
        }

    async def _seen_in_triton(self, job: Job) -> Mapping[str, Any]:
        triton = self._pool.at(job.triton or "")
        if triton is None or not triton.is_up:
            return {}
        with contextlib.suppress(BackdropError):
            return await triton.control("status", f"{job.id}.{job.attempt}")
        return {}


def status_code(job: Job) -> int:
    """The HTTP status of a job's status and result."""
    return FAILED_STATUS if job.status == "FAILED" else 200


def event(content: Mapping[str, Any]) -> str:
    """A server-sent event (WHATWG HTML, 9.2) named ``status``."""
    return f"event: status\ndata: {json.dumps(content)}\n\n"


def _metrics(job: Job) -> dict[str, Any]:
    started, ended = job.started_at, job.ended_at
    passed = round(ended - started, 3) if started and ended else 0.0
    return {"inference_time": passed, "billed_seconds": round(job.seconds or 0.0, 6)}
