"""``torch.compile`` as the bench uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch._inductor.config

GUIDE_SETTINGS = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "epilogue_fusion": False,
    "coordinate_descent_check_all_directions": True,
}
"""``torch._inductor.config`` as https://huggingface.co/docs/diffusers/optimization/fp16 sets it."""


@dataclasses.dataclass(frozen=True)
class Compiler:
    """A backend of ``torch.compile`` with its mode and Inductor's settings."""

    backend: str
    mode: str | None = None
    settings: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    def configure(self) -> None:
        """Set Inductor's settings, for this process."""
        for name, value in self.settings.items():
            if hasattr(torch._inductor.config, name):  # they come and go with torch's versions
                setattr(torch._inductor.config, name, value)

    def compile(self, function: Any) -> Callable[..., Any]:
        """``function`` compiled as a whole: a break in its graph is an error."""
        options: dict[str, Any] = {"mode": self.mode} if self.mode else {}
        compiled: Callable[..., Any] = torch.compile(
            function, backend=self.backend, fullgraph=True, **options
        )
        return compiled

    @property
    def uses_cuda_graphs(self) -> bool:
        """Whether it replays CUDA graphs on a GPU."""
        return self.mode in ("reduce-overhead", "max-autotune")

    def facts(self) -> dict[str, Any]:
        """For the result file."""
        return {"backend": self.backend, "mode": self.mode, "settings": dict(self.settings)}


def mark_step() -> None:
    """Tell CUDA graphs that what earlier calls gave is not needed any more."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


GUIDE = Compiler("inductor", "max-autotune", GUIDE_SETTINGS)
LIGHT = Compiler("inductor", "reduce-overhead")
"""Without the search for the fastest kernels, which can outlast a step."""
CAPTURE_ONLY = Compiler("eager")
"""The graph is captured whole but no code is made: Inductor takes two minutes on two CPU cores."""


def compiler_for(device: str, on_gpu: Compiler) -> Compiler:
    """``on_gpu``, or on the CPU, where only the bench's logic is tested, CAPTURE_ONLY."""
    return on_gpu if device == "cuda" else CAPTURE_ONLY
