"""What each engine kind is built for, and what a repository of it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS
from backdrop_export.compilers import (
    Source,
    check_sizes,
    compile_engine,
    engine_file_name,
    limits_of,
    trtexec_sources,
)
from backdrop_export.engines import ENGINE_KINDS, load_network, why_absent
from backdrop_export.onnx_graphs import graphs_folder
from backdrop_export.repository import export_repository
from backdrop_export.samples import Size, sample_inputs
from backdrop_export.verification import run_torch
from backdrop_server.contract import MODELS
from backdrop_server.errors import SetupError
from backdrop_server.stages.working_sizes import working_sizes
from tests.export.conftest import Export

PLANS = ("tensorrt-fp32", "tensorrt-fp16", "tensorrt-int8", "tensorrt-fp8")


def source(export: Export, graph: str) -> Source:
    path = graphs_folder(export.bundle, "fp32", export.out) / f"{graph}.onnx"
    return Source(export.bundle, graph, path)


@pytest.mark.parametrize("kind", ["tensorrt-fp16", "aotinductor-bf16", "onnxruntime-tensorrt-fp16"])
def test_engines_are_built_for_all_that_the_server_can_ask(export: Export, kind: str) -> None:
    facts = export.bundle.facts()
    limits = limits_of(ENGINE_KINDS[kind], source(export, DENOISER))
    assert limits.row_buckets == (2, 4, 8, 16)
    for width, height in working_sizes(facts.native_pixels):
        assert limits.allows_size(height // 8, width // 8)
    assert not limits.allows_size(1, 1)
    assert (limits.engine, limits.precision.value) == tuple(kind.rsplit("-", 1))


@pytest.mark.parametrize("graph", [graph for graph in GRAPH_FOLDERS if graph != DENOISER])
def test_encoders_take_what_triton_may_give_them(export: Export, graph: str) -> None:
    (model,) = (model for model in MODELS if model.name == graph)
    plan = limits_of(ENGINE_KINDS["tensorrt-fp16"], source(export, graph))
    assert (plan.min_rows, plan.max_rows) == (1, model.max_batch_size)
    package = limits_of(ENGINE_KINDS["aotinductor-fp32"], source(export, graph))
    assert (package.min_rows, package.max_rows) == (2, model.max_batch_size)


def test_engines_with_limits_are_compared_inside_them(export: Export) -> None:
    assert check_sizes(ENGINE_KINDS["openvino-bf16"], source(export, DENOISER)) is None
    kind = ENGINE_KINDS["tensorrt-fp16"]
    limits = limits_of(kind, source(export, DENOISER))
    for size in check_sizes(kind, source(export, DENOISER)) or ():
        assert limits.allows_size(size.height // 8, size.width // 8)
        assert size.batch <= limits.max_rows


@pytest.mark.parametrize("name", PLANS)
def test_what_cannot_be_built_here_is_said_before_any_work(
    export: Export, tmp_path: Path, name: str
) -> None:
    reason = why_absent(ENGINE_KINDS[name])
    assert reason in ("its package is not installed", "there is no CUDA device")
    with pytest.raises(SetupError, match=f"^the engine {name} cannot be built here: {reason}$"):
        export_repository(export.bundle.path, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trtexec_lines_build_every_graph(export: Export) -> None:
    lines = list(trtexec_sources(export.bundle.path, "tensorrt-fp32", export.out, Path("plans")))
    assert len(lines) == len(GRAPH_FOLDERS)
    for graph, line in zip(GRAPH_FOLDERS, lines, strict=True):
        words = line.replace("\\\n", " ").split()
        assert words[0] == "trtexec" and f"--saveEngine=plans/{graph}.plan" in words
        (path,) = (word.partition("=")[2] for word in words if word.startswith("--onnx="))
        given = {value.name for value in onnx.load(path).graph.input}
        for shapes in re.findall(r"--(?:min|opt|max)Shapes=(\S+)", line):
            assert {part.partition(":")[0] for part in shapes.split(",")} == given
        assert line.count("--minShapes") == (4 if graph == DENOISER else 1)


def test_onnxruntimes_tensorrt_provider_gets_its_profile(export: Export, tmp_path: Path) -> None:
    kind = ENGINE_KINDS["onnxruntime-tensorrt-fp32"]
    compile_engine(kind, source(export, DENOISER), tmp_path / "unet_controlnet")
    low, _, high = (tmp_path / "unet_controlnet.profile").read_text().splitlines()
    assert low.startswith("sample:2x4x8x8,") and high.startswith("sample:16x4x32x32,")
    assert (kind.backend, kind.triton_backend) == ("onnxruntime-tensorrt", "onnxruntime")


def test_tritons_own_backend_is_told_the_plans_name(tmp_path: Path) -> None:
    (tmp_path / "model-tensorrt-10.16-H200-sm90.plan").touch()
    assert engine_file_name(ENGINE_KINDS["onnxruntime-fp32"], tmp_path / "model") is None
    found = engine_file_name(ENGINE_KINDS["tensorrt-fp16"], tmp_path / "model")
    assert found == "model-tensorrt-10.16-H200-sm90.plan"


def test_a_quantized_repository_is_near_the_exact_one(export: Export, tmp_path: Path) -> None:
    repository = export_repository(export.bundle.path, "onnxruntime-int8", export.out)
    config = (repository / "denoise" / "config.pbtxt").read_text()
    assert 'key: "precision" value { string_value: "int8" }' in config
    path = repository / "denoise" / "1" / "unet_controlnet.onnx"
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    from backdrop_export.loading import load_graph

    inputs = sample_inputs(export.bundle, DENOISER, Size(2, 128, 128), seed=9)
    exact = run_torch(load_graph(export.bundle, DENOISER), DENOISER, inputs)["noise_pred"]
    found = load_network(ENGINE_KINDS["onnxruntime-int8"], path)(inputs)["noise_pred"]
    error = np.sqrt(np.mean((found - exact) ** 2)) / np.abs(exact).max()
    assert 1e-4 < error < 0.05
