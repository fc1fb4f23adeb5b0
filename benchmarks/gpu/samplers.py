"""The server's samplers, each made when it is first asked for: not all of them, as LMS needs scipy."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import diffusers

from backdrop_server.stages.schedulers import SAMPLERS, SchedulerFactory
from benchmarks.gpu.architecture import SCHEDULER


class Samplers(SchedulerFactory):
    """As ``SchedulerFactory`` of SDXL's published configuration."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def make(self, name: str) -> Any:
        """A scheduler of its own; a copy, since the KDPM2 classes take 0.2 s to construct."""
        if name not in self._made:
            spec = SAMPLERS[name]
            with warnings.catch_warnings():  # of config keys that a class does not use
                warnings.simplefilter("ignore")
                scheduler = getattr(diffusers, spec.class_name)
                self._made[name] = scheduler.from_config(dict(SCHEDULER), **spec.arguments)
        return copy.deepcopy(self._made[name])
