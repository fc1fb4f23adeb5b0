"""Every tensor's name, type and shape, and the request with its defaults and ranges: the one place.

Dims are as in Triton's ``config.pbtxt``: without the batch dimension, -1 where the size varies.
Letters in comments: H0, W0 photo size; H, W working size; h, w latent size; S samples; T image tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from backdrop_server.errors import InvalidInputError

# --- tensors and models ---------------------------------------------------------------------------

DType = Literal["BYTES", "UINT8", "BOOL", "INT32", "INT64", "FP32"]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One input or output of a Triton model; ``ragged``: its shape may differ within a batch."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the repository as Triton's configuration declares it."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 1


def _optional(name: str, dtype: DType) -> Tensor:
    return Tensor(name, dtype, (1,), optional=True)


# Declared optional even where a request needs it: Triton's own words for a missing input of an
# ensemble do not name it, `preprocess` does.
PUBLIC_INPUTS = (
    _optional("image", "BYTES"),
    _optional("ref_image", "BYTES"),
    _optional("prompt", "BYTES"),
    _optional("mask_image", "BYTES"),
    _optional("negative_prompt", "BYTES"),
    _optional("scheduler", "BYTES"),
    _optional("output_format", "BYTES"),
    _optional("samples", "INT32"),
    _optional("num_inference_steps", "INT32"),
    _optional("seed", "INT64"),
    _optional("guidance_scale", "FP32"),
    _optional("strength", "FP32"),
    _optional("cn_weight", "FP32"),
    _optional("ip_adapter_weight", "FP32"),
    _optional("preserve_subject", "BOOL"),
    _optional("shadow", "BYTES"),
    _optional("shadow_direction", "FP32"),
    _optional("shadow_strength", "FP32"),
    _optional("harmonize", "BOOL"),
)
PUBLIC_OUTPUTS = (
    Tensor("images", "BYTES", (-1,)),
    Tensor("seeds", "INT64", (-1,)),
    Tensor("report", "BYTES", (1,)),
    Tensor("matte", "BYTES", (1,)),
    Tensor("edge_map", "BYTES", (1,)),
    Tensor("layers", "BYTES", (-1,)),
)

PLAN = Tensor("plan", "BYTES", (1,))
INPUT_IDS = Tensor("input_ids", "INT64", (2, 77))  # negative, positive
INPUT_IDS_2 = Tensor("input_ids_2", "INT64", (2, 77))
REF_PIXELS = Tensor("ref_pixels", "UINT8", (-1, -1, 3))
WORKING_IMAGE = Tensor("working_image", "UINT8", (-1, -1, 3))  # H, W
MASK = Tensor("mask", "UINT8", (-1, -1))  # H, W; 255 = repaint, 0 = keep
EDGES = Tensor("edges", "UINT8", (-1, -1), ragged=True)  # H, W; 255 = edge
PHOTO = Tensor("photo", "UINT8", (-1, -1, 3))  # H0, W0
ROUGH_ALPHA = Tensor("rough_alpha", "UINT8", (-1, -1))  # the size of a copy; 255 = subject
MATTING_MAPS = Tensor("matting_maps", "FP32", (-1, -1, -1))  # our network's two; none: nothing said
ALPHA = Tensor("alpha", "UINT8", (-1, -1))  # H0, W0; 255 = subject
MATTE_SURENESS = Tensor("matte_sureness", "FP32", (1,))
EDGE_COLOURS = Tensor("edge_colours", "UINT8", (-1, 3))  # where alpha is neither 0 nor 255, by rows
LATENT_MASK = Tensor("latent_mask", "UINT8", (-1, -1), ragged=True)  # h, w; 1 = repaint
PROMPT_EMBEDS = Tensor("prompt_embeds", "FP32", (2, 77, -1))
POOLED_PROMPT_EMBEDS = Tensor("pooled_prompt_embeds", "FP32", (2, -1))
IMAGE_EMBEDS = Tensor("image_embeds", "FP32", (2, -1, -1))  # unconditional, conditional; T; width
IMAGE_MOMENTS = Tensor("image_moments", "FP32", (2, -1, -1, -1), ragged=True)
"""Photo and masked photo; mean then log-variance along the channels; h, w; unsampled, unscaled."""
LATENTS = Tensor("latents", "FP32", (-1, -1, -1, -1))  # S, channels, h, w
DENOISE_REPORT = Tensor("denoise_report", "BYTES", (1,))
PIXELS = Tensor("pixels", "UINT8", (-1, -1, -1, 3))  # S, H, W

MAX_IN_FLIGHT = 16
"""Requests that may share one call of ``denoise``; later ones wait in Triton's queue."""
PREPROCESS_INSTANCES = 2
PREPROCESS_THREADS = 3
"""That make pictures ready beside the matte, on a machine that has as many cores."""
CUTOUT_INSTANCES = 2

