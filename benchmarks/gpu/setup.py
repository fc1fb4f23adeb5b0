"""What a step is run with, and what it builds from that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from benchmarks.gpu.architecture import Architecture
from benchmarks.gpu.graphs import graph_modules
from benchmarks.gpu.networks import PRECISIONS, Networks, make_networks
from benchmarks.gpu.timing import RUNS, WARM_UPS

SMALL_RUNS = (1, 2)
"""At the small size, whose figures say nothing."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The command line of one step."""

    architecture: Architecture
    device: str
    precision: str
    """A key of PRECISIONS; what the networks are kept and computed in."""
    out: Path
    """Result files."""
    work: Path
    """Engine files, too large to bring home; they outlast a step."""
    repository: Path | None = None
    """What ``backdrop-export`` built for an engine, or the folder that holds several such."""
    engine: str | None = None
    """The engine that ``batching``, ``mixed`` and ``profile`` take; None: the fastest so far."""

    @property
    def is_full(self) -> bool:
        """Whether figures of this size mean anything."""
        return self.architecture.name == "full"

    @property
    def runs(self) -> tuple[int, int]:
        """Warm-up runs and counted ones."""
        return (WARM_UPS, RUNS) if self.is_full else SMALL_RUNS

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch calls it."""
        return PRECISIONS[self.precision]

    def networks(self, precision: str | None = None) -> Networks:
        """Fresh networks on the device."""
        return make_networks(
            self.architecture, self.device, PRECISIONS[precision or self.precision]
        )

    def modules(self) -> dict[str, nn.Module]:
        """Our five graphs over fresh networks."""
        return graph_modules(self.networks(), self.architecture)


def _example_side(architecture: Architecture) -> int:
    """At least two of the 64-pixel units that sides come in: tracing takes one for a fixed size."""
    return max(architecture.side, 128)


def denoiser_example(setup: Setup, rows: int) -> dict[str, torch.Tensor]:
    """Inputs of the denoiser by the contract's names, to trace it with."""
    architecture, device = setup.architecture, setup.device
    side = _example_side(architecture)
    shapes: dict[str, tuple[int, ...]] = {
        "sample": (4, side // 8, side // 8),
        "inpaint_latents": (5, side // 8, side // 8),
        "timestep": (),
        "prompt_embeds": (77, architecture.prompt_width),
        "pooled_prompt_embeds": (architecture.text_2.projection,),
        "time_ids": (6,),
        "image_embeds": (4, architecture.prompt_width),
        "edge_embeds": (architecture.unet_channels[0], side // 8, side // 8),
        "cn_weight": (),
        "ip_adapter_weight": (),
    }
    tensors = {name: torch.rand(rows, *shape, device=device) for name, shape in shapes.items()}
    tensors["timestep"] *= 999
    return tensors


def encoder_examples(setup: Setup) -> dict[str, dict[str, torch.Tensor]]:
    """Inputs of the other graphs by the contract's names: a batch of 1, two samples."""
    architecture, device = setup.architecture, setup.device
    side, clip = _example_side(architecture), architecture.clip_side
    ids = torch.randint(1, architecture.vocabulary - 2, (1, 2, 77), device=device)

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, device=device, dtype=torch.uint8)

    return {
        "text_encoder": {"input_ids": ids, "input_ids_2": ids.clone()},
        "image_encoder": {"ref_pixels": pixels(1, clip, clip, 3)},
        "vae_encoder": {"working_image": pixels(1, side, side, 3), "mask": pixels(1, side, side)},
        "vae_decoder": {"latents": torch.randn(1, 2, 4, side // 8, side // 8, device=device)},
    }
