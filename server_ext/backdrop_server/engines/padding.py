"""Filling a batch up to the rows that an engine was built for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backdrop_server.engines.engine import Arrays, Engine
from backdrop_server.errors import EngineError


def padding_rows(engine: Engine, rows: int) -> int:
    """Rows to add to ``rows`` so that the engine takes them; EngineError for too many."""
    limits = engine.limits
    if limits is None:
        return 0
    if rows > limits.max_rows:
        raise EngineError(f"{rows} rows are more than the engine's {limits.max_rows}")
    return limits.padded_rows(rows) - rows


def run_padded(engine: Engine, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """As ``engine.run``; rows are added by repeating the last one, and their results dropped."""
    rows = len(next(iter(inputs.values())))
    padding = padding_rows(engine, rows)
    if not padding:
        return engine.run(inputs)
    padded = {
        name: np.concatenate([array, np.repeat(array[-1:], padding, axis=0)])
        for name, array in inputs.items()
    }
    return {name: array[:rows] for name, array in engine.run(padded).items()}
