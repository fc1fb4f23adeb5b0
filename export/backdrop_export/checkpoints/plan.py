"""What an export would read, download and write, before anything heavy."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

from backdrop_export.bundles import DENOISER, EDGE_ENCODER, FACTS, GRAPH_FOLDERS, Bundle
from backdrop_export.checkpoints.assemble import is_assembled
from backdrop_export.checkpoints.disk import Disk, disks, written_size
from backdrop_export.checkpoints.pieces import (
    ADAPTER,
    SINGLE_FILE,
    Pieces,
    converted_parts,
    gather,
    gather_loras,
)
from backdrop_export.checkpoints.recipe import Recipe, is_recipe, read_recipe
from backdrop_export.checkpoints.sources import Listing
from backdrop_export.engines import engine_kind
from backdrop_export.weight_files import Shape, read_keys, tensor_shapes
from backdrop_server.errors import SetupError

VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
"""Bytes of one weight by precision."""
TRACE_FACTOR = 1.6
"""Peak memory by a graph's weights, rounded up: 12.5 GB for 8.3 GB was measured at full size."""


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """What is read for one part of the bundle; sizes in bytes."""

    part: str
    source: str
    files: int
    size: int
    download: int


@dataclasses.dataclass(frozen=True)
class GraphRow:
    """What one graph holds; ``estimated`` when its weights are not here to be counted."""

    graph: str
    parameters: int
    estimated: bool

    def bytes_in(self, precision: str) -> int:
        """Size of its weights in ``precision``."""
        return self.parameters * VALUE_BYTES[precision]


@dataclasses.dataclass(frozen=True)
class Plan:
    """An export as it would be; sizes in bytes."""

    name: str
    engine: str
    graph_precision: str
    engine_precision: str
    sources: tuple[SourceRow, ...]
    graphs: tuple[GraphRow, ...]
    bundle_size: int
    """Of what assembling writes anew; links count nothing."""
    peak_memory: int
    machine_memory: int
    disks: tuple[Disk, ...]

    def graphs_in(self, precision: str) -> int:
        """Size of all graphs' weights in ``precision``."""
        return sum(row.bytes_in(precision) for row in self.graphs)

    def check(self) -> None:
        """Raise SetupError naming the file system, or the memory, that is too small."""
        if self.peak_memory > self.machine_memory:
            needed, there = self.peak_memory / 1e9, self.machine_memory / 1e9
            raise SetupError(
                f"the export of {self.name} in {self.graph_precision} needs about {needed:.1f} GB of "
                f"memory; this machine has {there:.1f} GB; an engine in fp16 needs half of an fp32 one"
            )
        for disk in self.disks:
            disk.check(f"the export of {self.name}")


def make_plan(source: Path, engine: str, out: Path) -> Plan:
    """Plan the export of a bundle's folder or a recipe for ``engine`` into ``out``.

    Reads names, sizes and headers. Raises SetupError for a source that is missing or unreachable.
    """
    kind = engine_kind(engine)
    recipe = _recipe(source)
    pieces, loras = gather(recipe), gather_loras(recipe)
    made = is_recipe(source)
    target = out / "bundles" / recipe.name
    written = _bundle_size(recipe, pieces, target) if made else 0
    precision = kind.graph_precision
    graphs = tuple(_graph_rows(pieces))
    weights = sum(row.bytes_in(precision) + row.bytes_in(kind.file_precision) for row in graphs)
    sources = [_source_row(part, piece.listing, piece.paths) for part, piece in pieces.items()]
    sources += [_source_row("lora", listing, [str(listing.file)]) for listing in loras]
    return Plan(
        name=recipe.name if made else source.resolve().name,
        engine=kind.name,
        graph_precision=precision,
        engine_precision=kind.file_precision,
        sources=tuple(sources),
        graphs=graphs,
        bundle_size=written,
        peak_memory=int(TRACE_FACTOR * max(row.bytes_in(precision) for row in graphs)),
        machine_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disks=disks(out, written + weights, sum(row.download for row in sources)),
    )


