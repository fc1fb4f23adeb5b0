"""The IP-Adapter's file: which variant it is, its published keys, and its projection module.

Known are h94's base variant (4 tokens of CLIP's embedding) and its plus variant (a Resampler over
the vision tower's penultimate states; Ye et al., 2023), both as diffusers' ``load_ip_adapter``
reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backdrop_export.weight_files import Shape
from backdrop_server.errors import SetupError

BASE_TOKENS = 4
LATENTS = "image_proj.latents"
_PROJECTION = "image_proj.proj.weight"
_LAYERS = 4
"""Of a published Resampler; diffusers' class has no other depth."""
_HEAD = 64
Shapes = Mapping[str, Shape]


def is_plus(shapes: Shapes, file: Path) -> bool:
    """Whether the file is the plus variant; raises SetupError for one that is neither."""
    if LATENTS in shapes:
        return True
    if _PROJECTION in shapes:
        return False
    known = sorted(name for name in shapes if name.startswith("image_proj."))
    found = f"it has {known[0]}" if known else "it has no key that begins with image_proj."
    raise SetupError(
        f"{file} is neither a base nor a plus IP-Adapter: it lacks both {_PROJECTION} and "
        f"{LATENTS}; {found}"
    )


def tokens(shapes: Shapes, file: Path) -> int:
    """How many image tokens the adapter makes of one picture."""
    return shapes[LATENTS][1] if is_plus(shapes, file) else BASE_TOKENS


def expected_shapes(
    shapes: Shapes, file: Path, width: int, vision: Mapping[str, Any], channels: Sequence[int]
) -> dict[str, Shape]:
    """Every published key with the shape that the other components ask for.

    ``width`` is the UNet's cross-attention dimension, ``vision`` the image encoder's configuration,
    ``channels`` the widths of the UNet's cross-attentions in the order down, up, mid.
    """
    if is_plus(shapes, file):
        expected = _resampler(shapes, width, int(vision["hidden_size"]))
    else:
        rows = BASE_TOKENS * width
        expected = {
            _PROJECTION: (rows, int(vision["projection_dim"])),
            "image_proj.proj.bias": (rows,),
            "image_proj.norm.weight": (width,),
            "image_proj.norm.bias": (width,),
        }
    for index, rows in enumerate(channels):
        for projection in ("to_k_ip", "to_v_ip"):
            expected[f"ip_adapter.{2 * index + 1}.{projection}.weight"] = (rows, width)
    return expected


def _resampler(shapes: Shapes, width: int, hidden: int) -> dict[str, Shape]:
    latents = shapes[LATENTS]
    inner = latents[-1]
    heads = shapes.get("image_proj.layers.0.0.to_q.weight", (_HEAD,))[0] // _HEAD
    attention = max(heads, 1) * _HEAD
    expected: dict[str, Shape] = {
        LATENTS: (1, latents[1] if len(latents) == 3 else 16, inner),
        "image_proj.proj_in.weight": (inner, hidden),
        "image_proj.proj_in.bias": (inner,),
        "image_proj.proj_out.weight": (width, inner),
        "image_proj.proj_out.bias": (width,),
        "image_proj.norm_out.weight": (width,),
        "image_proj.norm_out.bias": (width,),
    }
    for layer in range(_LAYERS):
        first, second = (f"image_proj.layers.{layer}.{part}" for part in (0, 1))
        for name in ("norm1", "norm2"):
            expected |= {f"{first}.{name}.{kind}": (inner,) for kind in ("weight", "bias")}
        expected[f"{first}.to_q.weight"] = (attention, inner)
        expected[f"{first}.to_kv.weight"] = (2 * attention, inner)
        expected[f"{first}.to_out.weight"] = (inner, attention)
        expected |= {f"{second}.0.{kind}": (inner,) for kind in ("weight", "bias")}
        expected[f"{second}.1.weight"] = (4 * inner, inner)
        expected[f"{second}.3.weight"] = (inner, 4 * inner)
    return expected


def image_projection(weights: Mapping[str, Any]) -> Any:
    """The projection module that diffusers makes of the file's ``image_proj.`` keys."""
    from diffusers import UNet2DConditionModel

    state = {
        name.removeprefix("image_proj."): value
        for name, value in weights.items()
        if name.startswith("image_proj.")
    }
    convert = UNet2DConditionModel._convert_ip_adapter_image_proj_to_diffusers
    return convert(None, state, low_cpu_mem_usage=False)  # of the model it needs nothing then


def cross_attention_channels(unet: Any) -> list[int]:
    """Widths of the cross-attentions' keys and values, in the order of the published numbering."""
    names = [name for name in unet.attn_processors if re.search(r"\.attn2\.processor$", name)]
    return [unet.get_submodule(n.removesuffix(".processor")).to_k.out_features for n in names]
