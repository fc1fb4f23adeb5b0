"""What a request costs in engine seconds, from what an export measured of its own engines."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Costs:
    """Engine seconds at the native picture size; an export writes them as ``costs.json``.

    They hold for the machine that the export ran on.
    """

    native_pixels: int
    """Width x height of the picture size that the seconds are for."""
    text_encoder: float
    image_encoder: float
    vae_encoder: float
    """The photo and the masked photo together, as the model runs."""
    vae_decoder: float
    """Of one sample."""
    row: float
    """One row of one UNet evaluation of two rows."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ValueError(f"costs: {field.name} is {value!r}; allowed: more than 0")

    def encoding_seconds(self, width: int, height: int, samples: int) -> float:
        """Seconds of the encoders and the decoder: the part of a bill that no step changes.

        ``width`` and ``height`` are the working size in pixels.
        """
        pictures = self.vae_encoder + samples * self.vae_decoder
        share = self._share(width, height)
        return self.text_encoder + self.image_encoder + pictures * share

    def loop_seconds(self, evaluations: int, rows: int, width: int, height: int) -> float:
        """Estimated seconds of ``evaluations`` UNet evaluations of ``rows`` rows at a working size."""
        return self.row * evaluations * rows * self._share(width, height)

    def _share(self, width: int, height: int) -> float:
        return width * height / self.native_pixels

    def to_json(self) -> str:
        """JSON of all fields."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Costs:
        """Inverse of ``to_json``; an unknown or missing key is a TypeError, a bad value ValueError."""
        return cls(**json.loads(text))
