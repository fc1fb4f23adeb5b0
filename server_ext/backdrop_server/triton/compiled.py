"""Triton's Python-based backends for compiled graphs, where the native ones are missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from backdrop_server.engines.engine import Engine, Precision
from backdrop_server.engines.limits import check_fits
from backdrop_server.engines.loading import load_engine
from backdrop_server.engines.padding import run_padded
from backdrop_server.triton.board import board_path
from backdrop_server.triton.cores import cores_for
from backdrop_server.triton.tensors import answer_each, parameter


class CompiledModel:
    """A model folder that holds a ``config.pbtxt`` and ``1/model.*``; the backend names the engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine file of this model version."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        precision = Precision(parameter(config, "precision"))
        self._inputs = [entry["name"] for entry in config["input"]]
        # A backend may have several engines: Triton's own `onnxruntime` runs TensorRT's provider.
        kind = (
            parameter(config, "engine") if "engine" in config["parameters"] else config["backend"]
        )
        self._engine: Engine = load_engine(kind, folder / "model", precision)
        check_fits(self._engine.limits, int(config["max_batch_size"]), sizes=())
        self._cores = cores_for(self._engine.device, board_path(os.getppid()))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run each request by itself: on a CPU a larger batch is no faster for these graphs."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> Any:
        arrays = {
            name: np.asarray(pb_utils.get_input_tensor_by_name(request, name).as_numpy())
            for name in self._inputs
        }
        wanted = request.requested_output_names()
        with self._cores():
            outputs = run_padded(self._engine, arrays)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.ascontiguousarray(outputs[name])) for name in wanted]
        )
