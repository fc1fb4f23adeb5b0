"""What Triton takes at every step to collect a looped request's inputs again.

A model that does nothing else is rescheduled as `denoise` is, once with inputs of `denoise`'s sizes
and once with tiny ones: the difference is the cost. Runs where a tritonserver is; on a machine
without one the row says "absent".
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backdrop_server.errors import SetupError
from benchmarks.gpu.architecture import IMAGE_TOKENS, Architecture
from benchmarks.gpu.engines import AbsentError
from benchmarks.gpu.figures import spread
from benchmarks.gpu.load import STEPS
from benchmarks.gpu.results import read_result
from benchmarks.gpu.rows import Bench, Row, attempt

Arrays = dict[str, npt.NDArray[Any]]
REPEATS = 7
MODEL = "replace_background"
_MODEL_FILE = Path(__file__).with_name("collecting_model.py")
_TYPES = {"float32": ("TYPE_FP32", "FP32"), "uint8": ("TYPE_UINT8", "UINT8")}


def inputs_like_denoise(architecture: Architecture) -> Arrays:
    """Arrays of the shapes that `denoise` takes for one picture, a batch of 1 in front."""
    side, width = architecture.side, architecture.prompt_width
    draw = np.random.default_rng(0)
    shapes = {
        "prompt_embeds": (2, 77, width),
        "pooled_prompt_embeds": (2, architecture.text_2.projection),
        "image_embeds": (2, IMAGE_TOKENS, width),
        "image_moments": (2, 8, side // 8, side // 8),
    }
    arrays: Arrays = {
        name: draw.standard_normal((1, *shape), np.float32) for name, shape in shapes.items()
    }
    arrays["latent_mask"] = np.ones((1, side // 8, side // 8), np.uint8)
    arrays["edges"] = np.zeros((1, side, side), np.uint8)
    return arrays


def tiny(arrays: Arrays) -> Arrays:
    """The same inputs with a single element each."""
    return {name: np.zeros((1,) * array.ndim, array.dtype) for name, array in arrays.items()}


def write_repository(folder: Path, arrays: Arrays) -> Path:
    """A model repository that holds only the collecting model."""
    model = folder / MODEL
    (model / "1").mkdir(parents=True)
    shutil.copy(_MODEL_FILE, model / "1" / "model.py")
    inputs = ['  { name: "rounds" data_type: TYPE_INT32 dims: [1] }']
    for name, array in arrays.items():
        dims = ", ".join(["-1"] * (array.ndim - 1))
        kind = _TYPES[str(array.dtype)][0]
        inputs.append(
            f'  {{ name: "{name}" data_type: {kind} dims: [{dims}] allow_ragged_batch: true }}'
        )
    text = (
        f'name: "{MODEL}"\nbackend: "python"\nmax_batch_size: 16\n'
        f"input [\n{','.join(inputs)}\n]\n"
        'output [ { name: "seconds" data_type: TYPE_FP32 dims: [1] } ]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
        "sequence_batching {\n  iterative_sequence: true\n"
        "  oldest { max_candidate_sequences: 16 max_queue_delay_microseconds: 500 }\n"
        "  max_sequence_idle_microseconds: 60000000\n}\n"
    )
    (model / "config.pbtxt").write_text(text)
    return folder


def collection(bench: Bench) -> dict[str, Any]:
    """Milliseconds a step that the collection of inputs costs, and their share of our step."""
    rows = [
        attempt(
            {"way": "Triton's collection of inputs", "in_flight": in_flight},
            functools.partial(_row, bench, in_flight),
        )
        for in_flight in (1, 8)
    ]
    return {"rows": rows}


def _row(bench: Bench, in_flight: int) -> Row:
    if importlib.util.find_spec("tritonclient") is None:
        raise AbsentError("tritonclient is not installed on this machine")
    arrays = inputs_like_denoise(bench.setup.architecture)
    rounds = STEPS if bench.setup.is_full else 10
    large, small = _measure(arrays, in_flight, rounds)
    costs = [(a - b) / rounds for a, b in zip(large, small, strict=True)]
    step = step_seconds(bench, in_flight)
    return {
        "input_bytes": sum(array.nbytes for array in arrays.values()),
        "rounds": rounds,
        "cost_seconds_a_step": spread(costs),
        "reschedule_seconds_a_step": spread([value / rounds for value in small]),
        "step_seconds": step,
        "share_of_step": None if step is None else statistics.median(costs) / step,
    }


def step_seconds(bench: Bench, in_flight: int) -> float | None:
    """A step of our loop with ``in_flight`` requests, from ``batching``; None: not measured."""
    for row in (read_result(bench.setup.out, "batching") or {}).get("rows", []):
        if row["status"] == "ok" and row["in_flight"] == in_flight:
            return float(row["seconds"]["median"]) / int(row["steps"])
    return None


def _measure(arrays: Arrays, in_flight: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of ``rounds`` rounds with ``arrays`` and with tiny ones, in turn."""
    import tritonclient.grpc as grpcclient

    from backdrop_server.triton.launcher import LaunchSettings, TritonServer

    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), arrays)
        settings = LaunchSettings(
            repository, http_port=0, grpc_port=0, metrics_port=0, first_pictures=False
        )
        try:
            server = TritonServer(settings, on_line=lambda line: None)
        except SetupError as error:
            raise AbsentError(str(error)) from error
        with (
            server,
            grpcclient.InferenceServerClient(server.grpc_url) as client,
            ThreadPoolExecutor(in_flight) as pool,
        ):

            def together(sent: Arrays) -> float:
                return max(pool.map(lambda _: _ask(client, sent, rounds), range(in_flight)))

            together(arrays)
            pairs = [(together(arrays), together(tiny(arrays))) for _ in range(REPEATS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _ask(client: Any, arrays: Arrays, rounds: int) -> float:
    import tritonclient.grpc as grpcclient

    count = grpcclient.InferInput("rounds", [1, 1], "INT32")
    count.set_data_from_numpy(np.array([[rounds]], np.int32))
    sent = [count]
    for name, array in arrays.items():
        tensor = grpcclient.InferInput(name, list(array.shape), _TYPES[str(array.dtype)][1])
        tensor.set_data_from_numpy(array)
        sent.append(tensor)
    return float(client.infer(MODEL, sent).as_numpy("seconds").reshape(-1)[0])
