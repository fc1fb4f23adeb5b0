"""Prompts to token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import CLIPTokenizer


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a bundle's ``tokenizer`` or ``tokenizer_2`` folder."""
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> npt.NDArray[np.int64]:
    """Token ids, int64 [len(prompts), 77]: padded, and cut at 77 tokens as diffusers cuts them."""
    encoded = tokenizer(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="np"
    )
    return np.asarray(encoded["input_ids"], np.int64)
