"""What is asked for: requests with seeded inputs, alone, together, and mixed."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from backdrop_server.plan import Plan
from benchmarks.gpu.architecture import Architecture

SAMPLERS = ("DDIM", "DPM2 Karras")
STEPS = 25
GUIDANCE = 7.5
CN_WEIGHT = 0.9
IP_ADAPTER_WEIGHT = 0.5
IN_FLIGHT = (1, 2, 4, 8)
SMALL_STEPS = 2
"""Steps of the small size: its figures say nothing, its logic is what a test needs."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One picture request; ``seeds`` has one entry for each sample."""

    sampler: str
    steps: int
    width: int
    height: int
    seeds: tuple[int, ...]
    guidance: float = GUIDANCE

    def plan(self) -> Plan:
        """The same as `preprocess` would resolve it."""
        return Plan(
            request_id=f"bench-{self.seeds[0]}",
            width=self.width,
            height=self.height,
            scheduler=self.sampler,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            strength=1.0,
            cn_weight=CN_WEIGHT,
            ip_adapter_weight=IP_ADAPTER_WEIGHT,
            seeds=self.seeds,
            has_negative_prompt=True,
            preserve_subject=False,
            output_format="png",
            matte_source="bench",
            received_at=0.0,
            prepared_at=0.0,
        )

    @property
    def halves(self) -> int:
        """Rows a sample: two with classifier-free guidance."""
        return 2 if self.guidance > 1 else 1


def steps_of(architecture: Architecture) -> int:
    """25, or as few as the small size is benched with."""
    return STEPS if architecture.name == "full" else SMALL_STEPS


def plain_request(architecture: Architecture, sampler: str, seed: int = 0) -> Request:
    """The request that every way is timed with."""
    side = architecture.side
    return Request(sampler, steps_of(architecture), side, side, (seed,))


def mixed_requests(architecture: Architecture) -> list[Request]:
    """Samplers, steps, sizes, sample counts and guidance as they come on a normal day."""
    side, few = architecture.side, steps_of(architecture)
    small, wide = architecture.other_sizes
    many = few * 2
    return [
        Request("DDIM", few, side, side, (1,)),
        Request("DPM2 Karras", few, side, side, (2,)),
        Request("Euler a", many, side, side, (3, 4)),
        Request("DPM Multi", few, *small, (5,)),
        Request("DDIM", few, *wide, (6,)),
        Request("Euler", few, side, side, (7,), guidance=1.0),
        Request("UniPC", few, *small, (8, 9, 10, 11)),
        Request("DPM2 Karras", few, *wide, (12, 13)),
        Request("Heun", few, side, side, (14,)),
        Request("DDIM", many, *small, (15,)),
        Request("DPM Multi", few, side, side, (16,)),
        Request("DDPM", few, side, side, (17,)),
    ]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A request's decoded inputs on the device, as `preprocess` hands them on."""

    input_ids: torch.Tensor  # int64 [2, 77]; negative, positive
    input_ids_2: torch.Tensor
    ref_pixels: torch.Tensor  # uint8 [S, S, 3]
    working_image: torch.Tensor  # uint8 [H, W, 3]
    mask: torch.Tensor  # uint8 [H, W]; 255 = repaint
    edges: torch.Tensor  # uint8 [H, W]; 255 = edge

    @property
    def latent_mask(self) -> torch.Tensor:
        """uint8 [h, w], 1 = repaint: the nearest pixel, as diffusers takes it."""
        return (self.mask[::8, ::8] >= 128).to(torch.uint8)


def make_inputs(
    architecture: Architecture, width: int, height: int, seed: int, device: str
) -> Inputs:
    """Seeded inputs; the same on every device."""
    draw = np.random.default_rng(seed)
    last = architecture.vocabulary - 1
    ids = draw.integers(1, last - 1, (2, 2, 77), dtype=np.int64)
    ids[..., 0], ids[..., 24:] = last - 1, last
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((x - width / 2) / width, (y - height / 2) / height)
    arrays = {
        "input_ids": ids[0],
        "input_ids_2": ids[1],
        "ref_pixels": _pixels(draw, architecture.clip_side, architecture.clip_side),
        "working_image": _pixels(draw, height, width),
        "mask": np.where(distance < 0.25, 0, 255).astype(np.uint8),
        "edges": np.where(np.abs(distance - 0.25) < 0.01, 255, 0).astype(np.uint8),
    }
    return Inputs(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})


def _pixels(draw: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    return draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
