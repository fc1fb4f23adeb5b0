"""From a verified ONNX file, or the same module, to the file that an engine loads."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, Bundle
from backdrop_export.engines import QUANTIZED, EngineKind, engine_kind, must_be_upcast
from backdrop_export.external_data import graph_files
from backdrop_export.onnx_graphs import export_graphs, graphs_folder
from backdrop_export.reporting import Report
from backdrop_export.samples import Size
from backdrop_server.plan import EngineLimits, Precision
from backdrop_server.working_sizes import WORKING_MULTIPLE, working_sizes

_ROW_BUCKETS = (2, 4, 8, 16)
"""Rows of the denoiser that TensorRT and AOTInductor are built for; one row is padded to two."""
_ENCODER_ROWS = 8
"""As ``max_batch_size`` of the plain graphs' models."""
_MOST_CHECKED_ROWS = 3
_VAE_GRAPHS = ("vae_encoder", "vae_decoder")
_CALIBRATION_REQUESTS = 3
_TIMINGS = "tensorrt-timing.cache"


@dataclasses.dataclass(frozen=True)
class Source:
    """What an engine is made of: a graph of a bundle, and its verified ONNX file."""

    bundle: Bundle
    graph: str
    onnx: Path


def compile_engine(kind: EngineKind, source: Source, target: Path) -> None:
    """Make the engine files of ``source``: ``target`` with the kind's suffixes.

    Raises SetupError when this machine lacks what the kind needs, EngineError when it fails.
    """
    makers = {
        "onnxruntime": _onnxruntime,
        "onnxruntime-tensorrt": _onnxruntime_tensorrt,
        "openvino": _openvino,
        "tensorrt": _tensorrt,
        "aotinductor": _aotinductor,
    }
    makers[kind.backend](kind, source, target)


def max_batch_size(kind: EngineKind) -> int | None:
    """What the plain graphs' models must declare for ``kind``; None: what they do already.

    The ensemble's batch is one request, and TensorRT reserves memory for the most rows.
    """
    return 1 if kind.backend in ("tensorrt", "onnxruntime-tensorrt") else None


