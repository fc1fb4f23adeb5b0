"""What a build was made of, by hash, so that an up-to-date one is not made again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backdrop_export.folders import write_atomically
from backdrop_server import contract

MANIFEST = "manifest.json"
LIBRARIES = (
    *("torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("openvino", "numpy", "nvidia-modelopt", "tensorrt"),
)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex; read once as long as the file stays as it is."""
    status = path.stat()
    return _hash_file(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _hash_file(path: Path, _inode: int, _size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_files(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by path relative to ``root``."""
    return {file.relative_to(root).as_posix(): hash_file(file) for file in files}


def hash_values(values: object) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_version() -> str:
    """SHA-256 of this package's sources and of those of the server that they follow."""
    own = sorted(Path(__file__).parent.glob("*.py"))
    server = Path(contract.__file__).parent
    theirs = [server / name for name in ("contract.py", "costs.py", "stages/edge_encoder.py")]
    files = [*own, *theirs]
    return hash_values([hash_file(file) for file in files])


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that shape a graph or an engine, of those that are installed."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def device_name() -> str:
    """The CUDA device that engines are built on, with its capability; ``cpu`` where there is none."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} {major}.{minor}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in ``folder``; empty when there is none or it cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_manifest(folder: Path, content: Mapping[str, object]) -> None:
    """Write the manifest of ``folder``, whole or not at all."""
    write_atomically(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


def files_match(root: Path, hashes: Mapping[str, str]) -> bool:
    """Whether every file of ``hashes`` lies under ``root`` with that content."""
    return all(
        (root / name).is_file() and hash_file(root / name) == digest
        for name, digest in hashes.items()
    )
