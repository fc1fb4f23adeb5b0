"""The steps that time a way of painting: diffusers, and our loop with an engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backdrop_export.edge_encoder import weights_of
from backdrop_server.stages.edge_encoder import EdgeEncoder
from benchmarks.gpu.compilers import Compiler, compiler_for
from benchmarks.gpu.engines import (
    ENGINES,
    SERVED,
    AbsentError,
    build_package,
    find_repository,
    load_graphs,
    missing_packages,
    shares_weights,
)
from benchmarks.gpu.load import IN_FLIGHT, SAMPLERS, Request, mixed_requests, plain_request
from benchmarks.gpu.loop import ROW_LIMIT, Painter
from benchmarks.gpu.networks import make_controlnet, parameters_of
from benchmarks.gpu.results import read_result
from benchmarks.gpu.rivals import Diffusers, make_compiled, make_eager
from benchmarks.gpu.rows import (
    Bench,
    Row,
    attempt,
    reference_error,
    timed_row,
    write_reference,
)
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import seconds_of
from benchmarks.gpu.work import flop_of

Content = dict[str, Any]
MIXED_IN_FLIGHT = 8


def reference(bench: Bench) -> Content:
    """Latents of eager diffusers in fp32, no TF32 anywhere: what every error is measured from."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    setup = bench.setup
    networks = setup.networks("fp32")
    rival = make_eager(networks, setup.architecture)
    latents = {}
    for sampler in SAMPLERS:
        request = plain_request(setup.architecture, sampler)
        latents[sampler] = rival.paint(request, rival.inputs(request), "latent")
    write_reference(setup.out, latents)
    spread = {name: float(value.std()) for name, value in latents.items()}
    return {"rows": [], "latents_std": spread, "parameters": parameters_of(networks)}


def eager(bench: Bench) -> Content:
    """Rival (1)."""
    setup = bench.setup
    make = functools.partial(make_eager, setup.networks(), setup.architecture)
    return {"rows": _diffusers_rows(bench, "diffusers eager", make)}


def compiled(bench: Bench, on_gpu: Compiler) -> Content:
    """Rival (2)."""
    setup = bench.setup
    compiler = compiler_for(setup.device, on_gpu)
    make = functools.partial(make_compiled, setup.networks(), setup.architecture, compiler)
    way = f"diffusers torch.compile {compiler.mode or compiler.backend}"
    return {"rows": _diffusers_rows(bench, way, make), "compiler": compiler.facts()}


def _diffusers_rows(bench: Bench, way: str, make: Callable[[], Diffusers]) -> list[Row]:
    setup = bench.setup
    rival = functools.cache(make)  # made by the first row, which fails if it cannot be

    def row(request: Request) -> Row:
        inputs = rival().inputs(request)
        flop = flop_of(setup.architecture, [request], vae_encodes=1, edges_at_every_step=True)
        made = timed_row(bench, lambda: rival().paint(request, inputs), 1, flop)
        latents = rival().paint(request, inputs, "latent")
        return made | {"error": reference_error(setup.out, request.sampler, latents)}

    requests = (plain_request(setup.architecture, name) for name in SAMPLERS)
    return bench.rows(
        functools.partial(attempt, _label(way, request), functools.partial(row, request))
        for request in requests
    )


def _label(way: str, request: Request, in_flight: int = 1) -> Row:
    return {
        "way": way,
        "sampler": request.sampler,
        "in_flight": in_flight,
        "steps": request.steps,
        "size": [request.width, request.height],
        "seed": request.seeds[0],
    }


# --- our loop ---------------------------------------------------------------------------------------


def ours(bench: Bench, engine: str) -> Content:
    """Our loop with one engine, a request at a time."""
    painter = functools.cache(lambda: make_painter(bench, engine))
    requests = (plain_request(bench.setup.architecture, name) for name in SAMPLERS)
    rows = bench.rows(
        functools.partial(_ours_row, bench, painter, engine, request, 1) for request in requests
    )
    repository = find_repository(bench.setup.repository, engine, bench.setup.precision)
    return {
        "engine": engine,
        "row_limit": ROW_LIMIT,
        "repository": repository and str(repository.resolve()),
        "rows": rows,
    }


