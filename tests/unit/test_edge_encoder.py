"""The edge encoder against diffusers' own part of the ControlNet."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch.nn import functional

from backdrop_server.stages.edge_encoder import EdgeEncoder

CPU = torch.device("cpu")


def diffusers_part(channels: int, hidden: tuple[int, ...]) -> ControlNetConditioningEmbedding:
    torch.manual_seed(3)
    part = ControlNetConditioningEmbedding(channels, block_out_channels=hidden)
    torch.nn.init.normal_(part.conv_out.weight, std=0.1)  # it begins as zeros
    torch.nn.init.normal_(part.conv_out.bias, std=0.1)
    return part


def edge_encoder_weights() -> dict[str, npt.NDArray[np.float32]]:
    """Of a small one, whose pictures are 8 times as wide as what it gives."""
    part = diffusers_part(6, (4, 5, 6, 7))
    return {name: tensor.numpy() for name, tensor in part.state_dict().items()}


@pytest.mark.parametrize("hidden", [(16, 32, 96, 256), (4, 8, 16, 32), (8, 12)], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (128, 192)], ids=str)
def test_it_gives_what_the_part_of_diffusers_gives(
    hidden: tuple[int, ...], size: tuple[int, int]
) -> None:
    part = diffusers_part(10, hidden)
    weights = {name: tensor.numpy() for name, tensor in part.state_dict().items()}
    edges = torch.from_numpy(
        np.where(np.random.default_rng(1).random(size) < 0.1, 255, 0).astype(np.uint8)
    )
    found = EdgeEncoder(weights, CPU)(edges)
    with torch.inference_mode():
        expected = part((edges.float() / 255).expand(1, 3, *size))[0]
    scale = 2 ** (len(hidden) - 1)
    assert found.shape == (10, size[0] // scale, size[1] // scale)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_it_computes_by_cudnn_in_whole_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's context manager both are the other way round unless they are said."""
    seen = []
    convolve = functional.conv2d

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return convolve(*args, **kwargs)

    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(functional, "conv2d", watched)
    EdgeEncoder(edge_encoder_weights(), CPU)(torch.zeros(64, 64, dtype=torch.uint8))
    assert seen == [(True, False)] * 8
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before


def test_edges_are_left_as_they_are() -> None:
    edges = torch.full((64, 64), 255, dtype=torch.uint8)
    encode = EdgeEncoder(edge_encoder_weights(), CPU)
    assert torch.equal(encode(edges), encode(edges))
    assert edges.min() == edges.max() == 255