PREPROCESS = Model(
    "preprocess",
    PUBLIC_INPUTS,
    (
        PLAN, INPUT_IDS, INPUT_IDS_2, REF_PIXELS, WORKING_IMAGE, MASK,
        EDGES, PHOTO, ROUGH_ALPHA, MATTING_MAPS, LATENT_MASK, ALPHA,
    ),
)  # fmt: skip
CUTOUT = Model(
    "cutout", (PLAN, PHOTO, ROUGH_ALPHA, MATTING_MAPS), (ALPHA, MATTE_SURENESS, EDGE_COLOURS)
)
TEXT_ENCODER = Model(
    "text_encoder", (INPUT_IDS, INPUT_IDS_2), (PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS), 8
)
IMAGE_ENCODER = Model("image_encoder", (REF_PIXELS,), (IMAGE_EMBEDS,), 8)
VAE_ENCODER = Model("vae_encoder", (WORKING_IMAGE, MASK), (IMAGE_MOMENTS,), 8)
DENOISE = Model(
    "denoise",
    (
        PLAN, PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS, IMAGE_EMBEDS,
        IMAGE_MOMENTS, LATENT_MASK, EDGES,
    ),
    (LATENTS, DENOISE_REPORT),
    MAX_IN_FLIGHT,
)  # fmt: skip
VAE_DECODER = Model("vae_decoder", (LATENTS,), (PIXELS,), 8)
POSTPROCESS = Model(
    "postprocess",
    (PLAN, DENOISE_REPORT, PIXELS, PHOTO, ALPHA, MATTE_SURENESS, EDGE_COLOURS, EDGES),
    PUBLIC_OUTPUTS,
)
CONTROL = Model(
    "control",
    (Tensor("action", "BYTES", (1,)), _optional("target", "BYTES")),
    (Tensor("status", "BYTES", (1,)), Tensor("preview", "BYTES", (1,))),
)
REPLACE_BACKGROUND = Model("replace_background", PUBLIC_INPUTS, PUBLIC_OUTPUTS)

MODELS = (
    REPLACE_BACKGROUND, PREPROCESS, CUTOUT, TEXT_ENCODER, IMAGE_ENCODER, VAE_ENCODER,
    DENOISE, VAE_DECODER, POSTPROCESS, CONTROL,
)  # fmt: skip

# The graph inside `denoise`. One row is one sample of one half of the guidance; rows first.
UNET_CONTROLNET_INPUTS = (
    Tensor("sample", "FP32", (-1, -1, -1, -1)),  # rows, channels, h, w; already scaled
    Tensor("inpaint_latents", "FP32", (-1, -1, -1, -1)),  # mask, then masked-image latents
    Tensor("timestep", "FP32", (-1,)),
    Tensor("prompt_embeds", "FP32", (-1, 77, -1)),
    Tensor("pooled_prompt_embeds", "FP32", (-1, -1)),
    Tensor("time_ids", "FP32", (-1, 6)),
    Tensor("image_embeds", "FP32", (-1, -1, -1)),
    Tensor("edge_embeds", "FP32", (-1, -1, -1, -1)),  # rows, channels, h, w; stages.edge_encoder's
    Tensor("cn_weight", "FP32", (-1,)),
    Tensor("ip_adapter_weight", "FP32", (-1,)),
)
UNET_CONTROLNET_OUTPUTS = (Tensor("noise_pred", "FP32", (-1, -1, -1, -1)),)

# --- the request ----------------------------------------------------------------------------------

MAX_SEED = 999_999_999_999_999
MAX_PICTURE_SIDE = 2048
MAX_PICTURE_BYTES = 32 * 1024 * 1024
MAX_PROMPT_CHARACTERS = 10_000
MAX_REQUEST_ID_BYTES = 256
PICTURE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")

SCHEDULERS = (
    "DDIM", "DPM Multi", "DPM Single", "Euler a", "Euler", "Heun", "DPM2 a Karras",
    "DPM2 Karras", "LMS", "PNDM", "DDPM", "UniPC",
)  # fmt: skip
SCHEDULER_ALIASES = {
    "dpm++ 2m": "DPM Multi",
    "dpm++ 2s": "DPM Single",
    "euler ancestral": "Euler a",
    "k_euler": "Euler",
    "k_euler_a": "Euler a",
    "k_heun": "Heun",
    "k_lms": "LMS",
    "k_dpm_2_ka": "DPM2 Karras",
    "k_dpm_2_a_ka": "DPM2 a Karras",
    "plms": "PNDM",
    "unipc multistep": "UniPC",
}
"""AUTOMATIC1111's names, in lower case, for exactly the same sampler."""
_SECOND_ORDER = ("Heun", "DPM2 a Karras", "DPM2 Karras")
"""They evaluate the UNet twice for each step but the last."""
OUTPUT_FORMATS = ("jpeg", "png", "webp")
SHADOWS = ("off", "soft", "hard", "floating")


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeric field: its default and its inclusive range."""

    default: float
    low: float
    high: float
    integer: bool = False

    def check(self, field: str, value: object) -> float:
        """Return ``value`` as a number inside the range, or raise InvalidInputError."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidInputError(field, f"{_quote(value)} is not a number", self.allowed)
        if self.integer and isinstance(value, float) and not value.is_integer():
            raise InvalidInputError(field, f"{value!r} is not a whole number", self.allowed)
        if not self.low <= value <= self.high:  # also refuses NaN
            shown = f"{value:.15g}" if isinstance(value, float) else _quote(value)
            raise InvalidInputError(field, f"{shown} is out of range", self.allowed)
        return int(value) if self.integer else float(value)

    @property
    def allowed(self) -> str:
        """The range in words."""
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} from {self.low:.15g} to {self.high:.15g}"


