"""Our way: the encoders, the server's step-batched denoise loop, the decoder, without a server."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

from backdrop_server.stages import batches, denoise
from benchmarks.gpu.architecture import Architecture
from benchmarks.gpu.graphs import DENOISER, Graphs
from benchmarks.gpu.load import Inputs, Request, make_inputs
from benchmarks.gpu.samplers import Samplers

ROW_LIMIT = 16
"""Rows of one engine call, as ``model_repository/denoise/config.pbtxt`` has it."""


@dataclasses.dataclass(frozen=True)
class Painted:
    """What one request came to: the last latents [S, 4, h, w] and pixels uint8 [S, H, W, 3]."""

    latents: torch.Tensor
    pixels: torch.Tensor


class Painter:
    """Paints requests with one set of networks; ``denoise`` batches whatever is in flight."""

    def __init__(
        self,
        graphs: Graphs,
        encode_edges: denoise.EncodeEdges,
        architecture: Architecture,
        device: str,
        row_limit: int = ROW_LIMIT,
    ) -> None:
        self._graphs = graphs
        self._encode_edges = encode_edges
        self._architecture = architecture
        self._device = device
        self._row_limit = row_limit
        self._facts = architecture.facts()
        self._schedulers = Samplers()

    def inputs(self, request: Request) -> Inputs:
        """The request's inputs; made before a clock runs."""
        return make_inputs(
            self._architecture, request.width, request.height, request.seeds[0], self._device
        )

    @torch.inference_mode()
    def paint(
        self, load: Sequence[tuple[Request, Inputs]], in_flight: int | None = None
    ) -> list[Painted]:
        """Paint all of ``load``, at most ``in_flight`` at once (None: all together), in its order.

        A request begins as soon as another ends, at the next step, as behind Triton.
        """
        waiting = collections.deque(enumerate(load))
        running: dict[int, denoise.State] = {}
        painted: dict[int, Painted] = {}
        while waiting or running:
            while waiting and len(running) < (in_flight or len(load)):
                index, (request, inputs) = waiting.popleft()
                running[index] = self._start(request, inputs)
            self._step(list(running.values()))
            for index in [index for index, state in running.items() if state.finished]:
                painted[index] = self._decode(running.pop(index))
        return [painted[index] for index in range(len(load))]

    @torch.inference_mode()
    def start(self, request: Request) -> denoise.State:
        """A request that is encoded and ready for its first step."""
        return self._start(request, self.inputs(request))

    @torch.inference_mode()
    def step(self, states: Sequence[denoise.State]) -> None:
        """One evaluation for each of ``states``."""
        self._step(states)

    def _start(self, request: Request, inputs: Inputs) -> denoise.State:
        graphs = self._graphs
        text = graphs["text_encoder"](
            {"input_ids": inputs.input_ids[None], "input_ids_2": inputs.input_ids_2[None]}
        )
        image = graphs["image_encoder"]({"ref_pixels": inputs.ref_pixels[None]})
        moments = graphs["vae_encoder"](
            {"working_image": inputs.working_image[None], "mask": inputs.mask[None]}
        )
        encoded = denoise.Encoded(
            prompt_embeds=_on_host(text["prompt_embeds"][0]),
            pooled_prompt_embeds=_on_host(text["pooled_prompt_embeds"][0]),
            image_embeds=_on_host(image["image_embeds"][0]),
            image_moments=_on_host(moments["image_moments"][0]),
            latent_mask=_on_host(inputs.latent_mask),
            edges=_on_host(inputs.edges),
        )
        return denoise.start(
            request.plan(),
            encoded,
            self._facts,
            self._schedulers,
            self._encode_edges,
            torch.device(self._device),
        )

    def _unet(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._graphs[DENOISER](batch)["noise_pred"]

    def _step(self, states: Sequence[denoise.State]) -> None:
        for group in batches.group_by_size(states):
            noises = batches.evaluate(group, self._unet, self._row_limit)
            for state, noise in zip(group, noises, strict=True):
                denoise.advance(state, noise)

    def _decode(self, state: denoise.State) -> Painted:
        latents = state.latents.float().to(self._device)
        if not torch.isfinite(latents).all():
            raise FloatingPointError("the latents are not finite numbers")
        pixels = self._graphs["vae_decoder"]({"latents": latents[None]})["pixels"]
        return Painted(latents=latents, pixels=pixels[0])


def _on_host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """As Triton hands the encoders' answers to the loop."""
    array: npt.NDArray[Any] = tensor.cpu().numpy()
    return array
