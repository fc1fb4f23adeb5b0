"""A VAE that starts as a shrinking and an enlarging of the picture's colours, and learns detail.

From random weights the small VAE finds brightness soon and colours late. So six channels carry red,
green and blue and their negatives past every layer: silu(u) - silu(-u) = u brings them through the
nonlinearities, and what else a layer adds starts at zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_SIGNS = ((0, 1.0), (1, 1.0), (2, 1.0), (0, -1.0), (1, -1.0), (2, -1.0))
_CARRIED = len(_SIGNS)


@torch.no_grad()
def wire_colours(vae: Any) -> None:
    """Wire a fresh ``AutoencoderKL`` in place."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith("conv_shortcut") or (".upsamplers." in name and name.endswith("conv")):
            _pass(module)
        elif ".downsamplers." in name and name.endswith("conv"):
            _average(module)
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in):
        _split(conv)
    _join(vae.encoder.conv_out)
    _join(vae.decoder.conv_out)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.zero_()
        conv.bias.zero_()
        for channel in range(min(conv.weight.shape[:2])):
            conv.weight[channel, channel] = 1
    vae.encoder.conv_out.weight[4:] = 0


def _pass(conv: nn.Conv2d) -> None:
    """The carried channels as they are."""
    conv.weight[:_CARRIED] = 0
    conv.bias[:_CARRIED] = 0  # type: ignore[index]
    middle = conv.weight.shape[-1] // 2
    for channel in range(_CARRIED):
        conv.weight[channel, channel, middle, middle] = 1


def _average(conv: nn.Conv2d) -> None:
    """The carried channels at half the side: the mean of two by two (diffusers pads on the right)."""
    conv.weight[:_CARRIED] = 0
    conv.bias[:_CARRIED] = 0  # type: ignore[index]
    for channel in range(_CARRIED):
        conv.weight[channel, channel, :2, :2] = 0.25


def _split(conv: nn.Conv2d) -> None:
    """Three channels into six of both signs."""
    conv.weight[:_CARRIED] = 0
    conv.bias[:_CARRIED] = 0  # type: ignore[index]
    for channel, (colour, sign) in enumerate(_SIGNS):
        conv.weight[channel, colour, 1, 1] = sign


def _join(conv: nn.Conv2d) -> None:
    """Six channels of both signs, past a silu, into three; the others start small."""
    conv.weight[:] *= 0.1
    conv.weight[:3] = 0
    conv.bias[:3] = 0  # type: ignore[index]
    for channel, (colour, sign) in enumerate(_SIGNS):
        conv.weight[colour, channel, 1, 1] = sign
