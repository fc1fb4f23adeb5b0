"""The loop over a batch of states, with a plain function for the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint_sd_xl import rescale_noise_cfg
from torch.nn import functional

from backdrop_server.contract import SCHEDULERS
from backdrop_server.plan import BundleFacts
from backdrop_server.stages import batches, denoise
from backdrop_server.stages.batches import Batch
from backdrop_server.stages.denoise import Encoded, State
from tests.unit.test_contract import make_plan
from tests.unit.test_schedulers import SCHEDULERS_OF_SDXL

FACTS = BundleFacts(
    name="test",
    native_pixels=4096,
    latent_channels=4,
    vae_scale_factor=8,
    vae_scaling_factor=0.13025,
    clip_image_size=224,
    force_zeros_for_empty_prompt=True,
)
ROW_LIMIT = 16


def make_encoded(width: int = 64, height: int = 64) -> Encoded:
    draw = np.random.default_rng(5)
    h, w = height // 8, width // 8

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return draw.standard_normal(shape).astype(np.float32)

    return Encoded(
        prompt_embeds=normal(2, 77, 6),
        pooled_prompt_embeds=normal(2, 5),
        image_embeds=normal(2, 4, 6),
        image_moments=normal(2, 8, h, w) * 0.3,
        latent_mask=draw.integers(0, 2, (h, w), np.uint8),
        edges=draw.integers(0, 2, (height, width), np.uint8) * np.uint8(255),
    )


def toy_edge_encoder(edges: torch.Tensor) -> torch.Tensor:
    """The share of edge pixels under each latent, [1, h, w]."""
    return functional.avg_pool2d(edges.float()[None] / 255, 8)


def toy_unet(batch: Batch) -> torch.Tensor:
    """Noise that depends on every input of the same row, and on nothing else."""

    def level(name: str) -> torch.Tensor:
        tensor = batch[name].float()
        return tensor.reshape(len(tensor), -1).mean(1)[:, None, None, None]

    levels = [level(name) for name in batch if name not in ("sample", "timestep")]
    noise = 0.5 * batch["sample"] + 0.1 * torch.tanh(torch.stack(levels).sum(0))
    return noise + level("timestep") * 1e-4


def start(encoded: Encoded | None = None, **changes: Any) -> State:
    encoded = encoded or make_encoded()
    height, width = encoded.edges.shape
    plan = make_plan(**{"width": width, "height": height, "num_inference_steps": 5, **changes})
    return denoise.start(plan, encoded, FACTS, SCHEDULERS_OF_SDXL, toy_edge_encoder)


def finish(*states: State, unet: batches.UNet = toy_unet) -> None:
    while unfinished := [state for state in states if not state.finished]:
        for group in batches.group_by_size(unfinished):
            for state, noise in zip(group, batches.evaluate(group, unet, ROW_LIMIT), strict=True):
                denoise.advance(state, noise)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_finishes_with_finite_latents(name: str) -> None:
    state = start(scheduler=name, strength=0.7)
    finish(state)
    assert state.evaluations == state.total
    assert torch.isfinite(state.latents).all()


def test_mixed_requests_equal_their_solo_runs() -> None:
    wide, square = make_encoded(128, 64), make_encoded()

    def requests() -> list[State]:
        return [
            start(square, scheduler="Euler", seeds=(1,)),
            start(wide, scheduler="DPM2 Karras", seeds=(2, 3)),
            start(square, scheduler="Euler a", seeds=(4, 5, 6), guidance_scale=1.0),
            start(wide, scheduler="DDPM", seeds=(7,), strength=0.6, cn_weight=0.1),
            start(square, scheduler="Heun", seeds=(8,), ip_adapter_weight=0.0),
        ]

    together, alone = requests(), requests()
    finish(*together)
    for state in alone:
        finish(state)
    for batched, solo in zip(together, alone, strict=True):
        assert torch.allclose(batched.latents, solo.latents, atol=1e-6)


def test_sample_k_equals_a_request_of_its_own_with_its_seed() -> None:
    both = start(scheduler="Euler a", seeds=(10, 11), strength=0.8)
    second = start(scheduler="Euler a", seeds=(11,), strength=0.8)
    finish(both)
    finish(second)
    assert torch.allclose(both.latents[1:], second.latents, atol=1e-6)
    assert not torch.allclose(both.latents[:1], second.latents, atol=0.1)


def test_draws_follow_the_order_of_diffusers() -> None:
    encoded = make_encoded()
    state = start(encoded, scheduler="DDIM", seeds=(3,), strength=1.0)
    generator = torch.Generator("cpu").manual_seed(3)
    noise = torch.randn((1, 4, 8, 8), generator=generator)
    mean, log_variance = torch.from_numpy(encoded.image_moments[1:]).chunk(2, dim=1)
    draw = torch.randn((1, 4, 8, 8), generator=generator)
    masked = (mean + torch.exp(0.5 * log_variance) * draw) * FACTS.vae_scaling_factor
    assert torch.equal(state.latents, noise)
    assert torch.allclose(state.conditioning.inpaint_latents[:, 1:], masked, atol=1e-6)
    assert np.array_equal(state.conditioning.inpaint_latents[0, 0], encoded.latent_mask)


def test_no_negative_prompt_means_zeros_and_an_empty_one_does_not() -> None:
    absent = start(has_negative_prompt=False).conditioning
    empty = start(has_negative_prompt=True).conditioning
    assert not absent.prompt_embeds[0].any()
    assert not absent.pooled_prompt_embeds[0].any()
    assert empty.prompt_embeds[0].any()
    assert torch.equal(absent.prompt_embeds[1], empty.prompt_embeds[1])


def test_guidance_of_one_halves_the_rows() -> None:
    assert start(seeds=(1, 2, 3), guidance_scale=1.0).rows == 3
    assert start(seeds=(1, 2, 3), guidance_scale=2.0).rows == 6


def test_rows_are_split_at_the_limit_and_sizes_are_kept_apart() -> None:
    calls: list[tuple[int, tuple[int, ...]]] = []

    def unet(batch: Batch) -> torch.Tensor:
        calls.append((len(batch["timestep"]), batch["sample"].shape[2:]))
        return toy_unet(batch)

    wide, square = make_encoded(128, 64), make_encoded()
    states = [start(square, seeds=(1, 2, 3, 4)) for _ in range(3)]  # 24 rows
    states += [start(wide, seeds=(1,))]  # 2 rows
    for group in batches.group_by_size(states):
        batches.evaluate(group, unet, ROW_LIMIT)
    assert sorted(calls) == [(2, (8, 16)), (8, (8, 8)), (16, (8, 8))]


def test_each_row_has_its_own_conditions() -> None:
    seen: list[Batch] = []

    def unet(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return toy_unet(batch)

    first = start(seeds=(1, 2), cn_weight=0.2, ip_adapter_weight=0.3, scheduler="Euler")
    second = start(seeds=(3,), cn_weight=0.8, ip_adapter_weight=0.9, scheduler="DDIM")
    batches.evaluate([first, second], unet, ROW_LIMIT)
    (batch,) = seen
    assert np.allclose(batch["cn_weight"], [0.2] * 4 + [0.8] * 2)
    assert np.allclose(batch["ip_adapter_weight"], [0.3] * 4 + [0.9] * 2)
    assert len(set(batch["timestep"][:4].tolist())) == 1
    assert batch["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 6
    unconditional, conditional = first.conditioning.prompt_embeds
    assert torch.equal(batch["prompt_embeds"][1], unconditional)
    assert torch.equal(batch["prompt_embeds"][2], conditional)


def test_latents_that_are_no_numbers_are_an_error() -> None:
    state = start(seeds=(1,))
    with pytest.raises(FloatingPointError):
        denoise.advance(state, torch.full((2, 4, 8, 8), torch.nan))


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_guidance_is_rescaled_as_in_diffusers(rescale: float) -> None:
    plan = make_plan(seeds=(1, 2), guidance_scale=9.0, guidance_rescale=rescale)
    unconditional, conditional = torch.randn(2, 2, 4, 8, 8, generator=torch.manual_seed(3))
    guided = unconditional + 9.0 * (conditional - unconditional)
    expected = rescale_noise_cfg(guided, conditional, guidance_rescale=rescale)
    found = denoise.guided(torch.cat([unconditional, conditional]), plan)
    torch.testing.assert_close(found, expected)


def test_preview_is_a_small_picture_and_changes_nothing() -> None:
    state, twin = start(seeds=(1,)), start(seeds=(1,))
    picture = denoise.preview(state, torch.ones(4, 3), torch.zeros(3))
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == torch.uint8
    assert picture.float().std() > 0
    finish(state)
    finish(twin)
    assert torch.equal(state.latents, twin.latents)
