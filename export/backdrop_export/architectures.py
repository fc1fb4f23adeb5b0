"""The bundles' sizes as data: SDXL's own classes and configuration keys; its numbers, or smaller."""

from __future__ import annotations

import dataclasses
from typing import Any

from backdrop_server.errors import SetupError

IMAGE_TOKENS = 4
"""Tokens that the base IP-Adapter makes of one reference picture."""
VAE_SCALING_FACTOR = 0.13025
PIPELINE_CLASS = "StableDiffusionXLControlNetInpaintPipeline"


@dataclasses.dataclass(frozen=True)
class Tower:
    """One CLIP transformer: width, layers, projection width, channels of a head."""

    width: int
    layers: int
    projection: int
    head: int = 32

    def config(self) -> dict[str, Any]:
        """The keys that the text and vision configurations share."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // self.head,
            "projection_dim": self.projection,
        }


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a bundle; whatever follows from them is a property."""

    name: str
    seed: int
    native_side: int
    """Side in pixels of the square picture that the bundle is made for."""
    unet_channels: tuple[int, int, int]
    unet_layers_per_block: int
    transformer_layers: tuple[int, int, int]
    head_channels: int
    unet_groups: int
    edge_channels: tuple[int, int, int, int]
    edge_gain: float
    """Strength of the random edge features, which a trained bundle does not need."""
    vae_channels: tuple[int, int, int, int]
    vae_groups: int
    text: Tower
    text_2: Tower
    vision: Tower
    clip_side: int
    clip_patch: int
    vocabulary: int
    time_id_width: int = 32
    """Width of the embedding of each of the six time ids."""
    vae_layers: int = 1
    precision: str = "fp32"
    """What files of random weights hold: fp32 or fp16; those of trained ones hold fp16."""
    text_ids: tuple[int, int, int] | None = None
    """Ids of start, end and padding in the text towers' configurations; the published ones are
    not the tokenizer's (49406, 49407), and transformers knows them by that."""
    vae_scaling_factor: float = VAE_SCALING_FACTOR
    prediction_type: str = "epsilon"
    """What the UNet predicts: epsilon, or v_prediction."""
    guidance_rescale: float = 0.0
    """Written to the bundle's facts; see ``BundleFacts``."""
    wired: bool = True
    """Whether samplers converge on the random weights; see ``wiring``."""

    @property
    def cross_attention_dim(self) -> int:
        """Width of a prompt embedding: both text towers side by side."""
        return self.text.width + self.text_2.width

    @property
    def native_pixels(self) -> int:
        """Working pixels, width x height."""
        return self.native_side**2

    @property
    def projection_input_dim(self) -> int:
        """Width of the pooled prompt and the six embedded time ids together."""
        return self.text_2.projection + 6 * self.time_id_width

    def _denoiser(self) -> dict[str, Any]:
        return {
            "act_fn": "silu",
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": self.time_id_width,
            "attention_head_dim": [width // self.head_channels for width in self.unet_channels],
            "block_out_channels": list(self.unet_channels),
            "cross_attention_dim": self.cross_attention_dim,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "layers_per_block": self.unet_layers_per_block,
            "norm_num_groups": self.unet_groups,
            "projection_class_embeddings_input_dim": self.projection_input_dim,
            "transformer_layers_per_block": list(self.transformer_layers),
            "use_linear_projection": True,
        }

    def unet(self) -> dict[str, Any]:
        """Configuration of the 9-channel inpainting ``UNet2DConditionModel``."""
        return self._denoiser() | {
            "in_channels": 9,
            "out_channels": 4,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "sample_size": self.native_side // 8,
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
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
        """Configuration of the ``AutoencoderKL``."""
        return {
            "act_fn": "silu",
            "block_out_channels": list(self.vae_channels),
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "force_upcast": self.precision == "fp32",
            "in_channels": 3,
            "latent_channels": 4,
            "layers_per_block": self.vae_layers,
            "norm_num_groups": self.vae_groups,
            "out_channels": 3,
            "sample_size": self.native_side,
            "scaling_factor": self.vae_scaling_factor,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        }

    def scheduler(self) -> dict[str, Any]:
        """Configuration of the scheduler: the published one, but for what the UNet predicts."""
        return SCHEDULER | {"prediction_type": self.prediction_type}

    def _text_tower(self, tower: Tower, activation: str, pad_token_id: int) -> dict[str, Any]:
        own = (self.vocabulary - 2, self.vocabulary - 1, pad_token_id)
        start, end, padding = self.text_ids or own
        return tower.config() | {
            "attention_dropout": 0.0,
            "bos_token_id": start,
            "eos_token_id": end,
            "hidden_act": activation,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 77,
            "pad_token_id": padding,
            "vocab_size": self.vocabulary,
        }

    def text_encoder(self) -> dict[str, Any]:
        """Configuration of the ``CLIPTextModel``."""
        return self._text_tower(self.text, "quick_gelu", self.vocabulary - 1)

    def text_encoder_2(self) -> dict[str, Any]:
        """Configuration of the ``CLIPTextModelWithProjection``; pads with id 0 as SDXL's does."""
        return self._text_tower(self.text_2, "gelu", 0)

    def image_encoder(self) -> dict[str, Any]:
        """Configuration of the ``CLIPVisionModelWithProjection``."""
        return self.vision.config() | {
            "hidden_act": "gelu",
            "image_size": self.clip_side,
            "patch_size": self.clip_patch,
        }


SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
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

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="demo",
            seed=20_231_101,
            native_side=256,
            # Few groups: norms over two or three channels take a picture's colours away.
            unet_channels=(32, 64, 128),
            unet_layers_per_block=1,
            transformer_layers=(1, 1, 1),
            head_channels=32,
            unet_groups=4,
            edge_channels=(4, 8, 16, 32),
            edge_gain=4.0,
            vae_channels=(16, 24, 48, 96),
            vae_groups=2,
            text=Tower(width=64, layers=3, projection=64),
            text_2=Tower(width=96, layers=3, projection=96),
            vision=Tower(width=128, layers=3, projection=128),
            clip_side=128,
            clip_patch=16,
            vocabulary=1536,
            prediction_type="v_prediction",
            guidance_rescale=0.7,
        ),
        Architecture(
            name="tiny",
            seed=20_231_102,
            native_side=128,
            unet_channels=(32, 32, 64),
            unet_layers_per_block=1,
            transformer_layers=(1, 1, 1),
            head_channels=32,
            unet_groups=8,
            edge_channels=(4, 8, 16, 16),
            edge_gain=1.0,
            vae_channels=(16, 16, 32, 32),
            vae_groups=4,
            text=Tower(width=32, layers=2, projection=32),
            text_2=Tower(width=64, layers=2, projection=64),
            vision=Tower(width=32, layers=2, projection=32),
            clip_side=64,
            clip_patch=32,
            vocabulary=1024,
        ),
        Architecture(
            name="sdxl-random",
            seed=20_231_103,
            native_side=1024,
            unet_channels=(320, 640, 1280),
            unet_layers_per_block=2,
            transformer_layers=(1, 2, 10),
            head_channels=64,
            unet_groups=32,
            edge_channels=(16, 32, 96, 256),
            edge_gain=1.0,
            vae_channels=(128, 256, 512, 512),
            vae_groups=32,
            text=Tower(width=768, layers=12, projection=768, head=64),
            text_2=Tower(width=1280, layers=32, projection=1280, head=64),
            vision=Tower(width=1280, layers=32, projection=1024, head=80),
            clip_side=224,
            clip_patch=14,
            vocabulary=49408,
            time_id_width=256,
            vae_layers=2,
            precision="fp16",
            text_ids=(0, 2, 1),
            wired=False,
        ),
    )
}


def architecture_named(name: str) -> Architecture:
    """The architecture called ``name``; raises SetupError with the known names."""
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise SetupError(f"there is no bundle called {name!r}; bundles that can be made: {known}")
    return ARCHITECTURES[name]
