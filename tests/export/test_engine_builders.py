"""The builders of TensorRT plans and AOTInductor packages, as far as this machine goes."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from backdrop_export.aotinductor import build_package, builder
from backdrop_export.bundles import DENOISER, Bundle
from backdrop_export.dimensions import Grid
from backdrop_export.graphs import UnetControlnet, install_ip_adapter
from backdrop_export.samples import EXAMPLE, Size, sample_inputs
from backdrop_export.tensorrt_plans import (
    MAX_ELEMENTS,
    build_plan,
    input_dims,
    profiles,
    shape_lines,
    trtexec_command,
    write_profile,
)
from backdrop_server.engines.engine import DeviceEngine
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError, SetupError
from backdrop_server.plan import EngineLimits, Precision
from tests.unit.engine_graphs import Graph, write_onnx

LIMITS = EngineLimits(
    "tensorrt",
    Precision.FP16,
    "tensorrt 10",
    max_rows=8,
    min_rows=2,
    row_buckets=(2, 8),
    heights=(8, 32),
    widths=(16, 16),
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "graph.onnx", half=True)
    return tmp_path / "graph.onnx"


def test_each_bucket_has_a_profile_over_all_sizes(graph: Path) -> None:
    small, large = profiles(input_dims(graph), LIMITS, Grid(), {})
    assert small.low["sample"] == (2, 3, 8, 16)
    assert small.best["sample"] == (2, 3, 16, 16)
    assert small.high["sample"] == (2, 3, 32, 16)
    assert large.low["mask"] == (8, 64, 128)
    assert large.high["mask"] == (8, 256, 128)
    assert large.low["ids"] == large.high["ids"] == (8, 2)


def test_without_buckets_one_profile_spans_all_rows(graph: Path) -> None:
    limits = dataclasses.replace(LIMITS, row_buckets=(), heights=None, sizes=((8, 24), (24, 24)))
    (only,) = profiles(input_dims(graph), limits, Grid(), {})
    assert (only.low["scale"], only.best["scale"], only.high["scale"]) == ((2,), (8,), (8,))
    assert (only.low["sample"], only.high["sample"]) == ((2, 3, 8, 24), (8, 3, 24, 24))


def test_sizes_far_apart_in_aspect_get_profiles_of_their_own(graph: Path) -> None:
    limits = dataclasses.replace(LIMITS, sizes=((8, 32), (16, 16), (32, 8), (24, 8)))
    found = profiles(input_dims(graph), limits, Grid(), {})
    assert [(profile.low["sample"], profile.high["sample"]) for profile in found[::2]] == [
        ((2, 3, 24, 8), (2, 3, 32, 8)),
        ((2, 3, 16, 16), (2, 3, 16, 16)),
        ((2, 3, 8, 32), (2, 3, 8, 32)),
    ]
    assert len(found) == 6  # two buckets of rows in each


def test_a_graph_without_sides_needs_no_bands() -> None:
    limits = dataclasses.replace(LIMITS, sizes=((8, 32), (32, 8)), row_buckets=())
    assert len(profiles({"ids": ["rows", 77]}, limits, Grid(), {})) == 1


def test_only_fp32_turns_tf32_off(graph: Path) -> None:
    for precision, expected in ((Precision.FP32, True), (Precision.FP16, False)):
        limits = dataclasses.replace(LIMITS, precision=precision)
        command = trtexec_command(graph, Path("out.plan"), limits, Path("timings"))
        assert ("--noTF32" in command) is expected


def test_a_size_that_nothing_determines_is_named() -> None:
    dims: dict[str, list[int | str]] = {"image_embeds": ["batch", "image_embeds_1", 2048]}
    with pytest.raises(SetupError, match="leaves the size image_embeds_1 of image_embeds open"):
        profiles(dims, LIMITS, Grid(), {})
    (first, _) = profiles(dims, LIMITS, Grid(), {"image_embeds_1": 16})
    assert first.high["image_embeds"] == (2, 16, 2048)


def test_the_trtexec_line_says_the_same(graph: Path) -> None:
    command = trtexec_command(graph, Path("out.plan"), LIMITS, Path("timings"))
    assert command[:4] == [
        *("trtexec", f"--onnx={graph}", "--saveEngine=out.plan", "--stronglyTyped")
    ]
    assert "--timingCacheFile=timings" in command
    assert [part for part in command if part.startswith("--profile")] == [
        *("--profile=0", "--profile=1")
    ]
    first, second = profiles(input_dims(graph), LIMITS, Grid(), {})
    at = command.index("--profile=1")
    low, best, high = shape_lines(second)
    assert command[at + 1 :] == [f"--minShapes={low}", f"--optShapes={best}", f"--maxShapes={high}"]
    assert shape_lines(first)[0] == "sample:2x3x8x16,scale:2,mask:2x64x128,ids:2x2"


def test_onnxruntimes_provider_gets_one_profile_over_all(graph: Path) -> None:
    path = write_profile(graph, graph, LIMITS)
    assert path == graph.with_suffix(".profile")
    low, best, high = path.read_text().splitlines()
    assert low == "sample:2x3x8x16,scale:2,mask:2x64x128,ids:2x2"
    assert best == "sample:8x3x16x16,scale:8,mask:8x128x128,ids:8x2"
    assert high == "sample:8x3x32x16,scale:8,mask:8x256x128,ids:8x2"


def test_a_profile_too_large_for_tensorrt_is_not_written(graph: Path) -> None:
    side = 32 * 16 * 64  # pixels of the largest sample; eight rows of it fit with 8191 channels
    assert write_profile(graph, graph, LIMITS, vae_channels=MAX_ELEMENTS // (8 * side))
    graph.with_suffix(".profile").unlink()
    channels = MAX_ELEMENTS // (8 * side) + 1
    assert write_profile(graph, graph, LIMITS, vae_channels=channels) is None
    assert not graph.with_suffix(".profile").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a plan could be built")
def test_a_plan_needs_the_gpu_that_runs_it(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="built on the GPU that runs it; there is no CUDA device"):
        build_plan(graph, tmp_path / "graph", Precision.FP16, LIMITS, tmp_path / "timings")
    if importlib.util.find_spec("tensorrt") is None:
        from backdrop_export import tensorrt_plans

        with pytest.raises(SetupError, match=r"TensorRT is not installed: pip install 'backdrop\["):
            tensorrt_plans.builder()


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def small_denoiser(tiny: Bundle) -> UnetControlnet:
    """The tiny denoiser without its innermost level, random weights: half as long to compile."""
    torch.manual_seed(0)
    config = tiny.config("unet/config.json") | {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [1, 2],
        "transformer_layers_per_block": [1, 1],
    }
    unet = UNet2DConditionModel.from_config(config)
    controlnet = ControlNetModel.from_unet(
        UNet2DConditionModel.from_config(config | {"in_channels": 4}),
        conditioning_embedding_out_channels=(4, 8, 16, 16),
    )
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.1)  # they begin as zeros
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    width = config["cross_attention_dim"]
    keys = [f"ip_adapter.{2 * i + 1}.to_{kv}_ip.weight" for i in range(len(cross)) for kv in "kv"]
    install_ip_adapter(unet, {key: torch.randn(64, width) * 0.1 for key in keys})
    module = UnetControlnet(unet, controlnet).eval()
    module.requires_grad_(False)
    return module


@pytest.fixture(scope="module")
def package(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small denoiser compiled in BF16 for the CPU."""
    target = tmp_path_factory.mktemp("packages") / f"{DENOISER}.pt2"
    examples = {n: torch.from_numpy(a) for n, a in sample_inputs(tiny, DENOISER, EXAMPLE).items()}
    limits = EngineLimits(
        "aotinductor", Precision.BF16, builder(), max_rows=16, heights=(8, 32), widths=(8, 32)
    )
    module, outputs = small_denoiser(tiny), ("noise_pred",)
    return build_package(module, examples, outputs, target, "cpu", Precision.BF16, limits)


