"""Graphs in FP16, and graphs whose weights lie in a file beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data
from torch import nn

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS
from backdrop_export.compilers import Source, compile_engine
from backdrop_export.engines import ENGINE_KINDS, load_network
from backdrop_export.external_data import data_file, gather_external_data, graph_files
from backdrop_export.half_convolutions import quick_half_convolutions
from backdrop_export.loading import load_graph
from backdrop_export.memory import PeakMemory
from backdrop_export.onnx_graphs import export_graphs, graphs_folder
from backdrop_export.reporting import Report
from backdrop_export.samples import Size, sample_inputs
from backdrop_export.verification import run_torch
from tests.export.conftest import Export

FP16 = onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def half(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = graphs_folder(export.bundle, "fp16", tmp_path_factory.mktemp("half"))
    export_graphs(export.bundle, "fp16", folder, Report(quiet=True))
    return folder


def weights_in(path: Path, dtype: int) -> float:
    """Share of a graph's weights, by number of values, that are of ``dtype``."""
    sizes: dict[bool, int] = {True: 0, False: 0}
    for weight in onnx.load(path, load_external_data=False).graph.initializer:
        sizes[weight.data_type == dtype] += int(np.prod(weight.dims))
    return sizes[True] / sum(sizes.values())


@pytest.mark.parametrize("graph", ["text_encoder", "image_encoder", DENOISER])
def test_half_graphs_hold_half_weights_and_answer_as_fp32(
    export: Export, half: Path, graph: str
) -> None:
    path = half / f"{graph}.onnx"
    assert weights_in(path, FP16) > 0.99
    inputs = sample_inputs(export.bundle, graph, Size(2, 64, 128))
    found = load_network(ENGINE_KINDS["onnxruntime-fp16"], path)(inputs)
    exact = run_torch(load_graph(export.bundle, graph), graph, inputs)
    for name, expected in exact.items():
        assert found[name].dtype == expected.dtype
        assert np.abs(found[name] - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("graph", ["vae_encoder", "vae_decoder"])
def test_a_vae_that_must_be_upcast_stays_in_fp32(export: Export, half: Path, graph: str) -> None:
    assert export.bundle.config("vae/config.json")["force_upcast"]
    assert weights_in(half / f"{graph}.onnx", FP16) == 0


def test_a_vae_that_is_safe_in_fp16_is_lowered(export: Export, tmp_path: Path) -> None:
    copy = export.bundle.path.parent / "safe"
    copy.mkdir()
    for entry in export.bundle.path.iterdir():
        if entry.name != "vae":
            (copy / entry.name).symlink_to(entry)
    (copy / "vae").mkdir()
    for file in (export.bundle.path / "vae").iterdir():
        (copy / "vae" / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "vae" / "config.json").read_text())
    (copy / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    module = load_graph(type(export.bundle)(copy), "vae_decoder", torch.float16)
    assert {weight.dtype for weight in module.parameters()} == {torch.float16}


def test_the_manifest_tells_seconds_and_memory(half: Path) -> None:
    records = json.loads((half / "manifest.json").read_text())
    assert set(records) == set(GRAPH_FOLDERS)
    for record in records.values():
        assert record["key"]["options"]["precision"] == "fp16"
        assert record["seconds"] > 0
        assert 100 * 2**20 < record["peak_bytes"] < 8 * 2**30


def test_peak_memory_is_that_of_the_block() -> None:
    size = 300 * 2**20
    np.ones(2 * size, np.uint8).sum()  # before: not counted
    with PeakMemory() as small:
        pass
    with PeakMemory() as large:
        np.ones(size, np.uint8).sum()
    assert size * 0.9 < large.peak_bytes - small.peak_bytes < size * 1.2


def test_half_convolutions_sum_in_fp32_and_are_put_back() -> None:
    original = nn.Conv2d._conv_forward
    layer = nn.Conv2d(64, 8, 3, stride=2, padding=1, dilation=1, groups=4)
    states = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))
    exact = layer.half().float()(states.half().float())
    with quick_half_convolutions(), torch.no_grad():
        found = layer.half()(states.half())
    assert found.dtype is torch.float16
    torch.testing.assert_close(found, exact.half(), rtol=0, atol=0)
    assert nn.Conv2d._conv_forward is original


def with_weights_outside(source: Path, target: Path) -> None:
    """``source`` as the exporter writes a graph of over 2 GB: each weight in a file of its own."""
    model = onnx.load(source)
    for index, weight in enumerate(model.graph.initializer):
        if len(weight.raw_data) > 1000:
            (target.parent / f"weight.{index}").write_bytes(weight.raw_data)
            set_external_data(weight, f"weight.{index}", 0, len(weight.raw_data))
            weight.ClearField("raw_data")
    onnx.save(model, target)


def test_weights_are_gathered_in_one_file(half: Path, tmp_path: Path) -> None:
    source = half / "text_encoder.onnx"
    (tmp_path / "traced").mkdir()
    traced, target = tmp_path / "traced" / "traced.onnx", tmp_path / "text_encoder.onnx"
    with_weights_outside(source, traced)
    assert len(list(traced.parent.iterdir())) > 10
    gather_external_data(traced, target)
    assert [path.name for path in traced.parent.iterdir()] == ["traced.onnx"]
    assert graph_files(target) == [target, data_file(target)]
    outside = [
        ExternalDataInfo(weight)
        for weight in onnx.load(target, load_external_data=False).graph.initializer
        if uses_external_data(weight)
    ]
    assert {info.location for info in outside} == {"text_encoder.onnx.data"}
    assert all(info.offset % 4096 == 0 for info in outside)
    before, after = onnx.load(source), onnx.load(target)
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(old), onnx.numpy_helper.to_array(new)
        )


def test_an_engine_takes_its_weights_file_along(export: Export, half: Path, tmp_path: Path) -> None:
    kind = ENGINE_KINDS["onnxruntime-fp16"]
    (tmp_path / "traced").mkdir()
    with_weights_outside(half / "text_encoder.onnx", tmp_path / "traced" / "traced.onnx")
    gather_external_data(tmp_path / "traced" / "traced.onnx", tmp_path / "text_encoder.onnx")
    (tmp_path / "model").mkdir()
    source = Source(export.bundle, "text_encoder", tmp_path / "text_encoder.onnx")
    compile_engine(kind, source, tmp_path / "model" / "model")
    inputs = sample_inputs(export.bundle, "text_encoder", Size(1, 64, 64))
    expected = load_network(kind, half / "text_encoder.onnx")(inputs)
    found = load_network(kind, tmp_path / "model" / "model.onnx")(inputs)
    np.testing.assert_allclose(found["prompt_embeds"], expected["prompt_embeds"], atol=2e-2)
