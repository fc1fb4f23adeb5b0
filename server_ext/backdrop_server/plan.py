"""What `preprocess` resolves for the later stages, and what the stages must know of the bundle."""

from __future__ import annotations

import dataclasses
import json


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

    def to_json(self) -> str:
        """JSON of all fields."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BundleFacts:
        """Inverse of ``to_json``; an unknown or missing key is a TypeError."""
        return cls(**json.loads(text))
