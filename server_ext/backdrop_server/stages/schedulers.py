"""The twelve samplers of the API: diffusers' own scheduler classes, one fresh object per request."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import torch

# Not in the thread that makes the prototypes: the module takes another's place while it is imported,
# and a thread that imports it meanwhile gets the one without classes.
from diffusers import schedulers


class Scheduler(Protocol):
    """The part of diffusers' ``SchedulerMixin`` that the denoising loop uses."""

    timesteps: torch.Tensor
    order: int
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Fill ``timesteps``."""

    def set_begin_index(self, begin_index: int) -> None:
        """Say at which of ``timesteps`` the loop begins."""

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The latents as the UNet takes them."""
        ...

    def add_noise(
        self, original: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Noised latents at ``timesteps``."""
        ...

    def step(
        self, noise_pred: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, **kwargs: Any
    ) -> Any:
        """The latents one step on."""


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
    """One sampler of the API: its diffusers class and what it changes in the bundle's config."""

    class_name: str
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    is_stochastic: bool = False
    """Whether ``step`` draws from a generator."""


_KARRAS = {"use_karras_sigmas": True}

SAMPLERS: Mapping[str, SamplerSpec] = {
    "DDIM": SamplerSpec("DDIMScheduler"),
    "DPM Multi": SamplerSpec("DPMSolverMultistepScheduler"),
    "DPM Single": SamplerSpec("DPMSolverSinglestepScheduler"),
    "Euler a": SamplerSpec("EulerAncestralDiscreteScheduler", is_stochastic=True),
    "Euler": SamplerSpec("EulerDiscreteScheduler"),
    "Heun": SamplerSpec("HeunDiscreteScheduler"),
    "DPM2 a Karras": SamplerSpec("KDPM2AncestralDiscreteScheduler", _KARRAS, is_stochastic=True),
    "DPM2 Karras": SamplerSpec("KDPM2DiscreteScheduler", _KARRAS),
    "LMS": SamplerSpec("LMSDiscreteScheduler"),
    "PNDM": SamplerSpec("PNDMScheduler", {"skip_prk_steps": True}),
    "DDPM": SamplerSpec("DDPMScheduler", is_stochastic=True),
    "UniPC": SamplerSpec("UniPCMultistepScheduler"),
}


LAST = "UniPC"
"""Made last: its module imports scipy's statistics, another 1.2 s."""


class SchedulerFactory:
    """Fresh schedulers from a bundle's scheduler config.

    Copies of one prototype for each name: the constructors of the KDPM2 classes compute a thousand
    timesteps, 0.2 s in which every request in flight would wait. The prototypes are made by a thread
    of their own, which takes as long as an engine does to load.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        names = sorted(SAMPLERS, key=lambda name: name == LAST)
        maker = ThreadPoolExecutor(1, "schedulers")
        self._prototypes = {n: maker.submit(_construct, n, config) for n in names}
        maker.shutdown(wait=False)

    def wait(self) -> None:
        """Until all but ``LAST`` are there. Raises what the making of one raised."""
        for name, prototype in self._prototypes.items():
            if name != LAST:
                prototype.result()

    def make(self, name: str) -> Scheduler:
        """A scheduler of its own for one request; ``name`` is a key of SAMPLERS."""
        return copy.deepcopy(self._prototypes[name].result())


def _construct(name: str, config: Mapping[str, object]) -> Scheduler:
    spec = SAMPLERS[name]
    cls = getattr(schedulers, spec.class_name)
    with warnings.catch_warnings():  # diffusers warns of each config key that a class does not use
        warnings.simplefilter("ignore")
        return cast(Scheduler, cls.from_config(dict(config), **spec.arguments))


def prepare_timesteps(
    scheduler: Scheduler, num_inference_steps: int, strength: float
) -> torch.Tensor:
    """Set the scheduler's steps and return the timesteps left after ``strength``, one per UNet call.

    As ``StableDiffusionXLControlNetInpaintPipeline.get_timesteps``: ``int(steps * strength)``
    steps remain, cut at a multiple of the sampler's order. At least one step must remain.
    """
    scheduler.set_timesteps(num_inference_steps)
    kept = min(int(num_inference_steps * strength), num_inference_steps)
    start = (num_inference_steps - kept) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]
