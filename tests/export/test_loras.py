"""LoRAs fused into a bundle against diffusers' own ``load_lora_weights`` and ``fuse_lora``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLControlNetInpaintPipeline
from safetensors.torch import load_file, save_file

from backdrop_export.bundles import DENOISER, Bundle
from backdrop_export.checkpoints.assemble import assemble
from backdrop_export.checkpoints.recipe import read_recipe
from backdrop_export.loading import load_graph
from backdrop_export.samples import Size, sample_inputs
from backdrop_export.verification import run_torch
from backdrop_server.errors import SetupError
from tests.export.published import Tensors, random_tensors, write_recipe

UNET_MODULES = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.attentions.0.proj_in",
)
CONV_MODULES = ("down_blocks.0.resnets.0.conv1", "up_blocks.0.upsamplers.0.conv")
TEXT_MODULES = (
    "text_model.encoder.layers.0.self_attn.q_proj",
    "text_model.encoder.layers.0.self_attn.out_proj",
    "text_model.encoder.layers.1.mlp.fc1",
)
SGM = {
    "down_blocks_1_attentions_0": "input_blocks_3_1",
    "mid_block_attentions_0": "middle_block_1",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
    "up_blocks_1_attentions_0": "output_blocks_2_1",
}
"""Of a UNet with one layer per block: what kohya calls its blocks when it trains from one file."""


def factors(bundle: Bundle, component: str, module: str, rank: int) -> tuple[Any, Any]:
    (file,) = (bundle.path / component).glob("*.safetensors")
    shape = tuple(load_file(file)[f"{module}.weight"].shape)
    down, up = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
    return tuple(
        random_tensors({"a.x": down, "b.x": up}, seed=hash_of(module)).values()  # type: ignore[return-value]
    )


def hash_of(text: str) -> int:
    return sum(ord(letter) * (index + 1) for index, letter in enumerate(text))


def kohya(
    bundle: Bundle,
    text: bool = True,
    conv: bool = True,
    sgm: bool = False,
    same_alpha: bool = True,
) -> Tensors:
    """``lora_unet_*``, ``lora_te1_*``, ``lora_te2_*`` with ranks of their own, and alphas too."""
    modules = [("unet", "lora_unet_", name) for name in UNET_MODULES]
    modules += [("unet", "lora_unet_", name) for name in CONV_MODULES if conv]
    for component, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        modules += [(component, prefix, name) for name in TEXT_MODULES if text]
    tensors: Tensors = {}
    for index, (component, prefix, module) in enumerate(modules):
        rank = 4 if index % 2 else 8
        down, up = factors(bundle, component, module, rank)
        name = prefix + module.replace(".", "_")
        for ours, theirs in SGM.items() if sgm else ():
            name = name.replace(ours, theirs)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = torch.tensor(2.0 if same_alpha else float(1 + index))
    return tensors


def peft(bundle: Bundle) -> Tensors:
    """diffusers' own format since peft: ``unet.*.lora_A.weight``."""
    tensors: Tensors = {}
    for component, modules in (
        ("unet", UNET_MODULES + CONV_MODULES),
        ("text_encoder", TEXT_MODULES),
        ("text_encoder_2", TEXT_MODULES),
    ):
        for module in modules:
            down, up = factors(bundle, component, module, 4)
            tensors[f"{component}.{module}.lora_A.weight"] = down
            tensors[f"{component}.{module}.lora_B.weight"] = up
    return tensors


FORMATS: dict[str, Callable[[Bundle], Tensors]] = {
    "kohya": kohya,
    "kohya of the UNet alone": lambda bundle: kohya(bundle, text=False),
    "kohya with the original blocks": lambda bundle: kohya(bundle, conv=False, sgm=True),
    "peft": peft,
}


def assembled(tiny: Bundle, folder: Path, loras: list[tuple[Path, float]]) -> Bundle:
    recipe = write_recipe(folder / "fused.toml", loras, base=tiny.path)
    return Bundle.open(assemble(read_recipe(recipe), folder / "fused"))


def fused_by_diffusers(tiny: Bundle, loras: list[tuple[Path, float]]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionXLControlNetInpaintPipeline.from_pretrained(tiny.path)
        for index, (file, weight) in enumerate(loras):
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=f"lora_{index}"
            )
            pipeline.fuse_lora(lora_scale=weight, adapter_names=[f"lora_{index}"])
            pipeline.unload_lora_weights()
    return pipeline


def check_equal(bundle: Bundle, pipeline: Any, tiny: Bundle, changed: set[str]) -> None:
    for component in ("unet", "text_encoder", "text_encoder_2"):
        (file,) = (bundle.path / component).glob("*.safetensors")
        (source,) = (tiny.path / component).glob("*.safetensors")
        assert file.samefile(source) == (component not in changed)
        found, before = load_file(file), load_file(source)
        assert set(found) == set(before)
        moved = 0
        for name, value in getattr(pipeline, component).state_dict().items():
            key = name if name in found else f"text_model.{name}"
            assert torch.equal(found[key], value), key
            moved += not torch.equal(found[key], before[key])
        assert (moved > 0) == (component in changed)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("form", FORMATS)
