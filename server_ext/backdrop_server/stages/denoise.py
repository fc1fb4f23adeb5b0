"""The heart: one UNet evaluation for every request in flight.

Follows diffusers' ``StableDiffusionXLControlNetInpaintPipeline``; each request is a ``State`` of its
own, so requests that differ in sampler, steps, weights, samples and size share an evaluation.
Letters: S samples, C latent channels, E of an edge's embedding, H, W working size, h, w latent size.

Latents, conditioning and noise live on the engine's device for the whole loop; scheduler tables and
random generators stay on the host, so that a seed gives the same picture on every device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from backdrop_server.plan import BundleFacts, Plan
from backdrop_server.stages.schedulers import (
    SAMPLERS,
    Scheduler,
    SchedulerFactory,
    prepare_timesteps,
)
from backdrop_server.stages.transfers import host_tables, upload


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """What a request gives the UNet at every step; see ``contract`` for the tensors."""

    inpaint_latents: torch.Tensor  # [S, 1 + C, h, w]
    prompt_embeds: torch.Tensor  # [halves, 77, D]; unconditional first
    pooled_prompt_embeds: torch.Tensor  # [halves, P]
    image_embeds: torch.Tensor  # [halves, T, D]
    time_ids: torch.Tensor  # [6]
    edge_embeds: torch.Tensor  # [E, h, w]

    def on(self, device: torch.device) -> Conditioning:
        """The same on ``device``; itself if it is there already."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Conditioning(**{name: upload(value, device) for name, value in fields.items()})


@dataclasses.dataclass(eq=False)
class State:
    """One request in the loop. ``latents`` [S, C, h, w] are the sampler's current ones."""

    plan: Plan
    scheduler: Scheduler
    timesteps: torch.Tensor
    generators: list[torch.Generator]
    conditioning: Conditioning
    latents: torch.Tensor
    finite: torch.Tensor | None = None
    """On a device, whether the latents are still numbers: one bool there, which nobody waits for."""
    evaluations: int = 0
    engine_seconds: float = 0.0
    engine_calls: float = 0.0
    """Its share, by rows, of the engine calls that it was part of."""
    shared_rows: int = 0
    """Sum over its evaluations of all rows that were evaluated together."""
    preview_due_at: float = 0.0
    """When a new preview of it is wanted, monotonic s."""
    due: float = 0.0
    """When it is due, on the clock of ``Turns``."""
    constant_rows: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """What of its rows is the same at every step, once they have been made."""

    @property
    def total(self) -> int:
        """UNet evaluations from start to end."""
        return len(self.timesteps)

    @property
    def finished(self) -> bool:
        """Whether no evaluation is left."""
        return self.evaluations >= self.total

    @property
    def rows(self) -> int:
        """Rows in a UNet batch: samples, twice with classifier-free guidance."""
        return self.plan.samples * (2 if self.plan.uses_guidance else 1)

    @property
    def size(self) -> tuple[int, ...]:
        """Latent height and width; only equal sizes share an engine call."""
        return tuple(self.latents.shape[-2:])


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the encoders and `preprocess` hand to `denoise`, with the batch dimension taken off."""

    prompt_embeds: npt.NDArray[np.float32]  # [2, 77, D]; negative, positive
    pooled_prompt_embeds: npt.NDArray[np.float32]  # [2, P]
    image_embeds: npt.NDArray[np.float32]  # [2, T, D]; unconditional, conditional
    image_moments: npt.NDArray[np.float32]  # [2, 2C, h, w]; photo, masked photo
    latent_mask: npt.NDArray[np.uint8]  # [h, w]; 1 = repaint
    edges: npt.NDArray[np.uint8]  # [H, W]


CPU = torch.device("cpu")
EncodeEdges = Callable[[torch.Tensor], torch.Tensor]
"""Edges uint8 [H, W] to ``edge_embeds`` [E, h, w]: an ``EdgeEncoder``."""


def start(
    plan: Plan,
    encoded: Encoded,
    facts: BundleFacts,
    schedulers: SchedulerFactory,
    encode_edges: EncodeEdges,
    device: torch.device = CPU,
) -> State:
    """Draw the noise and set up a request that has at least one step to do, on ``device``.

    Sample k draws from its own generator in diffusers' order: the photo's VAE sample (strength
    below 1 only), the noise, the masked photo's VAE sample, then what the sampler draws.
    """
    scheduler = schedulers.make(plan.scheduler)
    timesteps = prepare_timesteps(scheduler, plan.num_inference_steps, plan.strength)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in plan.seeds]
    photo, masked_photo = torch.from_numpy(np.array(encoded.image_moments))
    latents = _initial_latents(plan, photo, facts, scheduler, timesteps, generators)
    masked = _sample_moments(masked_photo, generators) * facts.vae_scaling_factor
    mask = torch.from_numpy(encoded.latent_mask.astype(np.float32))
    inpaint_latents = torch.cat([mask.expand(plan.samples, 1, *mask.shape), masked], dim=1)
    return State(
        plan=plan,
        scheduler=scheduler,
        timesteps=timesteps,
        generators=generators,
        conditioning=_conditioning(plan, encoded, facts, inpaint_latents, encode_edges).on(device),
        latents=upload(latents, device),
    )


def _initial_latents(
    plan: Plan,
    photo: torch.Tensor,
    facts: BundleFacts,
    scheduler: Scheduler,
    timesteps: torch.Tensor,
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    from_noise = plan.strength == 1.0
    photo_latents = None if from_noise else _sample_moments(photo, generators)
    shape = (1, facts.latent_channels, *photo.shape[-2:])
    noise = torch.cat([torch.randn(shape, generator=g) for g in generators])
    if photo_latents is None:
        return noise * scheduler.init_noise_sigma
    photo_latents = photo_latents * facts.vae_scaling_factor
    return scheduler.add_noise(photo_latents, noise, timesteps[:1].repeat(plan.samples))


def _sample_moments(moments: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Unscaled latents [S, C, h, w], as diffusers' ``DiagonalGaussianDistribution.sample``."""
    mean, log_variance = moments.unsqueeze(0).chunk(2, dim=1)
    deviation = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
    return torch.cat([mean + deviation * torch.randn(mean.shape, generator=g) for g in generators])


def _conditioning(
    plan: Plan,
    encoded: Encoded,
    facts: BundleFacts,
    inpaint_latents: torch.Tensor,
    encode_edges: EncodeEdges,
) -> Conditioning:
    halves = slice(0, 2) if plan.uses_guidance else slice(1, 2)
    prompt_embeds = np.array(encoded.prompt_embeds)
    pooled_prompt_embeds = np.array(encoded.pooled_prompt_embeds)
    if not plan.has_negative_prompt and facts.force_zeros_for_empty_prompt:
        prompt_embeds[0] = 0
        pooled_prompt_embeds[0] = 0
    size = (plan.height, plan.width)
    time_ids = [*size, 0, 0, *size]  # original size, crop, target size
    return Conditioning(
        inpaint_latents=inpaint_latents,
        prompt_embeds=torch.from_numpy(prompt_embeds[halves]),
        pooled_prompt_embeds=torch.from_numpy(pooled_prompt_embeds[halves]),
        image_embeds=torch.from_numpy(np.array(encoded.image_embeds)[halves]),
        time_ids=torch.tensor(time_ids, dtype=torch.float32),
        edge_embeds=encode_edges(torch.from_numpy(np.array(encoded.edges))),
    )


def advance(state: State, noise: torch.Tensor) -> None:
    """Take one step of the state's sampler with the predicted noise [rows, C, h, w].

    On the host, raises FloatingPointError for latents that are no numbers; on a device that is left
    in ``state.finite``, to be looked at when it has arrived.
    """
    if state.plan.uses_guidance:
        noise = guided(noise, state.plan)
    draws = SAMPLERS[state.plan.scheduler].is_stochastic
    kwargs = {"generator": state.generators} if draws else {}
    timestep = state.timesteps[state.evaluations]
    with host_tables(noise.device):
        step = state.scheduler.step(noise, timestep, state.latents, return_dict=False, **kwargs)
    latents = step[0]
    total = latents.sum()  # one number that is none makes the sum none
    if latents.device.type == "cpu":
        check_finite(math.isfinite(total))
    else:
        state.finite = torch.isfinite(total)
    state.latents = latents
    state.evaluations += 1


def guided(noise: torch.Tensor, plan: Plan) -> torch.Tensor:
    """The guided prediction [samples, C, h, w] of both halves' ``noise`` [2 * samples, C, h, w]."""
    unconditional, conditional = noise.chunk(2)
    together = torch.lerp(unconditional, conditional, plan.guidance_scale)
    if not plan.guidance_rescale:
        return together
    spreads = torch.stack([conditional, together]).std(dim=(2, 3, 4), keepdim=True)
    back = plan.guidance_rescale
    rescaled: torch.Tensor = together * (back * (spreads[0] / spreads[1]) + (1 - back))
    return rescaled


def check_finite(finite: bool | torch.Tensor) -> None:
    """Raise FloatingPointError unless ``finite``, one bool on the host, holds."""
    if not finite:
        raise FloatingPointError("the latents are not finite numbers any more")


def preview(state: State, matrix: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A small picture of sample 0 before its next step, uint8 [h, w, 3]: a linear map, no decoder.

    ``matrix`` [C, 3] and ``bias`` [3] lead from scaled latents to RGB in 0..1, on the same device.
    """
    timestep = state.timesteps[state.evaluations]
    latents = state.scheduler.scale_model_input(state.latents[:1], timestep)[0]
    rgb = torch.addmm(bias, latents.flatten(1).T, matrix).reshape(*latents.shape[1:], 3)
    return (rgb.clamp(0, 1) * 255).to(torch.uint8)
