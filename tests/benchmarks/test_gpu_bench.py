"""The GPU bench end to end at small size on the CPU: its logic, not its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import run
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.__main__ import parse as parse_arguments
from benchmarks.gpu.architecture import SMALL
from benchmarks.gpu.graphs import as_network, graph_modules
from benchmarks.gpu.load import SAMPLERS, mixed_requests, plain_request
from benchmarks.gpu.loop import Painter
from benchmarks.gpu.networks import make_networks
from benchmarks.gpu.pack import pack
from benchmarks.gpu.results import read_result, write_result
from benchmarks.gpu.rivals import make_eager
from benchmarks.gpu.setup import SMALL_RUNS
from benchmarks.gpu.steps import STEPS, run_step
from PIL import Image

from backdrop_export.edge_encoder import weights_of
from backdrop_server.stages.edge_encoder import EdgeEncoder
from tests.benchmarks.test_gpu_figures import write_repository

SLOW = {"build-aotinductor", "compile-light", "triton-inputs"}
"""Compiling takes minutes, the second is the same as ``compile`` on a CPU, the third has a test."""
OPTIONS = ["--size", "small", "--device", "cpu", "--precision", "fp32"]


def run_main(step: str, out: Path, *more: str) -> int:
    work = out / "work"
    return main([step, "--out", str(out), "--work", str(work), *OPTIONS, *more])


def rows_of(out: Path, step: str) -> list[dict[str, Any]]:
    result = read_result(out, step)
    assert result is not None
    return list(result["rows"])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For networks this small more threads only wait for each other, which takes minutes of CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that the bench starts
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result files of every step that is quick."""
    out = tmp_path_factory.mktemp("bench")
    for step in STEPS:
        if step not in SLOW:
            assert run_main(step, out) == 0
    return out


def test_every_step_states_its_conditions(results: Path) -> None:
    for step in STEPS.keys() - SLOW:
        result = read_result(results, step)
        assert result is not None
        assert result["conditions"]["packages"]["torch"] == torch.__version__
        assert {"commit", "dirty", "gpu", "cpu", "date"} <= result["conditions"].keys()
        assert result["settings"]["precision"] == "fp32"
        assert result["ceiling"]["tflop_per_second"] > 0
        assert "incomplete" not in result


@pytest.mark.parametrize("step", ["eager", "compile", "ours-torch", "ours-compile"])
def test_ways_agree_with_eager_fp32_and_have_all_figures(results: Path, step: str) -> None:
    rows = rows_of(results, step)
    assert [row["sampler"] for row in rows] == list(SAMPLERS)
    for row in rows:
        assert row["status"] == "ok", row
        assert row["seconds"]["runs"] == SMALL_RUNS[1]
        assert row["error"]["relative"] < 10 ** (-45 / 20)
        each = row["seconds_per_picture"]["median"]
        assert row["pictures_per_second"] * each == pytest.approx(1)
        assert row["tflop_per_second"] * each == pytest.approx(row["tflop"])


def test_batching_and_mixed_count_their_pictures(results: Path) -> None:
    assert [row["in_flight"] for row in rows_of(results, "batching")] == [1, 2, 4, 8]
    for row in rows_of(results, "batching"):
        assert row["pictures"] == row["in_flight"]
        assert row["error"]["relative"] < 10 ** (-45 / 20)
    (mixed,) = rows_of(results, "mixed")
    assert mixed["pictures"] == sum(len(request.seeds) for request in mixed_requests(SMALL))


