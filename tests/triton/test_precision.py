"""Pictures of engines in fewer bits against those in FP32, through a real server."""

from __future__ import annotations

from pathlib import Path

import openvino
import pytest
from benchmarks.precision import REFERENCE, REQUESTS, compare, paint

from backdrop_export.repository import export_repository
from backdrop_export.synthetic import make_bundle
from tests.conftest import BUILD

pytestmark = pytest.mark.triton

FEW = REQUESTS[:3]
WORST = 30.0
"""dB."""


@pytest.fixture(scope="module")
def bundle() -> Path:
    return make_bundle("tiny", BUILD / "bundles" / "tiny")


def test_pictures_in_fewer_bits_stay_near_those_in_fp32(bundle: Path) -> None:
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    exact = paint(export_repository(bundle, REFERENCE, BUILD), FEW)
    for name in ("onnxruntime-fp16", "openvino-bf16"):
        values = compare(paint(export_repository(bundle, name, BUILD), FEW), exact)
        print(name, values)
        assert min(values) >= WORST, name
        has_it = name != "openvino-bf16" or "BF16" in can  # else OpenVINO computes in FP32
        assert (max(values) < 80) == has_it, "what the engine computes in"
