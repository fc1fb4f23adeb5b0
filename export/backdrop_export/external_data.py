"""ONNX files past protobuf's 2 GB: the weights in one file beside the graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data

_ALIGNMENT = 4096
"""Bytes; readers map pages of the file into memory."""


def data_file(graph: Path) -> Path:
    """Where the weights of the ONNX file ``graph`` lie when they are not in it."""
    return graph.with_name(f"{graph.name}.data")


def graph_files(graph: Path) -> list[Path]:
    """The ONNX file ``graph`` and, where there is one, the file of its weights."""
    return [path for path in (graph, data_file(graph)) if path.is_file()]


def gather_external_data(source: Path, target: Path) -> None:
    """Write ``source`` as ``target``, with what lies in files beside it in one ``data_file``.

    Streams: never more than one buffer of weights is in memory. Each file that was gathered is
    removed, so the disk holds the weights once.
    """
    model = onnx.load(source, load_external_data=False)
    outside = [weight for weight in model.graph.initializer if uses_external_data(weight)]
    if not outside:
        source.replace(target)
        return
    data = data_file(target)
    with data.open("wb") as out:
        for weight in outside:
            out.seek(-out.tell() % _ALIGNMENT, 1)
            start = out.tell()
            part = source.parent / ExternalDataInfo(weight).location
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 16 * 2**20)
            part.unlink()
            weight.raw_data = b""
            set_external_data(weight, data.name, start, out.tell() - start)
            weight.ClearField("raw_data")
    onnx.save(model, target)
