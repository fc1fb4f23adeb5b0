"""The five graphs against TensorRT's published list, and graphs that it would refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from backdrop_export.bundles import GRAPH_FOLDERS
from backdrop_export.onnx_graphs import graphs_folder
from backdrop_export.tensorrt_support import check_graph, register
from backdrop_server.errors import EngineError
from tests.export.conftest import Export

FLOATS = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
LIMITED = """
import resource, sys
from pathlib import Path
from backdrop_export.tensorrt_support import check_graph
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
print(check_graph(Path(sys.argv[1])))
"""


def saved(
    folder: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any] = (FLOATS,),
    constants: Sequence[Any] = (),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    domain: str = "",
    rank: int = 4,
) -> Path:
    """A graph in ``folder`` whose output is ``y``, of ``rank`` unnamed sizes."""
    output = helper.make_tensor_value_info("y", dtype, [None] * rank)
    graph = helper.make_graph(list(nodes), "g", list(inputs), [output], list(constants))
    domains = [helper.make_opsetid("", opset)]
    domains += [helper.make_opsetid(domain, 1)] if domain else []
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return path


def node(operator: str, inputs: Sequence[str] = ("x",), **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), ["y"], name="bad", **attributes)


def constant(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values), name)


def sentences(path: Path) -> list[str]:
    return [str(finding) for finding in check_graph(path)]


@pytest.mark.parametrize("graph", GRAPH_FOLDERS)
def test_tensorrt_takes_each_graph(export: Export, graph: str) -> None:
    path = graphs_folder(export.bundle, "fp32", export.out) / f"{graph}.onnx"
    assert sentences(path) == []


def test_a_graph_of_listed_operators_has_no_findings(tmp_path: Path) -> None:
    assert sentences(saved(tmp_path, [node("Relu")])) == []


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    found = sentences(saved(tmp_path, [node("Frobnicate")]))
    assert "graph.onnx: Frobnicate 'bad' is no operator that TensorRT 10.15 lists" in found
    assert any("is not valid ONNX" in finding for finding in found)


def test_an_operator_that_tensorrt_lacks_is_named(tmp_path: Path) -> None:
    (found,) = sentences(saved(tmp_path, [node("Det")], rank=2))
    assert found == "graph.onnx: Det 'bad' is no operator that TensorRT 10.15 lists"


def test_an_operator_of_another_domain_is_named(tmp_path: Path) -> None:
    found = sentences(
        saved(tmp_path, [node("Gelu", domain="com.microsoft")], domain="com.microsoft")
    )
    assert any("is of the domain com.microsoft" in finding for finding in found)


@pytest.mark.parametrize("dtype", ["UINT8", "DOUBLE"])
def test_a_type_outside_the_list_is_named(tmp_path: Path, dtype: str) -> None:
    number = getattr(TensorProto, dtype)
    pixels = helper.make_tensor_value_info("x", number, [1, 8, 8, 3])
    transpose = node("Transpose", perm=[0, 3, 1, 2])
    (found,) = sentences(saved(tmp_path, [transpose], [pixels], dtype=number))
    assert found.startswith(f"graph.onnx: Transpose 'bad' has {dtype}; TensorRT 10.15 lists FP32")


def test_indices_axes_and_conditions_are_not_taken_for_data(tmp_path: Path) -> None:
    axis = constant("axis", np.array(1, np.int64))
    assert sentences(saved(tmp_path, [node("CumSum", ["x", "axis"])], constants=[axis])) == []


def test_an_unknown_rank_is_named_where_it_comes_up(tmp_path: Path) -> None:
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, ["rank"])
    first = helper.make_node("Reshape", ["x", "shape"], ["z"], name="first")
    found = sentences(saved(tmp_path, [first, node("Relu", ["z"])], [FLOATS, shape]))
    assert found == ["graph.onnx: Reshape 'first' gives 'z', whose rank cannot be inferred"]


def test_shapes_that_contradict_are_found(tmp_path: Path) -> None:
    weight = constant("w", np.ones((5, 5), np.float32))
    numbers = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    found = sentences(saved(tmp_path, [node("MatMul", ["x", "w"])], [numbers], [weight], rank=2))
    assert any("contradict" in finding for finding in found)


def test_a_subgraph_is_looked_into(tmp_path: Path) -> None:
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None, None])
    branches = {
        name: helper.make_graph(
            [helper.make_node("Det", ["x"], ["inner"], name=name)], name, [], [output]
        )
        for name in ("then_branch", "else_branch")
    }
    found = sentences(saved(tmp_path, [node("If", ["flag"], **branches)], [FLOATS, flag], rank=2))
    assert {finding.split("'")[1] for finding in found} == {"then_branch", "else_branch"}


def test_attributes_outside_the_list_are_named(tmp_path: Path) -> None:
    scales = constant("scales", np.array([1, 1, 2, 2], np.float32))
    resize = node("Resize", ["x", "", "scales"], mode="cubic")
    (found,) = sentences(saved(tmp_path, [resize], constants=[scales]))
    assert found == "graph.onnx: Resize 'bad' has mode cubic; TensorRT 10.15 has nearest, linear"


@pytest.mark.parametrize("zero", [0, 3])
def test_a_zero_point_must_be_zero(tmp_path: Path, zero: int) -> None:
    constants = [constant("s", np.float32(0.1)), constant("z", np.int8(zero))]
    quantize = node("QuantizeLinear", ["x", "s", "z"])
    path = saved(tmp_path, [quantize], constants=constants, dtype=TensorProto.INT8)
    assert ["zero point" in finding for finding in sentences(path)] == [True] * (zero != 0)


def test_an_opset_outside_the_list_is_named(tmp_path: Path) -> None:
    found = sentences(saved(tmp_path, [node("Relu")], opset=8))
    assert found == ["graph.onnx: has opset 8; TensorRT 10.15 reads 9 to 24"]


def large_model(folder: Path, *, size: int = 3 << 30) -> Path:
    """A graph whose weights, beside the file, are ``size`` bytes (a sparse file)."""
    rows = size // (4 * 1024)
    shape = constant("shape", np.array([-1, rows], np.int64))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, 1024])
    with (folder / "weights.bin").open("wb") as file:
        file.write(shape.raw_data)
        file.truncate(4096 + size)
    for tensor, offset, length in ((shape, 0, len(shape.raw_data)), (weight, 4096, size)):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    flat = helper.make_node("Reshape", ["x", "shape"], ["z"], name="flat")
    return saved(folder, [flat, node("MatMul", ["z", "w"])], constants=[shape, weight], rank=2)


def test_weights_over_2_gb_are_not_read(tmp_path: Path) -> None:
    path = large_model(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_missing_external_data_is_said(tmp_path: Path) -> None:
    path = large_model(tmp_path, size=1 << 20)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EngineError, match=r"no complete ONNX file.*weights\.bin"):
        check_graph(path)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no ONNX file"):
        check_graph(tmp_path / "nothing.onnx")
    for content in (b"", b"not a graph at all"):
        path = tmp_path / "wrong.onnx"
        path.write_bytes(content)
        with pytest.raises(EngineError, match="ONNX file"):
            check_graph(path)


def test_the_command_says_each_finding_and_fails(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    good = CliRunner().invoke(app, [str(saved(tmp_path, [node("Relu")]))])
    assert (good.exit_code, "10.15" in good.stdout) == (0, True)
    bad = CliRunner().invoke(app, [str(saved(tmp_path, [node("Det")], rank=2))])
    assert (bad.exit_code, bad.stdout.count("\n")) == (1, 1)
    assert "Det 'bad'" in bad.stdout
