"""AOTInductor packages: a torch module compiled ahead of time, on CUDA or on the CPU.

On the CPU it is tested; on CUDA it is built, not run: no GPU was at hand. The compiled code does not
check the shapes that it is given, so that is done here: a wrong one would read foreign memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backdrop_server.engines.cuda_graphs import CudaGraphs, record
from backdrop_server.engines.engine import Arrays, Expected, Precision, check_inputs, first_line
from backdrop_server.engines.limits import check_gpu
from backdrop_server.engines.tensors import check_tensors, to_device, to_host
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits

MAX_GRAPHS = 16
"""CUDA graphs held, one for each set of shapes."""

Size = int | list[Any]
"""A fixed size, or [factor, name]: a multiple of a named one."""


@dataclasses.dataclass(frozen=True)
class Package:
    """What the export wrote into the package about it, besides the code."""

    device: str
    precision: str
    torch_version: str
    inputs: Mapping[str, tuple[str, list[Size]]]
    """Type and sizes of each input, in the order of the call."""
    outputs: tuple[str, ...]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Package:
        """From the package's own metadata; raises KeyError, TypeError or ValueError if it has none."""
        values = json.loads(metadata["backdrop"])
        inputs = {name: (dtype, sizes) for name, dtype, sizes in values.pop("inputs")}
        return cls(**{**values, "inputs": inputs, "outputs": tuple(values["outputs"])})

    def expected(self) -> Expected:
        """Type and rank of each input."""
        return {name: (np.dtype(dtype), len(sizes)) for name, (dtype, sizes) in self.inputs.items()}

    def check_shapes(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Raise EngineError unless every size is the fixed one, or the same multiple everywhere."""
        found: dict[str, int] = {}
        for name, (_, sizes) in self.inputs.items():
            shape = tuple(inputs[name].shape)
            for size, wanted in zip(shape, sizes, strict=True):
                if not _matches(size, wanted, found):
                    raise EngineError(
                        f"engine input {name} has the shape {list(shape)}; the graph takes "
                        f"{_in_words(sizes)}, equal names of equal size"
                    )


def _matches(size: int, wanted: Size, found: dict[str, int]) -> bool:
    if isinstance(wanted, int):
        return size == wanted
    factor, name = wanted
    return (
        size % factor == 0
        and size > 0
        and found.setdefault(name, size // factor) == (size // factor)
    )


def _in_words(sizes: list[Size]) -> str:
    words = [
        str(size) if isinstance(size, int) else f"{size[0]}*{size[1]}" if size[0] > 1 else size[1]
        for size in sizes
    ]
    return f"[{', '.join(words)}]"


class AotInductorEngine:
    """A ``.pt2`` package on the device that it was compiled for."""

    def __init__(
        self, path: Path, precision: Precision, threads: int, limits: EngineLimits | None
    ) -> None:
        if not path.is_file():
            raise EngineError(f"engine file {path.name} is missing in {path.parent}")
        self._threads = threads or torch.get_num_threads()
        self._package = _read_package(path)
        self._check(precision, limits)
        self.limits = limits
        self.device = self._package.device
        self._runner = _load(path)
        self._expected = self._package.expected()
        self.input_names = tuple(self._expected)
        self.output_names = self._package.outputs
        on_cuda = self.device != "cpu"
        graphs = MAX_GRAPHS if on_cuda and limits is not None and limits.row_buckets else 0
        self._call = CudaGraphs(self._execute, record, graphs)

    def _check(self, precision: Precision, limits: EngineLimits | None) -> None:
        package = self._package
        if package.precision != precision.value:
            raise EngineError(
                f"the package computes in {package.precision}; "
                f"the configuration says {precision.value}"
            )
        if package.torch_version != torch.__version__:
            raise EngineError(
                f"the package was compiled with torch {package.torch_version}; "
                f"here is {torch.__version__}: export it again"
            )
        if package.device == "cpu":
            return
        if not torch.cuda.is_available():
            raise EngineError("the package was compiled for CUDA; this machine has no CUDA device")
        if limits is not None:
            name = torch.cuda.get_device_name(package.device)
            check_gpu(limits, name, torch.cuda.get_device_capability(package.device))

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See ``Engine.run``."""
        check_inputs(inputs, self._expected)
        return to_host(self.run_on_device(to_device(inputs, self.device)))

    def run_on_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``DeviceEngine.run_on_device``."""
        check_tensors(inputs, self._expected, self.device)
        self._package.check_shapes(inputs)
        return self._call({name: inputs[name].contiguous() for name in self.input_names})

    def _execute(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        try:
            with torch.inference_mode(), self._own_threads():
                outputs = self._runner(*inputs.values())
        except Exception as error:
            raise EngineError(f"aotinductor failed: {first_line(error)}") from error
        return dict(zip(self.output_names, outputs, strict=True))

    @contextlib.contextmanager
    def _own_threads(self) -> Iterator[None]:
        """On the CPU the code runs in torch's pool, whose size is others' business between runs."""
        before = torch.get_num_threads()
        if self.device != "cpu" or before == self._threads:
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _read_package(path: Path) -> Package:
    """From the package's file, a zip archive, before any of its code is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            # One for each part of the code, all the same.
            names = [name for name in archive.namelist() if name.endswith("_metadata.json")]
            return Package.from_metadata(json.loads(archive.read(names[0])))
    except (OSError, zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
        raise _unreadable(path) from error


def _load(path: Path) -> Any:
    try:
        # One runner without locks: a lock's event may not be queried while a graph is recorded.
        return torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    except Exception as error:  # torch raises whatever its unpacker raises
        raise _unreadable(path) from error


def _unreadable(path: Path) -> EngineError:
    return EngineError(f"{path.name} is not a graph that aotinductor can load")
