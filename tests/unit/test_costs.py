"""The arithmetic of a bill, and the number of UNet evaluations that it is estimated from."""

from __future__ import annotations

import json

import pytest

from backdrop_server.contract import SCHEDULERS, unet_evaluations
from backdrop_server.costs import Costs
from backdrop_server.stages.schedulers import prepare_timesteps
from tests.unit.test_contract import make_plan
from tests.unit.test_schedulers import SCHEDULERS_OF_SDXL

COSTS = Costs(
    native_pixels=1024 * 1024,
    text_encoder=0.01,
    image_encoder=0.02,
    vae_encoder=0.4,
    vae_decoder=0.3,
    row=0.05,
)
STRENGTHS = (1.0, 0.7, 0.57, 0.29, 0.05, 0.01)


def test_costs_survive_the_file() -> None:
    assert Costs.from_json(COSTS.to_json()) == COSTS


def test_unknown_and_missing_keys_are_refused() -> None:
    values = json.loads(COSTS.to_json())
    with pytest.raises(TypeError, match="colour"):
        Costs.from_json(json.dumps({**values, "colour": 1}))
    del values["row"]
    with pytest.raises(TypeError, match="row"):
        Costs.from_json(json.dumps(values))


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(value: float) -> None:
    values = json.loads(COSTS.to_json())
    with pytest.raises(ValueError, match="vae_decoder"):
        Costs(**{**values, "vae_decoder": value})


@pytest.mark.parametrize(
    ("width", "height", "samples", "seconds"),
    [
        (1024, 1024, 1, 0.01 + 0.02 + 0.4 + 0.3),
        (1024, 1024, 4, 0.01 + 0.02 + 0.4 + 4 * 0.3),
        (512, 1024, 2, 0.01 + 0.02 + 0.5 * (0.4 + 2 * 0.3)),
        (1280, 1024, 1, 0.01 + 0.02 + 1.25 * 0.7),
    ],
)
def test_only_the_vae_grows_with_pixels_and_only_the_decoder_with_samples(
    width: int, height: int, samples: int, seconds: float
) -> None:
    assert COSTS.encoding_seconds(width, height, samples) == pytest.approx(seconds)


def test_the_loop_grows_with_evaluations_rows_and_pixels() -> None:
    assert COSTS.loop_seconds(49, 2, 1024, 1024) == pytest.approx(49 * 2 * 0.05)
    assert COSTS.loop_seconds(25, 8, 512, 512) == pytest.approx(25 * 8 * 0.05 / 4)
    assert COSTS.loop_seconds(0, 2, 1024, 1024) == 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_evaluations_are_those_of_the_real_scheduler(name: str) -> None:
    scheduler = SCHEDULERS_OF_SDXL.make(name)
    for steps in range(20, 101):
        for strength in STRENGTHS:
            found = unet_evaluations(name, steps, strength)
            if make_plan(num_inference_steps=steps, strength=strength).keeps_photo:
                assert found == 0
            else:
                left = prepare_timesteps(scheduler, steps, strength)
                assert found == len(left), f"{steps} steps, strength {strength}"


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [29, 50])
def test_evaluations_are_exact_at_every_hundredth_of_strength(name: str, steps: int) -> None:
    scheduler = SCHEDULERS_OF_SDXL.make(name)
    for hundredths in range(-(-100 // steps), 101):
        strength = hundredths / 100
        if int(steps * strength):
            left = prepare_timesteps(scheduler, steps, strength)
            assert unet_evaluations(name, steps, strength) == len(left), f"strength {strength}"
