"""A Triton model that does nothing but come back: copied into a repository by ``collection``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Reschedules each request ``rounds`` times, as `denoise` does, and says how long that took."""

    def initialize(self, args: dict[str, str]) -> None:
        """No request is in flight yet."""
        self._begun: dict[int, tuple[float, int]] = {}

    def execute(self, requests: list[Any]) -> None:
        """One round of every request in flight; Triton has collected their inputs again."""
        for request in requests:
            key = request.correlation_id()
            if key not in self._begun:
                rounds = pb_utils.get_input_tensor_by_name(request, "rounds").as_numpy()
                self._begun[key] = (time.perf_counter(), int(rounds.reshape(-1)[0]))
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                continue
            begun, left = self._begun[key]
            self._begun[key] = (begun, left - 1)
            if left > 1:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                continue
            del self._begun[key]
            seconds = np.array([[time.perf_counter() - begun]], np.float32)
            answer = pb_utils.InferenceResponse([pb_utils.Tensor("seconds", seconds)])
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
            request.get_response_sender().send(
                answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            )
