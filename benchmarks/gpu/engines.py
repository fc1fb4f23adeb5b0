"""The engines that our loop is timed with; each is looked for when it is asked for.

``torch`` is the plain module and ``compile`` the same under ``torch.compile``: baselines of the
bench. ``aotinductor`` is built here from the same module. The others load what ``backdrop-export``
built (``--repository``), whose weights are not the reference's. TensorRT and ONNX Runtime's GPU
providers are written against their published API: built, not run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backdrop_server.errors import BackdropError, SetupError
from benchmarks.gpu.compilers import LIGHT, Compiler, compiler_for, mark_step
from benchmarks.gpu.graphs import (
    DENOISER,
    ENCODERS,
    GRAPHS,
    Graphs,
    Network,
    Tensors,
    as_network,
    output_names,
)
from benchmarks.gpu.rivals import prepare_for_compile
from benchmarks.gpu.setup import Setup, denoiser_example, encoder_examples

ROW_BUCKETS = (2, 4, 8, 16)
"""Rows that packages are built for and CUDA graphs are kept for."""


BASELINES = ("torch", "compile")
"""Our loop without an engine that the server has; they set a mark, and are no result of ours."""


class AbsentError(Exception):
    """An engine that this machine has not; the text says what is missing."""


def load_graphs(engine: str, setup: Setup) -> Graphs:
    """The five networks on ``engine``; raises AbsentError, or whatever the engine fails with."""
    return _LOADERS[engine](setup)


def shares_weights(engine: str) -> bool:
    """Whether the engine runs the reference's own weights, so that its error says something."""
    return engine in (*BASELINES, "aotinductor")


def _torch(setup: Setup) -> Graphs:
    return {name: as_network(name, module) for name, module in setup.modules().items()}


def _compile(setup: Setup) -> Graphs:
    compiler = compiler_for(setup.device, LIGHT)
    modules = setup.modules()
    denoiser: Any = modules[DENOISER].inner
    decoder: Any = modules["vae_decoder"].inner
    prepare_for_compile(denoiser.unet, denoiser.controlnet)
    decoder.decoder.to(memory_format=torch.channels_last)
    compiled = {DENOISER, "vae_decoder"}
    return {
        name: _compiled_network(name, module, compiler)
        if name in compiled
        else as_network(name, module)
        for name, module in modules.items()
    }


def _compiled_network(name: str, module: nn.Module, compiler: Compiler) -> Network:
    network = as_network(name, compiler.compile(module))
    if not compiler.uses_cuda_graphs:
        return network

    def replayed(tensors: Tensors) -> Tensors:
        mark_step()
        return {key: value.clone() for key, value in network(tensors).items()}

    return replayed


# --- AOTInductor ----------------------------------------------------------------------------------


def package_path(setup: Setup, graph: str) -> Path:
    """Where the package of ``graph`` is kept; its name carries what would make it unfit."""
    made_for = f"{setup.architecture.name}-{setup.precision}-{setup.device}"
    return setup.work / f"torch-{torch.__version__}" / made_for / f"{graph}.pt2"


def missing_packages(setup: Setup) -> list[str]:
    """The graphs that have no package yet, the largest last."""
    return [graph for graph in GRAPHS if not package_path(setup, graph).is_file()]


def build_package(setup: Setup, module: nn.Module, graph: str) -> Path:
    """Compile ``module`` to a package; raises AbsentError where the export has no AOTInductor."""
    _require_export()
    aotinductor: Any = importlib.import_module("backdrop_export.aotinductor")
    limits = _limits(setup, aotinductor.builder(), graph)
    examples = encoder_examples(setup) | {DENOISER: denoiser_example(setup, ROW_BUCKETS[0])}
    target = package_path(setup, graph)
    target.parent.mkdir(parents=True, exist_ok=True)
    path: Path = aotinductor.build_package(
        module,
        examples[graph],
        output_names(graph),
        target,
        setup.device,
        limits.precision,
        limits,
    )
    return path


def _require_export() -> None:
    if importlib.util.find_spec("backdrop_export.aotinductor") is None:
        raise AbsentError("backdrop_export has no aotinductor in this checkout")


def _limits(setup: Setup, builder: str, graph: str) -> Any:
    """All of the load's sizes; the denoiser in buckets of rows, which CUDA graphs are kept for."""
    plan: Any = importlib.import_module("backdrop_server.plan")
    rows = (
        {"min_rows": ROW_BUCKETS[0], "max_rows": ROW_BUCKETS[-1], "row_buckets": ROW_BUCKETS}
        if graph == DENOISER
        else {"min_rows": 1, "max_rows": 1}
    )
    sides = setup.architecture.latent_sides
    return plan.EngineLimits(
        engine="aotinductor",
        precision=plan.Precision(setup.precision),
        builder=builder,
        heights=sides,
        widths=sides,
        **rows,
    )


