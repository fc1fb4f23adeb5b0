"""Finding a component's weights by their published names, and reading keys and shapes alone."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from backdrop_server.errors import SetupError

Shape = tuple[int, ...]
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
SUFFIXES = (".safetensors", ".bin")
"""Kinds of weights files, the one to be preferred first."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A tensor in a file: its shape, the file, and what the file calls it."""

    shape: Shape
    file: Path
    name: str


Keys = dict[str, Key]
"""Tensors by the key that the model's class expects."""


@dataclasses.dataclass(frozen=True)
class WeightNames:
    """The names of one component's weights files in a folder, of one variant and kind."""

    variant: str | None
    """``fp16`` in ``model.fp16.safetensors``; None in ``model.safetensors``."""
    files: tuple[str, ...]
    index: str | None
    """Of shards: the file that says which key is in which."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every file that loading needs."""
        return (*self.files, self.index) if self.index else self.files

    @property
    def safetensors(self) -> bool:
        """Whether the weights are safetensors, not pickled."""
        return self.files[0].endswith(".safetensors")


def select_weights(names: Iterable[str], variant: str | None = None) -> WeightNames | None:
    """The weights files among a folder's ``names``: safetensors first, then ``variant`` first.

    Knows whole files and shards with an index, of diffusers and transformers; None without any.
    """
    present = sorted(names)
    variants = dict.fromkeys((variant or None, None, "fp16"))
    for suffix in SUFFIXES:
        for wanted in variants:
            for stem in _STEMS:
                found = _selected(present, stem, suffix, wanted)
                if found:
                    return found
    return None


def _selected(names: list[str], stem: str, suffix: str, variant: str | None) -> WeightNames | None:
    infix = f".{variant}" if variant else ""
    whole, index = f"{stem}{infix}{suffix}", f"{stem}{suffix}.index{infix}.json"
    if whole in names:
        return WeightNames(variant, (whole,), None)
    shards = [name for name in names if _SHARD.search(name) and _SHARD.sub("", name) == whole]
    return WeightNames(variant, tuple(shards), index) if index in names and shards else None


def find_weights(folder: Path, variant: str | None = None) -> WeightNames:
    """The weights files in ``folder``; raises SetupError when there are none, or not all shards."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    found = select_weights(names, variant)
    if found is None:
        raise SetupError(
            f"there are no weights in {folder}; known names: {', '.join(_STEMS)}, "
            f"with {' or '.join(SUFFIXES)}, .fp16, or shards and their index"
        )
    if found.index:
        _check_shards(folder / found.index, found.files)
    return found


def _check_shards(index: Path, files: tuple[str, ...]) -> None:
    try:
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"{index} is not a readable index of shards") from error
    missing = sorted(needed - set(files))
    if missing:
        raise SetupError(f"{index} names the file {missing[0]}, which is missing beside it")


def read_keys(folder: Path, names: WeightNames) -> Keys:
    """Keys and shapes of a component's weights; raises SetupError naming a damaged file."""
    return {
        name: Key(shape, folder / file, name)
        for file in names.files
        for name, shape in tensor_shapes(folder / file).items()
    }


def tensor_shapes(file: Path) -> dict[str, Shape]:
    """Shapes by key, from the header alone; raises SetupError naming a damaged file."""
    if file.suffix != ".safetensors":
        return {name: tuple(value.shape) for name, value in load_pickled(file).items()}
    try:
        with safe_open(file, framework="numpy") as opened:
            return {
                name: tuple(opened.get_slice(name).get_shape())
                for name in opened.keys()  # noqa: SIM118 (not a mapping)
            }
    except (SafetensorError, OSError) as error:
        raise SetupError(f"{file} is damaged or cut off: {_first_line(error)}") from error


def load_tensors(file: Path) -> dict[str, Any]:
    """Torch tensors by key, mapped from the file where it can be; raises SetupError naming it."""
    if file.suffix != ".safetensors":
        return load_pickled(file)
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise SetupError(f"{file} is damaged or cut off: {_first_line(error)}") from error


def load_pickled(file: Path) -> dict[str, Any]:
    """Tensors of a pickled file, nested names joined by dots.

    Only torch's restricted unpickler reads it. Raises SetupError naming the file when it holds
    anything but tensors, or is damaged.
    """
    import torch

    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SetupError(
            f"{file} is not loaded: it is damaged, or a pickle that holds more than tensors and "
            "could run code; use the safetensors file of the same weights"
        ) from error
    except Exception as error:  # a damaged file: whatever the zip reader or the unpickler raises
        raise SetupError(f"{file} is damaged or cut off: {_first_line(error)}") from error
    return dict(_flattened(file, content))


def _flattened(file: Path, content: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    import torch

    if not isinstance(content, Mapping):
        raise SetupError(f"{file} does not hold tensors by key, but {type(content).__name__}")
    for name, value in content.items():
        whole = f"{prefix}{name}"
        if isinstance(value, torch.Tensor):
            yield whole, value
        elif isinstance(value, Mapping):
            yield from _flattened(file, value, "" if whole == "state_dict" else f"{whole}.")
        else:
            raise SetupError(f"{file}: {whole} is not a tensor, but {type(value).__name__}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
