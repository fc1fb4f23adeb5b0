"""The GPU bench's arithmetic: work, rates, prices, errors, clocks, shares of kernels."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch
from benchmarks.gpu.architecture import FULL, SMALL
from benchmarks.gpu.engines import AbsentError, find_repository
from benchmarks.gpu.figures import Price, Yardstick, error_of, figures, price_of
from benchmarks.gpu.load import mixed_requests, plain_request
from benchmarks.gpu.networks import make_networks, parameters_of
from benchmarks.gpu.profiling import category_of, summarize
from benchmarks.gpu.report import ratios
from benchmarks.gpu.results import write_result, write_whole
from benchmarks.gpu.rows import Bench, attempt
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import Deadline, OutOfTimeError, timed_runs
from benchmarks.gpu.ways import chosen_engine
from benchmarks.gpu.work import count_work, flop_of

from backdrop_server.errors import EngineError, SetupError

PUBLISHED = {
    (1024, "unet"): 6.76,
    (1024, "controlnet"): 3.02,
    (1024, "vae_decode"): 10.47,
    (1024, "vae_encode"): 4.88,
    (1024, "image_encoder"): 0.34,
}
"""TFLOP of the published configurations, counted apart from this code."""


@pytest.mark.parametrize(("side", "part"), PUBLISHED)
def test_the_counter_reproduces_the_published_configurations(side: int, part: str) -> None:
    work = count_work(FULL, side, side)
    # The published ControlNet has the edge encoder in it.
    whole = getattr(work, part) + (work.edge_encoder if part == "controlnet" else 0)
    counted = whole / 1e12
    tolerance = 0.01 if counted > 1 else 0.02  # 0.34 has two digits
    assert counted == pytest.approx(PUBLISHED[side, part], rel=tolerance)


def test_the_work_of_whole_pictures() -> None:
    plain = flop_of(FULL, [plain_request(FULL, "DDIM")], edges_at_every_step=True)
    assert plain / 1e12 == pytest.approx(507, rel=0.01)
    second_order = [plain_request(FULL, "DPM2 Karras")]  # 49 evaluations, not 25
    counted = flop_of(FULL, second_order, edges_at_every_step=True)
    assert counted / 1e12 == pytest.approx(986, rel=0.01)
    once = flop_of(SMALL, [plain_request(SMALL, "DDIM")])
    assert flop_of(SMALL, [plain_request(SMALL, "DDIM", seed) for seed in range(3)]) == 3 * once
    work = count_work(SMALL, SMALL.side, SMALL.side)
    fewer = flop_of(SMALL, [plain_request(SMALL, "DDIM")], vae_encodes=1)
    assert once - fewer == work.vae_encode


def test_edges_are_encoded_once_whatever_the_steps() -> None:
    work = count_work(SMALL, SMALL.side, SMALL.side)
    assert work.edge_encoder > 0
    short = plain_request(SMALL, "DDIM")
    long = dataclasses.replace(short, steps=short.steps + 3)
    rows = 3 * short.halves
    ours = flop_of(SMALL, [long]) - flop_of(SMALL, [short])
    assert ours == rows * (work.unet + work.controlnet)
    rival, shorter = (flop_of(SMALL, [one], edges_at_every_step=True) for one in (long, short))
    assert rival - shorter == rows * (work.unet + work.controlnet + work.edge_encoder)
    assert shorter - flop_of(SMALL, [short]) == (short.steps * short.halves - 1) * work.edge_encoder


def test_the_full_networks_have_the_published_numbers_of_weights() -> None:
    counted = parameters_of(make_networks(FULL, "meta", torch.float16))
    assert counted["unet"] == pytest.approx(2.57e9, rel=0.005)
    assert counted["controlnet"] == pytest.approx(1.25e9, rel=0.005)
    assert counted["ip_adapter_attention"] == pytest.approx(0.34e9, rel=0.005)


def test_figures_of_a_known_load() -> None:
    price = Price("x", 3.6, "2026", "list")  # 0.001 a second
    row = figures([2.0, 2.0, 4.0, 1.0, 2.0], 4, 8e12, Yardstick(16e12, price))
    assert row["seconds_per_picture"] == {"median": 0.5, "min": 0.25, "max": 1.0, "runs": 5}
    assert row["pictures_per_second"] == 2.0
    assert row["tflop_per_second"] == 4.0
    assert row["ceiling_share"] == 0.25
    assert row["dollars_per_1000"] == pytest.approx(0.5)


def test_a_device_without_a_price_costs_nothing_that_is_known(tmp_path: Path) -> None:
    price = price_of("NVIDIA H200")
    assert price is not None
    assert price.date and price.source
    assert price_of("CPU") is None
    assert figures([1.0], 1, 1.0, Yardstick(1.0))["dollars_per_1000"] is None
    broken = tmp_path / "prices.toml"
    broken.write_text('[[price]]\nmatch = "H200"\ndollars = 3.29\n')
    with pytest.raises(SetupError, match="no price"):
        price_of("H200", broken)


def test_the_error_is_relative_to_the_reference() -> None:
    reference = torch.randn(1, 4, 8, 8)
    assert error_of(reference * 1.01, reference)["decibels"] == pytest.approx(40, abs=0.01)
    assert error_of(reference, reference) == {"relative": 0.0, "decibels": None}
    with pytest.raises(SetupError):
        error_of(reference[:, :2], reference)


def test_runs_are_counted_after_the_warm_up() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.2 if len(calls) == 1 else 0.01)

    warm_ups, counted = timed_runs(work, "cpu", Deadline(1))
    assert (len(warm_ups), len(counted), len(calls)) == (2, 5, 7)
    assert warm_ups[0] >= 0.2 > max(counted)


def test_too_few_runs_are_no_figure() -> None:
    with pytest.raises(OutOfTimeError, match="were made"):
        timed_runs(lambda: time.sleep(0.1), "cpu", Deadline(0.35 / 60))


def test_failed_and_absent_rows_stay_with_their_reason() -> None:
    def fail(error: Exception) -> dict[str, object]:
        raise error

    label = {"way": "ours"}
    failed = attempt(label, lambda: fail(EngineError("too many rows\nat step 3")))
    assert failed == {"way": "ours", "status": "failed", "reason": "EngineError: too many rows"}
    absent = attempt(label, lambda: fail(AbsentError("no TensorRT")))
    assert absent == {"way": "ours", "status": "absent", "reason": "no TensorRT"}


@pytest.mark.parametrize(
    ("kernel", "category"),
    [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT", "product"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "product"),
        ("triton_tem_fused_addmm_12", "product"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", "attention"),
        ("void at::native::RowwiseMomentsCUDAKernel<c10::Half>", "norm"),
        ("triton_red_fused_native_group_norm_3", "norm"),
        ("triton_poi_fused_silu_7", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, FillFunctor>", "elementwise"),
        ("void cudnn::ops::nchwToNhwcKernel<__half>", "copy"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("ncclDevKernel", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel: str, category: str) -> None:
    assert category_of(kernel) == category


def test_shares_of_kernels_and_of_nothing_add_up() -> None:
    kernels = [("nvjet_a", 10, 0.4), ("triton_poi_b", 5, 0.2), ("flash_fwd", 2, 0.1)]
    summary = summarize(kernels, wall=1.0, flop=1e12)
    assert summary["shares"] == pytest.approx(
        {"product": 0.4, "elementwise": 0.2, "attention": 0.1, "idle": 0.3}
    )
    assert summary["tflop_per_second_in_products_and_attention"] == pytest.approx(2.0)
    assert [top["kernel"] for top in summary["top"]] == ["nvjet_a", "triton_poi_b", "flash_fwd"]


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_result(tmp_path, "eager", {"rows": []})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_result(tmp_path, "eager", {"rows": [object()]})
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert json.loads(before) == {"step": "eager", "rows": []}
    assert [file.name for file in tmp_path.iterdir()] == ["eager.json"]


def timed(way: str, in_flight: int, seconds: float) -> dict[str, object]:
    label = {"way": way, "sampler": "DDIM", "in_flight": in_flight, "status": "ok"}
    return label | {"seconds_per_picture": {"median": seconds}}


def test_ratios_are_those_of_the_servers_engines() -> None:
    rows = [
        timed("diffusers eager", 1, 12.0),
        timed("diffusers torch.compile max-autotune", 1, 6.0),
        timed("ours torch", 1, 1.0),  # a baseline
        timed("ours torch", 8, 0.5),
        timed("ours compile", 1, 2.0),
        timed("ours onnxruntime-tensorrt", 1, 4.0),
        timed("ours tensorrt", 1, 8.0),
        timed("ours tensorrt", 8, 5.0),
        {"way": "ours aotinductor", "status": "failed", "sampler": "DDIM", "in_flight": 1},
    ]
    assert ratios(rows) == {
        "DDIM, one in flight: ours over diffusers eager": 3.0,
        "DDIM, one in flight: ours over diffusers torch.compile": 1.5,
        "DDIM: tensorrt with 8 in flight over itself with one": 1.6,
    }
    baselines = [row for row in rows if row["way"] in ("diffusers eager", "ours torch")]
    assert ratios(baselines) == {}


def test_the_shared_steps_run_the_servers_fastest_engine(tmp_path: Path) -> None:
    setup = Setup(SMALL, "cpu", "fp32", tmp_path, tmp_path)
    bench = Bench(setup, Deadline(1), Yardstick(1.0))
    write_result(tmp_path, "ours-compile", {"rows": [timed("ours compile", 1, 1.0)]})
    assert chosen_engine(bench) == "torch"
    write_result(tmp_path, "ours-tensorrt", {"rows": [timed("ours tensorrt", 1, 3.0)]})
    write_result(tmp_path, "ours-aotinductor", {"rows": [timed("ours aotinductor", 1, 2.0)]})
    assert chosen_engine(bench) == "aotinductor"


def write_repository(folder: Path, engine: str, precision: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"engine": engine, "precision": precision}))
    return folder


def test_each_engine_finds_its_own_repository(tmp_path: Path) -> None:
    alone = write_repository(tmp_path / "alone", "tensorrt", "fp16")
    many = tmp_path / "many"
    for name in ("onnxruntime", "onnxruntime-tensorrt", "tensorrt"):
        write_repository(many / f"sdxl-{name}-fp16", name, "fp16")
    assert find_repository(alone, "tensorrt", "fp16") == alone
    assert find_repository(alone, "tensorrt", "fp32") is None
    assert find_repository(alone, "onnxruntime-cuda", "fp16") is None
    assert find_repository(many, "onnxruntime-cuda", "fp16") == many / "sdxl-onnxruntime-fp16"
    assert find_repository(many, "tensorrt", "fp16") == many / "sdxl-tensorrt-fp16"
    assert find_repository(many, "torch", "fp16") is None
    assert find_repository(None, "tensorrt", "fp16") is None
    write_repository(many / "demo-tensorrt-fp16", "tensorrt", "fp16")
    with pytest.raises(SetupError, match=r"demo-tensorrt-fp16, sdxl-tensorrt-fp16; give one"):
        find_repository(many, "tensorrt", "fp16")


def test_the_mixed_load_is_mixed() -> None:
    requests = mixed_requests(FULL)
    assert len({request.sampler for request in requests}) >= 6
    assert len({(request.width, request.height) for request in requests}) >= 3
    assert len({request.steps for request in requests}) >= 2
    assert {len(request.seeds) for request in requests} >= {1, 2, 4}
    assert {request.halves for request in requests} == {1, 2}
