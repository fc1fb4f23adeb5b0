"""Native TensorRT plans from the ONNX graphs, and the same as a line for ``trtexec``.

Built, not run: TensorRT's libraries were not at hand. The network is strongly typed: it computes in
the types that the graph has, so the precision is that of the graph (FP16, BF16, or FP8 and INT8 by
its QuantizeLinear and DequantizeLinear nodes). Needs TensorRT 10.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdrop_export.dimensions import (
    Axis,
    Grid,
    Span,
    axes_of,
    bands,
    largest_vae_tensor,
    spans,
)
from backdrop_server.errors import SetupError
from backdrop_server.plan import EngineLimits, Precision, tensorrt_plan_stem

LARGEST_SIDE = 256
"""Latents, where the limits name none."""
WORKSPACE_BYTES = 16 << 30
MAX_ELEMENTS = 2**31 - 1
"""Of one tensor, in TensorRT."""

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Profile:
    """Smallest, best and largest shape of each input: one range that TensorRT tunes kernels for."""

    low: Mapping[str, Shape]
    best: Mapping[str, Shape]
    high: Mapping[str, Shape]


def builder() -> str:
    """What builds plans here, as ``EngineLimits.builder``; SetupError without TensorRT."""
    return f"tensorrt {_tensorrt().__version__}"


def limits_here(limits: EngineLimits) -> EngineLimits:
    """``limits`` with this machine's TensorRT and GPU; SetupError where one is missing."""
    return dataclasses.replace(limits_on_gpu(limits), builder=builder())


def limits_on_gpu(limits: EngineLimits) -> EngineLimits:
    """``limits`` with this machine's GPU; SetupError where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise SetupError(
            f"a file of {limits.engine} is built on the GPU that runs it; there is no CUDA device"
        )
    major, minor = torch.cuda.get_device_capability()
    return dataclasses.replace(
        limits,
        gpu=torch.cuda.get_device_name(),
        compute_capability=f"{major}.{minor}",
    )


def build_plan(
    graph: Path,
    target: Path,
    precision: Precision,
    limits: EngineLimits,
    timing_cache: Path,
    grid: Grid = Grid(),  # noqa: B008 - frozen
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """Build the plan of the ONNX file ``graph`` and return its path. Built, not run.

    ``target``: folder and graph's name; TensorRT's version and the GPU go into the file name, the
    limits beside it. ``sizes``: of dimensions that do not vary but are named in the graph, by name.
    ``timing_cache``: kernel timings, kept between builds; made if it is missing. Raises SetupError
    for what is not installed, for a graph that TensorRT does not take, and for a failed build.
    """
    limits = limits_here(dataclasses.replace(limits, precision=precision))
    trt = _tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    maker = trt.Builder(logger)
    network = maker.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise SetupError(f"tensorrt does not take {graph.name}: {parser.get_error(0).desc()}")
    config = maker.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if precision is Precision.FP32:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, with ten bits of mantissa
    _use_timings(config, timing_cache)
    for profile in profiles(input_dims(graph), limits, grid, sizes or {}):
        config.add_optimization_profile(_trt_profile(maker, profile))
    plan = maker.build_serialized_network(network, config)
    if plan is None:
        raise SetupError(f"tensorrt could not build {graph.name}; its log says why")
    timing_cache.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return _write(target, limits, plan)


def _use_timings(config: Any, timing_cache: Path) -> None:
    """Timings of earlier builds; none where they are of another version or GPU."""
    known = timing_cache.read_bytes() if timing_cache.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write(target: Path, limits: EngineLimits, plan: Any) -> Path:
    gpu, capability = limits.gpu or "", limits.compute_capability or ""
    stem = tensorrt_plan_stem(target.name, limits.builder, gpu, capability)
    path = target.with_name(f"{stem}.plan")
    partial = target.with_name(f".{stem}.partial")
    partial.write_bytes(memoryview(plan))
    target.with_name(f"{stem}.json").write_text(limits.to_json(), encoding="utf-8")
    return partial.replace(path)


def _trt_profile(maker: Any, profile: Profile) -> Any:
    made = maker.create_optimization_profile()
    for name, low in profile.low.items():
        made.set_shape(name, low, profile.best[name], profile.high[name])
    return made


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise SetupError(
            "TensorRT is not installed: pip install 'backdrop[gpu]', or build in NVIDIA's container"
        ) from error
    if int(tensorrt.__version__.partition(".")[0]) < 10:
        raise SetupError(f"TensorRT 10 or later is needed; here is {tensorrt.__version__}")
    return tensorrt


def input_dims(graph: Path) -> dict[str, list[int | str]]:
    """The sizes of each input of an ONNX file: numbers, or the names of those that vary."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    return {
        given.name: [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
        for given in model.graph.input
    }


