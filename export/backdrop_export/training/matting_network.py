"""Our own matting network: a small U-Net that corrects what keying finds."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from backdrop_server.stages.evidence import CHANNELS

WIDTHS = (24, 40, 64, 88, 112)
BLOCKS = (1, 1, 2, 2, 1)
"""Residual blocks on the way down; on the way up there is one at each size."""
KEYED, IS_KEYED = 3, 4
"""The places of the keyed matte and of whether there is one in the evidence."""
GROUPS = 8
SPREAD = 1.1
"""Sigmoids are spread so far about one half and cut, so that all and nothing are exactly 1 and 0."""
EDGE_WEIGHT = 4.0
LEVELS = 4


class Block(nn.Module):
    """Two convolutions beside the identity (He et al. 2016, pre-activated)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to the same."""
        out: torch.Tensor = x + self.second(functional.relu(self.first(self.norm(x))))
        return out


class Everywhere(nn.Module):
    """Attention of each place to all others, one head; for the smallest size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to the same."""
        query, key, value = self.ask(self.norm(x)).flatten(2).chunk(3, dim=1)
        weight = torch.softmax(query.transpose(1, 2) @ key / x.shape[1] ** 0.5, dim=-1)
        found = (value @ weight.transpose(1, 2)).reshape(x.shape)
        out: torch.Tensor = x + self.out(found)
        return out


class MatteNet(nn.Module):
    """Evidence [N, CHANNELS, H, W], sides multiples of 32, to two maps [N, 2, H, W] in 0 to 1.

    The first is the product's share, the second how far it is to replace the keyed matte.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * CHANNELS, WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in itertools.pairwise(WIDTHS)
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(count)))
            for width, count in zip(WIDTHS, BLOCKS, strict=True)
        )
        self.everywhere = Everywhere(WIDTHS[-1])
        self.up = nn.ModuleList(nn.Conv2d(low, high, 1) for high, low in itertools.pairwise(WIDTHS))
        self.decoder = nn.ModuleList(Block(width) for width in WIDTHS[:-1])
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(WIDTHS[0], 8, 3, padding=1))

    def logits(self, told: torch.Tensor) -> torch.Tensor:
        """Both maps before their sigmoids, [N, 2, H, W]."""
        x = self.encoder[0](self.stem(functional.pixel_unshuffle(told, 2)))
        kept = [x]
        for down, blocks in zip(self.down, self.encoder[1:], strict=True):
            x = blocks(down(functional.relu(x)))
            kept.append(x)
        x = self.everywhere(kept.pop())
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            wide = functional.interpolate(up(x), scale_factor=2.0, mode="nearest")
            x = block(wide + kept.pop())
        return functional.pixel_shuffle(self.head(x), 2)

    def forward(self, told: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return maps_of(self.logits(told), told)


def maps_of(logits: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """The two maps; where nothing was keyed the second is 1."""
    spread = ((torch.sigmoid(logits) - 0.5) * SPREAD + 0.5).clamp(0, 1)
    share, gate = spread.chunk(2, dim=1)
    gate = torch.maximum(gate, 1 - told[:, IS_KEYED : IS_KEYED + 1])
    return torch.cat([share, gate], dim=1)


def mixed(maps: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """The matte [N, 1, H, W] that the maps make of the keyed one, as the server does."""
    share, gate = maps.chunk(2, dim=1)
    return torch.lerp(told[:, KEYED : KEYED + 1], share, gate)


def matte_loss(logits: torch.Tensor, told: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The loss against the true ``alpha`` [N, 1, H, W].

    L1 of the matte and of each band of its pyramid (as Hou and Liu 2019); cross entropy of the share
    by itself, which has a slope where the cut sigmoid has none; and a price on replacing what was
    keyed well.
    """
    maps = maps_of(logits, told)
    error = mixed(maps, told) - alpha
    soft = ((alpha > 0) & (alpha < 1)).float()
    weight = 1 + EDGE_WEIGHT * functional.max_pool2d(soft, 5, stride=1, padding=2)
    weight = weight / weight.mean()
    loss = (weight * error.abs()).mean() + _bands(error)
    entropy = functional.binary_cross_entropy_with_logits(logits[:, :1], alpha, weight)
    good = ((told[:, KEYED : KEYED + 1] - alpha).abs() < 0.05).float()
    keyed = told[:, IS_KEYED : IS_KEYED + 1]
    return loss + 0.3 * entropy + 0.02 * (maps[:, 1:] * good * keyed).mean()


def _bands(error: torch.Tensor) -> torch.Tensor:
    total = error.new_zeros(())
    for _ in range(LEVELS):
        coarse = functional.avg_pool2d(error, 2)
        band = error - functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        total = total + band.abs().mean()
        error = coarse
    return total + error.abs().mean()