def _aotinductor(setup: Setup) -> Graphs:
    _require_export()
    missing = missing_packages(setup)
    if missing:
        raise AbsentError(f"no package of {', '.join(missing)}: run the step build-aotinductor")
    paths = {graph: package_path(setup, graph) for graph in GRAPHS}
    return {graph: _engine("aotinductor", path, setup) for graph, path in paths.items()}


# --- engines that an exported repository holds -----------------------------------------------------

EXPORTED_KINDS = {
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime-tensorrt",
    "tensorrt": "tensorrt",
}
"""What ``backdrop-export`` calls the engines that are loaded from a repository."""


def find_repository(given: Path | None, engine: str, precision: str) -> Path | None:
    """The repository for ``engine``: the folder ``given`` or one in it; None when there is none.

    Raises SetupError when there are several.
    """
    if given is None or engine not in EXPORTED_KINDS:
        return None
    wanted = {"engine": EXPORTED_KINDS[engine], "precision": precision}
    found = [
        folder
        for folder in (given, *sorted(given.glob(f"*-{wanted['engine']}-{precision}")))
        if wanted.items() <= _manifest(folder).items()  # the name may end in a longer kind's
    ]
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise SetupError(f"{given} holds several repositories for {engine}: {names}; give one")
    return found[0] if found else None


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _exported(name: str, needs: str, probe: Callable[[], bool]) -> Callable[[Setup], Graphs]:
    """A loader of an engine of EXPORTED_KINDS."""
    kind = EXPORTED_KINDS[name]

    def load(setup: Setup) -> Graphs:
        if setup.device != "cuda":
            raise AbsentError(f"{name} runs on a CUDA device; this run is on the {setup.device}")
        if not probe():
            raise AbsentError(f"{needs} is not installed on this machine")
        root = find_repository(setup.repository, name, setup.precision)
        if root is None:
            where = (
                "is given (--repository)" if not setup.repository else f"is in {setup.repository}"
            )
            raise AbsentError(
                f"no repository that was exported for {kind}-{setup.precision} {where}"
            )
        paths = {graph: root / graph / "1" / "model" for graph in ENCODERS}
        paths[DENOISER] = root / "denoise" / "1" / DENOISER
        return {graph: _engine(kind, path, setup) for graph, path in paths.items()}

    return load


def _has_provider(name: str) -> Callable[[], bool]:
    def probe() -> bool:
        if importlib.util.find_spec("onnxruntime") is None:
            return False
        import onnxruntime

        return name in onnxruntime.get_available_providers()

    return probe


def _has_tensorrt() -> bool:
    return importlib.util.find_spec("tensorrt") is not None


def _engine(kind: str, path: Path, setup: Setup) -> Network:
    from backdrop_server.engines.engine import Precision
    from backdrop_server.engines.loading import load_engine

    stem = path.with_suffix("") if path.suffix == ".pt2" else path
    try:
        engine: Any = load_engine(kind, stem, Precision(setup.precision))
    except BackdropError as error:
        if "is not known" in str(error):
            raise AbsentError(str(error)) from error
        raise
    return engine_network(engine, setup.device)


def engine_network(engine: Any, device: str) -> Network:
    """A server's engine as a network: on the device where it can, else through the host.

    Rows are filled up to what the engine was built for, and cut off again.
    """
    limits = getattr(engine, "limits", None)

    def run(tensors: Tensors) -> Tensors:
        if hasattr(engine, "run_on_device"):
            made: Tensors = engine.run_on_device(tensors)
            return made
        outputs = engine.run({name: tensor.cpu().numpy() for name, tensor in tensors.items()})
        return {name: torch.from_numpy(array).to(device) for name, array in outputs.items()}

    def network(tensors: Tensors) -> Tensors:
        rows = len(next(iter(tensors.values())))
        more = 0 if limits is None else limits.padded_rows(rows) - rows
        if not more:
            return run(tensors)
        filled = {name: _fill_up(tensor, more) for name, tensor in tensors.items()}
        return {name: tensor[:rows] for name, tensor in run(filled).items()}

    return network


def _fill_up(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat([tensor, tensor[-1:].expand(rows, *tensor.shape[1:])])


_LOADERS: dict[str, Callable[[Setup], Graphs]] = {
    "torch": _torch,
    "compile": _compile,
    "aotinductor": _aotinductor,
    "onnxruntime-cuda": _exported(
        "onnxruntime-cuda",
        "an onnxruntime with the CUDA provider",
        _has_provider("CUDAExecutionProvider"),
    ),
    "onnxruntime-tensorrt": _exported(
        "onnxruntime-tensorrt",
        "an onnxruntime with the TensorRT provider",
        _has_provider("TensorrtExecutionProvider"),
    ),
    "tensorrt": _exported("tensorrt", "TensorRT", _has_tensorrt),
}
ENGINES = tuple(_LOADERS)
SERVED = tuple(engine for engine in ENGINES if engine not in BASELINES)
"""The engines that the server has."""
