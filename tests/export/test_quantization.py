"""int8 and fp8 graphs of modelopt against the graph that they were made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from backdrop_export.bundles import DENOISER
from backdrop_export.calibration import calibration_batches, sample_requests
from backdrop_export.engines import ENGINE_KINDS, Arrays, load_network
from backdrop_export.quantization import OtherPrecision, QuantizedPrecision, quantize
from backdrop_export.samples import Size, graph_inputs
from backdrop_export.tensorrt_support import check_graph
from backdrop_server.errors import EngineError, SetupError
from tests.export.conftest import Export

SIZE = Size(1, 128, 128)
LEAST_PSNR = {QuantizedPrecision.INT8: 32.0, QuantizedPrecision.FP8: 28.0}
"""dB over a loop's worst evaluation; measured: 34.6 and 31.3, with the bundle's random weights."""


@pytest.fixture(scope="module")
def batches(export: Export) -> list[Arrays]:
    requests = sample_requests(export.bundle, 2, SIZE)
    return list(calibration_batches(export.bundle, export.graphs, requests, 10, kept=4))


@pytest.fixture(scope="module")
def unseen(export: Export) -> list[Arrays]:
    """Another request's loop, of another length, that calibration has not seen."""
    request = sample_requests(export.bundle, 3, SIZE)[2:]
    loop = calibration_batches(export.bundle, export.graphs, request, 12, kept=6)
    return list(loop)


def test_batches_are_a_loop_from_noise_to_its_end(batches: list[Arrays]) -> None:
    assert len(batches) == 2 * 4
    names = {tensor.name for tensor in graph_inputs(DENOISER)}
    assert all(set(batch) == names for batch in batches)
    assert [batch["timestep"][0] for batch in batches[:4]] == [901, 601, 301, 1]
    assert batches[0]["sample"].std() == pytest.approx(1, abs=0.1)  # unit noise, as scaled
    assert not np.array_equal(batches[0]["prompt_embeds"], batches[4]["prompt_embeds"])
    first, second = batches[0]["image_embeds"]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("precision", QuantizedPrecision, ids=lambda precision: precision.value)
def test_the_denoiser_in_each_precision(
    export: Export,
    batches: list[Arrays],
    unseen: list[Arrays],
    tmp_path: Path,
    precision: QuantizedPrecision,
) -> None:
    graph, target = export.graphs / f"{DENOISER}.onnx", tmp_path / f"{precision.value}.onnx"
    before = sorted(graph.parent.iterdir())
    quantize(graph, target, precision, batches, OtherPrecision.FP32)
    assert list(tmp_path.iterdir()) == [target]
    assert sorted(graph.parent.iterdir()) == before

    model = onnx.load(target)
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) > 300  # convolutions and products, their weights and activations
    assert [str(finding) for finding in check_graph(target)] == []

    exact = load_network(ENGINE_KINDS["onnxruntime-fp32"], graph)
    quantized = as_it_is_written(target)
    levels = [decibels(exact(inputs), quantized(inputs)) for inputs in unseen]
    assert min(levels) >= LEAST_PSNR[precision], levels
    assert np.median(levels) >= 37, levels
    assert max(levels) < 60, "this is not a quantized graph"


def as_it_is_written(graph: Path) -> Callable[[Arrays], Arrays]:
    """The graph with its rounding, its products in FP32.

    ONNX Runtime's own products of 8-bit numbers overflow on processors without VNNI instructions.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda inputs: {"noise_pred": session.run(["noise_pred"], dict(inputs))[0]}


def decibels(expected: Arrays, found: Arrays) -> float:
    """PSNR of ``noise_pred`` over the range of the exact one."""
    exact, other = expected["noise_pred"].astype(np.float64), found["noise_pred"]
    assert other.dtype == np.float32 and other.shape == exact.shape
    error = np.mean((exact - other) ** 2)
    return float(10 * np.log10(np.ptp(exact) ** 2 / error))


def product(folder: Path, *, external: bool = False) -> Path:
    """A graph of one product with a 64 x 64 weight, beside the file if ``external``."""
    weight = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    folder.mkdir(exist_ok=True)
    path = folder / "product.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=8),
        path,
        save_as_external_data=external,
        location="weights.bin" if external else None,
        size_threshold=0,
    )
    return path


def numbers(seed: int) -> Arrays:
    return {"x": np.random.default_rng(seed).standard_normal((32, 64), dtype=np.float32)}


@pytest.mark.parametrize("external", [False, True])
def test_a_graph_with_the_rest_in_fp16(tmp_path: Path, *, external: bool) -> None:
    graph = product(tmp_path / "in", external=external)
    target = tmp_path / "out" / "int8.onnx"
    quantize(graph, target, QuantizedPrecision.INT8, [numbers(1), numbers(2)])
    types = {tensor.data_type for tensor in onnx.load(target).graph.initializer}
    assert TensorProto.FLOAT16 in types and TensorProto.FLOAT not in types
    found = load_network(ENGINE_KINDS["onnxruntime-fp32"], target)(numbers(3))["y"]
    expected = load_network(ENGINE_KINDS["onnxruntime-fp32"], graph)(numbers(3))["y"]
    assert found.dtype == np.float32
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03


def test_without_batches_or_graph_it_says_so(tmp_path: Path) -> None:
    graph, target = product(tmp_path / "in"), tmp_path / "int8.onnx"
    with pytest.raises(SetupError, match="no calibration batch"):
        quantize(graph, target, QuantizedPrecision.INT8, [])
    with pytest.raises(EngineError, match="there is no ONNX file"):
        quantize(tmp_path / "none.onnx", target, QuantizedPrecision.INT8, [numbers(1)])


def test_batches_of_another_graph_are_refused(tmp_path: Path) -> None:
    graph, target = product(tmp_path / "in"), tmp_path / "out" / "int8.onnx"
    with pytest.raises(EngineError, match=r"modelopt cannot quantize product\.onnx"):
        quantize(graph, target, QuantizedPrecision.INT8, [{"other": np.zeros(1, np.float32)}])
    assert list(target.parent.iterdir()) == []


def test_missing_graphs_are_named(export: Export, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"text_encoder\.onnx; export the bundle first"):
        next(calibration_batches(export.bundle, tmp_path, []), None)
