"""Group norms of OpenVINO's graphs on flat maps: none is left, and no number changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest

from backdrop_export.bundles import DENOISER
from backdrop_export.openvino_graphs import flatten_group_norms
from backdrop_export.samples import Size, sample_inputs
from tests.export.conftest import Export


def scales_of_pictures(model: ov.Model) -> int:
    """How many norms are scaled as [N, C, H, W]."""
    return sum(
        node.get_type_name() == "Multiply"
        and node.get_output_partial_shape(0).rank.get_length() == 4
        and node.input_value(0).get_node().get_type_name() == "Reshape"
        and node.input_value(0).get_node().input_value(0).get_node().get_type_name() == "MVN"
        for node in model.get_ops()
    )


def answer(model: ov.Model, given: dict[str, Any]) -> Any:
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(given)[0])


@pytest.mark.parametrize("graph", [DENOISER, "vae_encoder", "vae_decoder"])
def test_norms_are_scaled_flat_and_say_the_same(export: Export, graph: str) -> None:
    model = ov.convert_model(export.graphs / f"{graph}.onnx")
    before = scales_of_pictures(model)
    given = sample_inputs(export.bundle, graph, Size(2, 64, 128))
    expected = answer(model, given)
    assert flatten_group_norms(model) == before > 0
    assert scales_of_pictures(model) == 0
    np.testing.assert_allclose(answer(model, given), expected, rtol=1e-5, atol=1e-5)
    assert flatten_group_norms(model) == 0


def test_a_graph_without_group_norms_stays(export: Export) -> None:
    model = ov.convert_model(export.graphs / "text_encoder.onnx")
    nodes = [node.get_friendly_name() for node in model.get_ordered_ops()]
    assert flatten_group_norms(model) == 0
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == nodes
