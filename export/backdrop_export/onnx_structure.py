"""What an ONNX graph is made of, apart from its weights."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backdrop_server.errors import EngineError

_SMALL = 128 * 1024
"""Bytes: a constant up to this size is kept; shape inference reads shapes, indices and biases."""


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of one value of a graph; ``dtype`` is ONNX's name, empty when unknown."""

    dtype: str
    has_rank: bool
    has_nonzero: bool = False
    """True for a small constant that is not all zeros."""

    @property
    def is_known(self) -> bool:
        """Whether its type and rank are known."""
        return bool(self.dtype) and self.has_rank


def empty_of_weights(path: Path) -> Any:
    """The model in ``path`` with small constants only, and without local functions.

    Large constants keep their type and shape and are marked as external. Raises EngineError when
    the file is no ONNX file or lacks external data that shapes may depend on.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import load_external_data_for_tensor

    try:
        model = onnx.load(path, load_external_data=False)
        for tensor in _constants(model.graph):
            if not onnx.external_data_helper.uses_external_data(tensor):
                _empty(tensor)
            elif _size(tensor) <= _SMALL:
                load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = onnx.TensorProto.DEFAULT
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise EngineError(
            f"{path} is no complete ONNX file: {str(error).splitlines()[0]}"
        ) from None
    if not model.graph.node:
        raise EngineError(f"{path} is no ONNX file: it holds no graph")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _constants(graph: Any) -> Iterator[Any]:
    """Initializers and the tensors of Constant nodes, of subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
        for subgraph in _subgraphs(node):
            yield from _constants(subgraph)


def _size(tensor: Any) -> int:
    import onnx

    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * item)


def _empty(tensor: Any) -> None:
    """Drop the data of a large tensor that is in the file itself."""
    import onnx

    if tensor.data_type == onnx.TensorProto.STRING or _size(tensor) <= _SMALL:
        return
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="left-out")


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def opset_of(model: Any) -> int:
    """The version of the default operator set; 0 when the model names none."""
    versions = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return int(next(versions, 0))


def walk(
    graph: Any, outer: Mapping[str, Value] | None = None
) -> Iterator[tuple[Any, Mapping[str, Value]]]:
    """Each node, also of subgraphs, with what is known of the values that it can see."""
    known = {**(outer or {}), **values_of(graph)}
    for node in graph.node:
        yield node, known
        for subgraph in _subgraphs(node):
            yield from walk(subgraph, known)


def values_of(graph: Any) -> dict[str, Value]:
    """What ``graph`` itself says of its values: inputs, outputs, inferred ones, constants."""
    import onnx

    known = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        known[value.name] = Value(_dtype(tensor.elem_type), tensor.HasField("shape"))
    for tensor in graph.initializer:
        in_file = not onnx.external_data_helper.uses_external_data(tensor)
        nonzero = in_file and bool(onnx.numpy_helper.to_array(tensor).astype(bool).any())
        known[tensor.name] = Value(_dtype(tensor.data_type), True, nonzero)
    return known


def _dtype(number: int) -> str:
    import onnx

    return onnx.TensorProto.DataType.Name(number) if number else ""


def checked_names(node: Any, opset: int) -> list[str]:
    """The inputs and outputs of ``node`` that carry its data, not its indices, axes or conditions.

    They are those of the schema's first type that may vary; of a cast, the first and the second.
    """
    import onnx

    schema = onnx.defs.get_schema(node.op_type, opset, "")
    free = {c.type_param_str for c in schema.type_constraints if len(c.allowed_type_strs) > 1}
    formals = [*_formals(schema.inputs, node.input), *_formals(schema.outputs, node.output)]
    variables = list(dict.fromkeys(kind for _, kind in formals if kind in free))
    data = variables[: 2 if node.op_type.startswith("Cast") else 1]
    return [name for name, kind in formals if name and kind in data]


def _formals(declared: Any, names: Any) -> Iterator[tuple[str, str]]:
    """Each name with the type that the schema gives it; the last one declared may repeat."""
    kinds = [formal.type_str for formal in declared][: len(names)]
    last = kinds[-1] if kinds else ""
    yield from itertools.zip_longest(names, kinds, fillvalue=last)
