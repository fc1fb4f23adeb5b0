"""From a bundle to a complete Triton model repository in a folder of its own."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdrop_export.bundles import DENOISER, GRAPH_FOLDERS, SCHEDULER, Bundle
from backdrop_export.compilers import (
    Source,
    check_sizes,
    compile_engine,
    engine_file_name,
    max_batch_size,
    optimization_profiles,
)
from backdrop_export.engine_costs import costs_of, measure_engine
from backdrop_export.engines import (
    DEFAULT_ENGINE,
    QUANTIZED,
    EngineKind,
    engine_kind,
    kind_for_graph,
    load_network,
    why_absent,
)
from backdrop_export.folders import replaced_folder
from backdrop_export.manifest import (
    code_version,
    device_name,
    files_match,
    hash_file,
    hash_files,
    library_versions,
    read_manifest,
    write_manifest,
)
from backdrop_export.matting import write_own_matting
from backdrop_export.onnx_graphs import export_graphs, graphs_folder
from backdrop_export.recipes import trained_matting
from backdrop_export.reporting import Report
from backdrop_export.samples import ENCODERS
from backdrop_server.errors import SetupError

if TYPE_CHECKING:  # it loads torch
    from backdrop_export.verification import Difference

_BATCH_LINE = re.compile(r"^max_batch_size: \d+$", re.MULTILINE)
DECLARATIONS = Path(__file__).resolve().parents[2] / "model_repository"


def export_repository(
    bundle: Path,
    engine: str = DEFAULT_ENGINE,
    out: Path = Path("build"),
    declarations: Path | None = None,
    report: Report | None = None,
) -> Path:
    """Build the repository ``out/<bundle>-<engine>`` and return its path.

    ONNX files are kept in ``out/graphs/<bundle>-<precision>``. What is up to date is not built
    again. Raises SetupError for an incomplete bundle or an unknown engine, EngineError for a graph
    that differs from torch by more than the engine's tolerance; the folder is then as it was.
    """
    report = report or Report(quiet=True)
    kind, opened = engine_kind(engine), Bundle.open(bundle)
    if reason := why_absent(kind):
        raise SetupError(f"the engine {kind.name} cannot be built here: {reason}")
    source = _checked_declarations(declarations or DECLARATIONS)
    target = out / f"{opened.name}-{kind.name}"
    key = _repository_key(opened, kind, source)
    if _is_current(target, key):
        report.say(f"{target}: up to date")
        return target
    graphs = graphs_folder(opened, kind.graph_precision, out)
    records = export_graphs(opened, kind.graph_precision, graphs, report)
    with replaced_folder(target) as folder:
        builder = _Builder(opened, kind, graphs, folder, report)
        builder.build(source)
        _write_repository_manifest(key, builder, records)
    report.print_differences()
    report.say(f"{target}: complete")
    return target


def _checked_declarations(folder: Path) -> Path:
    for model in (*ENCODERS, "preprocess", "denoise"):
        config = folder / model / "config.pbtxt"
        if not config.is_file():
            raise SetupError(f"the model declarations lack {config}; see --declarations")
    return folder


def _declaration_files(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if "__pycache__" not in file.parts)
    return sorted(file for file in found if file.is_file())


def _repository_key(bundle: Bundle, kind: EngineKind, declarations: Path) -> dict[str, Any]:
    folders = [entry.name for entry in bundle.path.iterdir() if entry.is_dir()]
    files = [*bundle.files(tuple(folders)), *bundle.path.glob("*.json")]
    matting = trained_matting()
    return {
        "bundle": hash_files(bundle.path, sorted(files)),
        "matting": hash_file(matting) if matting else None,
        "declarations": hash_files(declarations, _declaration_files(declarations)),
        "code": code_version(),
        "libraries": library_versions(),
        "engine": kind.backend,
        "precision": kind.precision.value,
        "device": device_name() if kind.is_built_for_a_device else None,
    }


def _is_current(folder: Path, key: dict[str, Any]) -> bool:
    manifest = read_manifest(folder)
    return manifest.get("key") == key and files_match(folder, manifest["files"])


def _write_repository_manifest(
    key: dict[str, Any], builder: _Builder, records: dict[str, Any]
) -> None:
    folder = builder.folder
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = {
        "engine": builder.kind.backend,
        "precision": builder.kind.precision.value,
        "differences": {
            "onnx": [row for record in records.values() for row in record["differences"]],
            "engine": builder.differences,
        },
        "costs": dataclasses.asdict(costs_of(builder.bundle, builder.seconds)),
        "key": key,
        "files": hash_files(folder, files),
    }
    write_manifest(folder, manifest)


@dataclasses.dataclass
class _Builder:
    """One repository being written into ``folder``."""

    bundle: Bundle
    kind: EngineKind
    graphs: Path
    folder: Path
    report: Report
    differences: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """By graph, of one call of its engine."""

    def build(self, declarations: Path) -> None:
        """Copy the declarations and put beside them all that they name."""
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(declarations, self.folder, ignore=ignored, dirs_exist_ok=True)
        for graph in GRAPH_FOLDERS:
            with self.report.step(f"{graph}: {self.kind.name} engine"):
                self._engine(graph)
        self._denoise_files()
        self._preprocess_files()
        self._costs_files()

    def _engine(self, graph: str) -> None:
        model, stem = ("denoise", graph) if graph == DENOISER else (graph, "model")
        version = self.folder / model / "1"
        version.mkdir(parents=True, exist_ok=True)
        source = Source(self.bundle, graph, self.graphs / f"{graph}.onnx")
        kind = kind_for_graph(self.kind, self.bundle, graph)
        compile_engine(kind, source, version / stem)
        self._verify(kind, source, version / stem)
        self.seconds[graph] = measure_engine(kind, self.bundle, graph, version / stem)
        lines = _parameter("precision", kind.precision.value)
        if graph == DENOISER:
            lines = _parameter("engine", self.kind.backend) + lines
        else:
            lines = self._backend_lines(source, version / stem) + lines
        config = self.folder / model / "config.pbtxt"
        text = config.read_text(encoding="utf-8")
        if (most := max_batch_size(kind)) is not None and graph != DENOISER:
            text = _BATCH_LINE.sub(f"max_batch_size: {most}", text)
        config.write_text(text.rstrip("\n") + "\n" + lines, encoding="utf-8")

    def _backend_lines(self, source: Source, engine: Path) -> str:
        """What tells Triton how to run a plain graph."""
        lines = f'backend: "{self.kind.triton_backend}"\n'
        if file := engine_file_name(self.kind, engine):
            lines += f'default_model_filename: "{file}"\n'
        if (count := optimization_profiles(self.kind, source)) > 1:
            names = ", ".join(f'"{number}"' for number in range(count))
            lines += f"instance_group [ {{ profile: [ {names} ] }} ]\n"
        if self.kind.triton_backend != self.kind.backend:
            lines += _parameter("engine", self.kind.backend)
        return lines

    def _verify(self, kind: EngineKind, source: Source, engine: Path) -> None:
        quantized = source.graph == DENOISER and kind.precision in QUANTIZED
        if kind.backend == "onnxruntime" and not quantized:
            return  # the very file that was compared when it was written
        from backdrop_export.loading import load_graph
        from backdrop_export.verification import compare, expected_answers

        module = load_graph(self.bundle, source.graph)
        sizes = check_sizes(kind, source)
        expected = expected_answers(self.bundle, source.graph, module, sizes)
        del module  # beside the engine it would be twice the weights
        self._tell(compare(source.graph, expected, load_network(kind, engine), kind))

    def _denoise_files(self) -> None:
        from backdrop_export.edge_encoder import write_weights
        from backdrop_export.preview import write_preview

        version = self.folder / "denoise" / "1"
        self._facts(version)
        shutil.copyfile(self.bundle.path / SCHEDULER, version / "scheduler_config.json")
        with self.report.step("edge encoder: writing"):
            write_weights(self.bundle, version / "edge_encoder.npz")
            self._verify_edge_encoder(version / "edge_encoder.npz")
        with self.report.step("preview: fitting"):
            write_preview(self.bundle, version / "preview.npz")

    def _verify_edge_encoder(self, path: Path) -> None:
        from backdrop_export.verification import compare_edge_encoder

        self._tell(compare_edge_encoder(self.bundle, path, self.kind))

    def _preprocess_files(self) -> None:
        version = self.folder / "preprocess" / "1"
        self._facts(version)
        for name in ("tokenizer", "tokenizer_2"):
            shutil.copytree(self.bundle.path / name, version / name)
        if matting := trained_matting():
            with self.report.step("matting network: writing"):
                found = write_own_matting(matting, self.kind, version)
            self._tell(found)

    def _tell(self, found: list[Difference]) -> None:
        rows = [dataclasses.asdict(difference) for difference in found]
        self.differences += rows
        self.report.differences(rows)

    def _costs_files(self) -> None:
        text = costs_of(self.bundle, self.seconds).to_json()
        for model in ("control", "postprocess"):
            (self.folder / model / "1" / "costs.json").write_text(text, encoding="utf-8")

    def _facts(self, version: Path) -> None:
        (version / "bundle.json").write_text(self.bundle.facts().to_json(), encoding="utf-8")


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
