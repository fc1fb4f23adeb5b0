"""The graphs against torch and against diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, Bundle
from backdrop_export.edge_encoder import load_weights
from backdrop_export.engines import Arrays
from backdrop_export.loading import load_graph
from backdrop_export.samples import Size, graph_inputs, sample_inputs
from backdrop_export.verification import difference_of, run_torch
from backdrop_server.stages.edge_encoder import EdgeEncoder
from tests.export.conftest import Export
from tests.export.reference import load_pipeline, paint, pictures
from tests.pictures import psnr

SIZES = (Size(1, 64, 64), Size(4, 128, 64), Size(5, 64, 192))


@pytest.fixture(scope="module")
def pipeline(export: Export) -> Any:
    return load_pipeline(export.bundle.path)


@pytest.mark.parametrize("graph", GRAPH_FOLDERS)
def test_graph_equals_torch_at_every_size(export: Export, graph: str) -> None:
    module, network = load_graph(export.bundle, graph), export.network(graph)
    for size in SIZES:
        inputs = sample_inputs(export.bundle, graph, size, seed=7)
        found, expected = network(inputs), run_torch(module, graph, inputs)
        for name in expected:
            difference = difference_of(graph, "", str(size), name, found[name], expected[name])
            limit = 1.0 if difference.levels else 1e-4
            assert (difference.absolute if difference.levels else difference.relative) <= limit


def test_rows_do_not_see_each_other(export: Export) -> None:
    network = export.network(DENOISER)
    inputs = sample_inputs(export.bundle, DENOISER, Size(4, 64, 64), seed=1)
    assert len(set(inputs["timestep"])) == len(set(inputs["cn_weight"])) == 4
    together = network(inputs)["noise_pred"]
    for row in range(4):
        alone = network({name: array[row : row + 1] for name, array in inputs.items()})
        np.testing.assert_allclose(alone["noise_pred"][0], together[row], atol=2e-5)


def changed(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if name == "time_ids" or array.ndim == 1:
        return array * np.float32(0.5)
    return array[..., ::-1].copy()


@pytest.mark.parametrize("name", [tensor.name for tensor in graph_inputs(DENOISER)])
def test_every_input_of_the_denoiser_counts(export: Export, name: str) -> None:
    network = export.network(DENOISER)
    inputs = sample_inputs(export.bundle, DENOISER, Size(2, 64, 64))
    before = network(inputs)["noise_pred"]
    after = network(inputs | {name: changed(name, inputs[name])})["noise_pred"]
    least = 0.002 if name == "time_ids" else 0.02
    assert float(np.sqrt(np.mean((after - before) ** 2))) > least


def test_text_encoder_is_the_pipelines(export: Export, pipeline: Any) -> None:
    prompt, negative = "a red shoe on wet sand at dawn", "blurry"
    ids: Arrays = {}
    for name, tokenizer in (
        ("input_ids", pipeline.tokenizer),
        ("input_ids_2", pipeline.tokenizer_2),
    ):
        encoded = tokenizer([negative, prompt], padding="max_length", max_length=77)
        ids[name] = np.array([encoded.input_ids], dtype=np.int64)
    found = export.network("text_encoder")(ids)
    with torch.no_grad():
        embeds, negative_embeds, pooled, negative_pooled = pipeline.encode_prompt(
            prompt, negative_prompt=negative
        )
    expected = torch.cat([negative_embeds, embeds]).numpy()
    np.testing.assert_allclose(found["prompt_embeds"][0], expected, atol=1e-4)
    pools = torch.cat([negative_pooled, pooled]).numpy()
    np.testing.assert_allclose(found["pooled_prompt_embeds"][0], pools, atol=1e-4)


def image_tokens(pipeline: Any, ref_image: Any) -> torch.Tensor:
    from PIL import Image

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (embeds,) = pipeline.prepare_ip_adapter_image_embeds(
            [Image.fromarray(ref_image)], None, torch.device("cpu"), 1, True
        )
        (tokens,) = pipeline.unet.encoder_hid_proj([embeds])
    return torch.as_tensor(tokens).squeeze(1)


def test_image_encoder_is_the_pipelines(export: Export, pipeline: Any) -> None:
    ref_image = pictures()["ref_image"]  # of the tower's own size, so nothing is resized
    found = export.network("image_encoder")({"ref_pixels": ref_image[None]})["image_embeds"][0]
    np.testing.assert_allclose(found, image_tokens(pipeline, ref_image).numpy(), atol=2e-4)


def test_vae_encoder_is_the_pipelines(export: Export, pipeline: Any) -> None:
    from PIL import Image

    shown = pictures()
    image = pipeline.image_processor.preprocess(Image.fromarray(shown["photo"]))
    mask = pipeline.mask_processor.preprocess(Image.fromarray(shown["mask"]))
    arrays = {"working_image": shown["photo"][None], "mask": shown["mask"][None]}
    found = export.network("vae_encoder")(arrays)["image_moments"][0]
    with torch.no_grad():
        for half, picture in enumerate((image, image * (mask < 0.5))):
            moments = pipeline.vae.encode(picture).latent_dist.parameters[0]
            np.testing.assert_allclose(found[half], moments.numpy(), atol=1e-3)


def test_vae_decoder_is_the_pipelines(export: Export, pipeline: Any) -> None:
    latents = sample_inputs(export.bundle, "vae_decoder", Size(1, 64, 128))["latents"]
    found = export.network("vae_decoder")({"latents": latents})["pixels"][0]
    with torch.no_grad():
        scaled = torch.from_numpy(latents[0]) / pipeline.vae.config.scaling_factor
        decoded = pipeline.vae.decode(scaled, return_dict=False)[0]
    expected = pipeline.image_processor.postprocess(decoded, output_type="pil")
    for sample, picture in zip(found, expected, strict=True):
        assert np.abs(sample.astype(int) - np.array(picture).astype(int)).max() <= 1


def test_unet_controlnet_is_the_pipelines(export: Export, pipeline: Any) -> None:
    """The same call as in diffusers' loop, with one weight for all rows as diffusers has it."""
    inputs = sample_inputs(export.bundle, DENOISER, Size(2, 64, 64), seed=4)
    inputs |= {
        "timestep": np.full(2, 501, np.float32),
        "cn_weight": np.full(2, 0.9, np.float32),
        "ip_adapter_weight": np.full(2, 0.4, np.float32),
        "image_embeds": image_tokens(pipeline, pictures()["ref_image"]).numpy(),
    }
    edges = torch.from_numpy(pictures()["edges"])
    inputs["edge_embeds"] = edge_embeds(export.bundle, edges)
    found = export.network(DENOISER)(inputs)["noise_pred"]
    pipeline.set_ip_adapter_scale(0.4)
    expected = diffusers_prediction(pipeline, inputs, edges)
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_a_controlnet_for_bgr_gets_the_same_edges(export: Export, tmp_path: Path) -> None:
    """Its three channels are equal, and what the edge encoder gives is not to be turned round."""
    folder = Path(shutil.copytree(export.bundle.path, tmp_path / "bgr"))
    config = folder / "controlnet" / "config.json"
    values = json.loads(config.read_text()) | {"controlnet_conditioning_channel_order": "bgr"}
    config.write_text(json.dumps(values))
    inputs = sample_inputs(export.bundle, DENOISER, Size(2, 64, 64), seed=4)
    found, expected = (
        run_torch(load_graph(bundle, DENOISER), DENOISER, inputs)["noise_pred"]
        for bundle in (Bundle.open(folder), export.bundle)
    )
    np.testing.assert_array_equal(found, expected)


