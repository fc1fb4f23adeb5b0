"""Native TensorRT plans on torch's stream and memory. Built, not run: no GPU was at hand.

TensorRT's own rule for CUDA graphs of dynamic shapes is one execution context for each captured
graph; the contexts share one piece of working memory, since only one of them runs at a time.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt
import torch

from backdrop_server.engines.cuda_graphs import Call, CudaGraphs, Recording, record
from backdrop_server.engines.engine import Arrays, Precision, check_inputs
from backdrop_server.engines.limits import check_builder, check_gpu
from backdrop_server.engines.tensors import check_tensors, to_device, to_host, torch_dtype
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits, tensorrt_plan_stem

MAX_CONTEXTS = 16
"""Execution contexts, one for each set of shapes; graphs are recorded for as many."""

_LOGGER = trt.Logger(trt.Logger.WARNING)


class TensorRtEngine:
    """A ``.plan`` file on the first CUDA device. Built, not run: no GPU was at hand."""

    device = "cuda:0"

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        if not path.is_file():
            raise EngineError(f"engine file {path.name} is missing in {path.parent}")
        self.limits = limits
        if limits is not None:
            check_builder(limits, builder())
            name = torch.cuda.get_device_name(self.device)
            check_gpu(limits, name, torch.cuda.get_device_capability(self.device))
        self._engine = _deserialize(path)
        self._expected = self._tensors(trt.TensorIOMode.INPUT)
        self._outputs = self._tensors(trt.TensorIOMode.OUTPUT)
        self.input_names = tuple(self._expected)
        self.output_names = tuple(self._outputs)
        self._memory = torch.empty(
            self._engine.device_memory_size_v2, dtype=torch.uint8, device=self.device
        )
        self._contexts: collections.OrderedDict[tuple[tuple[int, ...], ...], Any] = (
            collections.OrderedDict()
        )
        # Without buckets there may be any number of rows, and a graph seldom comes again.
        graphs = MAX_CONTEXTS if limits is not None and limits.row_buckets else 0
        self._call = CudaGraphs(self._execute, self._record, graphs)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See ``Engine.run``."""
        check_inputs(inputs, self._expected)
        return to_host(self.run_on_device(to_device(inputs, self.device)))

    def run_on_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``DeviceEngine.run_on_device``."""
        check_tensors(inputs, self._expected, self.device)
        return self._call({name: inputs[name].contiguous() for name in self.input_names})

    def _tensors(self, mode: Any) -> dict[str, tuple[np.dtype[Any], int]]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        return {
            name: (
                np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))),
                len(self._engine.get_tensor_shape(name)),
            )
            for name in names
            if self._engine.get_tensor_mode(name) == mode
        }

    def _execute(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        context = self._context(inputs)
        for name, tensor in inputs.items():
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for name, (dtype, _) in self._outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            output = torch.empty(shape, dtype=torch_dtype(dtype), device=self.device)
            context.set_tensor_address(name, output.data_ptr())
            outputs[name] = output
        if not context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise EngineError(f"tensorrt failed at these input shapes: {_shapes(inputs)}")
        return outputs

    def _record(self, call: Call, inputs: Mapping[str, torch.Tensor]) -> Recording:
        return record(call, inputs, keeps=self._context(inputs))

    def _context(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """The execution context for these shapes, in the first profile that takes them."""
        key = tuple(tuple(tensor.shape) for tensor in inputs.values())
        if key not in self._contexts:
            self._contexts[key] = self._new_context(inputs)
            if len(self._contexts) > MAX_CONTEXTS:
                # What is queued in it must be done first; a recording keeps its own alive.
                torch.cuda.synchronize(self.device)
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return self._contexts[key]

    def _new_context(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        profile = self._profile(inputs)
        context = self._engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise EngineError("tensorrt could not make an execution context")
        context.set_device_memory(self._memory.data_ptr(), self._memory.numel())
        stream = torch.cuda.current_stream(self.device).cuda_stream
        context.set_optimization_profile_async(profile, stream)
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(f"tensorrt refuses these input shapes: {_shapes(inputs)}")
        return context

    def _profile(self, inputs: Mapping[str, torch.Tensor]) -> int:
        for profile in range(self._engine.num_optimization_profiles):
            if all(self._takes(profile, name, tensor) for name, tensor in inputs.items()):
                return profile
        raise EngineError(f"no profile of the plan takes these input shapes: {_shapes(inputs)}")

    def _takes(self, profile: int, name: str, tensor: torch.Tensor) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, profile)
        return all(a <= size <= b for a, size, b in zip(low, tensor.shape, high, strict=True))


def builder() -> str:
    """What a plan must have been built with to be read here."""
    return f"tensorrt {trt.__version__}"


def find_plan(path: Path) -> Path:
    """The plan of the graph ``path`` that fits this TensorRT and this GPU; EngineError if none."""
    if not torch.cuda.is_available():
        raise EngineError("tensorrt needs a CUDA device; this machine has none")
    device = torch.cuda.get_device_name(TensorRtEngine.device)
    major, minor = torch.cuda.get_device_capability(TensorRtEngine.device)
    stem = tensorrt_plan_stem(path.name, builder(), device, f"{major}.{minor}")
    wanted = path.with_name(f"{stem}.plan")
    others = sorted(file.name for file in path.parent.glob(f"{path.name}-*.plan"))
    if not wanted.is_file() and others:
        raise EngineError(
            f"there is no plan {wanted.name} in {path.parent}, only {', '.join(others)}: "
            "build it on this machine"
        )
    return wanted


def _deserialize(path: Path) -> Any:
    engine = trt.Runtime(_LOGGER).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise EngineError(f"{path.name} is not a graph that tensorrt can load")
    return engine


def _shapes(inputs: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
