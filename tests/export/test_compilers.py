"""What each engine kind is built for, and what a repository of it says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from backdrop_export import compilers
from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, Bundle
from backdrop_export.compilers import (
    Source,
    check_sizes,
    compile_engine,
    engine_file_name,
    latent_sizes,
    limits_of,
    max_batch_size,
    optimization_profiles,
    trtexec_sources,
)
from backdrop_export.dimensions import Grid
from backdrop_export.engines import ENGINE_KINDS, EngineKind, load_network, why_absent
from backdrop_export.onnx_graphs import graphs_folder
from backdrop_export.repository import export_repository
from backdrop_export.samples import Size, sample_inputs
from backdrop_export.tensorrt_plans import Profile, input_dims, profiles
from backdrop_export.verification import run_torch
from backdrop_server.contract import MODELS
from backdrop_server.engines.limits import check_fits, check_kind, read_limits
from backdrop_server.errors import EngineError, SetupError
from backdrop_server.plan import EngineLimits, Precision
from backdrop_server.working_sizes import working_sizes
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
    largest = max(height for height, _ in limits.sizes), max(width for _, width in limits.sizes)
    assert not limits.allows_size(*largest)  # inside the ranges, but no working size
    assert (limits.engine, limits.precision.value) == tuple(kind.rsplit("-", 1))


@pytest.mark.parametrize("graph", [graph for graph in GRAPH_FOLDERS if graph != DENOISER])
def test_encoders_take_what_triton_may_give_them(export: Export, graph: str) -> None:
    (model,) = (model for model in MODELS if model.name == graph)
    plan = limits_of(ENGINE_KINDS["tensorrt-fp16"], source(export, graph))
    assert (plan.min_rows, plan.max_rows) == (1, max_batch_size(ENGINE_KINDS["tensorrt-fp16"]))
    assert max_batch_size(ENGINE_KINDS["aotinductor-fp32"]) is None
    package = limits_of(ENGINE_KINDS["aotinductor-fp32"], source(export, graph))
    assert (package.min_rows, package.max_rows) == (2, model.max_batch_size)


def test_engines_with_limits_are_compared_inside_them(export: Export) -> None:
    assert check_sizes(ENGINE_KINDS["openvino-bf16"], source(export, DENOISER)) is None
    kind = ENGINE_KINDS["tensorrt-fp16"]
    limits = limits_of(kind, source(export, DENOISER))
    for size in check_sizes(kind, source(export, DENOISER)) or ():
        assert limits.allows_size(size.height // 8, size.width // 8)
        assert size.batch <= limits.max_rows
        assert min(size.height, size.width) >= 128  # torch.export takes one unit for fixed
    (_, second) = check_sizes(kind, source(export, "vae_decoder")) or ()
    assert second.batch == 1


SDXL_PIXELS = 1024**2


def sdxl_limits(kind: EngineKind, made_of: Source) -> EngineLimits:
    return dataclasses.replace(limits_of(kind, made_of), sizes=latent_sizes(SDXL_PIXELS, 8))


def sdxl_profiles(export: Export, graph: str) -> list[Profile]:
    """With the graphs of the tiny bundle, whose inputs have the same names and open sizes."""
    made_of = source(export, graph)
    limits = sdxl_limits(ENGINE_KINDS["tensorrt-fp16"], made_of)
    fixed = {"image_embeds_1": 4, "ref_pixels_1": 224, "ref_pixels_2": 224, "latents_2": 4}
    return profiles(input_dims(made_of.onnx), limits, Grid(), fixed)


@pytest.mark.parametrize(
    ("graph", "channels"),
    # Of a VAE at the picture's size, of the denoiser at the latents': two skips joined.
    [("vae_encoder", 128), ("vae_decoder", 256), (DENOISER, 960)],
)
def test_no_profile_of_sdxl_holds_a_tensor_too_large_for_tensorrt(
    export: Export, graph: str, channels: int
) -> None:
    for profile in sdxl_profiles(export, graph):
        shapes = profile.high
        if graph == DENOISER:
            rows, _, height, width = shapes["sample"]
            samples, pixels = 1, height * width
        elif graph == "vae_encoder":
            (rows, height, width), samples = shapes["working_image"][:3], 1
            pixels = height * width
        else:
            rows, samples, _, height, width = shapes["latents"]
            pixels = height * width * 64
            assert rows * samples * (height * width) ** 2 < 2**31  # the attention's scores
        assert rows * samples * channels * pixels < 2**31
        assert pixels < 1.6 * SDXL_PIXELS / (64 if graph == DENOISER else 1)
        if graph != DENOISER:
            assert rows == 1


@pytest.mark.parametrize("graph", ["vae_encoder", "vae_decoder", DENOISER])
def test_every_working_size_fits_a_profile_of_sdxl(export: Export, graph: str) -> None:
    found = sdxl_profiles(export, graph)
    name, at = {
        "vae_encoder": ("working_image", 1),
        "vae_decoder": ("latents", 3),
        DENOISER: ("sample", 2),
    }[graph]
    scale = 8 if graph == "vae_encoder" else 1
    for rows in (2, 4, 8, 16) if graph == DENOISER else (1,):
        boxes = [
            (profile.low[name][at : at + 2], profile.high[name][at : at + 2])
            for profile in found
            if profile.low[name][0] <= rows <= profile.high[name][0]
        ]
        assert len(boxes) <= 5
        for size in latent_sizes(SDXL_PIXELS, 8):
            scaled = tuple(side * scale for side in size)
            assert any(
                all(a <= side <= b for a, side, b in zip(low, scaled, high, strict=True))
                for low, high in boxes
            ), size


def test_onnxruntimes_provider_leaves_sdxls_vae_to_cuda(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It uses one profile only, and one around all sizes is too large for TensorRT."""
    kind = ENGINE_KINDS["onnxruntime-tensorrt-fp32"]
    limits = {name: sdxl_limits(kind, source(export, name)) for name in GRAPH_FOLDERS}
    monkeypatch.setattr(compilers, "limits_of", lambda _, made_of: limits[made_of.graph])
    for graph in ("vae_encoder", "vae_decoder", DENOISER):
        compile_engine(kind, source(export, graph), tmp_path / graph)
        assert (tmp_path / f"{graph}.json").is_file()
        assert (tmp_path / f"{graph}.profile").is_file() == (graph == DENOISER)


