"""The rivals: diffusers' own pipeline, eager, and compiled as diffusers' guide does it.

The guide is https://huggingface.co/docs/diffusers/optimization/fp16: channels-last, ``max-autotune``
with ``fullgraph`` on the denoiser and on ``vae.decode``, four Inductor settings, fused projections.
The ControlNet is compiled like the UNet, since it is a third of the work.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import diffusers
import torch
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from torch import nn

from backdrop_export.graphs import TextEncoder
from benchmarks.gpu.architecture import CLIP_MEAN, CLIP_STD, SCHEDULER, Architecture
from benchmarks.gpu.compilers import Compiler, mark_step
from benchmarks.gpu.load import CN_WEIGHT, IP_ADAPTER_WEIGHT, Inputs, Request, make_inputs
from benchmarks.gpu.networks import Networks
from benchmarks.gpu.samplers import Samplers


@dataclasses.dataclass
class Diffusers:
    """``StableDiffusionXLControlNetInpaintPipeline`` with an IP-Adapter on random networks."""

    pipeline: Any
    text_encoder: nn.Module
    architecture: Architecture
    schedulers: Samplers
    """Ready-made ones: a KDPM2 scheduler takes 0.2 s to make, which is not the pipeline's fault."""
    marks_steps: bool = False
    """Whether CUDA graphs must be told where a step begins: two of them feed each other."""

    def inputs(self, request: Request) -> Inputs:
        """The request's inputs; made before a clock runs."""
        device = str(self.pipeline.device)
        return make_inputs(
            self.architecture, request.width, request.height, request.seeds[0], device
        )

    @torch.inference_mode()
    def paint(self, request: Request, inputs: Inputs, output: str = "pt") -> torch.Tensor:
        """The picture, FP [1, 3, H, W] in 0..1, or with ``output`` "latent" its latents."""
        self.pipeline.scheduler = self.schedulers.make(request.sampler)
        self._mark_step()
        prompts, pooled = self.text_encoder(inputs.input_ids[None], inputs.input_ids_2[None])
        images: torch.Tensor = self.pipeline(
            prompt_embeds=prompts[:, 1],
            negative_prompt_embeds=prompts[:, 0],
            pooled_prompt_embeds=pooled[:, 1],
            negative_pooled_prompt_embeds=pooled[:, 0],
            image=_planes(inputs.working_image),
            mask_image=inputs.mask[None, None].float() / 255,
            control_image=(inputs.edges.float() / 255).expand(1, 3, -1, -1),
            ip_adapter_image=_normalised(inputs.ref_pixels),
            height=request.height,
            width=request.width,
            strength=1.0,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            controlnet_conditioning_scale=CN_WEIGHT,
            generator=torch.Generator("cpu").manual_seed(request.seeds[0]),
            callback_on_step_end=self._on_step_end,
            output_type=output,
        ).images
        return images

    def _on_step_end(
        self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self._mark_step()
        return tensors

    def _mark_step(self) -> None:
        if self.marks_steps:
            mark_step()


def _planes(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(2, 0, 1)[None].float() / 255


def _normalised(ref_pixels: torch.Tensor) -> torch.Tensor:
    """What diffusers' feature extractor would give the vision tower."""
    mean, std = (torch.tensor(v, device=ref_pixels.device) for v in (CLIP_MEAN, CLIP_STD))
    return (_planes(ref_pixels) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def make_eager(networks: Networks, architecture: Architecture) -> Diffusers:
    """Rival (1): the pipeline as it comes."""
    pipeline = diffusers.StableDiffusionXLControlNetInpaintPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        text_encoder_2=networks.text_encoder_2,
        tokenizer=None,
        tokenizer_2=None,
        unet=networks.unet,
        controlnet=networks.controlnet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config(dict(SCHEDULER)),
        image_encoder=networks.image_encoder,
        add_watermarker=False,
    )
    pipeline.load_ip_adapter(networks.ip_adapter, subfolder="", weight_name="random")
    pipeline.set_ip_adapter_scale(IP_ADAPTER_WEIGHT)
    pipeline.set_progress_bar_config(disable=True)
    text_encoder = TextEncoder(networks.text_encoder, networks.text_encoder_2)
    return Diffusers(pipeline, text_encoder, architecture, Samplers())


def make_compiled(networks: Networks, architecture: Architecture, compiler: Compiler) -> Diffusers:
    """Rival (2): the pipeline with its heavy parts compiled, which happens at the first picture."""
    rival = make_eager(networks, architecture)
    pipeline = rival.pipeline
    compiler.configure()
    prepare_for_compile(pipeline.unet, pipeline.controlnet)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.vae.fuse_qkv_projections()
    for name in ("unet", "controlnet"):
        module = getattr(pipeline, name)
        module.forward = compiler.compile(module.forward)
    pipeline.vae.decode = compiler.compile(pipeline.vae.decode)
    rival.marks_steps = compiler.uses_cuda_graphs
    return rival


def prepare_for_compile(unet: Any, controlnet: Any) -> None:
    """Channels-last layout and fused projections, as the guide has it.

    ``unet.fuse_qkv_projections`` would throw the IP-Adapter's attention away, and the ControlNet has
    no such method, so their self-attention is fused module by module.
    """
    for network in (unet, controlnet):
        network.to(memory_format=torch.channels_last)
        for name, attention in network.named_modules():
            if name.endswith(".attn1"):
                attention.fuse_projections(fuse=True)
                attention.set_processor(FusedAttnProcessor2_0())
