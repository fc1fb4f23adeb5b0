"""From a recipe to a bundle: links to the weights as they are, conversions where they must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backdrop_export.bundles import Bundle
from backdrop_export.checkpoints.disk import check_space
from backdrop_export.checkpoints.pieces import (
    ADAPTER,
    SINGLE_FILE,
    Pieces,
    converted_parts,
    gather,
    gather_loras,
)
from backdrop_export.checkpoints.recipe import Recipe
from backdrop_export.checkpoints.sources import Listing
from backdrop_export.checkpoints.writing import read_json, write_converted, write_pieces
from backdrop_export.folders import replaced_folder
from backdrop_export.manifest import (
    MANIFEST,
    hash_file,
    hash_values,
    read_manifest,
    write_manifest,
)
from backdrop_export.reporting import Report
from backdrop_export.weight_files import Key, Keys, read_keys, tensor_shapes
from backdrop_server.errors import SetupError


def assemble(recipe: Recipe, out: Path, report: Report | None = None) -> Path:
    """Write the bundle of ``recipe`` into the folder ``out``, replacing it; return ``out``.

    A folder that was made of the same recipe and files is left alone. Headers are checked before
    anything is written. Raises SetupError naming the source, file or key that is missing or does
    not fit; the folder is then as it was before.
    """
    report = report or Report(quiet=True)
    pieces, loras = gather(recipe), gather_loras(recipe)
    key = _key(recipe, pieces, loras)
    if _is_current(out, key):
        report.say(f"{out}: up to date")
        return out
    _check_apart(out, pieces)
    check_space(recipe, pieces, out)
    for title in _downloads(pieces, loras):
        report.say(f"{title}: downloading")
    folders = {part: piece.fetch() for part, piece in pieces.items()}
    files = [listing.fetch([str(listing.file)]) / str(listing.file) for listing in loras]
    with report.step(f"{recipe.name}: comparing keys and shapes"):
        configs, checked = _check(recipe, pieces, folders, files)
    with report.step(f"bundle {recipe.name} in {out}"), replaced_folder(out) as folder:
        write_pieces(recipe, pieces, folders, folder)
        for name in converted_parts(pieces):
            file = folders[SINGLE_FILE] / pieces[SINGLE_FILE].files[0]
            write_converted(file, name, configs[name], folder / name)
        if checked:
            from backdrop_export.checkpoints.lora import fuse_loras

            fuse_loras(Bundle(folder), checked)
        written = sorted(file for file in folder.rglob("*") if file.is_file())
        write_manifest(folder, {"key": key, "sizes": _sizes(folder, written)})
    return out


def _check_apart(out: Path, pieces: Pieces) -> None:
    """The bundle replaces the folder ``out``: no source may lie in it, and nothing else."""
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise SetupError(f"{out} is not empty and was not made by this command; it is left alone")
    for piece in pieces.values():
        root = piece.listing.root
        if root is not None and root.resolve().is_relative_to(out.resolve()):
            raise SetupError(f"{out} would be replaced, and {piece.listing.key} is read from it")


def is_assembled(recipe: Recipe, out: Path) -> bool:
    """Whether ``out`` holds what the recipe and its sources give today."""
    return _is_current(out, _key(recipe, gather(recipe), gather_loras(recipe)))


def _key(recipe: Recipe, pieces: Pieces, loras: list[Listing]) -> str:
    code = [hash_file(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    sources = [piece.listing.identity(piece.paths) for piece in pieces.values()]
    sources += [listing.identity([str(listing.file)]) for listing in loras]
    return hash_values([hash_file(recipe.path), code, sources])


def _is_current(folder: Path, key: str) -> bool:
    manifest = read_manifest(folder)
    if manifest.get("key") != key:
        return False
    sizes: dict[str, int] = manifest.get("sizes", {})
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in sizes.items()
    )


def _sizes(folder: Path, files: list[Path]) -> dict[str, int]:
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _downloads(pieces: Pieces, loras: list[Listing]) -> Iterator[str]:
    wanted = [(piece.listing, piece.paths) for piece in pieces.values()]
    wanted += [(listing, [str(listing.file)]) for listing in loras]
    for listing, names in wanted:
        missing = listing.to_download(names)
        if missing:
            total = sum(listing.files[name] for name in missing)
            yield f"{listing.text} ({len(missing)} files, {total / 1e6:.0f} MB)"


def _check(
    recipe: Recipe, pieces: Pieces, folders: dict[str, Path], files: list[Path]
) -> tuple[dict[str, Any], list[Any]]:
    """Configurations, and the LoRAs with their weights, when all keys fit."""
    from backdrop_export import published_keys as published

    configs = {name: read_json(folders[name] / "config.json") for name in published.MODEL_CLASSES}
    parts = {
        name: published.Part(folders[name], configs[name], keys)
        for name in published.MODEL_CLASSES
        for keys in [_keys(name, pieces, folders, configs)]
    }
    file = folders[ADAPTER] / pieces[ADAPTER].files[0]
    adapter = {name: Key(shape, file, name) for name, shape in tensor_shapes(file).items()}
    parts[ADAPTER] = published.Part(file, {}, adapter)
    published.check_parts(parts, configs)
    if not files:
        return configs, []
    with published.quiet_libraries():  # importing diffusers' pipelines warns of torchvision
        from backdrop_export.checkpoints.lora_files import read_lora

    loras = [read_lora(file, configs) for file in files]
    return configs, [(lora, given.weight) for lora, given in zip(loras, recipe.lora, strict=True)]


def _keys(name: str, pieces: Pieces, folders: dict[str, Path], configs: dict[str, Any]) -> Keys:
    from backdrop_export.published_keys import canonical_keys

    names = pieces[name].weights
    if names is not None:
        return canonical_keys(name, read_keys(folders[name], names))
    from backdrop_export.checkpoints.single_file import single_file_keys

    file = folders[SINGLE_FILE] / pieces[SINGLE_FILE].files[0]
    return single_file_keys(file, name, configs[name])
