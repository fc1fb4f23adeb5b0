"""Bundles of published layouts: variants, shards, pickles; what is linked, and when it is redone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from backdrop_export import cli
from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, IP_ADAPTER, Bundle
from backdrop_export.checkpoints.assemble import assemble
from backdrop_export.checkpoints.plan import make_plan
from backdrop_export.checkpoints.recipe import SHIPPED, read_recipe
from backdrop_export.loading import check_bundle, load_graph
from backdrop_export.samples import Size, sample_inputs
from backdrop_export.verification import run_torch
from backdrop_server.errors import SetupError
from tests.export.published import write_recipe

COMPONENTS = ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2", "image_encoder")


def copied(tiny: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(tiny.path, folder / "tiny"))


def weights_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def to_fp16(folder: Path) -> None:
    file = weights_file(folder)
    half = {name: value.half() for name, value in load_file(file).items()}
    save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    file.unlink()


def to_pickle(folder: Path) -> None:
    file = weights_file(folder)
    name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
    torch.save(load_file(file), folder / name)
    file.unlink()


def to_shards(folder: Path) -> None:
    file = weights_file(folder)
    names = sorted(load_file(file))
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    place: dict[str, str] = {}
    for index, half in enumerate(halves, start=1):
        shard = f"{file.stem}-0000{index}-of-00002.safetensors"
        tensors = load_file(file)
        save_file({name: tensors[name] for name in half}, folder / shard, metadata={"format": "pt"})
        place |= dict.fromkeys(half, shard)
    index_file = folder / f"{file.name}.index.json"
    index_file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))
    file.unlink()


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "fp16 variant": to_fp16,
    "pickled": to_pickle,
    "shards": to_shards,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_taken_as_they_are(tiny: Bundle, tmp_path: Path, layout: str) -> None:
    source = copied(tiny, tmp_path)
    for component in COMPONENTS:
        LAYOUTS[layout](source / component)
    recipe = read_recipe(write_recipe(tmp_path / "small.toml", base=source))
    bundle = Bundle.open(assemble(recipe, tmp_path / "small"))
    for component in COMPONENTS:
        for file in (source / component).iterdir():
            linked = (bundle.path / component / file.name).samefile(file)
            assert linked == (file.suffix in (".safetensors", ".bin"))
    check_bundle(bundle)
    for graph in GRAPH_FOLDERS:
        expected = dict(load_graph(tiny, graph).named_parameters())
        for name, value in load_graph(bundle, graph).named_parameters():
            adapter = "_ip" in name or name.startswith("projection.")  # stays as it was
            rounded = layout == "fp16 variant" and not adapter
            assert torch.equal(value, expected[name].half().float() if rounded else expected[name])


def test_graphs_in_fp16_take_and_give_fp32(tiny: Bundle) -> None:
    for graph in ("text_encoder", "image_encoder", DENOISER):
        module = load_graph(tiny, graph, torch.float16)
        assert {value.dtype for value in module.parameters()} == {torch.float16}
        inputs = sample_inputs(tiny, graph, Size(2, 64, 64))
        expected = run_torch(load_graph(tiny, graph), graph, inputs)
        for name, value in run_torch(module, graph, inputs).items():
            assert value.dtype == np.float32
            assert np.abs(value - expected[name]).max() < 0.05 * np.abs(expected[name]).max()


def test_the_recipes_variant_decides(tiny: Bundle, tmp_path: Path) -> None:
    source = copied(tiny, tmp_path)
    kept = weights_file(source / "unet").read_bytes()
    to_fp16(source / "unet")
    (source / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(kept)
    for variant, name in (("fp16", ".fp16.safetensors"), ("", "model.safetensors")):
        recipe = write_recipe(tmp_path / f"v{variant}.toml", base=source, variant=variant)
        bundle = assemble(read_recipe(recipe), tmp_path / f"out{variant}")
        assert weights_file(bundle / "unet").name.endswith(name)


def test_a_vae_of_its_own_replaces_the_bases(tiny: Bundle, tmp_path: Path) -> None:
    vae = Path(shutil.copytree(tiny.path / "vae", tmp_path / "vae"))
    to_fp16(vae)
    recipe = write_recipe(tmp_path / "small.toml", base=tiny.path, vae="vae", native_pixels=4096)
    bundle = Bundle.open(assemble(read_recipe(recipe), tmp_path / "small"))
    assert [f.name for f in (bundle.path / "vae").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    assert bundle.facts().native_pixels == 4096
    assert bundle.facts().force_zeros_for_empty_prompt


def test_an_old_vaes_attention_is_known(tiny: Bundle, tmp_path: Path) -> None:
    """As diffusers wrote it before 0.17."""
    source = copied(tiny, tmp_path)
    file = weights_file(source / "vae")
    renamed = load_file(file)
    for ours, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        renamed = {k.replace(f".{ours}.", f".{old}."): v for k, v in renamed.items()}
    assert "decoder.mid_block.attentions.0.query.weight" in renamed
    save_file(renamed, file, metadata={"format": "pt"})
    inputs = sample_inputs(tiny, "vae_decoder", Size(1, 64, 64))
    found = run_torch(load_graph(Bundle.open(source), "vae_decoder"), "vae_decoder", inputs)
    expected = run_torch(load_graph(tiny, "vae_decoder"), "vae_decoder", inputs)
    np.testing.assert_array_equal(found["pixels"], expected["pixels"])


def test_what_is_up_to_date_is_left_alone(tiny: Bundle, tmp_path: Path) -> None:
    source, out = copied(tiny, tmp_path), tmp_path / "small"
    path = write_recipe(tmp_path / "small.toml", base=source)

    def made() -> int:
        return (assemble(read_recipe(path), out) / "backdrop.json").stat().st_ino

    first = made()
    assert made() == first
    (source / "scheduler" / "scheduler_config.json").touch()
    second = made()
    assert second != first
    (out / IP_ADAPTER).unlink()
    third = made()
    assert third != second and (out / IP_ADAPTER).is_file()
    write_recipe(path, base=source, native_pixels=1)
    assert made() != third


def test_no_foreign_folder_is_replaced(tiny: Bundle, tmp_path: Path) -> None:
    source = copied(tiny, tmp_path)
    recipe = read_recipe(write_recipe(tmp_path / "small.toml", base=source))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(SetupError, match="was not made by this command"):
        assemble(recipe, tmp_path / "mine")
    with pytest.raises(SetupError, match="base is read from it"):
        assemble(recipe, source)
    assert (source / "unet" / "config.json").is_file()


def test_diffusers_shards_are_found(tiny: Bundle, tmp_path: Path) -> None:
    source = copied(tiny, tmp_path)
    unet = UNet2DConditionModel.from_pretrained(source / "unet")
    weights_file(source / "unet").unlink()
    unet.save_pretrained(source / "unet", max_shard_size="2MB", variant="fp16")
    bundle = Bundle.open(source)
    check_bundle(bundle, DENOISER)
    next(iter((source / "unet").glob("*-00001-of-*"))).unlink()
    with pytest.raises(SetupError, match=r"index.*json names the file .*00001-of"):
        check_bundle(bundle, DENOISER)


def test_a_plan_counts_what_there_is(tiny: Bundle, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "small.toml", base=tiny.path)
    plan = make_plan(recipe, "onnxruntime-fp32", tmp_path / "build")
    assert not (tmp_path / "build").exists()
    for row in plan.graphs:
        module = load_graph(tiny, row.graph)
        assert row.parameters == sum(value.numel() for value in module.parameters())
        assert not row.estimated
    assert sum(row.download for row in plan.sources) == 0
    sizes = {row.part: row.size for row in plan.sources}
    assert sizes["unet"] == sum(f.stat().st_size for f in (tiny.path / "unet").iterdir())
    assert plan.bundle_size == 0  # all links
    assert plan.disks[0].needed > 2 * 4 * sum(row.parameters for row in plan.graphs)


def test_too_little_memory_is_said_with_what_needs_less(tiny: Bundle, tmp_path: Path) -> None:
    plan = make_plan(tiny.path, "openvino-bf16", tmp_path / "build")
    assert plan.engine_precision == "fp32"  # OpenVINO's files hold FP32 and are lowered when loaded
    plan.check()
    short = dataclasses.replace(plan, machine_memory=plan.peak_memory - 1)
    with pytest.raises(SetupError, match=r"^the export of tiny in fp32 needs about .*; .*fp16"):
        short.check()


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["backdrop-export", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return int(raised.value.code or 0)


def test_the_plan_command(
    tiny: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(monkeypatch, "plan", tiny.path, "--out", tmp_path, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert {row["graph"] for row in content["graphs"]} == set(GRAPH_FOLDERS)
    assert content["graphs"][0]["bytes"]["fp32"] == 4 * content["graphs"][0]["parameters"]
    assert run_cli(monkeypatch, "plan", tiny.path, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "unet_controlnet" in printed and "Disk" in printed


def test_a_short_disk_is_said_before_anything_is_written(
    tiny: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert run_cli(monkeypatch, "plan", tiny.path, "--out", tmp_path / "build") == 1
    assert "GB free, and the export of tiny needs" in capsys.readouterr().err
    to_pickle_adapter = tmp_path / "adapter.bin"
    torch.save(load_file(tiny.path / IP_ADAPTER), to_pickle_adapter)
    recipe = write_recipe(tmp_path / "small.toml", base=tiny.path, ip_adapter=to_pickle_adapter)
    with pytest.raises(SetupError, match="the bundle small needs"):
        assemble(read_recipe(recipe), tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_the_repository_command_assembles_a_recipe_first(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Path] = []
    monkeypatch.setattr(cli, "export_repository", lambda bundle, *_: exported.append(bundle))
    recipe = write_recipe(tmp_path / "small.toml", base=tiny.path)
    assert run_cli(monkeypatch, "repository", recipe, "--out", tmp_path / "build") == 0
    assert exported == [tmp_path / "build" / "bundles" / "small"]
    assert Bundle.open(exported[0]).name == "small"


def test_the_shipped_recipe_names_the_public_checkpoints() -> None:
    recipe = read_recipe(Path("sdxl"))
    assert recipe.path.parent == SHIPPED
    assert recipe.base == "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    assert recipe.controlnet == "diffusers/controlnet-canny-sdxl-1.0"
    assert recipe.vae == "madebyollin/sdxl-vae-fp16-fix"
    assert (recipe.native_pixels, recipe.variant, recipe.lora) == (1024 * 1024, "fp16", ())
