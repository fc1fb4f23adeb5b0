"""The five graphs as torch modules around diffusers' and transformers' models.

Their inputs and outputs are those of ``backdrop_server.contract``, FP32 whatever the weights are:
the casts are inside, those of pictures first and last, since TensorRT takes uint8 as input and
output only. B is Triton's batch dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from backdrop_export.ip_attention import RowWeightedIPAttention


class TextEncoder(nn.Module):
    """Both text towers: penultimate hidden states side by side, and the second's projection."""

    def __init__(self, text_encoder: nn.Module, text_encoder_2: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2

    def forward(
        self, input_ids: torch.Tensor, input_ids_2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two int64 [B, 2, 77] to prompt_embeds [B, 2, 77, D] and pooled_prompt_embeds [B, 2, P]."""
        first = self.text_encoder(input_ids.flatten(0, 1), output_hidden_states=True)
        second = self.text_encoder_2(input_ids_2.flatten(0, 1), output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return _fp32(_pairs(states)), _fp32(_pairs(second.text_embeds))


class ImageEncoder(nn.Module):
    """CLIP's normalisation and vision tower, then the IP-Adapter's projection.

    The base adapter projects CLIP's embedding, and zeros for the unconditional half; the plus
    adapter (``penultimate``) projects the tower's penultimate states, and those of zero pixels, as
    diffusers' ``encode_image`` does. The unconditional half is the same for every picture, so it is
    a constant here.
    """

    mean: torch.Tensor
    std: torch.Tensor
    unconditional: torch.Tensor

    def __init__(
        self,
        vision: Any,
        projection: nn.Module,
        mean: list[float],
        std: list[float],
        penultimate: bool = False,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.projection = projection
        self.penultimate = penultimate
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.register_buffer("unconditional", self._unconditional())

    def forward(self, ref_pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, S, S, 3] to image_embeds [B, 2, T, C]: unconditional, then conditional."""
        pixels = (ref_pixels.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        conditional = _fp32(self.projection(self._features(_cast(pixels, _dtype(self.vision)))))
        unconditional = self.unconditional.expand(conditional.shape[0], -1, -1)
        return torch.stack([unconditional, conditional], dim=1)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the projection takes: [B, E] for the base adapter, [B, patches, D] for plus."""
        features: torch.Tensor
        if self.penultimate:
            features = self.vision(pixels, output_hidden_states=True).hidden_states[-2]
        else:
            features = self.vision(pixels).image_embeds
        return features

    @torch.no_grad()
    def _unconditional(self) -> torch.Tensor:
        """[1, T, C] in FP32: computed in FP32 too, as CPUs take a minute for it in FP16."""
        config, dtype = self.vision.config, _dtype(self.projection)
        self.projection.float()
        if self.penultimate:
            side = int(config.image_size)
            self.vision.float()
            nothing = self._features(torch.zeros(1, 3, side, side))
            self.vision.to(dtype)
        else:
            nothing = torch.zeros(1, int(config.projection_dim))
        tokens: torch.Tensor = self.projection(nothing)
        self.projection.to(dtype)
        return tokens


class VaeEncoder(nn.Module):
    """Moments of the photo and of the photo with the repainted part set to grey."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv or nn.Identity()

    def forward(self, working_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """uint8 [B, H, W, 3] and [B, H, W] to image_moments [B, 2, 2 * channels, h, w]."""
        image = working_image.float().permute(0, 3, 1, 2) / 255 * 2 - 1
        masked = image * (mask < 128).float().unsqueeze(1)
        pictures = torch.stack([image, masked], dim=1).flatten(0, 1)
        moments = self.quant_conv(self.encoder(_cast(pictures, _dtype(self.encoder))))
        return _fp32(_pairs(moments))


class VaeDecoder(nn.Module):
    """Scaled latents to 8-bit pixels, rounded as diffusers rounds."""

    scale: torch.Tensor
    mean: torch.Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.post_quant_conv = vae.post_quant_conv or nn.Identity()
        config = vae.config
        self.channels = int(config.latent_channels)
        std = getattr(config, "latents_std", None) or [1.0] * self.channels
        mean = getattr(config, "latents_mean", None) or [0.0] * self.channels
        scale = torch.tensor(std) / config.scaling_factor
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, S, channels, h, w] to pixels uint8 [B, S, H, W, 3]."""
        batch, samples, _, height, width = latents.shape
        flat = latents.reshape(-1, self.channels, height, width)
        unscaled = _cast(flat * self.scale + self.mean, _dtype(self.decoder))
        decoded = _fp32(self.decoder(self.post_quant_conv(unscaled)))
        levels: torch.Tensor = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
        return levels.reshape(batch, samples, *levels.shape[1:]).to(torch.uint8)


class UnetControlnet(nn.Module):
    """ControlNet, 9-channel UNet and the IP-Adapter's attention; every weight is per row.

    ``unet`` must have ``RowWeightedIPAttention`` in its cross-attention; see ``install_ip_adapter``.
    ``controlnet`` loses its edge encoder, which does not change with the step: the graph takes what
    that gives. See ``backdrop_server.stages.edge_encoder``.
    """

    def __init__(self, unet: nn.Module, controlnet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        controlnet.controlnet_cond_embedding = nn.Identity()
        # Of edges in three equal channels the order means nothing, and what is given is no picture.
        controlnet.register_to_config(controlnet_conditioning_channel_order="rgb")

    def forward(
        self,
        sample: torch.Tensor,
        inpaint_latents: torch.Tensor,
        timestep: torch.Tensor,
        prompt_embeds: torch.Tensor,
        pooled_prompt_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        image_embeds: torch.Tensor,
        edge_embeds: torch.Tensor,
        cn_weight: torch.Tensor,
        ip_adapter_weight: torch.Tensor,
    ) -> torch.Tensor:
        """Shapes as in ``contract.UNET_CONTROLNET_INPUTS``; returns noise_pred like ``sample``."""
        dtype = _dtype(self.unet)
        prompt = _cast(prompt_embeds, dtype)
        image = (_cast(image_embeds, dtype), _cast(ip_adapter_weight.view(-1, 1, 1), dtype))
        # Timesteps and time ids stay FP32 up to their embeddings: FP16 would round a timestep.
        added = {"text_embeds": _cast(pooled_prompt_embeds, dtype), "time_ids": time_ids}
        down, mid = self.controlnet(
            _cast(sample, dtype),
            timestep,
            encoder_hidden_states=prompt,
            controlnet_cond=_cast(edge_embeds, dtype),
            conditioning_scale=_cast(cn_weight.view(-1, 1, 1, 1), dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )
        (noise_pred,) = self.unet(
            _cast(torch.cat([sample, inpaint_latents], dim=1), dtype),
            timestep,
            encoder_hidden_states=(prompt, *image),
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )
        return _fp32(noise_pred)


def install_ip_adapter(unet: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give each cross-attention of ``unet`` its IP-Adapter weights, by the published numbering.

    ``weights`` are the file's tensors under ``ip_adapter.``, odd numbers in the order of
    ``unet.attn_processors``. Raises KeyError with the key that is missing.
    """
    processors = dict(unet.attn_processors)
    cross = [name for name in processors if name.endswith("attn2.processor")]
    for index, name in enumerate(cross):
        key = f"ip_adapter.{2 * index + 1}"
        processors[name] = RowWeightedIPAttention(
            weights[f"{key}.to_k_ip.weight"], weights[f"{key}.to_v_ip.weight"]
        )
    unet.set_attn_processor(processors)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``tensor`` as ``dtype``; one that is so already leaves no Cast in the graph."""
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return _cast(tensor, torch.float32)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _pairs(rows: torch.Tensor) -> torch.Tensor:
    """[2 * B, ...] to [B, 2, ...]."""
    return rows.reshape(-1, 2, *rows.shape[1:])