def test_fused_weights_are_diffusers_own(
    tiny: Bundle, tmp_path: Path, form: str, suffix: str
) -> None:
    tensors, file = FORMATS[form](tiny), tmp_path / f"style{suffix}"
    if suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    loras = [(file, 0.7)]
    changed = {"unet"} if "alone" in form else {"unet", "text_encoder", "text_encoder_2"}
    check_equal(assembled(tiny, tmp_path, loras), fused_by_diffusers(tiny, loras), tiny, changed)


def test_fused_weights_are_the_papers(tiny: Bundle, tmp_path: Path) -> None:
    """W + weight * alpha / rank * up down (Hu et al., 2021), for each module of each component.

    With alphas that differ, which diffusers mixes up.
    """
    tensors = kohya(tiny, same_alpha=False)
    save_file(tensors, tmp_path / "style.safetensors")
    bundle = assembled(tiny, tmp_path, [(tmp_path / "style.safetensors", 0.7)])
    for component, prefix, modules in (
        ("unet", "lora_unet_", UNET_MODULES + CONV_MODULES),
        ("text_encoder", "lora_te1_", TEXT_MODULES),
        ("text_encoder_2", "lora_te2_", TEXT_MODULES),
    ):
        (file,) = (bundle.path / component).glob("*.safetensors")
        (source,) = (tiny.path / component).glob("*.safetensors")
        found, before = load_file(file), load_file(source)
        for module in modules:
            name = prefix + module.replace(".", "_")
            up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
            delta = (up.flatten(1) @ down.flatten(1)).view_as(before[f"{module}.weight"])
            scale = 0.7 * float(tensors[f"{name}.alpha"]) / down.shape[0]
            change = found[f"{module}.weight"] - before[f"{module}.weight"]
            torch.testing.assert_close(change, scale * delta, atol=1e-5, rtol=1e-4)


def test_two_loras_are_fused_one_after_the_other(tiny: Bundle, tmp_path: Path) -> None:
    loras = [(tmp_path / "style.safetensors", 0.7), (tmp_path / "lcm.safetensors", 1.0)]
    save_file(kohya(tiny), loras[0][0])
    save_file(
        {k: v.flip(0) if v.ndim else v for k, v in kohya(tiny, text=False).items()}, loras[1][0]
    )
    bundle = assembled(tiny, tmp_path, loras)
    changed = {"unet", "text_encoder", "text_encoder_2"}
    check_equal(bundle, fused_by_diffusers(tiny, loras), tiny, changed)


def test_the_graphs_follow(tiny: Bundle, tmp_path: Path) -> None:
    """The exported modules of the fused bundle, against diffusers' fused UNet and towers."""
    file = tmp_path / "style.safetensors"
    save_file(kohya(tiny), file)
    bundle = assembled(tiny, tmp_path, [(file, 0.7)])
    pipeline = fused_by_diffusers(tiny, [(file, 0.7)])
    inputs = sample_inputs(tiny, "text_encoder", Size(1, 64, 64))
    found = run_torch(load_graph(bundle, "text_encoder"), "text_encoder", inputs)
    with torch.no_grad():
        ids = torch.from_numpy(inputs["input_ids_2"][0])
        expected = pipeline.text_encoder_2(ids).text_embeds.numpy()
    np.testing.assert_allclose(found["pooled_prompt_embeds"][0], expected, atol=1e-5)
    inputs = sample_inputs(tiny, DENOISER, Size(2, 64, 64))
    before = run_torch(load_graph(tiny, DENOISER), DENOISER, inputs)["noise_pred"]
    after = run_torch(load_graph(bundle, DENOISER), DENOISER, inputs)["noise_pred"]
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max()


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
WRONG: dict[str, tuple[Callable[[Tensors], Tensors], list[str]]] = {
    "a module that the UNet lacks": (
        lambda t: t | {k.replace("_1_", "_7_", 1): t[k].clone() for k in t if Q in k},
        ["down_blocks_7"],
    ),
    "a width of another model": (
        lambda t: t | {f"{Q}.lora_down.weight": torch.zeros(8, 320)},
        [f"{Q}.lora_down.weight", "[8, 320]", "[8, 32]"],
    ),
    "half a pair": (lambda t: without(t, f"{Q}.lora_up.weight"), [f"{Q}.lora_up.weight"]),
    "no LoRA at all": (lambda t: {"unet.conv_in.weight": torch.zeros(3)}, ["unet.conv_in.weight"]),
    "a stray key": (lambda t: t | {"notes": torch.zeros(2)}, ["notes"]),
    "a DoRA": (lambda t: t | {f"{Q}.dora_scale": torch.zeros(32, 1)}, [f"{Q}.dora_scale"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_fused_is_named(tiny: Bundle, tmp_path: Path, kind: str) -> None:
    change, words = WRONG[kind]
    file = tmp_path / "wrong.safetensors"
    save_file(change(kohya(tiny)), file)
    with pytest.raises(SetupError) as raised:
        assembled(tiny, tmp_path, [(file, 1.0)])
    for word in (str(file), *words):
        assert word in str(raised.value)
    assert not (tmp_path / "fused").exists()


def test_fusing_leaves_the_sources_alone(tiny: Bundle, tmp_path: Path) -> None:
    source = tiny.path / "unet" / "diffusion_pytorch_model.safetensors"
    before = source.read_bytes()
    save_file(kohya(tiny), tmp_path / "style.safetensors")
    assembled(tiny, tmp_path, [(tmp_path / "style.safetensors", 1.0)])
    assert source.read_bytes() == before
