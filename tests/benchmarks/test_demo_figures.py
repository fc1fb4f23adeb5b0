"""The committed figures of the demo bundle's weights are as good as they are said to be."""

from __future__ import annotations

import json

from benchmarks.conditions import RESULTS

FIGURES = json.loads((RESULTS / "quality-demo-openvino-fp32.json").read_text())


def test_prompts_are_followed() -> None:
    assert FIGURES["classifier_accuracy_on_renders"] > 0.9
    assert FIGURES["prompts"]["results"] == 100
    assert FIGURES["prompts"]["right"] >= 0.85


def test_the_reference_is_followed_and_the_prompt_still_wins() -> None:
    look = FIGURES["ip_adapter_weight"]
    assert look["fall"] >= 0.4
    assert look["scene_right"][-1] >= 0.6
    assert look["monotone"]


def test_edges_are_followed() -> None:
    edges = FIGURES["cn_weight"]
    assert edges["ratio"] >= 2
    assert edges["monotone"]


def test_a_picture_takes_under_six_seconds_on_two_cores() -> None:
    assert FIGURES["conditions"]["cores"] == 2
    assert FIGURES["seconds_of_one_picture"] < 6
