"""What every kind of engine must do, shown on one small graph."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper

from backdrop_server.engines.engine import Engine, Precision, check_inputs
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError

CHANNELS = 3
DRAW = np.random.default_rng(0)
WEIGHT = DRAW.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to run the graph, and how near to float64 it has to come."""

    engine: str
    precision: Precision
    tolerance: float
    files: tuple[str, ...]


KINDS = {
    "onnxruntime-fp32": Kind("onnxruntime", Precision.FP32, 1e-5, ("graph.onnx",)),
    "openvino-fp32": Kind("openvino", Precision.FP32, 1e-5, ("graph.xml", "graph.bin")),
    "openvino-bf16": Kind("openvino", Precision.BF16, 2e-2, ("graph.xml", "graph.bin")),
}


def _info(name: str, kind: int, *dims: str | int) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def _write_onnx(path: Path) -> None:
    """``features`` = conv(sample) * scale of its row; ``levels`` = the edges; ``ids`` + 1."""
    nodes = [
        helper.make_node("Conv", ["sample", "weight"], ["painted"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["scale", "column"], ["scales"]),
        helper.make_node("Mul", ["painted", "scales"], ["features"]),
        helper.make_node("Cast", ["edges"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["ids", "one"], ["next_ids"]),
    ]
    inputs = [
        _info("sample", TensorProto.FLOAT, "rows", CHANNELS, "h", "w"),
        _info("scale", TensorProto.FLOAT, "rows"),
        _info("edges", TensorProto.UINT8, "rows", "H", "W"),
        _info("ids", TensorProto.INT64, "rows", 2),
    ]
    outputs = [
        _info("features", TensorProto.FLOAT, "rows", CHANNELS, "h", "w"),
        _info("levels", TensorProto.FLOAT, "rows", "H", "W"),
        _info("next_ids", TensorProto.INT64, "rows", 2),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "column"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph in every engine's form."""
    folder = tmp_path_factory.mktemp("engines")
    _write_onnx(folder / "graph.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(str(folder / "graph.onnx"))
    ov.save_model(model, folder / "graph.xml", compress_to_fp16=False)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def engine(kind: Kind, files: Path) -> Engine:
    return load_engine(kind.engine, files / "graph", kind.precision)


def arrays(rows: int = 2, height: int = 5, width: int = 7, seed: int = 1) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "sample": draw.normal(size=(rows, CHANNELS, height, width)).astype(np.float32),
        "scale": draw.uniform(0.5, 2, rows).astype(np.float32),
        "edges": draw.integers(0, 256, (rows, 8 * height, 8 * width), np.uint8),
        # Token ids are small: OpenVINO's CPU plugin computes INT64 in 32 bits.
        "ids": draw.integers(0, 2**31 - 2, (rows, 2), np.int64),
    }


def expected_features(given: dict[str, Any]) -> npt.NDArray[np.float64]:
    """The convolution and the scale in float64."""
    sample = given["sample"].astype(np.float64)
    height, width = sample.shape[2:]
    padded = np.pad(sample, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.stack(
        [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)], 2
    )
    painted = np.einsum("rikhw,oik->rohw", windows, WEIGHT.reshape(CHANNELS, CHANNELS, 9))
    scaled: npt.NDArray[np.float64] = painted * given["scale"].reshape(-1, 1, 1, 1)
    return scaled


def check_outputs(kind: Kind, given: dict[str, Any], outputs: dict[str, Any]) -> None:
    expected = expected_features(given)
    error = np.abs(outputs["features"] - expected).max() / np.abs(expected).max()
    assert error < kind.tolerance
    np.testing.assert_array_equal(outputs["levels"], given["edges"].astype(np.float32))
    np.testing.assert_array_equal(outputs["next_ids"], given["ids"] + 1)


def test_results_are_right(kind: Kind, engine: Engine) -> None:
    given = arrays()
    outputs = engine.run(given)
    check_outputs(kind, given, outputs)
    assert [outputs[name].dtype for name in ("features", "levels", "next_ids")] == [
        *(np.float32, np.float32, np.int64)
    ]


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 8, 8), (16, 3, 9), (5, 64, 2), (2, 5, 7)])
def test_rows_and_sizes_are_free(kind: Kind, engine: Engine, size: tuple[int, int, int]) -> None:
    given = arrays(*size, seed=sum(size))
    check_outputs(kind, given, engine.run(given))


def test_rows_do_not_touch_each_other(engine: Engine) -> None:
    given = arrays(4)
    together = engine.run(given)["features"]
    alone = [
        engine.run({name: array[row : row + 1] for name, array in given.items()})["features"]
        for row in range(4)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)


def test_the_engine_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert set(engine.input_names) == {"sample", "scale", "edges", "ids"}
    assert set(engine.output_names) == {"features", "levels", "next_ids"}
    assert engine.device == "cpu"
    assert set(engine.run(arrays())) == set(engine.output_names)


