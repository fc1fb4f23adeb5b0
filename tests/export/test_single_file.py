"""Single-file SDXL checkpoints: written with the original keys, read back to the same graphs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, Bundle
from backdrop_export.checkpoints.assemble import assemble
from backdrop_export.checkpoints.recipe import read_recipe
from backdrop_export.engines import ENGINE_KINDS, load_network
from backdrop_export.loading import load_graph
from backdrop_export.onnx_graphs import write_onnx
from backdrop_export.samples import EXAMPLE, Size, sample_inputs
from backdrop_export.verification import run_torch
from backdrop_server.errors import SetupError
from tests.export.original_keys import write_single_file
from tests.export.published import write_recipe


@pytest.fixture(scope="module")
def single_file(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_file(tiny.path, tmp_path_factory.mktemp("single") / "small.safetensors")


def recipe_for(tiny: Bundle, file: Path, folder: Path) -> Path:
    return write_recipe(
        folder / "single.toml",
        base=file,
        config=tiny.path,
        controlnet=tiny.path / "controlnet",
        image_encoder=tiny.path / "image_encoder",
        ip_adapter=tiny.path / "ip_adapter" / "ip-adapter.safetensors",
        native_pixels=128 * 128,
    )


@pytest.fixture(scope="module")
def read_back(tiny: Bundle, single_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("read")
    recipe = read_recipe(recipe_for(tiny, single_file, folder))
    return Bundle.open(assemble(recipe, folder / "tiny"))


@pytest.mark.parametrize("folder", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_every_weight_comes_back(tiny: Bundle, read_back: Bundle, folder: str) -> None:
    (ours,) = (tiny.path / folder).glob("*.safetensors")
    expected, found = load_file(ours), load_file(read_back.path / folder / ours.name)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("graph", GRAPH_FOLDERS)
def test_the_graphs_are_the_bundles(tiny: Bundle, read_back: Bundle, graph: str) -> None:
    inputs = sample_inputs(tiny, graph, Size(2, 64, 128), seed=9)
    expected = run_torch(load_graph(tiny, graph), graph, inputs)
    found = run_torch(load_graph(read_back, graph), graph, inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_its_exported_graph_gives_the_bundles_prediction(
    tiny: Bundle, read_back: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "unet_controlnet.onnx"
    write_onnx(read_back, DENOISER, load_graph(read_back, DENOISER), path)
    inputs = sample_inputs(tiny, DENOISER, EXAMPLE, seed=3)
    found = load_network(ENGINE_KINDS["onnxruntime-fp32"], path)(inputs)["noise_pred"]
    expected = run_torch(load_graph(tiny, DENOISER), DENOISER, inputs)["noise_pred"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def changed(file: Path, target: Path, **changes: torch.Tensor | None) -> Path:
    tensors = load_file(file)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, target)
    return target


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            torch.zeros(32, 4, 3, 3),
            ["[32, 4, 3, 3]", "[32, 9, 3, 3]"],
        ),
        ("model.diffusion_model.label_emb.0.0.weight", None, []),
        ("first_stage_model.decoder.up.2.block.1.conv2.bias", None, []),
        ("conditioner.embedders.1.model.text_projection", None, []),
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
            torch.zeros(48),
            ["[48]", "[32]"],
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tiny: Bundle,
    single_file: Path,
    tmp_path: Path,
    key: str,
    value: torch.Tensor | None,
    words: list[str],
) -> None:
    file = changed(single_file, tmp_path / "wrong.safetensors", **{key: value})
    with pytest.raises(SetupError) as raised:
        assemble(read_recipe(recipe_for(tiny, file, tmp_path)), tmp_path / "out")
    ending = key if value is not None or "label_emb" in key or "projection" in key else "conv2.bias"
    for word in (str(file), ending, *words):
        assert word in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_cut_off_file_is_named(tiny: Bundle, single_file: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(single_file, tmp_path / "cut.safetensors"))
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(SetupError, match=r"cut\.safetensors is damaged or cut off"):
        assemble(read_recipe(recipe_for(tiny, file, tmp_path)), tmp_path / "out")
