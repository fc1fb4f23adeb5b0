"""Whether TensorRT can take an ONNX graph, by what TensorRT publishes of itself.

TensorRT is not needed: the operators and types of a graph are compared with its published list,
and the shapes are inferred twice, by ONNX and (symbolically) by NVIDIA's ``polygraphy``. A graph
without findings is one that nothing known speaks against; only TensorRT's own builder proves more.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from backdrop_export.onnx_structure import (
    Value,
    checked_names,
    empty_of_weights,
    opset_of,
    values_of,
    walk,
)
from backdrop_export.tensorrt_operators import OPERATORS, OPSETS, TYPE_NAMES, VERSION
from backdrop_server.errors import EngineError

_RESIZE = {
    "mode": ("nearest", "linear"),
    "coordinate_transformation_mode": (
        *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
        *("asymmetric", "align_corners"),
    ),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch",),
}
"""Attributes of Resize and the values that the list allows."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that speaks against a graph; ``node`` and ``operator`` empty: it is of it all."""

    graph: str
    node: str
    operator: str
    problem: str

    def __str__(self) -> str:
        """One sentence that names the graph and the node."""
        subject = f"{self.operator} {self.node!r} " if self.operator else ""
        return f"{self.graph}: {subject}{self.problem}"


def check_graph(path: Path) -> list[Finding]:
    """All that speaks against TensorRT taking the ONNX file ``path``; empty when nothing does.

    Weights beside the file are never read, so graphs over 2 GB are checked in little memory. Raises
    EngineError when the file is missing or is no ONNX file.
    """
    if not path.is_file():
        raise EngineError(f"there is no ONNX file at {path}")
    model = empty_of_weights(path)
    inferred, findings = _infer(path.name, model)
    findings = [*_check_validity(path), *findings, *_check_opset(path.name, model)]
    findings += _check_nodes(path.name, inferred)
    findings += _check_with_polygraphy(path.name, model)
    return list(dict.fromkeys(findings))


def _check_validity(path: Path) -> Iterator[Finding]:
    """ONNX's own checker, which also sees whether external data is there."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        yield Finding(path.name, "", "", f"is not valid ONNX: {_first_line(error)}")


def _check_opset(graph: str, model: Any) -> Iterator[Finding]:
    if (opset := opset_of(model)) not in OPSETS:
        allowed = f"{OPSETS.start} to {OPSETS.stop - 1}"
        yield Finding(graph, "", "", f"has opset {opset}; TensorRT {VERSION} reads {allowed}")


def _infer(graph: str, model: Any) -> tuple[Any, list[Finding]]:
    """The model with every shape that ONNX can infer, and its complaint if it has one."""
    import onnx

    infer = onnx.shape_inference.infer_shapes
    try:
        return infer(model, check_type=True, strict_mode=True, data_prop=True), []
    except onnx.shape_inference.InferenceError as error:
        problem = f"has shapes or types that contradict: {_first_line(error)}"
        return infer(model, data_prop=True), [Finding(graph, "", "", problem)]


def _check_nodes(graph: str, model: Any) -> Iterator[Finding]:
    opset = opset_of(model)
    for node, known in walk(model.graph):
        for problem in _problems(node, known, opset):
            yield _finding(graph, node, problem)


def _finding(graph: str, node: Any, problem: str) -> Finding:
    name = node.name or next(iter(node.output), "")
    return Finding(graph, name, node.op_type, problem)


def _problems(node: Any, known: Mapping[str, Value], opset: int) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"is of the domain {node.domain}, which TensorRT {VERSION} does not list"
    elif node.op_type not in OPERATORS:
        yield f"is no operator that TensorRT {VERSION} lists"
    else:
        yield from _type_problems(node, known, opset)
        yield from _RESTRICTIONS.get(node.op_type, _no_restriction)(node, known)
    yield from _unknown_outputs(node, known)


def _type_problems(node: Any, known: Mapping[str, Value], opset: int) -> Iterator[str]:
    allowed = OPERATORS[node.op_type]
    found = (known[name].dtype for name in checked_names(node, opset) if name in known)
    for dtype in dict.fromkeys(TYPE_NAMES.get(name, name) for name in found if name):
        if dtype not in allowed:
            yield f"has {dtype}; TensorRT {VERSION} lists {', '.join(allowed)} for it"


def _unknown_outputs(node: Any, known: Mapping[str, Value]) -> Iterator[str]:
    """Outputs without type or rank; only where they come up, not at every node behind."""
    nothing = Value("", has_rank=False)
    if not all(known.get(name, nothing).is_known for name in node.input if name):
        return
    for name in filter(None, node.output):
        value = known.get(name, nothing)
        if not value.is_known:
            what = "rank" if value.dtype else "type"
            yield f"gives {name!r}, whose {what} cannot be inferred"


def _no_restriction(node: Any, known: Mapping[str, Value]) -> Iterator[str]:
    yield from ()


def _resize(node: Any, known: Mapping[str, Value]) -> Iterator[str]:
    for attribute in node.attribute:
        if attribute.name == "antialias" and attribute.i:
            yield f"has antialias; TensorRT {VERSION} has not"
        allowed = _RESIZE.get(attribute.name)
        if allowed and (value := attribute.s.decode()) not in allowed:
            yield f"has {attribute.name} {value}; TensorRT {VERSION} has {', '.join(allowed)}"


def _layer_normalization(node: Any, known: Mapping[str, Value]) -> Iterator[str]:
    if any(node.output[1:]):
        yield f"gives more than its first output; TensorRT {VERSION} gives only that"


def _zero_point(node: Any, known: Mapping[str, Value]) -> Iterator[str]:
    value = known.get(node.input[2]) if len(node.input) > 2 else None
    if value and value.has_nonzero:
        yield f"has a zero point that is not zero; TensorRT {VERSION} takes zero only"


_RESTRICTIONS: dict[str, Callable[[Any, Mapping[str, Value]], Iterator[str]]] = {
    "Resize": _resize,
    "LayerNormalization": _layer_normalization,
    "QuantizeLinear": _zero_point,
    "DequantizeLinear": _zero_point,
}


def _check_with_polygraphy(graph: str, model: Any) -> Iterator[Finding]:
    """What polygraphy, with ONNX Runtime's symbolic shape inference, cannot find a shape for."""
    from polygraphy.backend.onnx import infer_shapes
    from polygraphy.logger import G_LOGGER

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            inferred = infer_shapes(model, error_ok=False, allow_onnxruntime=True)
    except Exception as error:  # polygraphy hands on whatever ONNX raises
        yield Finding(graph, "", "", f"polygraphy cannot infer its shapes: {_first_line(error)}")
        return
    known = values_of(inferred.graph)
    for node in inferred.graph.node:
        for problem in _unknown_outputs(node, known):
            yield _finding(graph, node, problem)


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__).rstrip(".")


def register(app: typer.Typer) -> None:
    """Add the command ``check`` to ``app``."""
    app.command()(check)


def check(
    graphs: Annotated[list[Path], typer.Argument(help="ONNX files.", metavar="GRAPH...")],
) -> None:
    """Say what speaks against TensorRT taking these ONNX graphs; exit code 1 when anything does."""
    findings = list(itertools.chain.from_iterable(map(check_graph, graphs)))
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    if findings:
        raise typer.Exit(1)
    sys.stdout.write(f"{len(graphs)} graphs: all in the list of TensorRT {VERSION}\n")