def batching(bench: Bench) -> Content:
    """Our loop with 1, 2, 4 and 8 requests in flight, every step shared."""
    engine = chosen_engine(bench)
    painter = functools.cache(lambda: make_painter(bench, engine))
    request = plain_request(bench.setup.architecture, SAMPLERS[0])
    rows = bench.rows(
        functools.partial(_ours_row, bench, painter, engine, request, count) for count in IN_FLIGHT
    )
    return {"engine": engine, "row_limit": ROW_LIMIT, "rows": rows}


def mixed(bench: Bench) -> Content:
    """Our loop with samplers, steps, sizes and samples mixed; one joins as another ends."""
    engine, architecture = chosen_engine(bench), bench.setup.architecture
    requests = mixed_requests(architecture)

    def row() -> Row:
        painter = make_painter(bench, engine)
        load = [(request, painter.inputs(request)) for request in requests]
        pictures = sum(len(request.seeds) for request in requests)
        return timed_row(
            bench,
            lambda: painter.paint(load, MIXED_IN_FLIGHT),
            pictures,
            flop_of(architecture, requests),
        )

    label = {"way": f"ours {engine}", "sampler": "mixed", "in_flight": MIXED_IN_FLIGHT}
    made = attempt(label, row)
    return {"engine": engine, "requests": [vars(request) for request in requests], "rows": [made]}


def make_painter(bench: Bench, engine: str) -> Painter:
    """Our loop on ``engine``; raises AbsentError where the machine lacks it."""
    setup = bench.setup
    graphs, encode_edges = load_graphs(engine, setup), _edge_encoder(engine, setup)
    return Painter(graphs, encode_edges, setup.architecture, setup.device)


def _edge_encoder(engine: str, setup: Setup) -> EdgeEncoder:
    """The server's: of the repository that ``engine`` is loaded from, else of ``setup``'s networks."""
    device = torch.device(setup.device)
    repository = find_repository(setup.repository, engine, setup.precision)
    if repository is not None:
        with np.load(repository / "denoise" / "1" / "edge_encoder.npz") as stored:
            return EdgeEncoder(dict(stored), device)
    weights = weights_of(make_controlnet(setup.architecture, setup.device, setup.dtype))
    if setup.device == "cuda":
        torch.cuda.empty_cache()  # the rest of that ControlNet would count as the engine's memory
    return EdgeEncoder(weights, device)


def _ours_row(
    bench: Bench, painter: Callable[[], Painter], engine: str, request: Request, in_flight: int
) -> Row:
    setup = bench.setup

    def row() -> Row:
        architecture = setup.architecture
        seeds = range(request.seeds[0], request.seeds[0] + in_flight)
        requests = [plain_request(architecture, request.sampler, seed) for seed in seeds]
        load = [(each, painter().inputs(each)) for each in requests]
        made = timed_row(
            bench, lambda: painter().paint(load), in_flight, flop_of(architecture, requests)
        )
        if not shares_weights(engine):
            return made | {"error": None, "error_note": "the repository has weights of its own"}
        first = painter().paint(load)[0]
        return made | {"error": reference_error(setup.out, request.sampler, first.latents)}

    return attempt(_label(f"ours {engine}", request, in_flight), row)


def build_packages(bench: Bench) -> Content:
    """Compile the AOTInductor packages that are missing, one graph after another."""
    setup = bench.setup
    modules = functools.cache(setup.modules)

    def build(graph: str) -> Row:
        bench.deadline.require(30, f"compiling {graph}")
        seconds = seconds_of(lambda: build_package(setup, modules()[graph], graph), setup.device)
        return {"build_seconds": seconds}

    rows = bench.rows(
        functools.partial(
            attempt, {"way": f"build aotinductor {graph}"}, functools.partial(build, graph)
        )
        for graph in missing_packages(setup)
    )
    return {"rows": rows}


def chosen_engine(bench: Bench) -> str:
    """The engine that was asked for, else the server's fastest in ``ours-*`` results, else torch."""
    setup = bench.setup
    if setup.engine is not None:
        if setup.engine not in ENGINES:
            raise AbsentError(f"there is no engine {setup.engine!r}; engines: {', '.join(ENGINES)}")
        return setup.engine
    seconds = {}
    for engine in SERVED:
        rows = (read_result(setup.out, f"ours-{engine}") or {}).get("rows", [])
        found = [r["seconds_per_picture"]["median"] for r in rows if r["status"] == "ok"]
        if found:
            seconds[engine] = min(found)
    return min(seconds, key=seconds.__getitem__, default="torch")