def latent_sizes(native_pixels: int, vae_scale_factor: int) -> tuple[tuple[int, int], ...]:
    """Latent height and width of every working size."""
    sizes = working_sizes(native_pixels)
    return tuple((h // vae_scale_factor, w // vae_scale_factor) for w, h in sizes)


def limits_of(kind: EngineKind, source: Source) -> EngineLimits:
    """Rows and sizes that the engine is built for: all that the server can ask of it."""
    facts = source.bundle.facts()
    limits = EngineLimits(
        kind.backend,
        kind.precision,
        builder="",
        max_rows=max_batch_size(kind) or _ENCODER_ROWS,
        sizes=latent_sizes(facts.native_pixels, facts.vae_scale_factor),
    )
    padded = source.graph == DENOISER or kind.backend == "aotinductor"
    if not padded:  # Triton's own backends pad nothing
        return limits
    buckets = _ROW_BUCKETS if source.graph == DENOISER else _ROW_BUCKETS[:-1]
    return dataclasses.replace(
        limits, min_rows=buckets[0], max_rows=buckets[-1], row_buckets=buckets
    )


def check_sizes(kind: EngineKind, source: Source) -> tuple[Size, ...] | None:
    """Sizes within the limits to compare the engine at; None: it takes any.

    The widest and the tallest whose sides are both more than one unit of 64 pixels, where there are
    such: torch.export takes a size of one for fixed, and a comparison there would prove nothing.
    """
    if kind.backend in ("onnxruntime", "openvino"):
        return None
    limits, factor = limits_of(kind, source), source.bundle.facts().vae_scale_factor
    roomy = [size for size in limits.sizes if min(size) * factor > WORKING_MULTIPLE]
    by_aspect = sorted(roomy or limits.sizes, key=lambda size: size[1] / size[0])
    most = min(_MOST_CHECKED_ROWS, limits.max_rows)
    return tuple(
        Size(rows, height * factor, width * factor)
        for rows, (height, width) in zip((1, most), (by_aspect[-1], by_aspect[0]), strict=True)
    )


def _open_sizes(source: Source) -> dict[str, int]:
    """Sizes that the graphs leave open but the bundle fixes, by their names in the ONNX files."""
    facts = source.bundle.facts()
    side = facts.clip_image_size
    return {
        "latents_2": facts.latent_channels,
        "image_embeds_1": source.bundle.image_tokens(),
        "ref_pixels_1": side,
        "ref_pixels_2": side,
    }


def _onnxruntime(kind: EngineKind, source: Source, target: Path) -> None:
    if kind.precision in QUANTIZED and source.graph == DENOISER:
        _quantize(kind, source, target.with_suffix(".onnx"))
        return
    for file in graph_files(source.onnx):  # the weights' file is named in the graph
        name = target.with_suffix(".onnx").name if file == source.onnx else file.name
        _link_or_copy(file, target.with_name(name))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _onnxruntime_tensorrt(kind: EngineKind, source: Source, target: Path) -> None:
    from backdrop_export.tensorrt_plans import write_profile

    _onnxruntime(kind, source, target)
    limits = dataclasses.replace(limits_of(kind, source), builder="onnxruntime")
    channels = _vae_channels(source)
    write_profile(source.onnx, target, limits, sizes=_open_sizes(source), vae_channels=channels)
    target.with_suffix(".json").write_text(limits.to_json(), encoding="utf-8")


def _vae_channels(source: Source) -> int | None:
    """Channels at the picture's size: the decoder enlarges before it gives up its second level's."""
    if source.graph not in _VAE_GRAPHS:
        return None
    return int(max(source.bundle.config("vae/config.json")["block_out_channels"][:2]))


def _openvino(kind: EngineKind, source: Source, target: Path) -> None:
    from backdrop_export.openvino_graphs import write_ir

    write_ir(source.onnx, target)


def _tensorrt(kind: EngineKind, source: Source, target: Path) -> None:
    from backdrop_export.tensorrt_plans import build_plan

    onnx = tensorrt_graph(kind, source)
    build_plan(
        onnx,
        target,
        kind.precision,
        limits_of(kind, source),
        source.onnx.parent / _TIMINGS,
        sizes=_open_sizes(source),
    )


def tensorrt_graph(kind: EngineKind, source: Source) -> Path:
    """The ONNX file that TensorRT reads: quantized first, where the precision says so."""
    if kind.precision not in QUANTIZED or source.graph != DENOISER:
        return source.onnx
    quantized = source.onnx.with_name(f"{source.graph}.{kind.precision.value}.onnx")
    _quantize(kind, source, quantized)
    return quantized


def trtexec_lines(kind: EngineKind, source: Source, folder: Path) -> str:
    """The line that builds the same plan in NVIDIA's container, one option to a line."""
    from backdrop_export.tensorrt_plans import trtexec_command

    words = trtexec_command(
        tensorrt_graph(kind, source),
        folder / f"{source.graph}.plan",
        dataclasses.replace(limits_of(kind, source), builder="tensorrt"),
        folder / _TIMINGS,
        sizes=_open_sizes(source),
    )
    return " \\\n  ".join(words)


def trtexec_sources(bundle: Path, engine: str, out: Path, folder: Path) -> Iterator[str]:
    """``trtexec_lines`` of each graph of ``bundle``, whose ONNX files are brought up to date."""
    kind, opened = engine_kind(engine), Bundle.open(bundle)
    graphs = graphs_folder(opened, kind.graph_precision, out)
    export_graphs(opened, kind.graph_precision, graphs, Report(quiet=True))
    for graph in GRAPH_FOLDERS:
        yield trtexec_lines(kind, Source(opened, graph, graphs / f"{graph}.onnx"), folder)


def _quantize(kind: EngineKind, source: Source, target: Path) -> None:
    from backdrop_export.calibration import calibration_batches, sample_requests
    from backdrop_export.quantization import OtherPrecision, QuantizedPrecision, quantize

    side = round(source.bundle.facts().native_pixels ** 0.5) // 64 * 64
    requests = sample_requests(source.bundle, _CALIBRATION_REQUESTS, Size(1, side, side))
    other = OtherPrecision.FP32 if kind.backend == "onnxruntime" else OtherPrecision.FP16
    quantize(
        source.onnx,
        target,
        QuantizedPrecision(kind.precision.value),
        calibration_batches(source.bundle, source.onnx.parent, requests),
        other,
    )


def _aotinductor(kind: EngineKind, source: Source, target: Path) -> None:
    import torch

    from backdrop_export.aotinductor import build_package, builder
    from backdrop_export.loading import load_graph
    from backdrop_export.samples import graph_outputs, sample_inputs
    from backdrop_export.tensorrt_plans import limits_on_gpu

    sizes = check_sizes(kind, source) or ()
    limits = dataclasses.replace(limits_of(kind, source), builder=builder())
    on_gpu = torch.cuda.is_available()
    inputs = sample_inputs(source.bundle, source.graph, dataclasses.replace(sizes[0], batch=2))
    build_package(
        load_graph(source.bundle, source.graph),
        {name: torch.from_numpy(array) for name, array in inputs.items()},
        [tensor.name for tensor in graph_outputs(source.graph)],
        target.with_suffix(".pt2"),
        "cuda" if on_gpu else "cpu",
        kind.precision,
        limits_on_gpu(limits) if on_gpu else limits,
        computes_in=_computes_in(kind, source),
    )


def _computes_in(kind: EngineKind, source: Source) -> Precision:
    """As ``loading.load_vae``: a VAE that must be upcast stays in FP32."""
    upcast = source.graph in _VAE_GRAPHS and must_be_upcast(source.bundle, kind.precision)
    return Precision.FP32 if upcast else kind.precision


def optimization_profiles(kind: EngineKind, source: Source) -> int:
    """Of the engine of ``source``: what Triton's own backend must be told to use all of.

    It runs the first only, unless ``instance_group.profile`` names them: "0", "1" and so on.
    """
    if kind.backend != "tensorrt":
        return 1
    from backdrop_export.dimensions import Grid
    from backdrop_export.tensorrt_plans import input_dims, profiles

    dims, sizes = input_dims(source.onnx), _open_sizes(source)
    return len(profiles(dims, limits_of(kind, source), Grid(), sizes))


@functools.cache
def _plan_pattern(stem: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(stem)}-.*\.plan")


def engine_file_name(kind: EngineKind, target: Path) -> str | None:
    """The name that Triton's own backend must be told, where it is not its usual one."""
    if kind.backend != "tensorrt":
        return None
    pattern = _plan_pattern(target.name)
    return next(file.name for file in target.parent.iterdir() if pattern.fullmatch(file.name))
