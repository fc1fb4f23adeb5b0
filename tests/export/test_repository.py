"""The built repository, and what is built again when."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import timeit
from pathlib import Path

import numpy as np
import pytest
from benchmarks.engines import _time
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from backdrop_export import cli
from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, IP_ADAPTER, Bundle
from backdrop_export.compilers import Source, compile_engine
from backdrop_export.edge_encoder import load_weights
from backdrop_export.engine_costs import median_seconds
from backdrop_export.engines import ENGINE_KINDS, Arrays, load_network
from backdrop_export.folders import replaced_folder
from backdrop_export.loading import load_graph
from backdrop_export.manifest import read_manifest
from backdrop_export.onnx_graphs import export_graphs, outdated_graphs
from backdrop_export.reporting import Report
from backdrop_export.repository import export_repository
from backdrop_export.samples import CHECKS, Size, sample_inputs
from backdrop_export.verification import (
    Difference,
    check,
    compare,
    compare_edge_encoder,
    expected_answers,
)
from backdrop_server import contract
from backdrop_server.costs import Costs
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError, SetupError
from backdrop_server.plan import BundleFacts, Precision
from tests.export.conftest import Export


def copied(export: Export, tmp_path: Path) -> Export:
    """The same export elsewhere, free to be damaged."""
    bundle = shutil.copytree(export.bundle.path, tmp_path / "bundles" / export.bundle.name)
    out = shutil.copytree(export.out, tmp_path / "build")
    return Export(Bundle.open(bundle), out, out / export.repository.name)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)


def test_the_repository_is_complete(export: Export) -> None:
    for model in ("text_encoder", "image_encoder", "vae_encoder", "vae_decoder"):
        config = (export.repository / model / "config.pbtxt").read_text()
        assert 'backend: "onnxruntime"' in config
        assert 'key: "precision" value { string_value: "fp32" }' in config
        assert (export.repository / model / "1" / "model.onnx").is_file()
    denoise = export.repository / "denoise"
    assert 'key: "engine" value { string_value: "onnxruntime" }' in (
        (denoise / "config.pbtxt").read_text()
    )
    assert (denoise / "1" / "unet_controlnet.onnx").is_file()
    assert (denoise / "1" / "scheduler_config.json").is_file()
    for model in ("denoise", "preprocess"):
        facts = (export.repository / model / "1" / "bundle.json").read_text()
        assert BundleFacts.from_json(facts) == export.bundle.facts()
    for name in ("tokenizer", "tokenizer_2"):
        assert (export.repository / "preprocess" / "1" / name / "vocab.json").is_file()


def test_every_built_config_parses_and_names_its_engine(export: Export) -> None:
    for model in contract.MODELS:
        text = (export.repository / model.name / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert [entry.name for entry in config.input] == [tensor.name for tensor in model.inputs]
        assert config.backend or config.platform == "ensemble"
        if model.name in ("text_encoder", "image_encoder", "vae_encoder", "vae_decoder"):
            assert config.backend == "onnxruntime"
            assert config.parameters["precision"].string_value == "fp32"
        if model.name == "denoise":
            assert config.parameters["engine"].string_value == "onnxruntime"


def test_the_edge_encoder_is_there_and_compared_with_diffusers(export: Export) -> None:
    path = export.repository / "denoise" / "1" / "edge_encoder.npz"
    with np.load(path) as stored:
        expected = load_weights(export.bundle)
        assert stored.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(stored[name], array)
    rows = read_manifest(export.repository)["differences"]["engine"]
    assert sum(row["graph"] == "edge_encoder" for row in rows) == len(CHECKS)


def test_an_edge_encoder_that_differs_is_refused(export: Export, tmp_path: Path) -> None:
    weights = load_weights(export.bundle)
    np.savez(tmp_path / "wrong.npz", **weights | {"blocks.1.bias": weights["blocks.1.bias"] + 1})
    kind = ENGINE_KINDS["onnxruntime-fp32"]
    with pytest.raises(
        EngineError, match=r"edge_encoder .* differs from the original .* edge_embeds"
    ):
        compare_edge_encoder(export.bundle, tmp_path / "wrong.npz", kind)


def test_the_bench_of_engines_runs_the_denoiser(export: Export) -> None:
    times, noise = _time(
        "onnxruntime-fp32", export.repository / "denoise" / "1", export.bundle.path
    )
    assert times.keys() == {"2", "8", "16"}
    assert noise.shape[0] == 2 and np.isfinite(noise).all()


def test_the_preview_is_a_linear_map(export: Export) -> None:
    with np.load(export.repository / "denoise" / "1" / "preview.npz") as preview:
        assert preview["matrix"].shape == (4, 3)
        assert preview["bias"].shape == (3,)
        assert np.isfinite(preview["matrix"]).all()


def test_the_manifest_tells_what_it_was_made_of(export: Export) -> None:
    manifest = read_manifest(export.repository)
    assert (manifest["engine"], manifest["precision"]) == ("onnxruntime", "fp32")
    assert {row["graph"] for row in manifest["differences"]["onnx"]} == set(GRAPH_FOLDERS)
    assert "unet/config.json" in manifest["key"]["bundle"]
    assert manifest["key"]["libraries"]["torch"]


def test_costs_lie_beside_who_reads_them_and_in_the_manifest(export: Export) -> None:
    texts = {
        (export.repository / model / "1" / "costs.json").read_text()
        for model in ("control", "postprocess")
    }
    (text,) = texts
    costs = Costs.from_json(text)
    assert costs.native_pixels == export.bundle.facts().native_pixels
    assert read_manifest(export.repository)["costs"] == dataclasses.asdict(costs)


def test_the_cost_of_a_row_is_what_a_call_takes(export: Export) -> None:
    costs = Costs.from_json((export.repository / "control" / "1" / "costs.json").read_text())
    path = export.repository / "denoise" / "1" / "unet_controlnet"
    engine = load_engine("onnxruntime", path, Precision.FP32)
    side = round(costs.native_pixels**0.5)
    inputs = sample_inputs(export.bundle, DENOISER, Size(2, side, side))
    engine.run(inputs)
    rows = [s / 2 for s in timeit.repeat(lambda: engine.run(inputs), number=1, repeat=9)]
    assert min(rows) / 3 <= costs.row <= max(rows) * 3  # others may load the machine meanwhile


def test_slow_runs_are_few() -> None:
    clock = [0.0]

    def median_of(seconds: list[float]) -> tuple[float, int]:
        left = iter(seconds)

        def run() -> None:
            clock[0] += next(left)

        found = median_seconds(run, lambda: clock[0])
        return found, len(seconds) - len(list(left))

    assert median_of([9.0, 1.0, 2.0, 1.5, 1.0, 7.0, 1.0]) == (1.5, 6)  # the warm-up does not count
    assert median_of([9.0, 4.0, 4.0, 4.0, 4.0, 4.0]) == (4.0, 4)
    assert median_of([30.0, 20.0]) == (30.0, 1)


def test_a_second_run_builds_nothing(
    export: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("backdrop_export.repository.export_graphs", pytest.fail)
    again = export_repository(export.bundle.path, "onnxruntime-fp32", export.out, None, Report())
    assert again == export.repository
    assert "up to date" in capsys.readouterr().out.replace("\n", " ")


def test_no_graph_is_outdated_after_an_export(export: Export) -> None:
    assert outdated_graphs(export.bundle, "fp32", export.graphs) == []


@pytest.mark.parametrize(
    ("file", "outdated"),
    [
        ("vae/diffusion_pytorch_model.safetensors", ["vae_encoder", "vae_decoder"]),
        ("controlnet/diffusion_pytorch_model.safetensors", ["unet_controlnet"]),
        (IP_ADAPTER, ["image_encoder", "unet_controlnet"]),
        ("text_encoder_2/model.safetensors", ["text_encoder"]),
        ("scheduler/scheduler_config.json", []),
    ],
)
def test_only_what_depends_on_a_file_is_outdated(
    export: Export, tmp_path: Path, file: str, outdated: list[str]
) -> None:
    copy = copied(export, tmp_path)
    flip_last_byte(copy.bundle.path / file)
    assert outdated_graphs(copy.bundle, "fp32", copy.graphs) == outdated


def test_damaged_graphs_are_noticed_and_built_again(export: Export, tmp_path: Path) -> None:
    copy = copied(export, tmp_path)
    damaged, kept = copy.graphs / "image_encoder.onnx", copy.graphs / "vae_decoder.onnx"
    before = kept.stat().st_mtime_ns
    flip_last_byte(damaged)
    assert outdated_graphs(copy.bundle, "fp32", copy.graphs) == ["image_encoder"]
    export_graphs(copy.bundle, "fp32", copy.graphs, Report(quiet=True))
    assert outdated_graphs(copy.bundle, "fp32", copy.graphs) == []
    assert kept.stat().st_mtime_ns == before


def test_a_damaged_repository_is_built_again(export: Export, tmp_path: Path) -> None:
    copy = copied(export, tmp_path)
    flip_last_byte(copy.repository / "denoise" / "1" / "unet_controlnet.onnx")
    export_repository(copy.bundle.path, "onnxruntime-fp32", copy.out)
    written = (copy.repository / "denoise" / "1" / "unet_controlnet.onnx").read_bytes()
    assert written == (copy.graphs / "unet_controlnet.onnx").read_bytes()


@pytest.mark.parametrize("engine", ["openvino-fp32", "openvino-bf16"])
def test_openvino_engines_are_within_their_tolerance(
    export: Export, tmp_path: Path, engine: str
) -> None:
    kind, graph = ENGINE_KINDS[engine], "vae_encoder"
    source = Source(export.bundle, graph, export.graphs / f"{graph}.onnx")
    compile_engine(kind, source, tmp_path / "model")
    expected = expected_answers(export.bundle, graph, load_graph(export.bundle, graph))
    network = load_network(kind, tmp_path / "model.xml")
    rows = compare(graph, expected, network, kind)
    assert {row.engine for row in rows} == {engine}


def test_a_graph_over_tolerance_stops_the_export(export: Export) -> None:
    kind, graph = ENGINE_KINDS["onnxruntime-fp32"], "image_encoder"
    network = export.network(graph)
    expected = expected_answers(export.bundle, graph, load_graph(export.bundle, graph))

    def wrong(inputs: Arrays) -> Arrays:
        return {name: array * 1.01 for name, array in network(inputs).items()}

    with pytest.raises(EngineError, match=r"image_encoder .* differs from the original"):
        compare(graph, expected, wrong, kind)


def test_nan_is_over_any_tolerance() -> None:
    nan = float("nan")
    with pytest.raises(EngineError):
        check([Difference("g", "e", "s", "o", nan, nan, False)], ENGINE_KINDS["openvino-bf16"])


def test_a_failed_build_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "repository"
    with replaced_folder(target) as folder:
        (folder / "a").write_text("old")

    def fail() -> None:
        with replaced_folder(target) as folder:
            (folder / "a").write_text("new")
            raise EngineError("stop")

    with pytest.raises(EngineError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert (target / "a").read_text() == "old"


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["backdrop-export", *arguments])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return int(raised.value.code or 0)


def test_the_command_says_an_error_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_cli(monkeypatch, "repository", str(tmp_path / "nothing")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "there is no bundle at" in error


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert run_cli(monkeypatch, "bundle", "tiny", "--out", str(tmp_path / "file" / "tiny")) == 1
    assert re.fullmatch(
        r"backdrop-export: cannot read or write .*file: File exists\n",
        capsys.readouterr().err,
    )


def test_wrong_declarations_are_named(export: Export, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"text_encoder.config\.pbtxt"):
        export_repository(export.bundle.path, "onnxruntime-fp32", tmp_path, declarations=tmp_path)


def test_an_unknown_engine_is_refused(export: Export, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="openvino-fp32"):
        export_repository(export.bundle.path, "abacus", tmp_path)


def test_reports_show_the_worst_of_each_output() -> None:
    report = Report()
    rows = [
        {"graph": "g", "engine": "e", "output": "o", "absolute": a, "relative": a, "levels": False}
        for a in (1e-6, 3e-5)
    ]
    report.differences(rows)
    report._console.file = io.StringIO()
    report.print_differences()
    assert "3.0e-05" in report._console.file.getvalue()
