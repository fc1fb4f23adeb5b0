"""int8 and fp8 graphs, by the field's own tool: ``nvidia-modelopt``'s post-training quantization.

The calibration runs on the CPU. What comes out is ONNX with QuantizeLinear and DequantizeLinear
pairs, which TensorRT fuses into its own int8 and fp8 kernels (built, not run: no TensorRT here), and
which ONNX Runtime computes on the CPU, slowly, so that its error can be measured anywhere.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from backdrop_export.engines import Arrays
from backdrop_server.errors import EngineError, SetupError

_LARGE = 1 << 30
"""Bytes of graph and weights from which the weights are written beside the graph."""


class QuantizedPrecision(enum.Enum):
    """What the products of a quantized graph are computed in."""

    INT8 = "int8"
    FP8 = "fp8"


class OtherPrecision(enum.Enum):
    """What all that is not quantized is computed in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class _Batches:
    """Calibration batches as ONNX Runtime and modelopt read them, as often as they like."""

    def __init__(self, batches: Iterable[Arrays]) -> None:
        self._batches = list(batches)
        if not self._batches:
            raise SetupError("there is no calibration batch; at least one is needed")
        self.rewind()

    def get_first(self) -> Arrays:
        return self._batches[0]

    def get_next(self) -> Arrays | None:
        return next(self._rest, None)

    def rewind(self) -> None:
        self._rest = iter(self._batches)


def quantize(
    graph: Path,
    target: Path,
    precision: QuantizedPrecision,
    calibration: Iterable[Arrays],
    other: OtherPrecision = OtherPrecision.FP16,
) -> None:
    """Write ``target``, the ONNX file ``graph`` with its products in ``precision``.

    ``calibration`` are inputs of the graph by name, real ones (``calibration.calibration_batches``):
    the ranges seen with them become the scales. Inputs and outputs keep their types. Weights of a
    large graph come to lie beside ``target``. Raises SetupError when nvidia-modelopt is not
    installed or there is no batch, EngineError when it cannot quantize the graph.
    """
    batches = _Batches(calibration)
    if importlib.util.find_spec("modelopt") is None:
        raise SetupError("nvidia-modelopt is not installed; pip install 'backdrop[quantize]'")
    if not graph.is_file():
        raise EngineError(f"there is no ONNX file at {graph}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize-") as folder:
        # modelopt writes beside its input, so it gets a copy.
        source, made = Path(folder) / "in" / graph.name, Path(folder) / "out" / target.name
        made.parent.mkdir()
        size = _copy_with_weights(graph, source)
        with _quiet() as said:
            try:
                _run_modelopt(source, made, precision, batches, other, large=size > _LARGE)
            except Exception as error:
                reason = str(error).partition("\n")[0] or type(error).__name__
                raise EngineError(f"modelopt cannot quantize {graph.name}: {reason}") from error
        if not made.is_file():
            raise EngineError(f"modelopt wrote no graph for {graph.name}: {said.getvalue()[-200:]}")
        for file in made.parent.iterdir():
            file.replace(target.parent / file.name)


def _copy_with_weights(graph: Path, copy: Path) -> int:
    """Copy a graph and its external data; bytes in all."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in (graph.name, *names):
        to = copy.parent / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(graph.parent / name, to)
    return sum(file.stat().st_size for file in copy.parent.rglob("*") if file.is_file())


def _run_modelopt(
    source: Path,
    target: Path,
    precision: QuantizedPrecision,
    batches: _Batches,
    other: OtherPrecision,
    *,
    large: bool,
) -> None:
    from modelopt.onnx.quantization import quantize as modelopt_quantize

    modelopt_quantize(
        str(source),
        quantize_mode=precision.value,
        calibration_data_reader=batches,
        # Not entropy: it clips rare values, and those of the last steps are rare among all steps.
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(target),
        use_external_data_format=large,
        high_precision_dtype=other.value,
        log_level="ERROR",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep modelopt's and its calibrator's talk, and warnings of others' code, from the user."""
    with (
        io.StringIO() as said,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield said
