"""The matting network that an export has put beside `preprocess`, if any."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError
from backdrop_server.stages.matting import (
    MATTING_SPECS,
    OWN_MATTING,
    Arrays,
    MattingNetwork,
    Run,
    declaration_of,
)


@dataclasses.dataclass
class EngineTime:
    """Adds up the seconds of an engine's runs."""

    seconds: float = 0.0

    def of(self, run: Run) -> Run:
        """``run``, its time added here."""

        def timed(inputs: Arrays) -> Arrays:
            begun = time.perf_counter()
            outputs = run(inputs)
            self.seconds += time.perf_counter() - begun
            return outputs

        return timed


_NOBODY_ASKS = EngineTime()
_STEMS = "matting", OWN_MATTING
"""Of the files, in the order in which they are looked for."""


def load_matting(folder: Path, engine_time: EngineTime = _NOBODY_ASKS) -> MattingNetwork | None:
    """The network that ``matting_network.json`` in ``folder`` names, else ``backdrop_network.json``.

    The first is a user's, the second is our own; None where there is neither. ``engine_time`` adds up
    what its runs take.

    Raises EngineError for a file that is damaged, of a kind that is not known, or not declared.
    """
    for path in (folder / stem for stem in _STEMS):
        if declaration_of(path).is_file():
            return _opened(_declared(declaration_of(path)), path, engine_time)
        if path.with_suffix(".onnx").is_file():
            wanted = declaration_of(path).name
            raise EngineError(
                f"{path.name}.onnx lacks {wanted}: the repository is to be built again"
            )
    return None


def _declared(path: Path) -> dict[str, str]:
    try:
        declared: Any = json.loads(path.read_text())
    except ValueError as error:
        raise EngineError(f"{path.name} is no JSON: {error}") from error
    texts = declared if isinstance(declared, dict) else {}
    for name in ("kind", "engine"):
        if not isinstance(texts.get(name), str):
            raise EngineError(f"{path.name} lacks {name!r}, a string")
    return texts


def _opened(declared: dict[str, str], path: Path, engine_time: EngineTime) -> MattingNetwork:
    kind, precision = declared["kind"], declared.get("precision", Precision.FP32.value)
    for name, value, allowed in (
        ("network", kind, tuple(MATTING_SPECS)),
        ("precision", precision, tuple(one.value for one in Precision)),
    ):
        if value not in allowed:
            known = ", ".join(allowed)
            raise EngineError(f"matting {name} {value!r} is not known; allowed: {known}")
    loaded = load_engine(declared["engine"], path, Precision(precision))
    run = engine_time.of(loaded.run)
    return MattingNetwork(kind, run, loaded.input_names[0], loaded.output_names[0], loaded.device)
