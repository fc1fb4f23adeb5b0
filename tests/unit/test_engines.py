"""What every kind of engine must do, shown on one small graph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from backdrop_server.engines.engine import DeviceEngine, Engine, Precision, check_inputs
from backdrop_server.engines.loading import ENGINE_PACKAGES, load_engine
from backdrop_server.errors import EngineError
from tests.unit.engine_graphs import (
    ALL,
    CHANNELS,
    PRESENT,
    WEIGHT,
    Kind,
    absence,
    engine_files,
    write_files,
)


def test_every_kind_is_tried_or_named_as_absent(tmp_path: Path) -> None:
    """What the tests below do not cover on this machine, and that it says so when asked for."""
    for engine in ENGINE_PACKAGES:
        names = [kind.name for kind in ALL if kind.engine == engine]
        reason = absence(engine)
        print(f"{engine}: {'tried as ' + ', '.join(names) if reason is None else reason}")
        assert names
        if reason is not None and "g++" not in reason:
            with pytest.raises(EngineError, match=rf"{ENGINE_PACKAGES[engine][0]}|TensorRT|CUDA"):
                load_engine(engine, tmp_path / "graph", Precision.FP16)
    always = {"onnxruntime-fp32", "onnxruntime-fp16", "onnxruntime-int8", "openvino-fp32"}
    assert always <= PRESENT.keys()


@pytest.fixture(scope="module", params=PRESENT)
def kind(request: pytest.FixtureRequest) -> Kind:
    return PRESENT[request.param]


@pytest.fixture(scope="module")
def files(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph in the kind's form."""
    folder = tmp_path_factory.mktemp("engines") / kind.name
    write_files(kind, folder)
    return folder


@pytest.fixture(scope="module")
def engine(kind: Kind, files: Path) -> Engine:
    return load_engine(kind.engine, files / "graph", kind.precision)


def arrays(rows: int = 2, height: int = 5, width: int = 7, seed: int = 1) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "sample": draw.normal(size=(rows, CHANNELS, height, width)).astype(np.float32),
        "scale": draw.uniform(0.5, 2, rows).astype(np.float32),
        "mask": draw.integers(0, 256, (rows, 8 * height, 8 * width), np.uint8),
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
    np.testing.assert_array_equal(outputs["levels"], given["mask"].astype(np.float32))
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


def test_rows_do_not_touch_each_other(kind: Kind, engine: Engine) -> None:
    given = arrays(4)
    together = engine.run(given)["features"]
    alone = [
        engine.run({name: array[row : row + 1] for name, array in given.items()})["features"]
        for row in range(4)
    ]
    # AOTInductor's kernels sum in another order for another number of rows.
    atol = 1e-5 if kind.engine == "aotinductor" else 1e-6
    np.testing.assert_allclose(together, np.concatenate(alone), atol=atol)


def test_the_engine_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert set(engine.input_names) == {"sample", "scale", "mask", "ids"}
    assert set(engine.output_names) == {"features", "levels", "next_ids"}
    assert engine.device in {"cpu", "cuda:0"}
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
    given["mask"] = np.broadcast_to(given["mask"][:1], given["mask"].shape)
    given["ids"] = given["ids"][::-1]
    check_outputs(kind, given, engine.run(given))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("sample", np.zeros((2, CHANNELS, 5, 7), np.float64)),
        ("scale", np.zeros(2, np.float16)),
        ("mask", np.zeros((2, 40, 56), np.int64)),
        ("ids", np.zeros((2, 2), np.int32)),
        ("sample", np.zeros((CHANNELS, 5, 7), np.float32)),
        ("scale", np.zeros((2, 1), np.float32)),
        ("mask", np.zeros((2, 1, 40, 56), np.uint8)),
    ],
)
def test_a_wrong_type_or_rank_is_refused(
    engine: Engine, name: str, array: npt.NDArray[Any]
) -> None:
    with pytest.raises(EngineError, match=f"engine input {name} is {array.dtype} of rank"):
        engine.run(arrays() | {name: array})


@pytest.mark.parametrize("name", ["sample", "scale", "mask", "ids"])
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
    for missing in engine_files(files):
        folder = tmp_path / f"without-{missing}"
        shutil.copytree(files, folder)
        (folder / missing).unlink()
        with pytest.raises(EngineError, match=f"engine file {missing} is missing in"):
            load_engine(kind.engine, folder / "graph", kind.precision)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_file_is_named(kind: Kind, files: Path, tmp_path: Path, damage: str) -> None:
    for name in engine_files(files):
        folder = tmp_path / name
        shutil.copytree(files, folder)
        whole = (folder / name).read_bytes()
        wrong = {"truncated": whole[: len(whole) // 2], "empty": b"", "garbage": b"\x07" * 64}
        (folder / name).write_bytes(wrong[damage])
        with pytest.raises(EngineError, match=r"graph\S*\.\w+ is not a graph that \w+ can load"):
            load_engine(kind.engine, folder / "graph", kind.precision)


def test_threads_can_be_limited(kind: Kind, files: Path) -> None:
    given = arrays()
    limited = load_engine(kind.engine, files / "graph", kind.precision, threads=1)
    check_outputs(kind, given, limited.run(given))


def test_tensors_on_the_device_give_what_arrays_give(kind: Kind, engine: Engine) -> None:
    """Where the engine takes tensors: AOTInductor anywhere, the others on a CUDA device."""
    given = arrays()
    if not isinstance(engine, DeviceEngine):
        assert engine.device == "cpu"
        assert kind.engine in {"onnxruntime", "openvino"}
        return
    tensors = {name: torch.from_numpy(array).to(engine.device) for name, array in given.items()}
    outputs = engine.run_on_device(tensors)
    again = engine.run_on_device(tensors)
    assert {tensor.device.type for tensor in outputs.values()} == {engine.device.partition(":")[0]}
    check_outputs(kind, given, {name: tensor.cpu().numpy() for name, tensor in outputs.items()})
    assert all(torch.equal(outputs[name], again[name]) for name in outputs)
    assert all(outputs[name].data_ptr() != again[name].data_ptr() for name in outputs)
    with pytest.raises(EngineError, match="engine input scale is float64 of rank 1"):
        engine.run_on_device(tensors | {"scale": tensors["scale"].double()})


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("onnxruntime", Precision.BF16, r"onnxruntime runs fp32, fp16, int8 here, not bf16"),
        ("openvino", Precision.FP8, r"openvino on the CPU runs fp32, bf16, not fp8"),
        ("magic", Precision.FP32, r"'magic' is not known; allowed: onnxruntime, onnxruntime-t"),
    ],
)
def test_what_there_is_not_is_refused(
    tmp_path: Path, engine: str, precision: Precision, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        load_engine(engine, tmp_path / "graph", precision)


def test_inputs_are_checked_against_the_graph() -> None:
    expected = {"a": (np.dtype(np.float32), 2)}
    check_inputs({"a": np.zeros((1, 2), np.float32)}, expected)
    with pytest.raises(EngineError, match="a, b"):
        check_inputs({"b": np.zeros((1, 2), np.float32)}, expected)
