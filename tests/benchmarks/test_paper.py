"""The arithmetic of the overhead at SDXL's size, and that every stage is measured."""

from __future__ import annotations

import pytest
from benchmarks.load import tables

from benchmarks import paper


def test_the_share_is_the_stages_over_stages_and_engines() -> None:
    result = paper.figures({"matte": 30.0, "paste-back": 10.0}, engines=140.0, matting=20.0)
    assert result["milliseconds"]["overhead"] == 40
    assert result["overhead_share"] == 0.2
    assert "Not engine time: 20.0%, engines at 283 TFLOP/s." in tables.paper(result)


def test_each_stage_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "SIDE", 256)
    monkeypatch.setattr(paper, "ROUNDS", 1)
    stages = paper.measure()
    assert len(stages) == 9
    assert all(0 < took < 60_000 for took in stages.values()), stages