def profiles(
    dims: Mapping[str, list[int | str]],
    limits: EngineLimits,
    grid: Grid,
    sizes: Mapping[str, int],
) -> list[Profile]:
    """One profile for each band of sizes and each bucket of rows, or over all rows.

    A bucket's profile has exactly its rows, so that its kernels are tuned for them; a band's has
    the sides of its own sizes, since a plan reserves memory for its largest profile. A graph
    without sides needs no bands. Raises SetupError naming a size that varies in the graph and
    follows from nothing known.
    """
    found = []
    for band in bands(limits.sizes):
        given = spans(dataclasses.replace(limits, sizes=band), grid, LARGEST_SIDE)
        rows = [Span(count, count, count) for count in limits.row_buckets] or [given[Axis.ROWS]]
        found += [_profile(dims, given | {Axis.ROWS: span}, sizes) for span in rows]
    return [profile for index, profile in enumerate(found) if profile not in found[:index]]


def _profile(
    dims: Mapping[str, list[int | str]], given: Mapping[Axis, Span], sizes: Mapping[str, int]
) -> Profile:
    ranges = {name: _ranges(name, shape, given, sizes) for name, shape in dims.items()}
    return Profile(
        low={name: tuple(span.low for span in found) for name, found in ranges.items()},
        best={name: tuple(span.best for span in found) for name, found in ranges.items()},
        high={name: tuple(span.high for span in found) for name, found in ranges.items()},
    )


def _ranges(
    name: str, shape: list[int | str], given: Mapping[Axis, Span], sizes: Mapping[str, int]
) -> list[Span]:
    found = []
    for index, size in enumerate(shape):
        axis = axes_of(name).get(index)
        if isinstance(size, int):
            found.append(Span(size, size, size))
        elif size in sizes:
            found.append(Span(sizes[size], sizes[size], sizes[size]))
        elif axis is not None:
            found.append(given[axis])
        else:
            raise SetupError(f"the graph leaves the size {size} of {name} open; say what it is")
    return found


def shape_lines(profile: Profile) -> tuple[str, str, str]:
    """Smallest, best and largest shapes as ``trtexec`` and ONNX Runtime write them.

    ONNX Runtime's TensorRT provider reads them from ``<stem>.profile`` beside the model.
    """
    low, best, high = (
        ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        for shapes in (profile.low, profile.best, profile.high)
    )
    return low, best, high


def write_profile(
    graph: Path,
    target: Path,
    limits: EngineLimits,
    grid: Grid = Grid(),  # noqa: B008 - frozen
    sizes: Mapping[str, int] | None = None,
    vae_channels: int | None = None,
) -> Path | None:
    """Write ``target``'s ``.profile``: what ONNX Runtime's TensorRT provider builds its engine for.

    Three lines, of one profile over all rows and sizes: the provider never leaves the first of
    several (microsoft/onnxruntime#31624). ``vae_channels``: of a VAE at the picture's size. None
    and no file where such a profile holds a tensor that is too large for TensorRT.
    """
    given = spans(limits, grid, LARGEST_SIDE)
    profile = _profile(input_dims(graph), given, sizes or {})
    if vae_channels and largest_vae_tensor(profile.high, vae_channels, grid) > MAX_ELEMENTS:
        return None
    path = target.with_suffix(".profile")
    path.write_text("\n".join(shape_lines(profile)) + "\n", encoding="utf-8")
    return path


def trtexec_command(
    graph: Path,
    target: Path,
    limits: EngineLimits,
    timing_cache: Path,
    grid: Grid = Grid(),  # noqa: B008 - frozen
    sizes: Mapping[str, int] | None = None,
) -> list[str]:
    """The ``trtexec`` line that builds what ``build_plan`` builds, for NVIDIA's container.

    ``target``: the plan's whole path, since only that machine knows its version and GPU.
    """
    found = profiles(input_dims(graph), limits, grid, sizes or {})
    command = ["trtexec", f"--onnx={graph}", f"--saveEngine={target}", "--stronglyTyped"]
    command += [f"--timingCacheFile={timing_cache}", "--skipInference"]
    command += [f"--memPoolSize=workspace:{WORKSPACE_BYTES >> 20}M"]
    if limits.precision is Precision.FP32:
        command.append("--noTF32")  # as build_plan does
    for index, profile in enumerate(found):
        if len(found) > 1:
            command.append(f"--profile={index}")
        low, best, high = shape_lines(profile)
        command += [f"--minShapes={low}", f"--optShapes={best}", f"--maxShapes={high}"]
    return command
