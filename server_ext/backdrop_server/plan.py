"""What `preprocess` resolves for the later stages, and what they must know of bundle and engine."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """One request with every open choice resolved; made by `preprocess`, only read after it.

    Times are seconds of the host's monotonic clock.
    """

    request_id: str
    width: int
    height: int
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    strength: float
    cn_weight: float
    ip_adapter_weight: float
    seeds: tuple[int, ...]
    has_negative_prompt: bool
    preserve_subject: bool
    output_format: str
    matte_source: str
    received_at: float
    prepared_at: float
    matte_sureness: float = 1.0
    guidance_rescale: float = 0.0
    shadow: str = "off"
    shadow_direction: float = 60.0
    shadow_strength: float = 0.5
    harmonize: bool = False
    matting_seconds: float = 0.0
    """What the matting network's engine took."""

    def __post_init__(self) -> None:
        if self.width % 64 or self.height % 64 or not self.seeds:
            raise ValueError("a plan needs a working size in multiples of 64 and at least one seed")

    @property
    def samples(self) -> int:
        """Number of pictures."""
        return len(self.seeds)

    @property
    def uses_guidance(self) -> bool:
        """Whether classifier-free guidance runs; at a scale of 1 only the conditional half does."""
        return self.guidance_scale > 1

    @property
    def keeps_photo(self) -> bool:
        """Whether ``strength`` leaves no step, so that the photo comes back unchanged."""
        return int(self.num_inference_steps * self.strength) < 1

    def to_json(self) -> bytes:
        """UTF-8 JSON of all fields."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Plan:
        """Inverse of ``to_json``; an unknown or missing key is a TypeError."""
        values = json.loads(text)
        return cls(**{**values, "seeds": tuple(values["seeds"])})


@dataclasses.dataclass(frozen=True)
class BundleFacts:
    """What the stages must know of the bundle; an export writes it as ``bundle.json`` beside them."""

    name: str
    native_pixels: int
    """Working pixels: width x height of the picture size that the weights were made for."""
    latent_channels: int
    vae_scale_factor: int
    """Pixels per latent along one side."""
    vae_scaling_factor: float
    """Scaled latents are unscaled ones times this."""
    clip_image_size: int
    """Side of the square picture that the vision tower takes."""
    force_zeros_for_empty_prompt: bool
    guidance_rescale: float = 0.0
    """0 to 1: how far the guided prediction gets back the spread of the conditional one; for
    weights that large guidance scales overexpose. (Lin et al. 2023, arXiv:2305.08891, section 3.4)"""

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale is {self.guidance_rescale!r}; allowed: 0 to 1")

    def to_json(self) -> str:
        """JSON of all fields."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BundleFacts:
        """Inverse of ``to_json``; an unknown or missing key is a TypeError."""
        return cls(**json.loads(text))


class Precision(enum.Enum):
    """What an engine computes in; its inputs and outputs are FP32 whatever it is."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"


@dataclasses.dataclass(frozen=True)
class EngineLimits:
    """What an engine file was built for; an export writes it as ``<stem>.json`` beside the file.

    Heights and widths are inclusive ranges of latent sizes, None where any size goes.
    """

    engine: str
    precision: Precision
    builder: str
    """What built it, as its library calls itself: ``tensorrt 10.9.0.34``."""
    max_rows: int
    min_rows: int = 1
    row_buckets: tuple[int, ...] = ()
    """Numbers of rows that it was built for, rising; empty: any from min_rows to max_rows."""
    heights: tuple[int, int] | None = None
    widths: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    """Latent height and width of each size, where single sizes were built instead of ranges."""
    gpu: str | None = None
    """The device's name, where the file fits no other."""
    compute_capability: str | None = None
    """As ``9.0``."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.row_buckets, self.row_buckets[1:], strict=False))
        if not 1 <= self.min_rows <= self.max_rows or not rising:
            raise ValueError("an engine's rows must be at least one, its buckets rising")
        if self.row_buckets and (self.row_buckets[0], self.row_buckets[-1]) != (
            self.min_rows,
            self.max_rows,
        ):
            raise ValueError("an engine's buckets must begin and end with its fewest and most rows")

    def padded_rows(self, rows: int) -> int:
        """The number of rows to give to the engine for ``rows``, which is at most ``max_rows``."""
        fitting = (bucket for bucket in self.row_buckets if bucket >= rows)
        return next(fitting, max(rows, self.min_rows))

    def allows_size(self, height: int, width: int) -> bool:
        """Whether the engine takes latents of this size."""
        if self.sizes:
            return (height, width) in self.sizes
        sides = ((height, self.heights), (width, self.widths))
        return all(limit is None or limit[0] <= side <= limit[1] for side, limit in sides)

    def to_json(self) -> str:
        """JSON of all fields."""
        values = dataclasses.asdict(self) | {"precision": self.precision.value}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineLimits:
        """Inverse of ``to_json``; an unknown or missing key is a TypeError, a bad value ValueError."""
        values: dict[str, Any] = json.loads(text)
        for name in ("row_buckets", "heights", "widths"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        values["sizes"] = tuple(tuple(size) for size in values.get("sizes", ()))
        return cls(**{**values, "precision": Precision(values.get("precision"))})


def tensorrt_plan_stem(graph: str, builder: str, gpu: str, compute_capability: str) -> str:
    """A plan's file name without suffix: it holds all that makes the file useless elsewhere."""
    tag = f"{graph}-{builder}-{gpu}-sm{compute_capability.replace('.', '')}"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in tag)
