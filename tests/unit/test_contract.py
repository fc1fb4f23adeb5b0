"""The request's defaults, ranges and errors; the seeds; the plan."""

from __future__ import annotations

import json
import math

import pytest

from backdrop_server.contract import (
    MAX_SEED,
    NUMBERS,
    SCHEDULERS,
    ReplaceOptions,
    sample_seed,
)
from backdrop_server.errors import InvalidInputError
from backdrop_server.plan import Plan


def test_defaults_are_those_of_the_api() -> None:
    options = ReplaceOptions.from_values({"prompt": "a beach"})
    assert options == ReplaceOptions(
        prompt="a beach",
        negative_prompt=None,
        samples=1,
        scheduler="DPM2 Karras",
        num_inference_steps=25,
        guidance_scale=7.5,
        seed=-1,
        strength=1.0,
        cn_weight=0.9,
        ip_adapter_weight=0.5,
        preserve_subject=True,
        output_format="jpeg",
    )
    for name, number in NUMBERS.items():
        assert getattr(options, name) == number.default


@pytest.mark.parametrize("name", NUMBERS)
def test_bounds_are_inclusive_and_one_past_is_refused(name: str) -> None:
    number = NUMBERS[name]
    for value in (number.low, number.high):
        assert getattr(ReplaceOptions.from_values({"prompt": "", name: value}), name) == value
    step = 1 if number.integer else 1e-6
    for value in (number.low - step, number.high + step, math.nan, math.inf):
        with pytest.raises(InvalidInputError) as caught:
            ReplaceOptions.from_values({"prompt": "", name: value})
        assert caught.value.field == name
        assert str(caught.value).startswith(f"{name}: ")
        assert number.allowed in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", 1.5),
        ("samples", True),
        ("guidance_scale", "7"),
        ("scheduler", "Eulerr"),
        ("scheduler", 3),
        ("output_format", "bmp"),
        ("preserve_subject", "false"),
        ("prompt", "x" * 10_001),
        ("prompt", 5),
        ("negative_prompt", 5),
        ("color", "red"),
    ],
)
def test_wrong_values_name_their_field(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ReplaceOptions.from_values({"prompt": "", name: value})
    assert caught.value.field == name
    assert len(str(caught.value)) < 400


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"^prompt: it is missing"):
        ReplaceOptions.from_values({})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_names_ignore_case(name: str) -> None:
    values = {"prompt": "", "scheduler": f" {name.upper()} "}
    assert ReplaceOptions.from_values(values).scheduler == name


def test_scheduler_aliases_lead_to_the_same_sampler() -> None:
    assert ReplaceOptions.from_values({"prompt": "", "scheduler": "DPM++ 2M"}).scheduler == (
        "DPM Multi"
    )
    assert ReplaceOptions.from_values({"prompt": "", "scheduler": "PLMS"}).scheduler == "PNDM"


def test_seeds_count_up_and_wrap_to_zero() -> None:
    assert [sample_seed(5, k) for k in range(3)] == [5, 6, 7]
    assert [sample_seed(MAX_SEED - 1, k) for k in range(4)] == [MAX_SEED - 1, MAX_SEED, 0, 1]
    assert sample_seed(0, 0) == 0


def make_plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "request_id": "r",
        "width": 256,
        "height": 192,
        "scheduler": "DDIM",
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "strength": 1.0,
        "cn_weight": 0.9,
        "ip_adapter_weight": 0.5,
        "seeds": (1, 2),
        "has_negative_prompt": False,
        "preserve_subject": True,
        "output_format": "png",
        "matte_source": "mask",
        "received_at": 1.0,
        "prepared_at": 2.0,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


def test_plan_survives_the_wire() -> None:
    plan = make_plan()
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.samples == 2


def test_plan_refuses_unknown_keys_and_wrong_sizes() -> None:
    values = json.loads(make_plan().to_json())
    with pytest.raises(TypeError):
        Plan.from_json(json.dumps({**values, "colour": 1}).encode())
    with pytest.raises(ValueError, match="multiples of 64"):
        make_plan(width=250)


def test_plan_knows_when_no_step_is_left() -> None:
    assert make_plan(strength=0.049).keeps_photo
    assert not make_plan(strength=0.05).keeps_photo
    assert not make_plan(guidance_scale=1.0).uses_guidance
    assert make_plan(guidance_scale=1.01).uses_guidance


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [10**400, -(10**4000), "x" * 100_000, [0] * 100_000])
def test_a_monstrous_value_is_refused_in_one_short_sentence(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as raised:
        NUMBERS[name].check(name, value)
    assert len(str(raised.value)) < 200
