"""The samplers' evaluations per step, and the cut that strength makes."""

from __future__ import annotations

import pytest

from backdrop_server.contract import SCHEDULERS
from backdrop_server.stages.schedulers import SAMPLERS, SchedulerFactory, prepare_timesteps

SDXL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "clip_sample": False,
}
SCHEDULERS_OF_SDXL = SchedulerFactory(SDXL)
SECOND_ORDER = {"Heun", "DPM2 a Karras", "DPM2 Karras"}


def test_every_name_of_the_api_has_a_sampler() -> None:
    assert set(SAMPLERS) == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [20, 25, 100])
def test_evaluations_are_those_of_the_contract(name: str, steps: int) -> None:
    timesteps = prepare_timesteps(SCHEDULERS_OF_SDXL.make(name), steps, 1.0)
    expected = 2 * steps - 1 if name in SECOND_ORDER else steps + (name == "PNDM")
    assert len(timesteps) == expected


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.05, 0.35, 0.5, 0.7, 0.99])
def test_strength_cuts_at_a_multiple_of_the_order(name: str, strength: float) -> None:
    scheduler = SCHEDULERS_OF_SDXL.make(name)
    timesteps = prepare_timesteps(scheduler, 25, strength)
    whole = scheduler.timesteps
    assert 1 <= len(timesteps) < len(whole)
    assert (len(whole) - len(timesteps)) % scheduler.order == 0
    assert timesteps.tolist() == whole[len(whole) - len(timesteps) :].tolist()


def test_each_scheduler_is_a_fresh_object() -> None:
    first, second = (SCHEDULERS_OF_SDXL.make("DPM2 Karras") for _ in range(2))
    prepare_timesteps(first, 20, 1.0)
    untouched = second.timesteps.tolist()
    prepare_timesteps(first, 50, 0.5)
    assert second.timesteps.tolist() == untouched
    prepare_timesteps(second, 50, 0.5)
    assert second.timesteps.tolist() == first.timesteps.tolist()