def _recipe(source: Path) -> Recipe:
    """The recipe, or for a bundle's folder one that takes everything from it."""
    if is_recipe(source):
        return read_recipe(source)
    bundle = Bundle.open(source)
    return Recipe(path=bundle.path / FACTS, base=str(bundle.path))


def _source_row(part: str, listing: Listing, paths: list[str]) -> SourceRow:
    size = sum(listing.files[path] for path in paths)
    download = sum(listing.files[path] for path in listing.to_download(paths))
    return SourceRow(part, listing.text, len(paths), size, download)


def _bundle_size(recipe: Recipe, pieces: Pieces, out: Path) -> int:
    return 0 if is_assembled(recipe, out) else written_size(recipe, pieces, out)


_VAE_HALVES: dict[str, Callable[[str], bool]] = {
    "vae_encoder": lambda name: name.startswith(("encoder.", "quant_conv.")),
    "vae_decoder": lambda name: name.startswith(("decoder.", "post_quant_conv.")),
}
_ADAPTER_HALVES: dict[str, Callable[[str], bool]] = {
    "image_encoder": lambda name: name.startswith("image_proj."),
    DENOISER: lambda name: name.startswith("ip_adapter."),
}


def _is_in_denoiser(name: str) -> bool:
    """Of a ControlNet's weights: its edge encoder is beside the graph."""
    return not name.startswith(f"{EDGE_ENCODER}.")


def _graph_rows(pieces: Pieces) -> list[GraphRow]:
    rows = []
    for graph, folders in GRAPH_FOLDERS.items():
        counts = [_count(pieces, folder, graph) for folder in folders if folder in pieces]
        known = [count for count in counts if count is not None]
        rows.append(
            GraphRow(graph, sum(n for n, _ in known), any(estimated for _, estimated in known))
        )
    return rows


def _count(pieces: Pieces, part: str, graph: str) -> tuple[int, bool] | None:
    """Parameters of ``part`` in ``graph``, and whether they are estimated from sizes."""
    piece = pieces[part]
    kept = _VAE_HALVES.get(graph)
    if part == ADAPTER:
        kept = _ADAPTER_HALVES.get(graph)
    elif part == "controlnet":
        kept = _is_in_denoiser
    if part == ADAPTER or piece.weights is not None:
        return _count_files(pieces, part, kept)
    if part in converted_parts(pieces):
        return _count_single_file(pieces, part, kept)
    return None


def _count_files(pieces: Pieces, part: str, kept: Callable[[str], bool] | None) -> tuple[int, bool]:
    piece = pieces[part]
    root = piece.listing.root
    if root is None:  # not here: from the files' sizes
        weights = piece.weights.files if piece.weights else piece.files
        size = sum(piece.listing.files[p] for p in piece.paths if p.rpartition("/")[2] in weights)
        each = 2 if part == ADAPTER or (piece.weights and piece.weights.variant) else 4
        return size // each // (2 if part == "vae" else 1), True
    if piece.weights is None:
        shapes = tensor_shapes(root / piece.paths[0])
    else:
        keys = read_keys(root / piece.folder, piece.weights)
        shapes = {name: key.shape for name, key in keys.items()}
    return _sum(shapes, kept), False


def _count_single_file(
    pieces: Pieces, part: str, kept: Callable[[str], bool] | None
) -> tuple[int, bool]:
    from backdrop_export.checkpoints.single_file import PREFIXES

    piece = pieces[SINGLE_FILE]
    root = piece.listing.root
    if root is None:  # most of it is the UNet
        return (piece.bytes // 2 if part == "unet" else 0), True
    found = tensor_shapes(root / piece.files[0])
    prefix = PREFIXES[part]
    shapes = {n.removeprefix(prefix): s for n, s in found.items() if n.startswith(prefix)}
    return _sum(shapes, kept), False


def _sum(shapes: dict[str, Shape], kept: Callable[[str], bool] | None) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if kept is None or kept(name))