NUMBERS: Mapping[str, Number] = {
    "samples": Number(1, 1, 4, integer=True),
    "num_inference_steps": Number(25, 20, 100, integer=True),
    "guidance_scale": Number(7.5, 1, 25),
    "seed": Number(-1, -1, MAX_SEED, integer=True),
    "strength": Number(1, 0, 1),
    "cn_weight": Number(0.9, 0, 1),
    "ip_adapter_weight": Number(0.5, 0, 1),
    "shadow_direction": Number(60, 0, 360),
    "shadow_strength": Number(0.5, 0, 1),
}


def _scheduler(value: object) -> str:
    names = {name.lower(): name for name in SCHEDULERS} | SCHEDULER_ALIASES
    name = names.get(value.strip().lower()) if isinstance(value, str) else None
    if name is None:
        raise InvalidInputError("scheduler", f"{_quote(value)} is not known", ", ".join(SCHEDULERS))
    return name


def _output_format(value: object) -> str:
    if isinstance(value, str) and value.strip().lower() == "jpg":
        return "jpeg"
    return _word("output_format", value, OUTPUT_FORMATS)


def _word(field: str, value: object, known: tuple[str, ...]) -> str:
    name = value.strip().lower() if isinstance(value, str) else None
    if name not in known:
        raise InvalidInputError(field, f"{_quote(value)} is not known", ", ".join(known))
    return name


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _prompt(field: str, value: object) -> str:
    allowed = f"text of at most {MAX_PROMPT_CHARACTERS} characters"
    if not isinstance(value, str):
        raise InvalidInputError(field, "it is not text", allowed)
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise InvalidInputError(field, f"it has {len(value)} characters", allowed)
    return value


@dataclasses.dataclass(frozen=True)
class ReplaceOptions:
    """The options of one request besides its pictures, with defaults filled in and ranges checked."""

    prompt: str
    negative_prompt: str | None = None
    samples: int = 1
    scheduler: str = "DPM2 Karras"
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    seed: int = -1
    strength: float = 1.0
    cn_weight: float = 0.9
    ip_adapter_weight: float = 0.5
    preserve_subject: bool = True
    output_format: str = "jpeg"
    shadow: str = "off"
    """Off: the painted surroundings often bring a shadow of their own, and two are one too many."""
    shadow_direction: float = 60.0
    shadow_strength: float = 0.5
    harmonize: bool = False

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> ReplaceOptions:
        """Check raw ``values`` by name (absent ones take the default); raise InvalidInputError."""
        names = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in names:
                raise InvalidInputError(name, "it is not known", ", ".join(sorted(names)))
        if "prompt" not in values:
            raise InvalidInputError("prompt", "it is missing", "text")
        checked: dict[str, Any] = {}
        for name, value in values.items():
            checked[name] = _check_option(name, value)
        return cls(**checked)


_WORDS: Mapping[str, Callable[[object], str]] = {
    "scheduler": _scheduler,
    "output_format": _output_format,
    "shadow": lambda value: _word("shadow", value, SHADOWS),
}


def _check_option(name: str, value: object) -> object:
    if name in NUMBERS:
        return NUMBERS[name].check(name, value)
    if name in _WORDS:
        return _WORDS[name](value)
    if name in {"preserve_subject", "harmonize"}:
        if not isinstance(value, bool):
            raise InvalidInputError(name, f"{_quote(value)} is not a boolean", "true, false")
        return value
    if name == "negative_prompt" and value is None:
        return None
    return _prompt(name, value)


def sample_seed(seed: int, sample: int) -> int:
    """The seed of sample ``sample`` of a request whose seed is ``seed``: + k, past the maximum to 0."""
    return (seed + sample) % (MAX_SEED + 1)


def unet_evaluations(scheduler: str, num_inference_steps: int, strength: float) -> int:
    """UNet evaluations of a request, exactly as the loop makes them; 0 when no step is left.

    ``scheduler`` is one of SCHEDULERS. As diffusers, ``int(steps * strength)`` steps remain.
    """
    kept = min(int(num_inference_steps * strength), num_inference_steps)
    if kept < 1:
        return 0
    if scheduler in _SECOND_ORDER:
        return 2 * kept - 1
    return kept + (scheduler == "PNDM")
