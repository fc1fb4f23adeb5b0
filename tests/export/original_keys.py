"""A small bundle written with the keys of a single-file SDXL checkpoint: diffusers' inverse."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.export.published import Tensors

_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_TOWER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_single_file(bundle: Path, path: Path, layers_per_block: int = 1) -> Path:
    """Everything that such a file holds: UNet, VAE and both text towers, in one."""
    tensors: Tensors = {}
    for name, value in _component(bundle, "unet").items():
        tensors[f"model.diffusion_model.{_unet_key(name, layers_per_block)}"] = value
    for name, value in _component(bundle, "vae").items():
        key = _vae_key(name)
        linear = ".attn_1." in key and key.endswith("weight") and value.ndim == 2
        tensors[f"first_stage_model.{key}"] = value[:, :, None, None] if linear else value
    for name, value in _component(bundle, "text_encoder").items():
        tensors[f"conditioner.embedders.0.transformer.{name}"] = value
    tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = (
        torch.arange(77)[None]
    )
    for name, value in _open_clip(_component(bundle, "text_encoder_2")).items():
        tensors[f"conditioner.embedders.1.model.{name}"] = value
    tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def _component(bundle: Path, folder: str) -> Tensors:
    (file,) = (bundle / folder).glob("*.safetensors")
    return dict(load_file(file))


def _unet_key(name: str, layers: int) -> str:
    for ours, theirs in _UNET_TOP.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    match = re.fullmatch(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", name)
    assert match, name
    side, block, kind, index, rest = match.groups()
    if side == "mid":
        place = {"resnets": 2 * int(index), "attentions": 1}[kind]
        return f"middle_block.{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    first = int(block) * (layers + 1)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
        part = 0 if kind == "resnets" else 1
        return f"input_blocks.{first + int(index) + 1}.{part}.{_part(kind, rest)}"
    if kind == "upsamplers":  # after the attention of the block's last layer
        return f"output_blocks.{first + layers}.2.{rest}"
    part = 0 if kind == "resnets" else 1
    return f"output_blocks.{first + int(index)}.{part}.{_part(kind, rest)}"


def _part(kind: str, rest: str) -> str:
    return _resnet(rest) if kind == "resnets" else rest


def _resnet(rest: str) -> str:
    layer, _, kind = rest.partition(".")
    return f"{_RESNET[layer]}.{kind}"


def _vae_key(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if ".mid_block.attentions.0." in name:
        place, rest = name.split("mid_block.attentions.0.")
        layer, _, kind = rest.rpartition(".")
        return f"{place}mid.attn_1.{_VAE_ATTENTION[layer]}.{kind}"
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{3 - int(match[1])}.block", name)
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{3 - int(match[1])}.upsample", name
    )


def _open_clip(tower: Tensors) -> Tensors:
    top = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    tensors: Tensors = {"text_projection": tower["text_projection.weight"].T}
    for name, value in tower.items():
        if name in top:
            tensors[top[name]] = value
        elif name.startswith("text_model.encoder.layers.") and "_proj." not in name.replace(
            "out_proj", ""
        ):
            tensors[_resblock(name)] = value
        elif ".q_proj." in name:
            kind = name.rpartition(".")[2]
            parts = [tower[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            place = _resblock(name.rpartition(".q_proj.")[0]).replace("self_attn", "attn")
            tensors[f"{place}.in_proj_{kind}"] = torch.cat(parts)
    return tensors


def _resblock(name: str) -> str:
    name = name.replace("text_model.encoder.layers.", "transformer.resblocks.")
    for ours, theirs in _TOWER.items():
        name = name.replace(ours, theirs)
    return name
