"""Small checkpoints with the keys of the published files, written from lists of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    """Unit-gain matrices, norms near 1 and small biases, by what the names say."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            tensors[name] = noise / math.sqrt(math.prod(shape[1:]))
        else:
            tensors[name] = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    return tensors


def image_encoder(folder: Path, hidden: int, projection: int, seed: int = 5) -> Path:
    """A CLIP vision tower with 64-pixel pictures, as h94 publishes it: no preprocessor beside it."""
    config = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "image_size": 64,
        "intermediate_size": 4 * hidden,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 3,
        "patch_size": 16,
        "projection_dim": projection,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (hidden,),
        "vision_model.embeddings.patch_embedding.weight": (hidden, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": (17, hidden),
        "visual_projection.weight": (projection, hidden),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"vision_model.{name}.{kind}": (hidden,) for kind in ("weight", "bias")}
    for layer in range(3):
        place = f"vision_model.encoder.layers.{layer}"
        linear = [(f"self_attn.{p}_proj", hidden, hidden) for p in ("q", "k", "v", "out")]
        linear += [("mlp.fc1", 4 * hidden, hidden), ("mlp.fc2", hidden, 4 * hidden)]
        for name, rows, columns in linear:
            shapes |= {f"{place}.{name}.weight": (rows, columns), f"{place}.{name}.bias": (rows,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{place}.{name}.{kind}": (hidden,) for kind in ("weight", "bias")}
    tensors: Tensors = random_tensors(shapes, seed)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # as in h94's file
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def base_adapter(bundle: Path, projection: int, seed: int = 6) -> Tensors:
    """``ip-adapter_sdxl`` or ``ip-adapter_sdxl_vit-h``: four tokens of CLIP's embedding."""
    width = 96
    shapes = {
        "image_proj.proj.weight": (4 * width, projection),
        "image_proj.proj.bias": (4 * width,),
        "image_proj.norm.weight": (width,),
        "image_proj.norm.bias": (width,),
    }
    return random_tensors(shapes | attention_shapes(bundle), seed)


def plus_adapter(bundle: Path, hidden: int, seed: int = 7) -> Tensors:
    """``ip-adapter-plus_sdxl_vit-h``: a Resampler with sixteen queries and heads of 64 channels."""
    width, inner, heads = 96, 48, 2
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.latents": (1, 16, inner),
        "image_proj.proj_in.weight": (inner, hidden),
        "image_proj.proj_in.bias": (inner,),
        "image_proj.proj_out.weight": (width, inner),
        "image_proj.proj_out.bias": (width,),
        "image_proj.norm_out.weight": (width,),
        "image_proj.norm_out.bias": (width,),
    }
    for layer in range(4):
        place = f"image_proj.layers.{layer}"
        shapes |= {
            f"{place}.0.norm1.weight": (inner,),
            f"{place}.0.norm1.bias": (inner,),
            f"{place}.0.norm2.weight": (inner,),
            f"{place}.0.norm2.bias": (inner,),
            f"{place}.0.to_q.weight": (64 * heads, inner),
            f"{place}.0.to_kv.weight": (2 * 64 * heads, inner),
            f"{place}.0.to_out.weight": (inner, 64 * heads),
            f"{place}.1.0.weight": (inner,),
            f"{place}.1.0.bias": (inner,),
            f"{place}.1.1.weight": (4 * inner, inner),
            f"{place}.1.3.weight": (inner, 4 * inner),
        }
    return random_tensors(shapes | attention_shapes(bundle), seed)


def attention_shapes(bundle: Path) -> dict[str, tuple[int, ...]]:
    """``ip_adapter.*`` keys by the tiny UNet's cross-attentions: down, up, mid; odd numbers."""
    weights = load_file(bundle / "unet" / "diffusion_pytorch_model.safetensors")
    names = [name for name in weights if name.endswith("attn2.to_k.weight")]
    ordered = [n for part in ("down_", "up_", "mid_") for n in sorted(names) if n.startswith(part)]
    return {
        f"ip_adapter.{2 * index + 1}.{projection}.weight": tuple(weights[name].shape)
        for index, name in enumerate(ordered)
        for projection in ("to_k_ip", "to_v_ip")
    }


def write_adapter(tensors: Tensors, path: Path) -> Path:
    """Flat keys in safetensors, two nested dictionaries in ``.bin``, both as h94 publishes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
        return path
    nested: dict[str, Tensors] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = value
    torch.save(nested, path)
    return path


def write_recipe(path: Path, loras: list[tuple[Path, float]] | None = None, **values: Any) -> Path:
    """A recipe with ``values`` (paths and texts are written as they are)."""
    lines = [
        f"{key} = {json.dumps(str(v) if isinstance(v, Path) else v)}" for key, v in values.items()
    ]
    for file, weight in loras or []:
        lines.append(f"[[lora]]\nfile = {json.dumps(str(file))}\nweight = {weight}")
    path.write_text("\n".join(lines) + "\n")
    return path
