"""Wrong, cut off and mismatched checkpoints: the file, the key and both shapes are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backdrop_export.bundles import IP_ADAPTER, Bundle
from backdrop_export.checkpoints.assemble import assemble
from backdrop_export.checkpoints.recipe import read_recipe
from backdrop_export.loading import load_graph
from backdrop_export.published_keys import empty_model
from backdrop_server.errors import SetupError
from tests.export.published import (
    Tensors,
    plus_adapter,
    random_tensors,
    write_adapter,
    write_recipe,
)

UNET = "unet/diffusion_pytorch_model.safetensors"
CONTROLNET = "controlnet/diffusion_pytorch_model.safetensors"
Change = Callable[[Tensors], Tensors]


@pytest.fixture
def folder(tiny: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path, tmp_path / "tiny"))


def refusal(base: Path, tmp_path: Path, **sources: Any) -> str:
    recipe = read_recipe(write_recipe(tmp_path / "wrong.toml", base=base, **sources))
    with pytest.raises(SetupError) as raised:
        assemble(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert str(raised.value).count("\n") == 0
    return str(raised.value)


def rewrite(file: Path, change: Change) -> None:
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file)


def configure(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def narrower(tensors: Tensors) -> Tensors:
    """Cross-attention to prompts of another width, as in SD 1.5 (768 for 2048)."""
    return {
        k: v[:, :48] if "attn2.to_k" in k or "attn2.to_v" in k else v for k, v in tensors.items()
    }


def test_an_unet_for_other_text_towers(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / UNET, narrower)
    configure(folder / "unet/config.json", cross_attention_dim=48, addition_embed_type=None)
    said = refusal(folder, tmp_path)
    assert UNET in said and "attn2.to_k.weight has the shape [32, 48], needed is [32, 96]" in said


def test_an_unet_that_is_not_for_inpainting(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / UNET, lambda t: t | {"conv_in.weight": t["conv_in.weight"][:, :4]})
    configure(folder / "unet/config.json", in_channels=4)
    said = refusal(folder, tmp_path)
    assert f"{UNET}: conv_in.weight has the shape [32, 4, 3, 3], needed is [32, 9, 3, 3]" in said
    with pytest.raises(SetupError, match=r"conv_in\.weight has the shape \[32, 4, 3, 3\]"):
        load_graph(Bundle.open(folder), "unet_controlnet")


def test_an_unet_without_sizes_of_pictures(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / UNET, lambda t: {k: v for k, v in t.items() if "add_embedding" not in k})
    said = refusal(folder, tmp_path)
    assert UNET in said and "lacks the key add_embedding.linear_1.weight, shape [128, 256]" in said


def test_a_controlnet_for_other_text_towers(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / CONTROLNET, narrower)
    configure(folder / "controlnet/config.json", cross_attention_dim=48)
    said = refusal(folder, tmp_path)
    assert CONTROLNET in said and "[32, 48], needed is [32, 96]" in said


def test_a_controlnet_with_other_blocks(folder: Path, tmp_path: Path) -> None:
    config = folder / "controlnet/config.json"
    configure(config, layers_per_block=2)
    model = empty_model("controlnet", json.loads(config.read_text()), config.parent)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    save_file(random_tensors(shapes, seed=1), folder / CONTROLNET)
    said = refusal(folder, tmp_path)
    assert "controlnet/config.json: layers_per_block is 2, the UNet's is 1" in said


def test_a_controlnet_whose_edges_are_halved_too_seldom(folder: Path, tmp_path: Path) -> None:
    config = folder / "controlnet/config.json"
    configure(config, conditioning_embedding_out_channels=[4, 8, 16])
    model = empty_model("controlnet", json.loads(config.read_text()), config.parent)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    save_file(random_tensors(shapes, seed=1), folder / CONTROLNET)
    said = refusal(folder, tmp_path)
    assert "halves the edges 2 times, the VAE pictures 3 times" in said


def test_a_key_that_nothing_needs(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / UNET, lambda t: t | {"conv_extra.weight": torch.zeros(2, 3)})
    said = refusal(folder, tmp_path)
    assert f"{UNET} has a key that nothing needs: conv_extra.weight, shape [2, 3]" in said


@pytest.mark.parametrize("file", [UNET, IP_ADAPTER, "text_encoder_2/model.safetensors"])
def test_a_cut_off_file(folder: Path, tmp_path: Path, file: str) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:-1000])
    assert f"{file} is damaged or cut off" in refusal(folder, tmp_path)


def test_a_file_that_is_no_weights_file(folder: Path, tmp_path: Path) -> None:
    (folder / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5")
    assert f"{UNET} is damaged or cut off" in refusal(folder, tmp_path)


ADAPTERS: dict[str, tuple[Change, list[str]]] = {
    "for another image encoder": (
        lambda t: t | {"image_proj.proj.weight": torch.zeros(384, 40)},
        ["image_proj.proj.weight has the shape [384, 40], needed is [384, 32]"],
    ),
    "for other text towers": (
        lambda t: {k: v[:, :48] if "ip_adapter" in k else v for k, v in t.items()},
        ["ip_adapter.1.to_k_ip.weight has the shape [32, 48], needed is [32, 96]"],
    ),
    "without a layer": (
        lambda t: {k: v for k, v in t.items() if "ip_adapter.5." not in k},
        ["lacks the key ip_adapter.5.to_k_ip.weight, shape [", "(and 1 more)"],
    ),
    "with layers of another UNet": (
        lambda t: t | {"ip_adapter.99.to_k_ip.weight": torch.zeros(64, 96)},
        ["nothing needs: ip_adapter.99.to_k_ip.weight, shape [64, 96]"],
    ),
    "for faces": (
        lambda t: {k.replace("image_proj.proj.", "image_proj.proj.0."): v for k, v in t.items()},
        ["neither a base nor a plus IP-Adapter", "image_proj.norm.bias"],
    ),
    "that is a LoRA": (
        lambda t: {"lora_unet_x.lora_down.weight": torch.zeros(2, 2)},
        ["neither a base nor a plus IP-Adapter", "no key that begins with image_proj."],
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_ip_adapter(tiny: Bundle, tmp_path: Path, kind: str, suffix: str) -> None:
    change, words = ADAPTERS[kind]
    file = tmp_path / f"adapter{suffix}"
    tensors = {k: v.contiguous() for k, v in change(load_file(tiny.path / IP_ADAPTER)).items()}
    if suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    said = refusal(tiny.path, tmp_path, ip_adapter=file)
    for word in (str(file), *words):
        assert word in said


def test_a_plus_adapter_for_another_image_encoder(tiny: Bundle, tmp_path: Path) -> None:
    file = write_adapter(plus_adapter(tiny.path, hidden=40), tmp_path / "plus.safetensors")
    said = refusal(tiny.path, tmp_path, ip_adapter=file)
    assert "image_proj.proj_in.weight has the shape [48, 40], needed is [48, 32]" in said


class Trap:
    """What a hostile pickle does when it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_that_runs_code_is_not_loaded(tiny: Bundle, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "adapter.bin"
    torch.save({"image_proj": {"latents": Trap(mark)}}, file)
    said = refusal(tiny.path, tmp_path, ip_adapter=file)
    assert str(file) in said and "could run code" in said
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"\x80\x02}q\x00(X"])
def test_a_damaged_pickle(tiny: Bundle, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "adapter.bin"
    file.write_bytes(content)
    said = refusal(tiny.path, tmp_path, ip_adapter=file)
    assert str(file) in said and "damaged" in said


def test_a_pickle_of_something_else(tiny: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "adapter.bin"
    torch.save({"image_proj": {"latents": 3}}, file)
    assert f"{file}: image_proj.latents is not a tensor, but int" in refusal(
        tiny.path, tmp_path, ip_adapter=file
    )


RECIPES: dict[str, tuple[str, str]] = {
    "an unknown key": ('base = "x"\nsampler = "DDIM"', "unknown key sampler; allowed: base, contr"),
    "an unknown key of a LoRA": (
        'base="x"\n[[lora]]\nfile="a"\nalpha=1',
        "alpha; allowed: file, w",
    ),
    "no base": ("native_pixels = 4", "the key base is missing"),
    "a number for a text": ("base = 3", "base must be a text, found 3"),
    "too much rescale": (
        'base = "x"\nguidance_rescale = 1.5',
        "guidance_rescale is 1.5; allowed: 0 to 1",
    ),
    "a text for a number": ('base = "x"\nnative_pixels = "1"', "must be a whole number, found '1'"),
    "no TOML": ("base = ", "is not readable TOML"),
    "a LoRA without a file": ('base = "x"\n[[lora]]\nweight = 1', "[[lora]] lacks the key file"),
    "a LoRA that is no table": ('base = "x"\nlora = 3', "[[lora]]"),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe(tmp_path: Path, kind: str) -> None:
    content, words = RECIPES[kind]
    (tmp_path / "recipe.toml").write_text(content)
    with pytest.raises(SetupError) as raised:
        read_recipe(tmp_path / "recipe.toml")
    assert words in str(raised.value) and "recipe.toml" in str(raised.value)


def test_an_unknown_recipe(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="shipped recipes: sdxl"):
        read_recipe(tmp_path / "nothing.toml")


SOURCES: dict[str, tuple[dict[str, str], str]] = {
    "no such folder": ({"vae": "./nowhere"}, "vae = './nowhere': there is no folder or file"),
    "no such file": ({"ip_adapter": "files/a.bin"}, "ip_adapter = 'files/a.bin': there is no"),
    "an adapter's folder": (
        {"ip_adapter": "tiny/ip_adapter"},
        "must name one .safetensors or .bin",
    ),
    "no weights": ({"vae": "empty"}, "vae = 'empty' has no weights beside its config.json"),
    "no config": ({"vae": "tiny/ip_adapter"}, "vae = 'tiny/ip_adapter' lacks the file config.json"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source(folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(folder / "vae" / "config.json", tmp_path / "empty")
    sources, words = SOURCES[kind]
    assert words in refusal(folder, tmp_path, **sources)


def test_a_base_without_a_controlnet(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "controlnet")
    said = refusal(folder, tmp_path)
    assert "wrong.toml: the key controlnet is missing, and base has none of its own" in said


def test_a_hub_id_offline(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    said = refusal(tiny.path, tmp_path, vae="madebyollin/sdxl-vae-fp16-fix")
    assert "cannot download madebyollin/sdxl-vae-fp16-fix" in said
    assert "local folder as `vae` in the recipe" in said
