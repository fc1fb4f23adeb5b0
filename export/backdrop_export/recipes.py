"""Whether a bundle that was made here is still what its recipe gives."""

from __future__ import annotations

from pathlib import Path

from backdrop_export.manifest import (
    files_match,
    hash_file,
    hash_files,
    hash_values,
    library_versions,
    read_manifest,
    write_manifest,
)

_MODULES = ("architectures", "synthetic", "vocabulary", "weights", "wiring")


TRAINED = Path(__file__).parent / "trained"
"""Bundles that ship with the package, by name, and the matting network."""


def trained_bundle(name: str) -> Path | None:
    """The folder of the trained bundle called ``name``, if one ships with the package."""
    folder = TRAINED / name
    return folder if (folder / "backdrop.json").is_file() else None


def trained_matting() -> Path | None:
    """The ONNX file of our own matting network, if one ships with the package."""
    file = TRAINED / "matting.onnx"
    return file if file.is_file() else None


def _recipe(name: str) -> str:
    shipped = trained_bundle(name)
    if shipped is not None:
        files = sorted(file for file in shipped.rglob("*") if file.is_file())
        return hash_values([name, hash_files(shipped, files)])
    folder = Path(__file__).parent
    sources = [hash_file(folder / f"{module}.py") for module in _MODULES]
    return hash_values([name, sources, library_versions()])


def record_bundle(name: str, folder: Path) -> None:
    """Write the manifest of the bundle ``name`` that was just made in ``folder``."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    write_manifest(folder, {"recipe": _recipe(name), "files": hash_files(folder, files)})


def bundle_is_current(name: str, folder: Path) -> bool:
    """Whether ``folder`` holds the bundle ``name`` as today's code makes it, undamaged."""
    manifest = read_manifest(folder)
    return manifest.get("recipe") == _recipe(name) and files_match(folder, manifest["files"])
