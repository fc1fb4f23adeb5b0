"""FP16 convolutions on a CPU, which torch has only in a form a hundred times too slow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional


class _HalfConvolution(torch.autograd.Function):
    """FP16 in and out, sums in FP32, as on a GPU; traced as the one Conv node that it is."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> torch.Tensor:
        wide = None if bias is None else bias.float()
        result = functional.conv2d(
            states.float(), weight.float(), wide, stride, padding, dilation, groups
        )
        return result.half()

    @staticmethod
    def symbolic(
        g: Any,
        states: Any,
        weight: Any,
        bias: Any,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Any:
        """The ONNX node."""
        inputs = (
            [states, weight] if bias is None or bias.node().mustBeNone() else [states, weight, bias]
        )
        return g.op(
            "Conv",
            *inputs,
            kernel_shape_i=weight.type().sizes()[2:],
            strides_i=stride,
            pads_i=[*padding, *padding],
            dilations_i=dilation,
            group_i=groups,
        )


@contextlib.contextmanager
def quick_half_convolutions() -> Iterator[None]:
    """Run and trace every FP16 ``nn.Conv2d`` on the CPU with sums in FP32 while the block runs."""
    original = nn.Conv2d._conv_forward

    def forward(
        self: nn.Conv2d, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        padding = self.padding
        if states.dtype is not torch.float16 or isinstance(padding, str):
            return cast(torch.Tensor, original(self, states, weight, bias))
        sizes = (list(self.stride), list(padding), list(self.dilation))
        return cast(
            torch.Tensor,
            _HalfConvolution.apply(states, weight, bias, *sizes, self.groups),  # type: ignore[no-untyped-call]
        )

    nn.Conv2d._conv_forward = forward  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        nn.Conv2d._conv_forward = original  # type: ignore[method-assign]
