"""Parts of the engines on a device that can be shown without one."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backdrop_server.engines.cuda_graphs import Call, CudaGraphs
from backdrop_server.engines.engine import DeviceEngine, Precision
from backdrop_server.engines.onnxruntime_cuda import BoundOnnxRuntimeEngine
from backdrop_server.engines.onnxruntime_tensorrt import OnnxRuntimeTensorRtEngine, cache_folder
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
    """And has to be warmed up again before it is recorded again."""
    log = play(Recorder(), 2, [2, 2, 4, 4, 2, 8, 4, 8, 2, 2])
    assert log == [
        *("run 2", "record 2", "replay 2"),
        *("run 4", "record 4", "replay 4"),
        *("replay 2", "run 8", "replay 4"),
        *("close 2", "record 8", "replay 8"),
        *("run 2", "close 4", "record 2", "replay 2"),
    ]


def test_without_recordings_every_call_runs() -> None:
    assert play(Recorder(), 0, [4, 4, 4]) == ["run 4"] * 3


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operation not permitted when stream is capturing"), EngineError("it failed")],
)
def test_what_cannot_be_recorded_runs_as_it_is(error: Exception) -> None:
    assert play(Recorder(error=error), 2, [4, 4, 4]) == ["run 4"] * 3


def provider_options(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """What a session of the model ``path`` would be made with on a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200 SXM")
    engine = OnnxRuntimeTensorRtEngine.__new__(OnnxRuntimeTensorRtEngine)
    engine._precision = Precision.FP16
    engine._stream = types.SimpleNamespace(cuda_stream=7)  # type: ignore[assignment]
    providers = [given for given in engine.providers(path) if isinstance(given, tuple)]
    return {name: dict(options) for name, options in providers}


def test_the_tensorrt_provider_computes_in_the_graphs_own_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.json").touch()
    (tmp_path / "model.profile").write_text("x:2\nx:8\nx:16\n")
    given = provider_options(tmp_path / "model.onnx", monkeypatch)["TensorrtExecutionProvider"]
    assert [name for name in given if name.endswith("16_enable") or "int8" in name] == []
    assert (given["trt_profile_min_shapes"], given["trt_profile_max_shapes"]) == ("x:2", "x:16")
    assert given["trt_engine_cache_path"] == str(tmp_path / "model-tensorrt-H200-SXM")


def test_a_graph_without_a_profile_is_left_to_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    assert "TensorrtExecutionProvider" in provider_options(path, monkeypatch)  # not an export's
    (tmp_path / "model.json").touch()
    assert "TensorrtExecutionProvider" not in provider_options(path, monkeypatch)


def test_the_cache_goes_where_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model-tensorrt-H200").touch()  # root may write where nobody may
    first = cache_folder(path, "H200")
    assert first.is_dir() and first.parent == tmp_path / "cache" / "backdrop"
    assert cache_folder(path, "H200") == first
    path.write_bytes(b"22")
    assert cache_folder(path, "H200") != first  # engines of other weights

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = cache_folder(path, "H200")
    assert own.parent == tmp_path and own.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(
        EngineError, match=r"no folder for TensorRT's engines of model\.onnx can be"
    ):
        cache_folder(path, "H200")


@dataclasses.dataclass
class Plan:
    """Stands for a deserialized TensorRT plan: the smallest and largest ``x`` of each profile."""

    ranges: list[tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.ranges)

    def get_tensor_profile_shape(self, name: str, profile: int) -> tuple[tuple[int, ...], ...]:
        assert name == "x"
        low, high = self.ranges[profile]
        return low, low, high


@pytest.fixture
def plan_engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our TensorRT engine, without TensorRT, over a plan of two bands and two buckets."""
    stub: Any = types.ModuleType("tensorrt")
    stub.Logger = lambda severity: None
    stub.Logger.WARNING = 0
    monkeypatch.setitem(sys.modules, "tensorrt", stub)
    monkeypatch.delitem(sys.modules, "backdrop_server.engines.tensorrt", raising=False)
    module = importlib.import_module("backdrop_server.engines.tensorrt")
    del sys.modules["backdrop_server.engines.tensorrt"]  # nobody else is to meet it
    engine = module.TensorRtEngine.__new__(module.TensorRtEngine)
    engine._engine = Plan(
        [
            ((2, 8, 24), (2, 16, 32)),
            ((4, 8, 24), (4, 16, 32)),
            ((2, 24, 8), (2, 32, 16)),
            ((4, 24, 8), (4, 32, 16)),
        ]
    )
    return engine


@pytest.mark.parametrize(
    ("shape", "profile"),
    [((2, 16, 24), 0), ((4, 8, 32), 1), ((2, 24, 16), 2), ((4, 32, 8), 3)],
)
def test_a_plan_runs_in_the_profile_of_rows_and_band(
    plan_engine: Any, shape: tuple[int, ...], profile: int
) -> None:
    assert plan_engine._profile({"x": torch.zeros(shape)}) == profile


def test_shapes_between_the_bands_are_refused(plan_engine: Any) -> None:
    with pytest.raises(EngineError, match=r"no profile of the plan takes .*: x \[2, 32, 32\]"):
        plan_engine._profile({"x": torch.zeros(2, 32, 32)})
