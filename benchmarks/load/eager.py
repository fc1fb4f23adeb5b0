"""The obvious alternative: diffusers' pipeline behind FastAPI, one request at a time.

    python -m benchmarks.load.eager --bundle build/bundles/demo --port 9000 --precision bf16

It does the same work: the same matte, edges and paste-back as the server's, eager torch between.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import time
import warnings
from pathlib import Path
from typing import Any

import diffusers
import fastapi
import numpy as np
import torch
import uvicorn
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from backdrop_export.bundles import Bundle
from backdrop_server.stages import canny, pictures, subject
from backdrop_server.stages.composite import paste_back
from backdrop_server.stages.foreground import estimate_foreground
from backdrop_server.stages.schedulers import SAMPLERS
from backdrop_server.working_sizes import working_size

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Pipeline:
    """diffusers' ControlNet inpainting pipeline with the IP-Adapter, from a bundle, in ``dtype``."""

    def __init__(self, bundle: Path, dtype: torch.dtype) -> None:
        diffusers.utils.logging.set_verbosity_error()
        vision = CLIPVisionModelWithProjection.from_pretrained(
            bundle / "image_encoder", dtype=dtype
        )
        self._pipe = diffusers.StableDiffusionXLControlNetInpaintPipeline.from_pretrained(
            bundle, image_encoder=vision, torch_dtype=dtype
        )
        self._pipe.load_ip_adapter(
            str(bundle), subfolder="ip_adapter", weight_name="ip-adapter.safetensors"
        )
        self._pipe.set_ip_adapter_scale(0.5)
        self._pipe.set_progress_bar_config(disable=True)
        self._config = dict(self._pipe.scheduler.config)
        self._facts = Bundle.open(bundle).facts()

    def replace(self, fields: dict[str, Any]) -> list[bytes]:
        """The JPEG files of one request; ``fields`` as the gateway's, pictures in base64."""
        photo = pictures.decode(base64.b64decode(fields["image"]), "image")
        look = pictures.decode(base64.b64decode(fields["ref_image"]), "ref_image")
        matte = subject.find_matte(photo)
        size = working_size(*photo.size, self._facts.native_pixels)
        small = pictures.resize(photo.rgb, *size)
        mask = subject.working_mask(matte.alpha, *size)
        made = self._paint(fields, small, mask, look.rgb)
        front = estimate_foreground(photo.rgb, matte.alpha)
        return [
            pictures.encode(
                paste_back(front, matte.alpha, pictures.resize(one, *photo.size)), "jpeg"
            )
            for one in made
        ]

    def _paint(self, fields: dict[str, Any], small: Any, mask: Any, look: Any) -> Any:
        spec = SAMPLERS[fields["scheduler"]]
        self._pipe.scheduler = getattr(diffusers, spec.class_name).from_config(
            self._config, **spec.arguments
        )
        seeds = [fields["seed"] + k for k in range(fields["samples"])]
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            made = self._pipe(
                prompt=fields["prompt"],
                image=Image.fromarray(small),
                mask_image=Image.fromarray(mask),
                control_image=Image.fromarray(canny.edge_map(small, mask)).convert("RGB"),
                ip_adapter_image=Image.fromarray(look),
                height=small.shape[0],
                width=small.shape[1],
                num_inference_steps=fields["num_inference_steps"],
                num_images_per_prompt=len(seeds),
                guidance_scale=7.5,
                guidance_rescale=self._facts.guidance_rescale,
                strength=1.0,
                controlnet_conditioning_scale=0.9,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="np",
            ).images
        return (np.asarray(made) * 255).round().astype(np.uint8)


def application(pipeline: Pipeline) -> fastapi.FastAPI:
    """One route, one lock."""
    app, lock = fastapi.FastAPI(), asyncio.Lock()

    @app.get("/")
    async def alive() -> dict[str, bool]:
        return {"alive": True}

    @app.post("/v1/bg-replace")
    async def replace(request: fastapi.Request) -> dict[str, Any]:
        fields = await request.json()
        async with lock:
            begun = time.monotonic()
            files = await asyncio.to_thread(pipeline.replace, fields)
            seconds = time.monotonic() - begun
        return {"images": [base64.b64encode(file).decode() for file in files], "seconds": seconds}

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    options = parser.parse_args()
    app = application(Pipeline(options.bundle, DTYPES[options.precision]))
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")


if __name__ == "__main__":
    main()
