"""The few weights of a random bundle that are not random, so that samplers converge.

A random UNet predicts noise that has nothing to do with the noise in the latents, and no sampler
converges on that. So some of its channels are wired to carry the latents unchanged from the first
convolution over the outermost skip connection to the last one. The prediction is then the noise
that is there plus the answer of the random rest of the network to all its inputs; that answer is
turned down while there is much noise, as a trained network's is.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from backdrop_export.weights import Weights

_GROUP = 4
"""Channels in a norm group at the UNet's outermost level; one group carries one latent channel."""
_WIRED = 16
"""Channels of the wired path: +z, -z and a constant pair for each of four latent channels."""
_CARRIER = 1.5
"""The constant pair, which makes the group's norm follow the latents only loosely."""
_GLIMPSE = 0.25
"""How strongly the random rest sees the latents; above it guided samplers amplify rounding."""
_CLOCK = 0
"""The channel of the time embedding that grows with the timestep."""
_SILU_RMS = 0.6
"""Root mean square of silu of a unit normal."""


@dataclasses.dataclass(frozen=True)
class Strengths:
    """Of the wired path and the random rest, in the units of the prediction and the picture."""

    identity: float = 1.3
    """Share of the scaled latents in the noise prediction."""
    texture: float = 0.65
    """Standard deviation of the random rest's answer."""
    damping: float = 4.0
    """How much that answer is turned down at the highest timestep."""
    contrast: float = 0.6
    """Standard deviation of a decoded picture, in -1..1."""


def wire_unet(weights: Weights, strengths: Strengths) -> None:
    """Wire ``weights`` of a UNet whose outermost norm groups have four channels, in place."""
    last = _last_resnet(weights)
    _balance_inputs(weights["conv_in.weight"])
    _shade_wired_channels(weights)
    _wire_latents(weights, last)
    _wire_clock(weights)
    _wire_damping(weights, last, strengths.damping)
    _wire_output(weights, strengths)


def _last_block(weights: Weights) -> int:
    return max(int(name.split(".")[1]) for name in weights if name.startswith("up_blocks."))


def _last_resnet(weights: Weights) -> str:
    prefix = f"up_blocks.{_last_block(weights)}.resnets."
    last = max(int(name.split(".")[3]) for name in weights if name.startswith(prefix))
    return f"{prefix}{last}"


