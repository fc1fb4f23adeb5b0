"""The three published IP-Adapter variants against diffusers' ``load_ip_adapter``."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLControlNetInpaintPipeline
from PIL import Image

from backdrop_export.bundles import DENOISER, IP_ADAPTER, Bundle
from backdrop_export.checkpoints.assemble import assemble
from backdrop_export.checkpoints.recipe import read_recipe
from backdrop_export.engines import ENGINE_KINDS, load_network
from backdrop_export.loading import load_graph
from backdrop_export.onnx_graphs import write_onnx
from backdrop_export.samples import Size, sample_inputs
from backdrop_export.verification import run_torch
from tests.export.published import (
    base_adapter,
    image_encoder,
    plus_adapter,
    write_adapter,
    write_recipe,
)
from tests.export.reference import pictures
from tests.export.test_graphs import diffusers_prediction, edge_embeds, image_tokens

LIMIT = 1e-4
BIG_G = {"hidden": 48, "projection": 40}
VIT_H = {"hidden": 32, "projection": 24}


@dataclasses.dataclass(frozen=True)
class Assembled:
    bundle: Bundle
    file: Path
    pipeline: Any


@pytest.fixture(
    scope="module",
    params=[
        f"{variant}{suffix}"
        for variant in ("ip-adapter_sdxl", "ip-adapter_sdxl_vit-h", "ip-adapter-plus_sdxl_vit-h")
        for suffix in (".safetensors", ".bin")
    ],
)
def assembled(
    request: pytest.FixtureRequest, tiny: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Assembled:
    folder = tmp_path_factory.mktemp("published")
    tower = VIT_H if "vit-h" in request.param else BIG_G
    encoder = image_encoder(folder / "image_encoder", **tower)
    adapter = (
        plus_adapter(tiny.path, tower["hidden"])
        if "plus" in request.param
        else base_adapter(tiny.path, tower["projection"])
    )
    file = write_adapter(adapter, folder / "sdxl_models" / request.param)
    recipe = write_recipe(
        folder / "small.toml", base=tiny.path, image_encoder=encoder, ip_adapter=file
    )
    bundle = Bundle.open(assemble(read_recipe(recipe), folder / "small"))
    return Assembled(bundle, file, load_published(bundle, file))


def load_published(bundle: Bundle, file: Path) -> Any:
    """diffusers' pipeline with the adapter from the file as it was published."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionXLControlNetInpaintPipeline.from_pretrained(bundle.path)
        pipeline.load_ip_adapter(
            str(file.parent.parent),
            subfolder=file.parent.name,
            weight_name=file.name,
            image_encoder_folder=None,
        )
    return pipeline


def relative_error(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def reference_picture() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_image_encoder_equals_diffusers(assembled: Assembled, tmp_path: Path) -> None:
    picture = reference_picture()
    expected = image_tokens(assembled.pipeline, picture).numpy()
    assert expected.shape == (2, assembled.bundle.image_tokens(), 96)
    module = load_graph(assembled.bundle, "image_encoder")
    batch = np.stack([picture, picture[::-1], picture])
    (found,) = run_torch(module, "image_encoder", {"ref_pixels": batch}).values()
    assert relative_error(found[0], expected) < LIMIT
    assert relative_error(found[2], expected) < LIMIT
    assert relative_error(found[1], expected) > 10 * LIMIT
    path = tmp_path / "image_encoder.onnx"
    write_onnx(assembled.bundle, "image_encoder", module, path)
    network = load_network(ENGINE_KINDS["onnxruntime-fp32"], path)
    for rows in (1, 3):
        (exported,) = network({"ref_pixels": batch[:rows]}).values()
        assert relative_error(exported, found[:rows]) < LIMIT


def test_denoiser_equals_diffusers(assembled: Assembled) -> None:
    picture = reference_picture()
    tokens = image_tokens(assembled.pipeline, picture).numpy()
    inputs = sample_inputs(assembled.bundle, DENOISER, Size(2, 64, 64), seed=4)
    inputs |= {
        "timestep": np.full(2, 501, np.float32),
        "cn_weight": np.full(2, 0.9, np.float32),
        "ip_adapter_weight": np.full(2, 0.4, np.float32),
        "image_embeds": tokens,
    }
    edges = torch.from_numpy(pictures()["edges"])
    inputs["edge_embeds"] = edge_embeds(assembled.bundle, edges)
    module = load_graph(assembled.bundle, DENOISER)
    (found,) = run_torch(module, DENOISER, inputs).values()
    assembled.pipeline.set_ip_adapter_scale(0.4)
    expected = diffusers_prediction(assembled.pipeline, inputs, edges, picture)
    assert relative_error(found, expected) < LIMIT
    without = inputs | {"ip_adapter_weight": np.zeros(2, np.float32)}
    assert (
        relative_error(next(iter(run_torch(module, DENOISER, without).values())), expected) > 0.01
    )


def test_bin_files_become_the_published_safetensors(assembled: Assembled) -> None:
    from safetensors.torch import load_file

    weights = load_file(assembled.bundle.path / IP_ADAPTER)
    assert all(name.startswith(("image_proj.", "ip_adapter.")) for name in weights)
    if assembled.file.suffix == ".bin":
        nested = torch.load(assembled.file, weights_only=True)
        assert {f"{p}.{n}" for p, part in nested.items() for n in part} == set(weights)
    else:
        assert (assembled.bundle.path / IP_ADAPTER).samefile(assembled.file)


def test_the_preprocessor_is_clips(assembled: Assembled) -> None:
    from transformers import CLIPImageProcessor

    assert assembled.bundle.facts().clip_image_size == 64
    picture = Image.fromarray(reference_picture())
    ours = CLIPImageProcessor.from_pretrained(assembled.bundle.path / "feature_extractor")
    theirs = CLIPImageProcessor(size=64, crop_size=64)  # as load_ip_adapter makes it
    np.testing.assert_array_equal(
        ours(picture, return_tensors="np").pixel_values,
        theirs(picture, return_tensors="np").pixel_values,
    )
