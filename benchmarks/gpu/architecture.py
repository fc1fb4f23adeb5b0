"""The networks of one picture as data: the published configurations, and a small set for CPU tests.

FULL holds the values of the published config files: the 9-channel SDXL inpainting UNet, the Canny
SDXL ControlNet, the fp16-safe SDXL VAE, CLIP ViT-L and ViT-bigG text towers, the CLIP ViT-H vision
tower, and the ``ip-adapter_sdxl_vit-h`` adapter. Weights are random, so no file is needed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from backdrop_server.errors import SetupError
from backdrop_server.plan import BundleFacts

IMAGE_TOKENS = 4
"""Tokens that the base IP-Adapter makes of one reference picture."""
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
VAE_SCALING_FACTOR = 0.13025

SCHEDULER: dict[str, object] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
"""The scheduler configuration that is published with SDXL."""


@dataclasses.dataclass(frozen=True)
class Tower:
    """One CLIP transformer of a published configuration."""

    width: int
    layers: int
    heads: int
    projection: int
    activation: str

    def config(self) -> dict[str, Any]:
        """The keys that text and vision configurations share."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "projection_dim": self.projection,
            "hidden_act": self.activation,
        }


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the networks; the blocks' order and kinds follow SDXL's."""

    name: str
    side: int
    """Side in pixels of the square picture that is benched."""
    other_sizes: tuple[tuple[int, int], tuple[int, int]]
    """Widths and heights that a mixed load has besides."""
    unet_channels: tuple[int, ...]
    layers_per_block: int
    transformer_layers: tuple[int, ...]
    """For each UNet level; a level of 0 has no attention, as SDXL's outermost."""
    head_channels: int
    norm_groups: int
    time_id_width: int
    edge_channels: tuple[int, int, int, int]
    vae_channels: tuple[int, int, int, int]
    vae_layers: int
    text: Tower
    text_2: Tower
    vision: Tower
    clip_side: int
    clip_patch: int
    vocabulary: int

    @property
    def latent_sides(self) -> tuple[int, int]:
        """Least and greatest side of all its sizes, in latents."""
        sides = [self.side, *(side for size in self.other_sizes for side in size)]
        return min(sides) // 8, max(sides) // 8

    @property
    def prompt_width(self) -> int:
        """Width of a prompt embedding: both text towers side by side."""
        return self.text.width + self.text_2.width

    def _denoiser(self) -> dict[str, Any]:
        layers = self.transformer_layers
        return {
            "act_fn": "silu",
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": self.time_id_width,
            "attention_head_dim": [width // self.head_channels for width in self.unet_channels],
            "block_out_channels": list(self.unet_channels),
            "cross_attention_dim": self.prompt_width,
            "down_block_types": [
                "CrossAttnDownBlock2D" if count else "DownBlock2D" for count in layers
            ],
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": self.norm_groups,
            "projection_class_embeddings_input_dim": self.text_2.projection
            + 6 * self.time_id_width,
            "transformer_layers_per_block": [max(count, 1) for count in layers],
            "use_linear_projection": True,
        }

    def unet(self) -> dict[str, Any]:
        """Configuration of the 9-channel inpainting ``UNet2DConditionModel``."""
        kinds = [
            "CrossAttnUpBlock2D" if count else "UpBlock2D" for count in self.transformer_layers
        ]
        return self._denoiser() | {
            "in_channels": 9,
            "out_channels": 4,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "sample_size": self.side // 8,
            "up_block_types": kinds[::-1],
        }

    def controlnet(self) -> dict[str, Any]:
        """Configuration of the ``ControlNetModel``."""
        return self._denoiser() | {
            "in_channels": 4,
            "conditioning_channels": 3,
            "conditioning_embedding_out_channels": list(self.edge_channels),
            "controlnet_conditioning_channel_order": "rgb",
        }

    def vae(self) -> dict[str, Any]:
        """Configuration of the ``AutoencoderKL``; fp16-safe, so nothing is upcast."""
        return {
            "act_fn": "silu",
            "block_out_channels": list(self.vae_channels),
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "force_upcast": False,
            "in_channels": 3,
            "latent_channels": 4,
            "layers_per_block": self.vae_layers,
            "norm_num_groups": self.norm_groups,
            "out_channels": 3,
            "sample_size": self.side,
            "scaling_factor": VAE_SCALING_FACTOR,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        }

    def text_tower(self, tower: Tower) -> dict[str, Any]:
        """Configuration of a CLIP text tower of 77 tokens."""
        return tower.config() | {
            "max_position_embeddings": 77,
            "vocab_size": self.vocabulary,
            "bos_token_id": self.vocabulary - 2,
            "eos_token_id": self.vocabulary - 1,
            "pad_token_id": 1,
        }

    def image_encoder(self) -> dict[str, Any]:
        """Configuration of the ``CLIPVisionModelWithProjection``."""
        return self.vision.config() | {
            "image_size": self.clip_side,
            "patch_size": self.clip_patch,
        }

    def facts(self) -> BundleFacts:
        """What the stages must know of the networks."""
        return BundleFacts(
            name=self.name,
            native_pixels=self.side**2,
            latent_channels=4,
            vae_scale_factor=8,
            vae_scaling_factor=VAE_SCALING_FACTOR,
            clip_image_size=self.clip_side,
            force_zeros_for_empty_prompt=True,
        )


FULL = Architecture(
    name="full",
    side=1024,
    other_sizes=((768, 768), (1280, 768)),
    unet_channels=(320, 640, 1280),
    layers_per_block=2,
    transformer_layers=(0, 2, 10),
    head_channels=64,
    norm_groups=32,
    time_id_width=256,
    edge_channels=(16, 32, 96, 256),
    vae_channels=(128, 256, 512, 512),
    vae_layers=2,
    text=Tower(width=768, layers=12, heads=12, projection=768, activation="quick_gelu"),
    text_2=Tower(width=1280, layers=32, heads=20, projection=1280, activation="gelu"),
    vision=Tower(width=1280, layers=32, heads=16, projection=1024, activation="gelu"),
    clip_side=224,
    clip_patch=14,
    vocabulary=49408,
)
SMALL = Architecture(
    name="small",
    side=64,
    other_sizes=((128, 64), (64, 128)),
    unet_channels=(16, 32),
    layers_per_block=1,
    transformer_layers=(0, 1),
    head_channels=16,
    norm_groups=4,
    time_id_width=16,
    edge_channels=(4, 4, 8, 8),
    vae_channels=(8, 8, 16, 16),
    vae_layers=1,
    text=Tower(width=16, layers=2, heads=2, projection=16, activation="quick_gelu"),
    text_2=Tower(width=32, layers=2, heads=2, projection=32, activation="gelu"),
    vision=Tower(width=32, layers=2, heads=2, projection=16, activation="gelu"),
    clip_side=32,
    clip_patch=16,
    vocabulary=256,
)
ARCHITECTURES = {architecture.name: architecture for architecture in (FULL, SMALL)}


def architecture_named(name: str) -> Architecture:
    """The architecture called ``name``; raises SetupError with the known names."""
    if name not in ARCHITECTURES:
        raise SetupError(f"there is no size {name!r}; sizes: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