def _balance_inputs(conv_in: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    conv_in[:, :4] *= np.float32(_GLIMPSE)
    conv_in[:, 4:5] *= np.float32(3)  # the mask is one channel of nine, and constant over areas
    conv_in[:, 5:] *= np.float32(1.5)


def _wire_latents(weights: Weights, last: str) -> None:
    """Latents through the first convolution and the last shortcut, past everything between."""
    conv_in, bias = weights["conv_in.weight"], weights["conv_in.bias"]
    shortcut = weights[f"{last}.conv_shortcut.weight"]
    conv_in[:_WIRED], bias[:_WIRED] = 0, 0
    for name in ("conv2.weight", "conv2.bias", "conv_shortcut.weight", "conv_shortcut.bias"):
        weights[f"{last}.{name}"][:_WIRED] = 0
    skip = shortcut.shape[1] - conv_in.shape[0]
    shortcut[:_WIRED, skip : skip + _WIRED, 0, 0] = np.eye(_WIRED, dtype=np.float32)
    for channel, first in enumerate(range(0, _WIRED, _GROUP)):
        conv_in[first, channel, 1, 1], conv_in[first + 1, channel, 1, 1] = 1, -1
        bias[first + 2], bias[first + 3] = _CARRIER, -_CARRIER


def _shade_wired_channels(weights: Weights) -> None:
    """Let the random rest see little of the wired channels, wherever it reads the outermost level."""
    outermost = re.compile(rf"(down_blocks\.0|up_blocks\.{_last_block(weights)})\..*\.weight")
    width = weights["conv_in.weight"].shape[0]
    for name, weight in weights.items():
        if not outermost.fullmatch(name) or not re.search(
            r"conv1|conv_shortcut|downsamplers", name
        ):
            continue
        skip = weight.shape[1] - width  # the skip connection is the last part of the input
        weight[:, skip : skip + _WIRED] *= np.float32(_GLIMPSE)


def _wire_clock(weights: Weights) -> None:
    """One channel of the time embedding that is near 0 at timestep 0 and about 7 at 999."""
    first = weights["time_embedding.linear_1.weight"]
    half = first.shape[1] // 2
    frequency = round(half * math.log(800) / math.log(10_000))  # sin(t / 800) grows up to 999
    for layer in ("time_embedding.linear_1", "time_embedding.linear_2", "add_embedding.linear_2"):
        weights[f"{layer}.weight"][_CLOCK] = 0
        weights[f"{layer}.bias"][_CLOCK] = 0
    first[_CLOCK, half + frequency] = 8
    weights["time_embedding.linear_2.weight"][_CLOCK, _CLOCK] = 1


def _wire_damping(weights: Weights, last: str, damping: float) -> None:
    """In each group after the wired ones two channels that grow with the clock.

    The last norm divides the group's random channels by them: silu(u) - silu(-u) = u brings the
    clock through the resnet's second half.
    """
    clock = slice(_WIRED, _WIRED + _GROUP)
    for name in ("conv1.weight", "conv1.bias", "time_emb_proj.weight", "time_emb_proj.bias"):
        weights[f"{last}.{name}"][clock] = 0
    weights[f"{last}.conv1.bias"][clock] = (0, 0, 2, -2)
    weights[f"{last}.time_emb_proj.weight"][clock, _CLOCK] = (1, -1, 0, 0)
    weights[f"{last}.norm2.weight"][clock], weights[f"{last}.norm2.bias"][clock] = 1, 0
    conv2 = weights[f"{last}.conv2.weight"]
    weights[f"{last}.conv_shortcut.weight"][_WIRED:] *= np.float32(
        0.2
    )  # unlike conv2's, not normed
    for first in range(_WIRED, conv2.shape[0], _GROUP):
        pair = slice(first + 2, first + 4)
        for name in ("conv2.weight", "conv2.bias", "conv_shortcut.weight", "conv_shortcut.bias"):
            weights[f"{last}.{name}"][pair] = 0
        weights[f"{last}.conv2.bias"][pair] = (1, -1)
        conv2[pair, _WIRED, 1, 1] = (damping, -damping)
        conv2[pair, _WIRED + 1, 1, 1] = (-damping, damping)


def _wire_output(weights: Weights, strengths: Strengths) -> None:
    """The last convolution: the latents again, plus what the random channels say."""
    conv_out = weights["conv_out.weight"]
    weights["conv_norm_out.weight"][:_WIRED] = 1
    weights["conv_norm_out.bias"][:_WIRED] = 0
    silent = np.zeros(conv_out.shape[1], dtype=bool)
    silent[:_WIRED] = True
    for first in range(_WIRED, conv_out.shape[1], _GROUP):
        silent[first + 2 : first + 4] = True
    speaking = 9 * int((~silent).sum())
    gain = strengths.texture * math.sqrt(math.prod(conv_out.shape[1:]) / speaking) / _SILU_RMS
    conv_out *= np.float32(gain)
    conv_out[:, silent] = 0
    share = strengths.identity * math.sqrt((1 + _CARRIER**2) / 2)
    for channel, first in enumerate(range(0, _WIRED, _GROUP)):
        conv_out[channel, first, 1, 1], conv_out[channel, first + 1, 1, 1] = share, -share


def wire_controlnet(weights: Weights, edge_gain: float) -> None:
    """Scale a ControlNet's edge features, in place, and keep it off the UNet's wired path.

    ``edge_gain`` makes up for how dense edges are at the bundle's picture size.
    """
    weights["conv_in.weight"] *= np.float32(_GLIMPSE)
    weights["controlnet_cond_embedding.conv_out.weight"] *= np.float32(edge_gain)
    for name in ("controlnet_down_blocks.0.weight", "controlnet_down_blocks.0.bias"):
        weights[name][:_WIRED] *= np.float32(0.2)


def wire_vae(weights: Weights, strengths: Strengths, scaling_factor: float) -> None:
    """Give a VAE's last layers the ranges of a trained one, in place.

    Encoder means have a standard deviation of 1 / ``scaling_factor``, log-variances lie near 0, and
    decoded pictures have ``strengths.contrast`` around a colour.
    """
    weights["encoder.conv_out.weight"] *= np.float32(1 / _SILU_RMS)
    quant = weights["quant_conv.weight"]
    means = quant.shape[0] // 2
    quant[:means] *= np.float32(1 / scaling_factor)
    quant[means:] *= np.float32(0.5)
    weights["decoder.conv_out.weight"] *= np.float32(strengths.contrast / _SILU_RMS)
    weights["decoder.conv_out.bias"][:] = (0.25, -0.05, -0.3)
