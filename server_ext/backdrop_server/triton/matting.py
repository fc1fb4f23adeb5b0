"""The matting network that an export has put beside `preprocess`, if any."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError
from backdrop_server.stages.matting import MATTING_SPECS, OWN_MATTING, Arrays, MattingNetwork, Run


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


def load_matting(folder: Path, engine_time: EngineTime = _NOBODY_ASKS) -> MattingNetwork | None:
    """The network that ``matting_network.json`` in ``folder`` names; without that file our own.

    None where there is neither. ``engine_time`` adds up what its runs take.

    Raises EngineError for a file that is damaged, or of a kind that is not known.
    """
    declared = folder / "matting_network.json"
    if not declared.is_file():
        own = folder / OWN_MATTING
        is_there = own.with_suffix(".onnx").is_file()
        return _opened(OWN_MATTING, "onnxruntime", own, engine_time) if is_there else None
    values = json.loads(declared.read_text())
    if values["kind"] not in MATTING_SPECS:
        known = ", ".join(MATTING_SPECS)
        raise EngineError(f"matting network {values['kind']!r} is not known; allowed: {known}")
    return _opened(values["kind"], values["engine"], folder / "matting", engine_time)


def _opened(kind: str, engine: str, path: Path, engine_time: EngineTime) -> MattingNetwork:
    loaded = load_engine(engine, path, Precision.FP32)
    run = engine_time.of(loaded.run)
    return MattingNetwork(kind, run, loaded.input_names[0], loaded.output_names[0], loaded.device)
