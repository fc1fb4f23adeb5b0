"""Which files of a recipe's sources become which part of the bundle."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from pathlib import Path

from backdrop_export.bundles import IP_ADAPTER
from backdrop_export.checkpoints.recipe import Recipe
from backdrop_export.checkpoints.sources import Listing, list_source
from backdrop_export.weight_files import WeightNames, select_weights
from backdrop_server.errors import SetupError

ADAPTER = "ip_adapter"
SINGLE_FILE = "single_file"
INDEX = "model_index.json"
SINGLE_FILE_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
"""What a single-file checkpoint holds."""
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_DATA_FILES = {
    "tokenizer": ("vocab.json", "merges.txt"),
    "tokenizer_2": ("vocab.json", "merges.txt"),
    "scheduler": ("scheduler_config.json",),
    "feature_extractor": ("preprocessor_config.json",),
}
"""Parts without weights, and the files that they cannot be without."""
_OPTIONAL = ("special_tokens_map.json", "tokenizer_config.json", "added_tokens.json")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Files of one source that become one part of the bundle; ``files`` are right in ``folder``."""

    part: str
    listing: Listing
    folder: str
    files: tuple[str, ...]
    weights: WeightNames | None = None

    @property
    def paths(self) -> list[str]:
        """The files by their path below the source's folder."""
        return [f"{self.folder}/{name}" if self.folder else name for name in self.files]

    @property
    def bytes(self) -> int:
        """Sizes of the files together."""
        return sum(self.listing.files[path] for path in self.paths)

    def fetch(self) -> Path:
        """The folder on this machine with the files in it; downloads what is not here."""
        return self.listing.fetch(self.paths) / self.folder


Pieces = dict[str, Piece]


def gather(recipe: Recipe) -> Pieces:
    """The pieces of ``recipe`` by part; only names and sizes are looked up.

    ``single_file`` is the checkpoint that UNet, VAE and text towers are read from. Raises
    SetupError naming the recipe's key and what its source lacks.
    """
    beside = recipe.path.parent.resolve()
    base = list_source("base", recipe.base, beside)
    pieces: Pieces = {}
    if base.file is not None:
        pieces[SINGLE_FILE] = _single_file(base)
        base = list_source("config", recipe.config, beside)
        configs = [name for name in SINGLE_FILE_PARTS if name != "vae" or recipe.vae is None]
        pieces |= {name: _files(name, base, name, ("config.json",)) for name in configs}
    else:
        needed = [name for name in SINGLE_FILE_PARTS if name != "vae" or recipe.vae is None]
        pieces |= {name: _weights(name, base, name, recipe.variant) for name in needed}
    for name in (*_TOKENIZERS, "scheduler"):
        pieces[name] = _files(name, base, name, _DATA_FILES[name])
    if INDEX in base.files:
        pieces[INDEX] = _files(INDEX, base, "", (INDEX,))
    if recipe.vae is not None:
        pieces["vae"] = _weights("vae", list_source("vae", recipe.vae, beside), "", recipe.variant)
    for piece in _conditioning(recipe, base, beside):
        pieces[piece.part] = piece
    return pieces


def _conditioning(recipe: Recipe, base: Listing, beside: Path) -> Iterator[Piece]:
    """ControlNet, image encoder and IP-Adapter: sources of their own, or folders of ``base``."""
    for key, text in (("controlnet", recipe.controlnet), ("image_encoder", recipe.image_encoder)):
        if text is not None:
            yield _weights(key, list_source(key, text, beside), "", recipe.variant)
        elif f"{key}/config.json" in base.files:
            yield _weights(key, base, key, recipe.variant)
        else:
            raise _lacking(recipe, key)
    if recipe.ip_adapter is not None:
        yield _adapter(list_source("ip_adapter", recipe.ip_adapter, beside))
    elif IP_ADAPTER in base.files:
        folder, _, name = IP_ADAPTER.rpartition("/")
        yield _files(ADAPTER, base, folder, (name,))
    else:
        raise _lacking(recipe, ADAPTER)
    if recipe.image_encoder is None and "feature_extractor/preprocessor_config.json" in base.files:
        name = "feature_extractor"
        yield _files(name, base, name, _DATA_FILES[name])


def _lacking(recipe: Recipe, key: str) -> SetupError:
    return SetupError(f"{recipe.path}: the key {key} is missing, and base has none of its own")


def _single_file(listing: Listing) -> Piece:
    name = str(listing.file)
    if not name.endswith(".safetensors"):
        raise SetupError(
            f"base = {listing.text!r}: a single-file checkpoint must be a .safetensors file"
        )
    return Piece(SINGLE_FILE, listing, "", (name,))


def _adapter(listing: Listing) -> Piece:
    if listing.file is None:
        names = [n for n in listing.files if fnmatch.fnmatch(n, "*ip-adapter*")]
        found = f"; it has {', '.join(names)}" if names else ""
        raise SetupError(
            f"ip_adapter = {listing.text!r} is a folder, and must name one .safetensors or .bin "
            f"file{found}"
        )
    return Piece(ADAPTER, listing, "", (listing.file,))


def _files(part: str, listing: Listing, folder: str, needed: tuple[str, ...]) -> Piece:
    names = listing.below(folder)
    for name in needed:
        if name not in names:
            place = f"{folder}/{name}" if folder else name
            raise SetupError(f"{listing.key} = {listing.text!r} lacks the file {place}")
    extras = _OPTIONAL if part in _TOKENIZERS else ()
    return Piece(part, listing, folder, (*needed, *(name for name in extras if name in names)))


def _weights(part: str, listing: Listing, folder: str, variant: str) -> Piece:
    piece = _files(part, listing, folder, ("config.json",))
    found = select_weights(listing.below(folder), variant)
    if found is None:
        raise SetupError(
            f"{listing.key} = {listing.text!r} has no weights beside its "
            f"{folder + '/' if folder else ''}config.json"
        )
    return dataclasses.replace(piece, files=(*piece.files, *found.all), weights=found)


def gather_loras(recipe: Recipe) -> list[Listing]:
    """The recipe's LoRA files; raises SetupError for a source that is not one file."""
    found = [list_source("lora", lora.file, recipe.path.parent.resolve()) for lora in recipe.lora]
    for listing in found:
        if listing.file is None:
            raise SetupError(f"lora = {listing.text!r} is a folder, and must name one file")
    return found


def converted_parts(pieces: Pieces) -> list[str]:
    """Components that come out of a single file."""
    if SINGLE_FILE not in pieces:
        return []
    return [name for name in SINGLE_FILE_PARTS if pieces[name].weights is None]