@needs_compiler
def test_a_package_of_a_denoiser_equals_torch(package: Path, tiny: Bundle) -> None:
    """At batches and sizes that it was not traced at, one row among them."""
    engine = load_engine("aotinductor", package.with_suffix(""), Precision.BF16)
    assert isinstance(engine, DeviceEngine)
    weights = torch._inductor.aoti_load_package(str(package)).get_constant_fqns()
    assert any("attn1.to_qkv" in name for name in weights)
    assert not any("attn1.to_q.weight" in name for name in weights)
    assert any("attn2.to_k.weight" in name for name in weights)
    module = small_denoiser(tiny)
    for size in (Size(1, 192, 64), Size(3, 64, 128), Size(5, 256, 64)):
        given = sample_inputs(tiny, DENOISER, size)
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in given.values())).numpy()
        noise = engine.run(given)["noise_pred"]
        assert noise.dtype == np.float32
        error = np.abs(noise - expected).max() / np.abs(expected).max()
        assert error < 0.05, f"{size}: {error}"


@needs_compiler
def test_a_package_refuses_sizes_that_contradict_each_other(package: Path, tiny: Bundle) -> None:
    engine = load_engine("aotinductor", package.with_suffix(""), Precision.BF16)
    given = sample_inputs(tiny, DENOISER, Size(2, 64, 128))
    for name, wrong in (
        ("edge_embeds", given["edge_embeds"][:, :, :7]),
        ("cn_weight", given["cn_weight"][:1]),
        ("prompt_embeds", given["prompt_embeds"][:, :76]),
    ):
        with pytest.raises(EngineError, match=r"has the shape .*; the graph takes"):
            engine.run(given | {name: wrong})


@needs_compiler
def test_a_package_says_what_it_is(package: Path) -> None:
    with pytest.raises(EngineError, match="was built for aotinductor-bf16; the configuration says"):
        load_engine("aotinductor", package.with_suffix(""), Precision.FP16)
    package.with_suffix(".json").rename(package.with_suffix(".kept"))
    try:
        with pytest.raises(EngineError, match="computes in bf16; the configuration says fp16"):
            load_engine("aotinductor", package.with_suffix(""), Precision.FP16)
    finally:
        package.with_suffix(".kept").rename(package.with_suffix(".json"))


def test_a_precision_that_torch_does_not_compile_is_refused(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, engine="aotinductor")
    with pytest.raises(SetupError, match="aotinductor compiles fp32, fp16 and bf16, not fp8"):
        build_package(Graph(), {}, (), tmp_path / "x.pt2", "cpu", Precision.FP8, limits)
