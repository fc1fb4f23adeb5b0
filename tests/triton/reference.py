"""diffusers' StableDiffusionXLControlNetInpaintPipeline on the same bundle and inputs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from backdrop_client.triton import Replaced
from backdrop_export.bundles import Bundle
from backdrop_server.stages.schedulers import SAMPLERS
from tests.pictures import Pixels


class Reference:
    """The stock pipeline with IP-Adapter, fp32 on the CPU.

    From the server it takes only the matte and the edge map, as the answer shows them.
    """

    def __init__(self, bundle: Path) -> None:
        torch.set_num_threads(1)  # small graphs; the server needs the other cores
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vision = CLIPVisionModelWithProjection.from_pretrained(bundle / "image_encoder")
            self._pipe = diffusers.StableDiffusionXLControlNetInpaintPipeline.from_pretrained(
                bundle, image_encoder=vision, torch_dtype=torch.float32
            )
            self._pipe.load_ip_adapter(
                str(bundle), subfolder="ip_adapter", weight_name="ip-adapter.safetensors"
            )
        self._pipe.set_progress_bar_config(disable=True)
        self._guidance_rescale = Bundle.open(bundle).facts().guidance_rescale
        self._config = dict(self._pipe.scheduler.config)

    def picture(self, fields: Mapping[str, Any], answer: Replaced, seed: int) -> Pixels:
        """What diffusers makes of the request ``fields`` for one sample: uint8 [H, W, 3]."""
        matte = Image.open(io.BytesIO(answer.matte))
        edges = Image.open(io.BytesIO(answer.edge_map))
        photo = Image.open(io.BytesIO(fields["image"])).convert("RGB")
        reference = Image.open(io.BytesIO(fields["ref_image"])).convert("RGB")
        self._pipe.scheduler = self._scheduler(fields.get("scheduler", "DPM2 Karras"))
        self._pipe.set_ip_adapter_scale(fields.get("ip_adapter_weight", 0.5))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = self._pipe(
                prompt=fields["prompt"],
                negative_prompt=fields.get("negative_prompt"),
                image=photo.resize(matte.size, Image.Resampling.LANCZOS),
                mask_image=Image.fromarray(255 - np.asarray(matte)),
                control_image=edges.convert("RGB"),
                ip_adapter_image=reference,
                height=matte.height,
                width=matte.width,
                num_inference_steps=fields["num_inference_steps"],
                guidance_scale=fields.get("guidance_scale", 7.5),
                guidance_rescale=self._guidance_rescale,
                strength=fields.get("strength", 1.0),
                controlnet_conditioning_scale=fields.get("cn_weight", 0.9),
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="np",
            ).images[0]
        pixels: Pixels = (made * 255).round().astype(np.uint8)
        return pixels

    def _scheduler(self, name: str) -> Any:
        spec = SAMPLERS[name]
        scheduler = getattr(diffusers, spec.class_name)
        return scheduler.from_config(self._config, **spec.arguments)
