"""The matting network that an export has put beside `preprocess`, if any."""

from __future__ import annotations

import json
from pathlib import Path

from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError
from backdrop_server.stages.matting import MATTING_SPECS, MattingNetwork


def load_matting(folder: Path) -> MattingNetwork | None:
    """The network that ``matting_network.json`` in ``folder`` names; None without that file.

    Raises EngineError for a file that is damaged, or of a kind that is not known.
    """
    declared = folder / "matting_network.json"
    if not declared.is_file():
        return None
    values = json.loads(declared.read_text())
    if values["kind"] not in MATTING_SPECS:
        known = ", ".join(MATTING_SPECS)
        raise EngineError(f"matting network {values['kind']!r} is not known; allowed: {known}")
    engine = load_engine(values["engine"], folder / "matting", Precision.FP32)
    return MattingNetwork(values["kind"], engine.run, engine.input_names[0], engine.output_names[0])