@pytest.mark.parametrize("name", PLANS)
def test_what_cannot_be_built_here_is_said_before_any_work(
    export: Export, tmp_path: Path, name: str
) -> None:
    reason = why_absent(ENGINE_KINDS[name])
    assert reason is not None
    assert reason.startswith(("tensorrt is not installed", "there is no CUDA device"))
    message = re.escape(f"the engine {name} cannot be built here: {reason}")
    with pytest.raises(SetupError, match=f"^{message}$"):
        export_repository(export.bundle.path, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trtexec_lines_build_every_graph(export: Export) -> None:
    kind = ENGINE_KINDS["tensorrt-fp32"]
    lines = list(trtexec_sources(export.bundle.path, "tensorrt-fp32", export.out, Path("plans")))
    assert len(lines) == len(GRAPH_FOLDERS)
    for graph, line in zip(GRAPH_FOLDERS, lines, strict=True):
        words = line.replace("\\\n", " ").split()
        assert words[0] == "trtexec" and f"--saveEngine=plans/{graph}.plan" in words
        (path,) = (word.partition("=")[2] for word in words if word.startswith("--onnx="))
        given = {value.name for value in onnx.load(path).graph.input}
        for shapes in re.findall(r"--(?:min|opt|max)Shapes=(\S+)", line):
            assert {part.partition(":")[0] for part in shapes.split(",")} == given
        bands = 3 if graph in (DENOISER, "vae_encoder", "vae_decoder") else 1
        assert line.count("--minShapes") == bands * (4 if graph == DENOISER else 1)
        assert "--noTF32" in words
        made_of = Source(export.bundle, graph, Path(path))
        assert line.count("--minShapes") == optimization_profiles(kind, made_of)


def test_onnxruntimes_tensorrt_provider_gets_its_profile(export: Export, tmp_path: Path) -> None:
    kind = ENGINE_KINDS["onnxruntime-tensorrt-fp32"]
    compile_engine(kind, source(export, DENOISER), tmp_path / "unet_controlnet")
    low, _, high = (tmp_path / "unet_controlnet.profile").read_text().splitlines()
    assert low.startswith("sample:2x4x8x8,") and high.startswith("sample:16x4x32x32,")
    assert (kind.backend, kind.triton_backend) == ("onnxruntime-tensorrt", "onnxruntime")
    limits = read_limits(tmp_path / "unet_controlnet.onnx")
    assert limits is not None
    check_kind(limits, kind.backend, kind.precision)
    assert limits.padded_rows(1) == 2
    with pytest.raises(EngineError, match="requests may have latents of 40x8"):
        check_fits(limits, 16, [(16, 16), (40, 8)])


@dataclasses.dataclass
class Built:
    """Stands for ``build_package``, which takes minutes."""

    arguments: tuple[Any, ...] = ()
    computes_in: Precision | None = None

    def __call__(self, *arguments: Any, computes_in: Precision) -> None:
        self.arguments, self.computes_in = arguments, computes_in


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    made = Built()
    monkeypatch.setattr("backdrop_export.aotinductor.build_package", made)
    return made


@pytest.mark.parametrize(
    ("precision", "upcast", "expected"),
    [
        ("fp16", True, "fp32"),
        ("fp16", False, "fp16"),
        ("fp16", None, "fp32"),
        ("bf16", True, "bf16"),
        ("bf16", None, "bf16"),
    ],
)
def test_a_package_keeps_a_vae_in_fp32_that_must_be_upcast(
    export: Export,
    built: Built,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    upcast: bool | None,
    expected: str,
) -> None:
    config = export.bundle.config("vae/config.json")
    changed = {name: value for name, value in config.items() if name != "force_upcast"}
    changed |= {} if upcast is None else {"force_upcast": upcast}
    whole = Bundle.config
    monkeypatch.setattr(
        Bundle, "config", lambda at, name: changed if "vae/" in name else whole(at, name)
    )
    kind = ENGINE_KINDS[f"aotinductor-{precision}"]
    compile_engine(kind, source(export, "vae_decoder"), Path("model"))
    assert built.computes_in is Precision(expected)
    assert built.arguments[5] is kind.precision  # what it is called is the same
    compile_engine(kind, source(export, "text_encoder"), Path("model"))
    assert built.computes_in is kind.precision


def test_a_package_for_a_gpu_names_it(
    export: Export, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, made_of = ENGINE_KINDS["aotinductor-fp32"], source(export, "vae_decoder")
    compile_engine(kind, made_of, Path("model"))
    assert (built.arguments[4], built.arguments[6].gpu) == ("cpu", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    compile_engine(kind, made_of, Path("model"))
    limits = built.arguments[6]
    assert (built.arguments[4], limits.gpu, limits.compute_capability) == ("cuda", "H200", "9.0")
    assert limits.builder == f"torch {torch.__version__}"
    assert tuple(built.arguments[1]["latents"].shape)[3:] == (16, 16)  # two units of 64 pixels


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


def test_a_plans_model_declares_one_row_and_all_its_profiles(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the plan, which only a GPU can build and time: a file of its name stands for it."""

    def leave_a_plan(kind: EngineKind, of: Source, target: Path) -> None:
        target.with_name(f"{target.name}-tensorrt-10-sm90.plan").touch()

    monkeypatch.setattr("backdrop_export.repository.why_absent", lambda _: None)
    monkeypatch.setattr("backdrop_export.repository.compile_engine", leave_a_plan)
    monkeypatch.setattr("backdrop_export.repository._Builder._verify", lambda *_: None)
    monkeypatch.setattr("backdrop_export.repository.measure_engine", lambda *_: 0.001)
    built = export_repository(export.bundle.path, "tensorrt-fp32", export.out)
    for graph in ("text_encoder", "vae_decoder"):
        text = (built / graph / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.backend, config.max_batch_size) == ("tensorrt", 1)
        assert config.default_model_filename == "model-tensorrt-10-sm90.plan"
        profiles = [name for group in config.instance_group for name in group.profile]
        expected = optimization_profiles(ENGINE_KINDS["tensorrt-fp32"], source(export, graph))
        assert profiles == ([str(number) for number in range(expected)] if expected > 1 else [])