def test_outputs_are_the_callers_own(engine: Engine) -> None:
    first_given = arrays(seed=1)
    first = engine.run(first_given)
    before = {name: array.copy() for name, array in first.items()}
    second = engine.run(arrays(seed=2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, before[name])
        assert not np.shares_memory(array, second[name])
        assert not any(np.shares_memory(array, given) for given in first_given.values())
        array.fill(0)  # and writable


def test_inputs_are_left_alone(engine: Engine) -> None:
    given = arrays()
    before = {name: array.copy() for name, array in given.items()}
    for array in given.values():
        array.setflags(write=False)
    engine.run(given)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])


def test_strided_and_broadcast_inputs_work(kind: Kind, engine: Engine) -> None:
    given = arrays(3)
    given["sample"] = np.asfortranarray(given["sample"])
    given["edges"] = np.broadcast_to(given["edges"][:1], given["edges"].shape)
    given["ids"] = given["ids"][::-1]
    check_outputs(kind, given, engine.run(given))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("sample", np.zeros((2, CHANNELS, 5, 7), np.float64)),
        ("scale", np.zeros(2, np.float16)),
        ("edges", np.zeros((2, 40, 56), np.int64)),
        ("ids", np.zeros((2, 2), np.int32)),
        ("sample", np.zeros((CHANNELS, 5, 7), np.float32)),
        ("scale", np.zeros((2, 1), np.float32)),
        ("edges", np.zeros((2, 1, 40, 56), np.uint8)),
    ],
)
def test_a_wrong_type_or_rank_is_refused(
    engine: Engine, name: str, array: npt.NDArray[Any]
) -> None:
    with pytest.raises(EngineError, match=f"engine input {name} is {array.dtype} of rank"):
        engine.run(arrays() | {name: array})


@pytest.mark.parametrize("name", ["sample", "scale", "edges", "ids"])
def test_a_missing_input_is_refused(engine: Engine, name: str) -> None:
    given = arrays()
    del given[name]
    with pytest.raises(EngineError, match=f"missing or unknown engine inputs: {name}$"):
        engine.run(given)


def test_an_unknown_input_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"missing or unknown engine inputs: colour$"):
        engine.run(arrays() | {"colour": np.zeros(1, np.float32)})


def test_a_size_that_does_not_fit_is_an_engine_error(kind: Kind, engine: Engine) -> None:
    """And the engine works on after it."""
    wrong = arrays() | {"scale": np.ones(5, np.float32)}
    with pytest.raises(EngineError) as caught:
        engine.run(wrong)
    assert "\n" not in str(caught.value)
    given = arrays()
    check_outputs(kind, given, engine.run(given))


def test_a_missing_file_is_named(kind: Kind, files: Path, tmp_path: Path) -> None:
    for missing in kind.files:
        folder = tmp_path / f"without-{missing}"
        shutil.copytree(files, folder)
        (folder / missing).unlink()
        with pytest.raises(EngineError, match=f"engine file {missing} is missing in"):
            load_engine(kind.engine, folder / "graph", kind.precision)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_file_is_named(kind: Kind, files: Path, tmp_path: Path, damage: str) -> None:
    for name in kind.files:
        folder = tmp_path / name
        shutil.copytree(files, folder)
        whole = (folder / name).read_bytes()
        wrong = {"truncated": whole[: len(whole) // 2], "empty": b"", "garbage": b"\x07" * 64}
        (folder / name).write_bytes(wrong[damage])
        with pytest.raises(EngineError, match=r"graph\.\w+ is not a graph that \w+ can load"):
            load_engine(kind.engine, folder / "graph", kind.precision)


def test_threads_can_be_limited(kind: Kind, files: Path) -> None:
    given = arrays()
    limited = load_engine(kind.engine, files / "graph", kind.precision, threads=1)
    check_outputs(kind, given, limited.run(given))


def test_a_precision_that_an_engine_lacks_is_refused(files: Path) -> None:
    with pytest.raises(EngineError, match="onnxruntime on the CPU runs fp32, not bf16"):
        load_engine("onnxruntime", files / "graph", Precision.BF16)


def test_an_unknown_kind_is_refused(files: Path) -> None:
    with pytest.raises(EngineError, match=r"'magic' is not known; allowed: onnxruntime, openvino"):
        load_engine("magic", files / "graph", Precision.FP32)


def test_inputs_are_checked_against_the_graph() -> None:
    expected = {"a": (np.dtype(np.float32), 2)}
    check_inputs({"a": np.zeros((1, 2), np.float32)}, expected)
    with pytest.raises(EngineError, match="a, b"):
        check_inputs({"b": np.zeros((1, 2), np.float32)}, expected)
