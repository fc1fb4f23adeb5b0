"""What an engine was built for: read, checked at load, and kept to by padding."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backdrop_server.engines.engine import Arrays, Engine, Precision
from backdrop_server.engines.limits import check_builder, check_fits, check_gpu, read_limits
from backdrop_server.engines.loading import load_engine
from backdrop_server.engines.network import as_network
from backdrop_server.engines.padding import padding_rows, run_padded
from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits, tensorrt_plan_stem
from backdrop_server.working_sizes import WORKING_MAX_ASPECT, working_size, working_sizes
from tests.unit.engine_graphs import write_onnx
from tests.unit.test_engines import arrays

LIMITS = EngineLimits(
    "onnxruntime",
    Precision.FP32,
    "onnxruntime 1.32.0",
    max_rows=8,
    min_rows=2,
    row_buckets=(2, 4, 8),
    heights=(8, 32),
    widths=(8, 16),
    gpu="NVIDIA H200",
    compute_capability="9.0",
)


def test_limits_survive_their_file() -> None:
    sizes = dataclasses.replace(LIMITS, heights=None, sizes=((8, 16), (16, 8)), row_buckets=())
    for limits in (LIMITS, sizes):
        assert EngineLimits.from_json(limits.to_json()) == limits


@pytest.mark.parametrize(
    "change",
    [
        {"min_rows": 0},
        {"max_rows": 1},
        {"row_buckets": (4, 2, 8)},
        {"row_buckets": (2, 4)},
        {"row_buckets": (4, 8)},
    ],
)
def test_rows_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="engine's"):
        dataclasses.replace(LIMITS, **change)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps(json.loads(LIMITS.to_json()) | {"colour": 1}),
        json.dumps(json.loads(LIMITS.to_json()) | {"precision": "fp7"}),
        json.dumps(json.loads(LIMITS.to_json()) | {"min_rows": 0}),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "graph.json").write_text(text)
    with pytest.raises(EngineError, match=r"graph\.json is not the limits of an engine"):
        read_limits(tmp_path / "graph.onnx")


def test_no_file_means_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path / "graph.onnx") is None


@pytest.mark.parametrize(("rows", "padded"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_rows_are_filled_up_to_the_next_bucket(rows: int, padded: int) -> None:
    assert LIMITS.padded_rows(rows) == padded
    without = dataclasses.replace(LIMITS, row_buckets=())
    assert without.padded_rows(rows) == max(2, rows)


def test_what_fits_is_let_through() -> None:
    check_fits(None, 1000, [(1, 1)])
    check_fits(LIMITS, 8, [(8, 8), (32, 16)])
    check_fits(dataclasses.replace(LIMITS, heights=None), 8, [(999, 16)])
    check_fits(dataclasses.replace(LIMITS, sizes=((8, 99),)), 8, [(8, 99)])


@pytest.mark.parametrize(
    ("row_limit", "sizes", "message"),
    [
        (9, [], r"up to 9 rows come in one call; the engine was built for at most 8"),
        (8, [(40, 8)], r"latents of 40x8 \(height x width\); the engine was built for heights 8 "),
        (8, [(8, 8), (8, 24), (8, 40)], r"8x24 .* and 1 more sizes; .* 8 to 32 and widths 8 to 16"),
    ],
)
def test_what_does_not_fit_is_refused(
    row_limit: int, sizes: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        check_fits(LIMITS, row_limit, sizes)


def test_a_size_that_is_not_in_the_list_is_refused() -> None:
    listed = dataclasses.replace(LIMITS, sizes=((8, 16), (16, 8)))
    with pytest.raises(EngineError, match=r"latents of 8x8 .* was built for 8x16, 16x8$"):
        check_fits(listed, 8, [(8, 8)])


def test_another_version_or_gpu_is_refused() -> None:
    check_builder(LIMITS, "onnxruntime 1.32.0")
    with pytest.raises(EngineError, match=r"built with onnxruntime 1\.32\.0; here is x 2: export"):
        check_builder(LIMITS, "x 2")
    check_gpu(LIMITS, "NVIDIA H200", (9, 0))
    check_gpu(dataclasses.replace(LIMITS, gpu=None, compute_capability=None), "any", (7, 5))
    for name, capability in (("NVIDIA L4", (8, 9)), ("NVIDIA L4", (9, 0)), ("NVIDIA H200", (8, 0))):
        with pytest.raises(EngineError, match="was built for NVIDIA H200 of compute capability 9"):
            check_gpu(LIMITS, name, capability)


def test_an_engine_is_loaded_with_its_limits(tmp_path: Path) -> None:
    write_onnx(tmp_path / "graph.onnx")
    (tmp_path / "graph.json").write_text(LIMITS.to_json())
    assert load_engine("onnxruntime", tmp_path / "graph", Precision.FP32).limits == LIMITS
    with pytest.raises(EngineError, match="was built for onnxruntime-fp32; the configuration says"):
        load_engine("onnxruntime", tmp_path / "graph", Precision.FP16)


def test_padding_changes_no_row(tmp_path: Path) -> None:
    write_onnx(tmp_path / "graph.onnx")
    free = load_engine("onnxruntime", tmp_path / "graph", Precision.FP32)
    (tmp_path / "graph.json").write_text(LIMITS.to_json())
    bound = load_engine("onnxruntime", tmp_path / "graph", Precision.FP32)
    for rows in range(1, 9):
        given = arrays(rows)
        plain, padded = free.run(given), run_padded(bound, given)
        for name, array in plain.items():
            assert padded[name].shape == array.shape
            np.testing.assert_allclose(padded[name], array, atol=1e-5)
    with pytest.raises(EngineError, match="9 rows are more than the engine's 8"):
        run_padded(bound, arrays(9))


class Doubling:
    """An engine on the host that notes how many rows it was given."""

    device = "cpu"
    input_names: tuple[str, ...] = ("sample",)

    def __init__(self, limits: EngineLimits | None, outputs: tuple[str, ...] = ("twice",)) -> None:
        self.limits = limits
        self.output_names = outputs
        self.given: list[Arrays] = []

    def run(self, inputs: Arrays) -> dict[str, Any]:
        self.given.append(inputs)
        return dict.fromkeys(self.output_names, inputs["sample"] * 2)


def test_a_network_is_padded_by_its_last_row_and_cut_back() -> None:
    engine = Doubling(LIMITS)
    network = as_network(engine)
    sample = torch.arange(10, dtype=torch.float32).reshape(5, 2)
    assert torch.equal(network({"sample": sample}), sample * 2)
    (given,) = engine.given
    assert given["sample"].tolist() == [*sample.tolist(), [8, 9], [8, 9], [8, 9]]
    assert padding_rows(engine, 5) == 3


def test_a_network_on_the_host_sees_the_tensors_own_memory() -> None:
    engine = Doubling(None)
    sample = torch.ones(3, 2)
    as_network(engine)({"sample": sample})
    assert np.shares_memory(engine.given[0]["sample"], sample.numpy())


def test_a_network_has_one_output() -> None:
    engine: Engine = Doubling(None, ("one", "two"))
    with pytest.raises(EngineError, match="a network has one output, this engine 2"):
        as_network(engine)


@pytest.mark.parametrize("native", [64**2, 128**2, 512**2, 768**2, 1024**2])
def test_working_sizes_are_all_that_photos_get(native: int) -> None:
    sizes = set(working_sizes(native))
    draw = random.Random(native)
    photos = [(draw.randint(1, 2048), draw.randint(1, 2048)) for _ in range(300)]
    photos += [(1, 2048), (2048, 1), (512, 512), (2048, 511)]
    assert {working_size(*photo, native) for photo in photos} <= sizes
    aspect = int(WORKING_MAX_ASPECT)
    assert all(
        working_size(w, h, native) == (w, h)
        or (w, h) in {working_size(aspect, 1, native), working_size(1, aspect, native)}
        for w, h in sizes
    )


def test_a_plans_name_says_where_it_runs() -> None:
    stem = tensorrt_plan_stem("unet_controlnet", "tensorrt 10.9.0.34", "NVIDIA H200", "9.0")
    assert stem == "unet_controlnet-tensorrt-10.9.0.34-NVIDIA-H200-sm90"


def test_a_host_engine_does_not_pay_for_torch(tmp_path: Path) -> None:
    """Each model of the server is a process of its own."""
    write_onnx(tmp_path / "graph.onnx")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from backdrop_server.engines.engine import Precision\n"
        "from backdrop_server.engines.loading import load_engine\n"
        "from backdrop_server.engines.padding import run_padded\n"
        f"load_engine('onnxruntime', Path({str(tmp_path / 'graph')!r}), Precision.FP32)\n"
        "assert not {'torch', 'openvino', 'PIL'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
