"""Parts of the engines on a device that can be shown without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from backdrop_server.engines.cuda_graphs import Call, CudaGraphs
from backdrop_server.engines.engine import DeviceEngine, Precision
from backdrop_server.engines.onnxruntime_cuda import BoundOnnxRuntimeEngine
from backdrop_server.errors import EngineError
from tests.unit.engine_graphs import write_onnx
from tests.unit.test_engines import arrays

Tensors = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> BoundOnnxRuntimeEngine:
    """IO binding over torch's memory, as on a GPU, on the CPU."""
    path = tmp_path_factory.mktemp("bound") / "graph.onnx"
    write_onnx(path)
    return BoundOnnxRuntimeEngine(path, Precision.FP32, 0, None)


def tensors(rows: int, height: int = 5, width: int = 7) -> dict[str, torch.Tensor]:
    given = arrays(rows, height, width)
    return {name: torch.from_numpy(array) for name, array in given.items()}


def test_bound_runs_give_what_plain_runs_give(bound: BoundOnnxRuntimeEngine) -> None:
    assert isinstance(bound, DeviceEngine)
    for rows, height in ((2, 5), (3, 5), (2, 6), (2, 5)):  # the last with known shapes
        given = tensors(rows, height)
        plain = bound.run({name: tensor.numpy() for name, tensor in given.items()})
        outputs = bound.run_on_device(given)
        for name, array in plain.items():
            np.testing.assert_array_equal(outputs[name].numpy(), array)


def test_bound_outputs_are_the_callers_own(bound: BoundOnnxRuntimeEngine) -> None:
    given = tensors(2)
    first, second = bound.run_on_device(given), bound.run_on_device(given)
    for name, tensor in first.items():
        assert tensor.data_ptr() != second[name].data_ptr()
        assert tensor.data_ptr() not in {given.data_ptr() for given in given.values()}


def test_bound_runs_take_tensors_that_are_not_contiguous(bound: BoundOnnxRuntimeEngine) -> None:
    given = tensors(3)
    expected = bound.run_on_device(given)
    strided = given | {
        "sample": given["sample"].contiguous(memory_format=torch.channels_last),
        "ids": given["ids"].t().contiguous().t(),
    }
    outputs = bound.run_on_device(strided)
    assert all(torch.equal(outputs[name], expected[name]) for name in expected)


def test_bound_runs_refuse_what_does_not_fit(bound: BoundOnnxRuntimeEngine) -> None:
    given = tensors(2)
    with pytest.raises(EngineError, match="engine input sample is float64 of rank 4"):
        bound.run_on_device(given | {"sample": given["sample"].double()})
    with pytest.raises(EngineError, match="missing or unknown engine inputs: colour"):
        bound.run_on_device(given | {"colour": given["scale"]})
    with pytest.raises(EngineError, match="engine input scale lies on meta; the engine on cpu"):
        bound.run_on_device(given | {"scale": given["scale"].to("meta")})
    with pytest.raises(EngineError, match="onnxruntime failed"):
        bound.run_on_device(given | {"scale": torch.ones(5)})


@dataclasses.dataclass
class Recorder:
    """Stands for a CUDA device: it notes what is recorded, replayed and closed."""

    log: list[str] = dataclasses.field(default_factory=list)
    error: Exception | None = None

    def call(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        self.log.append(f"run {len(inputs['x'])}")
        return {"y": inputs["x"] + 1}

    def record(self, call: Call, inputs: Tensors) -> Recording:
        if self.error is not None:
            raise self.error
        self.log.append(f"record {len(inputs['x'])}")
        return Recording(self, call, len(inputs["x"]))


@dataclasses.dataclass
class Recording:
    recorder: Recorder
    call: Call
    rows: int

    def replay(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        self.recorder.log.append(f"replay {self.rows}")
        return {"y": inputs["x"] + 1}

    def close(self) -> None:
        self.recorder.log.append(f"close {self.rows}")


def play(recorder: Recorder, limit: int, rows: list[int]) -> list[str]:
    graphs = CudaGraphs(recorder.call, recorder.record, limit)
    for size in rows:
        assert torch.equal(graphs({"x": torch.zeros(size)})["y"], torch.ones(size))
    return recorder.log


def test_a_shape_that_comes_again_is_recorded_once() -> None:
    log = play(Recorder(), 2, [4, 4, 4, 4])
    assert log == ["run 4", "record 4", "replay 4", "replay 4", "replay 4"]


def test_a_shape_that_comes_once_is_not_recorded() -> None:
    assert play(Recorder(), 4, [2, 4, 8]) == ["run 2", "run 4", "run 8"]


def test_the_recording_unused_for_longest_goes() -> None:
    log = play(Recorder(), 2, [2, 2, 4, 4, 2, 8, 4, 8, 2])
    assert log == [
        *("run 2", "record 2", "replay 2"),
        *("run 4", "record 4", "replay 4"),
        *("replay 2", "run 8", "replay 4"),
        *("close 2", "record 8", "replay 8"),
        *("close 4", "record 2", "replay 2"),
    ]


def test_without_recordings_every_call_runs() -> None:
    assert play(Recorder(), 0, [4, 4, 4]) == ["run 4"] * 3


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operation not permitted when stream is capturing"), EngineError("it failed")],
)
def test_what_cannot_be_recorded_runs_as_it_is(error: Exception) -> None:
    assert play(Recorder(error=error), 2, [4, 4, 4]) == ["run 4"] * 3
