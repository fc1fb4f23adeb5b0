"""AOTInductor packages: a graph's torch module compiled ahead of time, for CUDA or the CPU.

On the CPU this is tested; on CUDA it is built, not run: no GPU was at hand. Self-attention has its
three projections fused into one product where the module is diffusers' and its processor reads them
so; the IP-Adapter's cross-attention keeps its own, since its key and value come from elsewhere.
Attention is torch's ``scaled_dot_product_attention``, which is flash attention on CUDA.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backdrop_export.dimensions import Axis, Grid, axes_of, spans
from backdrop_server.errors import SetupError
from backdrop_server.plan import EngineLimits, Precision

_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
_NUMPY_NAMES = {
    torch.float32: "float32",
    torch.uint8: "uint8",
    torch.int64: "int64",
    torch.int32: "int32",
}
KEPT_FP32 = frozenset({"timestep", "time_ids"})
"""Inputs whose values a half type cannot hold; diffusers computes their embeddings in FP32 too."""
LARGEST_SIDE = 512
"""Latents, where the limits name none."""


def builder() -> str:
    """What builds packages here, as ``EngineLimits.builder``."""
    return f"torch {torch.__version__}"


def build_package(
    module: nn.Module,
    examples: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    target: Path,
    device: str,
    precision: Precision,
    limits: EngineLimits,
    grid: Grid = Grid(),  # noqa: B008 - frozen
    computes_in: Precision | None = None,
) -> Path:
    """Compile ``module`` to ``target`` (``.pt2``), with its limits beside it, and return the path.

    ``examples``: FP32 inputs by name in the module's order, at least 2 in every axis that varies.
    The package takes and gives FP32; casts are inside. ``device``: ``cpu`` or ``cuda``.
    ``computes_in``: for a module that the engine's ``precision`` is too coarse for. The module is
    used up: typed, fused and moved, for a second one may not fit into memory. Raises
    SetupError for a precision that torch does not compile for, and for a module whose sizes
    cannot vary within ``limits``.
    """
    if precision not in _DTYPES:
        raise SetupError(f"aotinductor compiles fp32, fp16 and bf16, not {precision.value}")
    dtype = _DTYPES[computes_in or precision]
    ready = _Typed(module, tuple(examples), dtype).to(device).eval()
    with torch.inference_mode(False), torch.no_grad():
        _prepare(ready, device)
        inputs = tuple(tensor.to(device) for tensor in examples.values())
        exported = _export(ready, inputs, tuple(examples), limits, grid)
        metadata = _metadata(exported, examples, outputs, device, precision)
        _compile(exported, target, metadata)
    target.with_suffix(".json").write_text(limits.to_json(), encoding="utf-8")
    return target


class _Typed(nn.Module):
    """A module in another type behind FP32 inputs and outputs."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.names = names
        self.dtype = dtype
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                # Where the module makes FP32 itself, from 8-bit pixels or positions.
                part.register_forward_pre_hook(_cast_input)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cast = [
            tensor.to(self.dtype)
            if tensor.is_floating_point() and name not in KEPT_FP32
            else tensor
            for name, tensor in zip(self.names, inputs, strict=True)
        ]
        outputs = self.module(*cast)
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(out.float() if out.is_floating_point() else out for out in tensors)


def _cast_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(
        given.to(dtype) if isinstance(given, torch.Tensor) and given.is_floating_point() else given
        for given in inputs
    )


def _prepare(module: nn.Module, device: str) -> None:
    """Fuse the projections of self-attention; channels last where the convolutions gain by it."""
    attentions: list[Any] = list(module.modules())
    for part in attentions:
        if getattr(part, "is_cross_attention", True) is False and hasattr(part, "fuse_projections"):
            part.fuse_projections(fuse=True)
            part.set_processor(_fused_processor())
            del part.to_q, part.to_k, part.to_v  # else the package would hold them too
    if device != "cpu":
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fused_processor() -> Any:
    from diffusers.models.attention_processor import FusedAttnProcessor2_0

    return FusedAttnProcessor2_0()


def _export(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: tuple[str, ...],
    limits: EngineLimits,
    grid: Grid,
) -> Any:
    shapes = _dynamic_shapes(names, limits, grid)
    try:
        return torch.export.export(module, inputs, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # torch.export raises many kinds, all about the module
        reason = str(error).strip().partition("\n")[0]
        raise SetupError(f"torch.export cannot trace the graph: {reason}") from error


def _dynamic_shapes(names: tuple[str, ...], limits: EngineLimits, grid: Grid) -> tuple[Any, ...]:
    """For each input the sizes that vary; sides are multiples of one height and one width."""
    given = spans(limits, grid, LARGEST_SIDE)
    rows, samples = given[Axis.ROWS], given[Axis.SAMPLES]
    sizes = {
        Axis.ROWS: _dimension("rows", rows.low, rows.high),
        Axis.SAMPLES: _dimension("samples", samples.low, samples.high),
    }
    for latent, picture in (
        (Axis.LATENT_HEIGHT, Axis.PICTURE_HEIGHT),
        (Axis.LATENT_WIDTH, Axis.PICTURE_WIDTH),
    ):
        span, step = given[latent], grid.latent_multiple
        name = latent.value.rpartition(" ")[2]
        side = _dimension(name, -(-span.low // step), span.high // step)
        sizes[latent] = _times(side, step)
        sizes[picture] = _times(side, step * grid.pixels_per_latent)
    return tuple(
        {axis: sizes[kind] for axis, kind in axes_of(name).items() if sizes[kind] is not None}
        for name in names
    )


def _dimension(name: str, low: int, high: int) -> Any:
    """None, a fixed size, for a range of one value."""
    return None if low == high else torch.export.Dim(name, min=low, max=high)


def _times(side: Any, factor: int) -> Any:
    return side if side is None or factor == 1 else factor * side


def _metadata(
    exported: Any,
    examples: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    device: str,
    precision: Precision,
) -> str:
    """What ``backdrop_server.engines.aotinductor.Package`` reads, as JSON."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    given = [nodes[name].meta["val"] for name in exported.graph_signature.user_inputs]
    inputs = [
        [name, _NUMPY_NAMES[example.dtype], [_size(size) for size in value.shape]]
        for (name, example), value in zip(examples.items(), given, strict=True)
    ]
    values = {
        "device": device if device == "cpu" else "cuda:0",
        "precision": precision.value,
        "torch_version": torch.__version__,
        "inputs": inputs,
        "outputs": list(outputs),
    }
    return json.dumps(values)


def _size(size: Any) -> Any:
    """A fixed size as a number, one that varies as [factor, name]."""
    if isinstance(size, int):
        return size
    factor, symbol = size.node.expr.as_coeff_Mul()
    return [int(factor), str(symbol)]


def _compile(exported: Any, target: Path, metadata: str) -> None:
    options = {"aot_inductor.metadata": {"backdrop": metadata}}
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own calls
        partial = Path(folder, target.name)  # the name goes into the package
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(partial), inductor_configs=options
        )
        partial.replace(target)