def test_engines_that_are_not_here_are_absent_with_a_reason(results: Path) -> None:
    for engine in ("aotinductor", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"):
        for row in rows_of(results, f"ours-{engine}"):
            assert row["status"] == "absent"
            assert row["reason"]


def test_the_profile_explains_the_whole_time(results: Path) -> None:
    for row in rows_of(results, "profile"):
        assert row["status"] == "ok", row
        assert row["shares"]["product"] > 0
        assert row["top"][0]["share"] >= row["top"][-1]["share"] > 0


def test_the_report_keeps_every_row(results: Path) -> None:
    assert run_main("report", results) == 0
    text = (results / "report.md").read_text()
    rows = [row for step in STEPS.keys() - SLOW for row in rows_of(results, step)]
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(rows) + 2
    assert "absent: " in text
    assert "not a measurement" in text
    with Image.open(results / "report.png") as chart:
        assert chart.width == 1000
    merged = json.loads((results / "report.json").read_text())
    assert merged["steps"].keys() == STEPS.keys() - SLOW


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    assert run_main("report", tmp_path) == 0
    assert "not measured" in (tmp_path / "report.md").read_text()


def test_all_runs_only_what_remains(results: Path, tmp_path: Path) -> None:
    for step in STEPS:
        write_result(tmp_path, step, read_result(results, step) or {"rows": [], "conditions": {}})
    (tmp_path / "ceiling.json").unlink()
    before = {step: (tmp_path / f"{step}.json").read_bytes() for step in STEPS if step != "ceiling"}
    assert run_main("all", tmp_path) == 0
    assert read_result(tmp_path, "ceiling") is not None
    assert {step: (tmp_path / f"{step}.json").read_bytes() for step in before} == before


def test_a_step_that_is_ended_keeps_its_rows_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, Any]] = []
    setup = run._setup(parse_arguments(["eager", "--out", str(tmp_path), *OPTIONS]))
    run_step("eager", setup, 5, kept.append)
    assert [len(content["rows"]) for content in kept][:1] == [1]
    assert all(content["incomplete"] for content in kept)
    monkeypatch.setattr(run, "GRACE", 0.0)
    given = parse_arguments(["all", "--out", str(tmp_path), *OPTIONS])
    for attempt in (1, 2, 3):
        assert "eager" in run.remaining(given)
        run._run_apart(given, "eager", 0.001)  # ended while it still imports
        result = read_result(tmp_path, "eager")
        assert result is not None
        assert result["attempts"] == attempt
        assert result["rows"][-1]["status"] == "failed"
        assert "ended after" in result["rows"][-1]["reason"]
    assert "eager" not in run.remaining(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eager.json"]


def test_a_step_out_of_time_fails_its_rows(tmp_path: Path) -> None:
    assert run_main("ours-torch", tmp_path, "--minutes", "0") == 0
    for row in rows_of(tmp_path, "ours-torch"):
        assert row["status"] == "failed"
        assert "out of time" in row["reason"]


def test_what_lacked_a_repository_is_open_once_there_is_one(tmp_path: Path) -> None:
    out, root = tmp_path / "out", tmp_path / "built"
    given = parse_arguments(["all", "--out", str(out), "--repository", str(root), *OPTIONS])
    absent = {"way": "ours", "status": "absent", "reason": "no repository"}
    for step in STEPS:
        write_result(out, step, {"rows": [absent]})
    root.mkdir()
    assert run.remaining(given) == []
    write_repository(root / "sdxl-onnxruntime-fp32", "onnxruntime", "fp32")
    assert run.remaining(given) == ["ours-onnxruntime-cuda"]
    given.repository = None
    assert run.remaining(given) == []
    # Run again: here it is absent for want of a device, which another attempt does not change.
    given.repository = root
    assert run_main("ours-onnxruntime-cuda", out, "--repository", str(root)) == 0
    assert {row["status"] for row in rows_of(out, "ours-onnxruntime-cuda")} == {"absent"}
    assert run.remaining(given) == []
    write_result(out, "ours-onnxruntime-cuda", {"rows": [absent, {"way": "x", "status": "ok"}]})
    assert run.remaining(given) == []


def make_painter(dtype: torch.dtype) -> Painter:
    networks = make_networks(SMALL, "cpu", dtype)
    encode_edges = EdgeEncoder(weights_of(networks.controlnet), torch.device("cpu"))
    modules = graph_modules(networks, SMALL)
    graphs = {name: as_network(name, module) for name, module in modules.items()}
    return Painter(graphs, encode_edges, SMALL, "cpu")


def test_half_precision_stays_near_eager_fp32() -> None:
    rival = make_eager(make_networks(SMALL, "cpu", torch.float32), SMALL)
    painter = make_painter(torch.float16)
    for sampler in SAMPLERS:
        request = plain_request(SMALL, sampler)
        inputs = painter.inputs(request)
        exact = rival.paint(request, inputs, "latent")
        (painted,) = painter.paint([(request, inputs)])
        assert (painted.latents - exact).norm() / exact.norm() < 10 ** (-45 / 20)


def test_requests_in_flight_together_equal_those_alone() -> None:
    painter = make_painter(torch.float32)
    load = [(request, painter.inputs(request)) for request in mixed_requests(SMALL)]
    together = painter.paint(load, in_flight=5)
    for one, painted in zip(load, together, strict=True):
        (alone,) = painter.paint([one])
        assert painted.pixels.shape == (len(one[0].seeds), one[0].height, one[0].width, 3)
        assert torch.allclose(painted.latents, alone.latents, rtol=1e-3, atol=1e-3)


@pytest.mark.triton
def test_the_collection_of_inputs_is_measured_on_a_real_server(tmp_path: Path) -> None:
    write_result(
        tmp_path,
        "batching",
        {"rows": [{"status": "ok", "in_flight": 1, "seconds": {"median": 2.0}, "steps": 10}]},
    )
    assert run_main("triton-inputs", tmp_path) == 0
    one, eight = rows_of(tmp_path, "triton-inputs")
    assert one["status"] == eight["status"] == "ok", (one, eight)
    cost = one["cost_seconds_a_step"]["median"]
    assert one["share_of_step"] == pytest.approx(cost / 0.2)
    assert one["reschedule_seconds_a_step"]["median"] > 0
    assert eight["share_of_step"] is None


NOT_ON_A_BARE_MACHINE = (
    "accelerate", "cv2", "onnx", "onnxruntime", "openvino", "peft", "pytriton", "rich", "scipy",
    "tritonclient", "typer",
)  # fmt: skip


def test_a_packed_copy_runs_by_itself_without_what_a_bare_machine_lacks(tmp_path: Path) -> None:
    packed = pack(tmp_path / "packed", with_wheels=False)
    commit = json.loads((packed / "PACKED.json").read_text())["commit"]
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({NOT_ON_A_BARE_MACHINE!r}))\n"
    )
    places = [hidden, packed, packed / "client", packed / "export", packed / "server_ext"]
    environment = dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "PATH": str(hidden),  # no git either
    }
    script = (
        "import sys; from benchmarks.gpu.__main__ import main\n"
        "sys.exit(max(main([step, *sys.argv[1:]]) for step in ('eager', 'ours-torch', 'report')))"
    )
    command = [sys.executable, "-c", script, "--out", "results", *OPTIONS]
    subprocess.run(command, cwd=packed, env=environment, check=True)
    for step in ("eager", "ours-torch"):
        result = read_result(packed / "results", step)
        assert result is not None
        assert result["conditions"]["commit"] == commit != "unknown"
        assert {row["status"] for row in result["rows"]} == {"ok"}


@pytest.mark.soak
def test_aotinductor_packages_are_built_and_used(tmp_path: Path) -> None:
    """Minutes of compiling; fails where the export has no AOTInductor."""
    for step in ("reference", "build-aotinductor", "ours-aotinductor"):
        assert run_main(step, tmp_path) == 0
    for row in rows_of(tmp_path, "build-aotinductor") + rows_of(tmp_path, "ours-aotinductor"):
        assert row["status"] == "ok", row
    for row in rows_of(tmp_path, "ours-aotinductor"):
        assert row["error"]["relative"] < 10 ** (-45 / 20)
