"""The arithmetic of the overhead at SDXL's size, and that every stage is measured."""

from __future__ import annotations

import pytest
from benchmarks.conditions import conditions
from benchmarks.load import tables

from benchmarks import paper


def test_the_share_is_the_stages_over_stages_and_engines() -> None:
    stages, beside = {"rough matte": 30.0, "paste-back": 10.0}, {"finished matte": 140.0}
    result = paper.figures(stages, 140.0, 20.0, beside, 40.0)
    assert result["milliseconds"]["overhead"] == 40
    assert result["overhead_share"] == 0.2
    assert result["overhead_share_unhidden"] == 0.3333
    default = {"sampler": "DPM2 Karras", "overhead_share": 0.115}
    told = tables.paper({"conditions": conditions(), "api_default": default, **result})[-1]
    assert told.startswith(
        "Not engine time: 20.0% with Euler's 25 evaluations (33.3% if a device hid nothing of the "
        "loop), 11.5% with DPM2 Karras, the API's default; engines at 283 TFLOP/s."
    )


def test_what_is_not_done_before_the_engines_are_counts() -> None:
    result = paper.figures({"paste-back": 10.0}, 100.0, 0.0, {"finished matte": 115.0}, 0.0)
    assert result["milliseconds"]["overhead"] == 25
    assert result["milliseconds"]["beside the engines: finished matte"] == 115
    assert result["overhead_share"] == 0.2


def test_each_stage_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "SIDE", 256)
    monkeypatch.setattr(paper, "ROUNDS", 1)
    stages = paper.measure()
    assert {paper.MATTING, *paper.BESIDE, "rough matte", "the loop's beginning"} < set(stages)
    assert all(0 < took < 60_000 for took in stages.values()), stages
