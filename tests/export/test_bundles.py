"""Making and reading bundles."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backdrop_export.bundles import IP_ADAPTER, Bundle
from backdrop_export.loading import load_graph
from backdrop_export.manifest import hash_file
from backdrop_export.synthetic import make_bundle
from backdrop_export.vocabulary import train_merges, vocabulary
from backdrop_server.errors import SetupError

MAX_BYTES = 48_000_000


def hashes(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hash_file(f) for f in folder.rglob("*") if f.is_file()}


def parameters(bundle: Bundle) -> int:
    files = bundle.path.rglob("*.safetensors")
    return sum(math.prod(array.shape) for file in files for array in load_file(file).values())


def test_the_same_name_gives_the_same_bytes(tiny: Bundle, tmp_path: Path) -> None:
    assert hashes(make_bundle("tiny", tmp_path / "other")) == hashes(tiny.path)


def test_a_bundle_that_is_current_is_left_alone(tiny: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny.path, tmp_path / "tiny")
    before = (copy / "model_index.json").stat().st_ino
    make_bundle("tiny", copy)
    assert (copy / "model_index.json").stat().st_ino == before
    (copy / IP_ADAPTER).write_bytes(b"damaged")
    assert hashes(make_bundle("tiny", copy)) == hashes(tiny.path)


def test_the_demo_bundle_is_trained_and_small(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle("demo", tmp_path / "demo"))
    assert bundle.value("backdrop.json", "weights") == "trained"
    assert 9_000_000 < parameters(bundle) < 10_000_000
    files = [file for file in bundle.path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MAX_BYTES
    assert bundle.facts().native_pixels == 256 * 256


def test_no_layer_is_zero(tiny: Bundle) -> None:
    for file in tiny.path.rglob("*.safetensors"):
        for name, array in load_file(file).items():
            assert np.isfinite(array).all(), name
            assert np.abs(array).max() > 0, name


def test_facts(tiny: Bundle) -> None:
    facts = tiny.facts()
    assert facts.name == "tiny"
    assert (facts.latent_channels, facts.vae_scale_factor) == (4, 8)
    assert facts.force_zeros_for_empty_prompt


def test_merges_are_the_most_frequent_pairs_first() -> None:
    assert train_merges("aab aab ab", 2) == [("a", "b</w>"), ("a", "ab</w>")]
    ids, merges = vocabulary(1024)
    assert len(ids) == 1024 and len(merges) == 1024 - 514
    assert ids["!"] == 0 and ids["<|endoftext|>"] == 1023


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def test_diffusers_loads_it_without_a_word_about_keys(tiny: Bundle) -> None:
    from tests.export.reference import load_pipeline

    with collected_warnings() as messages:
        pipeline = load_pipeline(tiny.path)
    assert not [text for text in messages if "key" in text or "weights" in text.lower()]
    assert pipeline.unet.config.in_channels == 9
    assert pipeline.config.force_zeros_for_empty_prompt
    assert pipeline.tokenizer.pad_token_id == len(pipeline.tokenizer) - 1
    assert pipeline.tokenizer_2.pad_token_id == 0


def broken_copy(tiny: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path, tmp_path / "tiny"))


@pytest.mark.parametrize(("given", "fails"), [(0.7, False), (1.2, True), ("much", True)])
def test_guidance_rescale_is_read_and_checked(
    tiny: Bundle, tmp_path: Path, given: object, fails: bool
) -> None:
    folder = broken_copy(tiny, tmp_path)
    facts = json.loads((folder / "backdrop.json").read_text())
    (folder / "backdrop.json").write_text(json.dumps(facts | {"guidance_rescale": given}))
    if fails:
        with pytest.raises(SetupError, match=r"guidance_rescale .* allowed: 0 to 1"):
            Bundle.open(folder).facts()
    else:
        assert Bundle.open(folder).facts().guidance_rescale == given


@pytest.mark.parametrize("file", ["unet/config.json", IP_ADAPTER, "backdrop.json"])
def test_a_missing_file_is_named(tiny: Bundle, tmp_path: Path, file: str) -> None:
    folder = broken_copy(tiny, tmp_path)
    (folder / file).unlink()
    with pytest.raises(SetupError, match=file):
        Bundle.open(folder)


def test_a_missing_configuration_key_is_named(tiny: Bundle, tmp_path: Path) -> None:
    folder = broken_copy(tiny, tmp_path)
    config = json.loads((folder / "vae/config.json").read_text())
    del config["scaling_factor"]
    (folder / "vae/config.json").write_text(json.dumps(config))
    with pytest.raises(SetupError, match=r"vae/config\.json lacks the key scaling_factor"):
        Bundle.open(folder).facts()


@pytest.mark.parametrize(
    ("graph", "file", "key"),
    [
        ("unet_controlnet", "unet/diffusion_pytorch_model.safetensors", "conv_out.bias"),
        ("vae_decoder", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
        ("text_encoder", "text_encoder_2/model.safetensors", "text_projection.weight"),
        ("unet_controlnet", IP_ADAPTER, "ip_adapter.3.to_v_ip.weight"),
        ("image_encoder", IP_ADAPTER, "image_proj.norm.bias"),
    ],
)
def test_a_missing_weight_is_named(
    tiny: Bundle, tmp_path: Path, graph: str, file: str, key: str
) -> None:
    folder = broken_copy(tiny, tmp_path)
    weights: dict[str, Any] = load_file(folder / file)
    del weights[key]
    save_file(weights, folder / file, metadata={"format": "pt"})
    with pytest.raises(SetupError) as raised:
        load_graph(Bundle.open(folder), graph)
    assert key in str(raised.value)
    assert file.split("/", maxsplit=1)[0] in str(raised.value)


@pytest.mark.parametrize(
    ("graph", "file"),
    [
        ("vae_decoder", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder", "text_encoder/model.safetensors"),
        ("image_encoder", IP_ADAPTER),
    ],
)
def test_a_damaged_file_is_named(tiny: Bundle, tmp_path: Path, graph: str, file: str) -> None:
    folder = broken_copy(tiny, tmp_path)
    (folder / file).write_bytes((folder / file).read_bytes()[:1000])
    with pytest.raises(SetupError, match=file.split("/", maxsplit=1)[0]):
        load_graph(Bundle.open(folder), graph)


def test_an_unknown_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="demo, tiny"):
        make_bundle("huge", tmp_path / "huge")
