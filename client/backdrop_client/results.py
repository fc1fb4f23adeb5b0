"""What the client gives back: pictures, progress, a job's status, a quote."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

ENDED = ("COMPLETED", "FAILED")


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer to one request; ``images``, ``image_bytes`` and ``seeds`` have one entry a sample.

    ``image_bytes``: files in the format that was asked for. ``report``: what was done, and the
    seconds of each part. ``cost``: credits billed, None over Triton, which bills nothing.
    """

    image_bytes: tuple[bytes, ...]
    seeds: tuple[int, ...]
    report: Mapping[str, Any]
    cost: Decimal | None
    request_id: str

    @functools.cached_property
    def images(self) -> list[Image.Image]:
        """The pictures, decoded when they are first asked for."""
        return [_decoded(data) for data in self.image_bytes]

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Result:
        """From the body of ``GET /v2/requests/ID`` of a job whose pictures are base64."""
        return cls(
            image_bytes=tuple(base64.b64decode(text, validate=True) for text in answer["output"]),
            seeds=tuple(int(seed) for seed in answer["seeds"]),
            report=answer["report"],
            cost=Decimal(answer["credits_consumed"]),
            request_id=answer["request_id"],
        )


@dataclasses.dataclass(frozen=True)
class Progress:
    """UNet evaluations done and to do; ``preview_png``: a small PNG file of the picture so far."""

    step: int
    total: int
    preview_png: bytes | None = dataclasses.field(default=None, repr=False)

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.step / self.total if self.total else 0.0

    @property
    def preview(self) -> Image.Image | None:
        """The picture so far, small, once there is one; decoded when asked for."""
        return None if self.preview_png is None else _decoded(self.preview_png)


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a job is. ``state``: QUEUED, PROCESSING, COMPLETED or FAILED; ``error`` says why."""

    state: str
    progress: Progress
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        """COMPLETED or FAILED."""
        return self.state in ENDED

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Status:
        """From the body of ``GET /v2/requests/ID/status``."""
        seen = answer["progress"]
        preview = seen["preview"]
        png = base64.b64decode(preview.partition(",")[2], validate=True) if preview else None
        progress = Progress(int(seen["step"]), int(seen["total"]), png)
        return cls(answer["status"], progress, answer.get("error"))


@dataclasses.dataclass(frozen=True)
class Quote:
    """What a request would cost: ``seconds`` of engine time, ``cost`` for them, both estimates.

    ``reserved``: credits that are held back until it has ended, the most that it can be billed.
    """

    seconds: float
    cost: Decimal
    reserved: Decimal
    unet_evaluations: int

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Quote:
        """From the answer to a dry run."""
        estimate = answer["estimate"]
        return cls(
            seconds=float(estimate["seconds"]),
            cost=Decimal(estimate["credits"]),
            reserved=Decimal(estimate["reserved_credits"]),
            unet_evaluations=int(estimate["unet_evaluations"]),
        )


def _decoded(data: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.load()
    return image
