"""Puts a matting network beside `preprocess`, checked and with its licence: ours, or a user's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backdrop_export.checkpoints.sources import list_source
from backdrop_export.engines import EngineKind, load_network
from backdrop_export.reporting import Report
from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError, SetupError
from backdrop_server.stages.evidence import evidence
from backdrop_server.stages.keying import key_uniform_background
from backdrop_server.stages.matting import (
    MATTING_SPECS,
    OWN_MATTING,
    MattingNetwork,
    MattingSpec,
    declaration_of,
    network_input,
)

if TYPE_CHECKING:  # it loads torch
    from backdrop_export.verification import Difference

_ONNXRUNTIME = EngineKind("onnxruntime", Precision.FP32)
_BF16 = EngineKind("openvino", Precision.BF16)


def install_matting(source: str, kind: str, repository: Path, report: Report) -> Path:
    """Copy the ONNX file ``source`` (a file, or ``repo:file.onnx`` on the hub) into ``repository``.

    ``kind`` is one of MATTING_SPECS. Returns the file beside `preprocess`. Raises SetupError for a
    repository that is none, for a file that is no such network, and for a network whose licence
    forbids commercial use, unless it is asked for by its own name.
    """
    folder = repository / "preprocess" / "1"
    if not folder.is_dir():
        raise SetupError(f"{repository} is no built repository: it has no preprocess/1")
    spec = _spec(source, kind)
    report.say(f"{kind}, licence {spec.licence} ({spec.source})")
    file = _file(source)
    with report.step(f"{file.name} tried on a picture"):
        _check(file, kind, spec)
    target = folder / "matting.onnx"
    partial = target.with_suffix(".partial")
    shutil.copyfile(file, partial)
    partial.replace(target)
    _declare(target, kind, _ONNXRUNTIME, source)
    return target


def write_own_matting(file: Path, kind: EngineKind, folder: Path) -> list[Difference]:
    """Put our own network, the ONNX ``file``, into ``folder`` as the server is to run it.

    Where the repository's ``kind`` is OpenVINO in BF16, in that: it takes half the time. Else by
    onnxruntime in FP32. Returns how far the first's answers are from the second's; raises EngineError
    where that is over the tolerance.
    """
    target = folder / OWN_MATTING
    source = MATTING_SPECS[OWN_MATTING].source
    if kind != _BF16:
        shutil.copyfile(file, target.with_suffix(".onnx"))
        _declare(target, OWN_MATTING, _ONNXRUNTIME, source)
        return []
    from backdrop_export.openvino_graphs import write_ir

    write_ir(file, target)
    _declare(target, OWN_MATTING, kind, source)
    return _differences(file, target, kind)


def _declare(target: Path, network: str, engine: EngineKind, source: str) -> None:
    """Write what the server reads of the network in ``target``, and its licence."""
    declared = {
        "kind": network,
        "engine": engine.backend,
        "precision": engine.precision.value,
        "licence": MATTING_SPECS[network].licence,
        "source": source,
    }
    declaration_of(target).write_text(json.dumps(declared, indent=2) + "\n")


def _differences(file: Path, target: Path, kind: EngineKind) -> list[Difference]:
    """How far ``target`` is from onnxruntime's ``file``, of a box before a plain ground.

    The box's contrast rises from next to none. Raises EngineError over the tolerance.
    """
    from backdrop_export.verification import check, difference_of

    side = MATTING_SPECS[OWN_MATTING].side
    picture = np.full((side, side, 3), 235, np.uint8)
    box = picture[side // 4 : -side // 4, side // 4 : -side // 4]
    box[:] = np.linspace(230, 20, box.shape[1])[:, None]
    inputs = {"evidence": evidence(picture, key_uniform_background(picture))[None]}
    expected, found = (
        load_network(one, path)(inputs) for one, path in ((_ONNXRUNTIME, file), (kind, target))
    )
    differences = [
        difference_of(OWN_MATTING, kind.name, f"{side}x{side}", name, found[name], array)
        for name, array in expected.items()
    ]
    check(differences, kind)
    return differences


def open_matting(file: Path, kind: str) -> MattingNetwork:
    """The network in the ONNX file ``file``, by onnxruntime as the server runs all but ours in BF16."""
    engine = load_engine("onnxruntime", file.with_suffix(""), Precision.FP32)
    return MattingNetwork(kind, engine.run, engine.input_names[0], engine.output_names[0])


def _spec(source: str, kind: str) -> MattingSpec:
    if kind not in MATTING_SPECS:
        raise SetupError(f"kind {kind!r} is not known; allowed: {', '.join(MATTING_SPECS)}")
    for name, spec in MATTING_SPECS.items():
        mentioned = any(repo.lower() in source.lower() for repo in spec.repositories)
        if mentioned and not spec.commercial and name != kind:
            raise SetupError(
                f"{source} may not be used commercially (licence {spec.licence}); "
                f"ask for it by its name if that is meant: --kind {name}"
            )
    return MATTING_SPECS[kind]


def _file(source: str) -> Path:
    listing = list_source("matting", source, Path.cwd())
    names = [listing.file] if listing.file else [n for n in listing.files if n.endswith(".onnx")]
    if len(names) != 1:
        raise SetupError(f"{source} holds {len(names)} ONNX files; name one: {source}:file.onnx")
    return listing.fetch(names) / names[0]


def _check(file: Path, kind: str, spec: MattingSpec) -> None:
    """Run it once: a network of another kind refuses the size, or gives no map."""
    try:
        engine = load_engine("onnxruntime", file.with_suffix(""), Precision.FP32)
        ramp = np.linspace(0, 255, spec.side * spec.side * 3).reshape(spec.side, spec.side, 3)
        picture = network_input(ramp.astype(np.uint8), spec)
        first = engine.run({engine.input_names[0]: picture})[engine.output_names[0]]
    except (EngineError, KeyError) as error:
        raise SetupError(f"{file.name} is no {kind} network: {error}") from error
    if first.shape[-2:] != (spec.side, spec.side) or first.size != spec.maps * spec.side**2:
        raise SetupError(f"{file.name} is no {kind} network: its output is {first.shape}")
    if not np.isfinite(first).all():
        raise SetupError(f"{file.name} gives values that are no numbers")
