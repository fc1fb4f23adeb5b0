"""The IP-Adapter's attention with one weight per row, for graphs that batch several requests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

Conditioning = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Prompt embeddings [rows, 77, C], image tokens [rows, T, C], weights [rows, 1, 1]."""


class RowWeightedIPAttention(nn.Module):
    """diffusers' ``IPAdapterAttnProcessor2_0`` for one adapter, without masks, with a weight per row.

    It takes the place of ``encoder_hidden_states`` as a ``Conditioning`` (Ye et al., 2023).
    """

    def __init__(self, to_k_ip: torch.Tensor, to_v_ip: torch.Tensor) -> None:
        super().__init__()
        self.to_k_ip = nn.Parameter(to_k_ip, requires_grad=False)
        self.to_v_ip = nn.Parameter(to_v_ip, requires_grad=False)

    def __call__(  # Attention reads this signature, so nn.Module's own will not do
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Conditioning,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend to the prompt and, weighted, to the image tokens; [rows, h * w, channels]."""
        prompt_embeds, image_embeds, weight = encoder_hidden_states
        query = _split_heads(attn.to_q(hidden_states), attn.heads)
        text = _attend(query, attn.to_k(prompt_embeds), attn.to_v(prompt_embeds), attn.heads)
        image = _attend(
            query,
            functional.linear(image_embeds, self.to_k_ip),
            functional.linear(image_embeds, self.to_v_ip),
            attn.heads,
        )
        attended: torch.Tensor = attn.to_out[0](text + weight * image)
        return attended


def _split_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    rows, length, width = states.shape
    return states.view(rows, length, heads, width // heads).transpose(1, 2)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int
) -> torch.Tensor:
    attended = functional.scaled_dot_product_attention(
        query, _split_heads(key, heads), _split_heads(value, heads)
    )
    return attended.transpose(1, 2).flatten(2)
