"""The common form: one verified ONNX file per graph, built again only when it must be."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, Bundle
from backdrop_export.engines import ENGINE_KINDS, load_network
from backdrop_export.external_data import gather_external_data, graph_files
from backdrop_export.manifest import (
    code_version,
    files_match,
    hash_files,
    library_versions,
    read_manifest,
    write_manifest,
)
from backdrop_export.memory import PeakMemory
from backdrop_export.reporting import Report
from backdrop_export.samples import EXAMPLE, graph_inputs, graph_outputs, sample_inputs

OPSET = 17
OPTIONS = {"opset": OPSET, "exporter": "torchscript", "example": str(EXAMPLE)}

GRAPH_CONFIGS = {
    "text_encoder": ("tokenizer/vocab.json", "tokenizer_2/vocab.json"),
    DENOISER: ("vae/config.json", "text_encoder_2/config.json"),
}
"""Files outside a graph's folders that its sizes or its check's inputs come from."""


def graphs_folder(bundle: Bundle, precision: str, out: Path) -> Path:
    """Where the ONNX files of ``bundle`` with weights of ``precision`` are kept."""
    return out / "graphs" / f"{bundle.name}-{precision}"


def graph_key(bundle: Bundle, graph: str, precision: str) -> dict[str, Any]:
    """All that the ONNX file of ``graph`` depends on."""
    files = bundle.files(GRAPH_FOLDERS[graph])
    files += [bundle.path / file for file in GRAPH_CONFIGS.get(graph, ())]
    return {
        "inputs": hash_files(bundle.path, files),
        "code": code_version(),
        "libraries": library_versions(),
        "options": OPTIONS | {"precision": precision},
    }


def outdated_graphs(bundle: Bundle, precision: str, folder: Path) -> list[str]:
    """Graphs whose ONNX file in ``folder`` is missing, damaged, or of something else."""
    records = read_manifest(folder)

    def is_current(graph: str) -> bool:
        record = records.get(graph, {})
        if record.get("key") != graph_key(bundle, graph, precision):
            return False
        return files_match(folder, record.get("files", {f"{graph}.onnx": ""}))

    return [graph for graph in GRAPH_FOLDERS if not is_current(graph)]


def export_graphs(bundle: Bundle, precision: str, folder: Path, report: Report) -> dict[str, Any]:
    """Bring the ONNX files in ``folder`` up to date and return the manifest's records by graph.

    ``precision`` fp32 or fp16: what the graphs hold and compute in. Raises EngineError when a graph
    differs from torch by more than the tolerance, SetupError when the bundle is incomplete; the
    graphs that were finished before stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outdated = outdated_graphs(bundle, precision, folder)
    for graph in GRAPH_FOLDERS:
        if graph not in outdated:
            report.say(f"{graph}: up to date")
            continue
        with report.step(f"{graph}: tracing and comparing with torch"):
            record = _export_graph(bundle, graph, precision, folder)
        report.differences(record["differences"])
        write_manifest(folder, read_manifest(folder) | {graph: record})
    return read_manifest(folder)


def _export_graph(bundle: Bundle, graph: str, precision: str, folder: Path) -> dict[str, Any]:
    import torch

    from backdrop_export.half_convolutions import quick_half_convolutions
    from backdrop_export.loading import load_graph
    from backdrop_export.verification import compare, expected_answers

    started = time.perf_counter()
    kind = ENGINE_KINDS[f"onnxruntime-{precision}"]
    key = graph_key(bundle, graph, precision)
    with PeakMemory() as memory, tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
        module = load_graph(
            bundle, graph, {"fp32": torch.float32, "fp16": torch.float16}[precision]
        )
        with quick_half_convolutions():
            expected = expected_answers(bundle, graph, module)
            write_onnx(bundle, graph, module, Path(scratch, "traced.onnx"))
        del module  # beside the network that follows it would be twice the weights
        path = Path(scratch, f"{graph}.onnx")
        gather_external_data(Path(scratch, "traced.onnx"), path)
        differences = compare(graph, expected, load_network(kind, path), kind)
        for file in graph_files(path):
            file.replace(folder / file.name)
    return {
        "key": key,
        "files": hash_files(folder, graph_files(folder / f"{graph}.onnx")),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_bytes": memory.peak_bytes,
        "differences": [dataclasses.asdict(difference) for difference in differences],
    }


def write_onnx(bundle: Bundle, graph: str, module: Any, path: Path) -> None:
    """Trace ``module`` at ``EXAMPLE`` and write it with the contract's names and free sizes."""
    import torch

    arrays = sample_inputs(bundle, graph, EXAMPLE)
    inputs = [tensor.name for tensor in graph_inputs(graph)]
    with tracing(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(torch.from_numpy(arrays[name]) for name in inputs),
            str(path),  # from a Path it takes no graph of over 2 GB
            input_names=inputs,
            output_names=[tensor.name for tensor in graph_outputs(graph)],
            dynamic_axes=_dynamic_axes(graph),
            opset_version=OPSET,
            dynamo=False,
        )


_FIXED = {
    "sample": (1,),
    "inpaint_latents": (1,),
    "image_embeds": (2,),
    "edge_embeds": (1,),
    "noise_pred": (1,),
}
"""Sizes of the denoiser that follow from the weights; an engine is faster when it knows them."""


def _dynamic_axes(graph: str) -> dict[str, dict[int, str]]:
    """Names of the sizes that may vary: those that are -1 in the contract, and the batch."""
    axes: dict[str, dict[int, str]] = {}
    for tensor in (*graph_inputs(graph), *graph_outputs(graph)):
        dims = tensor.dims if graph == DENOISER else (-1, *tensor.dims)
        fixed = _FIXED.get(tensor.name, ()) if graph == DENOISER else ()
        if graph == DENOISER and tensor.name.endswith("prompt_embeds"):
            fixed = (len(dims) - 1,)
        axes[tensor.name] = {
            index: "batch" if index == 0 else f"{tensor.name}_{index}"
            for index, dim in enumerate(dims)
            if dim == -1 and index not in fixed
        }
    return axes


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Silence what tracing is known to say: the older exporter was chosen on purpose."""
    from torch.jit._trace import TracerWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based")
        warnings.filterwarnings("ignore", message="The feature will be removed")
        warnings.filterwarnings("ignore", message="Exporting aten::index operator")
        warnings.filterwarnings("ignore", message="Constant folding - Only steps=1")
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield
