"""ONNX Runtime on a CUDA device, tensors staying there by IO binding. Built, not run on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import onnxruntime as ort
import torch

from backdrop_server.engines.engine import Precision, first_line
from backdrop_server.engines.onnxruntime import CPU, OnnxRuntimeEngine, Provider
from backdrop_server.engines.tensors import NUMPY_DTYPES, check_tensors, torch_dtype
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits

_KNOWN_SHAPES = 256
Shapes = tuple[tuple[int, ...], ...]


class BoundOnnxRuntimeEngine(OnnxRuntimeEngine):
    """An ONNX Runtime engine that reads and writes torch's memory; here on the CPU."""

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        super().__init__(path, precision, threads, limits)
        self._output_shapes: dict[Shapes, Shapes] = {}
        self._options = ort.RunOptions()
        # Else every run ends with the device synchronised and nothing can be queued ahead of it.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run_on_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``DeviceEngine.run_on_device``."""
        check_tensors(inputs, self._expected, self.device)
        given = {name: tensor.contiguous() for name, tensor in inputs.items()}
        key = tuple(tuple(tensor.shape) for tensor in given.values())
        with self._on_stream():
            if key not in self._output_shapes:
                self._remember(key, self._shapes_of_outputs(given))
            return self._run_bound(given, self._output_shapes[key])

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Order the run after what is queued on torch's current stream, and that after the run."""
        yield

    def _remember(self, key: Shapes, shapes: Shapes) -> None:
        if len(self._output_shapes) >= _KNOWN_SHAPES:
            self._output_shapes.clear()
        self._output_shapes[key] = shapes

    def _shapes_of_outputs(self, given: Mapping[str, torch.Tensor]) -> Shapes:
        """Of a run whose outputs ONNX Runtime allocates itself; once for each set of shapes."""
        binding = self._bind(given)
        for name in self.output_names:
            binding.bind_output(name, *self._place())
        self._run(binding)
        return tuple(tuple(value.shape()) for value in binding.get_outputs())

    def _run_bound(
        self, given: Mapping[str, torch.Tensor], shapes: Shapes
    ) -> dict[str, torch.Tensor]:
        binding = self._bind(given)
        outputs = {}
        for name, shape in zip(self.output_names, shapes, strict=True):
            dtype = self._output_dtypes[name]
            output = torch.empty(shape, dtype=torch_dtype(dtype), device=self.device)
            binding.bind_output(name, *self._place(), dtype, list(shape), output.data_ptr())
            outputs[name] = output
        self._run(binding)
        return outputs

    def _bind(self, given: Mapping[str, torch.Tensor]) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, tensor in given.items():
            dtype, shape = NUMPY_DTYPES[tensor.dtype], list(tensor.shape)
            binding.bind_input(name, *self._place(), dtype, shape, tensor.data_ptr())
        return binding

    def _run(self, binding: ort.IOBinding) -> None:
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {first_line(error)}") from error

    def _place(self) -> tuple[str, int]:
        kind, _, index = self.device.partition(":")
        return kind, int(index or 0)


class OnnxRuntimeCudaEngine(BoundOnnxRuntimeEngine):
    """The CUDA provider on a stream that torch knows. Built, not run: no GPU was at hand."""

    device = "cuda:0"
    precisions: ClassVar[frozenset[Precision]] = frozenset(Precision) - {Precision.FP8}

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        # Torch's default stream has the handle 0, which the provider takes for "make your own".
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._precision = precision
        super().__init__(path, precision, threads, limits)

    def providers(self, path: Path) -> Sequence[Provider]:
        """CUDA, and the CPU for what it lacks."""
        return (self._cuda(), CPU)

    def _cuda(self) -> Provider:
        # FP32 means FP32: TF32, which is on by default, has ten bits of mantissa.
        use_tf32 = "0" if self._precision is Precision.FP32 else "1"
        return ("CUDAExecutionProvider", self._device_options() | {"use_tf32": use_tf32})

    def _device_options(self) -> dict[str, str]:
        return {"device_id": "0", "user_compute_stream": str(self._stream.cuda_stream)}

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        # Each stream waits for the other, so memory that one has let go is free for the other too.
        outside = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)


def cuda_is_here() -> bool:
    """Whether this ONNX Runtime has the CUDA provider and the machine a CUDA device."""
    return "CUDAExecutionProvider" in ort.get_available_providers() and torch.cuda.is_available()
