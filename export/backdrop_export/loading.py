"""From a bundle's files to the torch modules that are exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from backdrop_export import ip_adapter
from backdrop_export.bundles import DENOISER, IP_ADAPTER, PREPROCESSOR, Bundle
from backdrop_export.graphs import (
    ImageEncoder,
    TextEncoder,
    UnetControlnet,
    VaeDecoder,
    VaeEncoder,
    install_ip_adapter,
)
from backdrop_export.published_keys import (
    ADAPTER,
    MODEL_CLASSES,
    UNUSED,
    Part,
    canonical_keys,
    check_parts,
    quiet_libraries,
)
from backdrop_export.weight_files import (
    Key,
    find_weights,
    load_tensors,
    read_keys,
    tensor_shapes,
)
from backdrop_server.errors import SetupError

_PARTS = {
    "text_encoder": ("text_encoder", "text_encoder_2"),
    "image_encoder": ("image_encoder",),
    "vae_encoder": ("vae",),
    "vae_decoder": ("vae",),
    DENOISER: ("unet", "controlnet"),
}
"""Components whose models a graph is made of."""


def load_graph(bundle: Bundle, graph: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module of ``graph``, ready to trace, with its weights in ``dtype``.

    Weights that have that type in their file are mapped, not copied. A VAE whose configuration says
    that it must be upcast stays in FP32. Raises SetupError naming the file, the key and the shapes
    of what is missing or does not fit, before any weight is read.
    """
    check_bundle(bundle, graph)
    makers = {
        "text_encoder": _text_encoder,
        "image_encoder": _image_encoder,
        "vae_encoder": lambda bundle, dtype: VaeEncoder(load_vae(bundle, dtype)),
        "vae_decoder": lambda bundle, dtype: VaeDecoder(load_vae(bundle, dtype)),
        DENOISER: _unet_controlnet,
    }
    module: nn.Module = makers[graph](bundle, dtype).eval()
    return module.requires_grad_(False)


def check_bundle(bundle: Bundle, graph: str | None = None) -> None:
    """Check the keys and shapes of what ``graph`` is made of, or of the whole bundle.

    Only headers are read. Raises SetupError naming the file, the key and both shapes.
    """
    components = MODEL_CLASSES if graph is None else _PARTS[graph]
    parts = {name: bundle_part(bundle, name) for name in components}
    if graph in (None, DENOISER, "image_encoder"):
        parts[ADAPTER] = _adapter_part(bundle)
    check_parts(parts, {name: bundle.config(f"{name}/config.json") for name in MODEL_CLASSES})


def bundle_part(bundle: Bundle, component: str) -> Part:
    """A component's configuration and keys; raises SetupError when its files are damaged."""
    folder = bundle.path / component
    keys = canonical_keys(component, read_keys(folder, find_weights(folder)))
    return Part(folder, bundle.config(f"{component}/config.json"), keys)


def _adapter_part(bundle: Bundle) -> Part:
    file = bundle.path / IP_ADAPTER
    keys = {name: Key(shape, file, name) for name, shape in tensor_shapes(file).items()}
    return Part(file, {}, keys)


def load_vae(bundle: Bundle, dtype: torch.dtype = torch.float32) -> Any:
    """The bundle's ``AutoencoderKL``."""
    upcast = bundle.config("vae/config.json").get("force_upcast", True)
    return load_component(bundle, "vae", torch.float32 if upcast else dtype)


def load_component(bundle: Bundle, component: str, dtype: torch.dtype) -> Any:
    """One of ``MODEL_CLASSES`` as diffusers or transformers load it, with its weights in ``dtype``.

    Raises SetupError naming the component when they cannot, or when keys do not fit.
    """
    folder, model_class = bundle.path / component, MODEL_CLASSES[component]
    names = find_weights(folder)
    options: dict[str, Any] = {"variant": names.variant, "use_safetensors": names.safetensors}
    if component in ("unet", "controlnet", "vae"):
        options["torch_dtype"] = dtype
    else:
        options |= {"dtype": dtype, "attn_implementation": "eager"}
    with quiet_libraries():
        try:
            model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
        except Exception as error:  # the libraries raise whatever their parsers raise
            reason = str(error).strip().partition("\n")[0]
            raise SetupError(
                f"bundle {bundle.name}: {component} cannot be loaded: {reason}"
            ) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(problem, ()) if not str(key).endswith(UNUSED))
        if keys:
            raise SetupError(
                f"bundle {bundle.name}: the weights in {component} have "
                f"{problem.replace('_', ' ')}: {', '.join(keys[:3])}"
            )
    return model


def _text_encoder(bundle: Bundle, dtype: torch.dtype) -> nn.Module:
    return TextEncoder(
        load_component(bundle, "text_encoder", dtype),
        load_component(bundle, "text_encoder_2", dtype),
    )


def _adapter(bundle: Bundle, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    weights = load_tensors(bundle.path / IP_ADAPTER)
    return {name: value.to(dtype) for name, value in weights.items() if name.startswith(prefix)}


def _image_encoder(bundle: Bundle, dtype: torch.dtype) -> nn.Module:
    vision = load_component(bundle, "image_encoder", dtype)
    weights = _adapter(bundle, "image_proj.", dtype)
    projection = ip_adapter.image_projection(weights).to(dtype)
    mean, std = (bundle.value(PREPROCESSOR, key) for key in ("image_mean", "image_std"))
    plus = ip_adapter.LATENTS in weights
    return ImageEncoder(vision, projection.eval(), mean, std, penultimate=plus)


def _unet_controlnet(bundle: Bundle, dtype: torch.dtype) -> nn.Module:
    unet = load_component(bundle, "unet", dtype)
    controlnet = load_component(bundle, "controlnet", dtype)
    install_ip_adapter(unet, _adapter(bundle, "ip_adapter.", dtype))
    return UnetControlnet(unet, controlnet)