def edge_embeds(bundle: Bundle, edges: torch.Tensor) -> np.ndarray[Any, Any]:
    """What the bundle's edge encoder gives, in two rows."""
    encode = EdgeEncoder(load_weights(bundle), torch.device("cpu"))
    return encode(edges).expand(2, -1, -1, -1).numpy()


def diffusers_prediction(
    pipeline: Any, inputs: Arrays, edges: torch.Tensor, ref_image: Any = None
) -> np.ndarray[Any, Any]:
    from PIL import Image

    ref_image = pictures()["ref_image"] if ref_image is None else ref_image
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    added = {"text_embeds": tensors["pooled_prompt_embeds"], "time_ids": tensors["time_ids"]}
    timestep, embeds = torch.tensor(501), tensors["prompt_embeds"]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (clip,) = pipeline.prepare_ip_adapter_image_embeds(
            [Image.fromarray(ref_image)], None, torch.device("cpu"), 1, True
        )
        down, mid = pipeline.controlnet(
            tensors["sample"],
            timestep,
            encoder_hidden_states=embeds,
            controlnet_cond=(edges.float() / 255).expand(2, 3, -1, -1),
            conditioning_scale=0.9,
            added_cond_kwargs=added,
            return_dict=False,
        )
        prediction = pipeline.unet(
            torch.cat([tensors["sample"], tensors["inpaint_latents"]], dim=1),
            timestep,
            encoder_hidden_states=embeds,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            added_cond_kwargs=added | {"image_embeds": [clip]},
        ).sample
    return np.asarray(prediction.numpy())


@pytest.fixture(scope="module")
def painted(pipeline: Any) -> Any:
    return paint(pipeline)


HALF = np.tile(np.repeat(np.array([0, 255], np.uint8), 32), (64, 1))
CHANGES: dict[str, dict[str, Any]] = {
    "no prompt": {"prompt": ""},
    "another prompt": {"prompt": "golden desert at sunset with red rocks"},
    "no negative prompt": {"negative_prompt": None},
    "another negative prompt": {"negative_prompt": "watermark text, deformed"},
    "no reference": {"ip_adapter_weight": 0.0},
    "another reference": {"ref_image": pictures()["ref_image"][::-1, ::-1].copy()},
    "no edges": {"edges": np.zeros((64, 64), np.uint8)},
    "cn_weight 0": {"controlnet_conditioning_scale": 0.0},
    "another mask": {"mask": HALF},
    "another photo": {"photo": pictures()["photo"][::-1].copy()},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_input_changes_the_picture(pipeline: Any, painted: Any, change: Any) -> None:
    assert psnr(painted, paint(pipeline, **change)) < 30


def test_the_picture_uses_the_range(painted: Any) -> None:
    assert painted.std() > 40
    assert float(np.mean((painted == 0) | (painted == 255))) < 0.3
    assert np.abs(painted.mean(axis=(0, 1)) - painted.mean()).max() > 5  # not grey


def test_the_network_does_not_amplify_rounding(pipeline: Any, painted: Any) -> None:
    weights = list(pipeline.unet.parameters())
    kept = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1 + 1e-6 * torch.randn(weight.shape, generator=generator))
        assert psnr(painted, paint(pipeline)) > 55
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)
