"""A recipe: a small TOML file that names the checkpoints that one bundle is made of."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdrop_server.errors import SetupError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).parent
SUFFIX = ".toml"


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA to fuse into the weights, and how strongly."""

    file: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Where each part of a bundle comes from.

    A source is a folder or file (relative to the recipe's folder), or a hub id: ``owner/name``,
    ``owner/name@revision``, ``owner/name:path/in/it``. ``base`` is a diffusers folder of the
    9-channel inpainting pipeline or a single ``.safetensors`` file with the original keys.
    """

    path: Path
    base: str
    controlnet: str | None = None
    """Like ``image_encoder`` and ``ip_adapter``: from ``base`` when that holds it."""
    image_encoder: str | None = None
    ip_adapter: str | None = None
    vae: str | None = None
    """In place of the VAE in ``base``."""
    config: str = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    """For a single file: the folder with the components' configurations and tokenizers."""
    native_pixels: int = 1024 * 1024
    guidance_rescale: float = 0.0
    """0 to 1; for weights that large guidance scales overexpose, as those of a v-prediction."""
    variant: str = "fp16"
    """Which of a folder's weights to take where there are several; empty for those without one."""
    lora: tuple[Lora, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its suffix; bundles are called so."""
        return self.path.stem


def is_recipe(path: Path) -> bool:
    """Whether a command's argument means a recipe, not a bundle's folder."""
    return path.suffix == SUFFIX or (not path.exists() and _shipped(path.name).is_file())


def read_recipe(path: Path) -> Recipe:
    """Read ``path``, or the shipped recipe of that name.

    Raises SetupError for an unknown key (with the keys that there are) or a value of a wrong type.
    """
    file = path if path.is_file() or path.suffix == SUFFIX else _shipped(path.name)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        shipped = ", ".join(sorted(recipe.stem for recipe in SHIPPED.glob(f"*{SUFFIX}")))
        raise SetupError(f"there is no recipe at {path}; shipped recipes: {shipped}") from error
    except ValueError as error:  # also what is not UTF-8
        raise SetupError(f"{file} is not readable TOML: {error}") from error
    loras = content.pop("lora", [])
    if not isinstance(loras, list):
        raise SetupError(f"{file}: lora must be tables, written [[lora]]")
    values = _checked(file, "the recipe", content, _TYPES)
    if "base" not in values:
        raise SetupError(f"{file}: the key base is missing; it names the inpainting checkpoint")
    if not 0 <= values.get("guidance_rescale", 0) <= 1:
        raise SetupError(
            f"{file}: guidance_rescale is {values['guidance_rescale']}; allowed: 0 to 1"
        )
    return Recipe(path=file, lora=tuple(_lora(file, lora) for lora in loras), **values)


def _shipped(name: str) -> Path:
    return SHIPPED / f"{name}{SUFFIX}"


_TYPES: Mapping[str, type] = {
    "base": str,
    "controlnet": str,
    "image_encoder": str,
    "ip_adapter": str,
    "vae": str,
    "config": str,
    "native_pixels": int,
    "guidance_rescale": float,
    "variant": str,
}
_KINDS = {str: "a text", int: "a whole number", float: "a number"}


def _lora(file: Path, content: Any) -> Lora:
    values = _checked(file, "[[lora]]", content, {"file": str, "weight": float})
    if "file" not in values:
        raise SetupError(f"{file}: [[lora]] lacks the key file")
    return Lora(**values)


def _checked(file: Path, place: str, content: Any, types: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SetupError(f"{file}: {place} must be a table")
    allowed = ", ".join([*types, "lora"] if types is _TYPES else types)
    for key, value in content.items():
        if key not in types:
            raise SetupError(f"{file}: {place} has the unknown key {key}; allowed: {allowed}")
        wanted = (int, float) if types[key] is float else types[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SetupError(f"{file}: {key} must be {_KINDS[types[key]]}, found {value!r}")
    return {key: types[key](value) for key, value in content.items()}
