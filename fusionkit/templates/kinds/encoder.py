"""Prompts as bags of words.

Source: write here whose idea it is, and where its weights come from.
"""

import zlib

import torch
from torch import Tensor

from fusionkit.batch import TextFeatures


class Component:
    """A vector per word, drawn from the word's letters; a prompt is the mean of its words.

    It needs no weights and understands nothing, but the same word is always the same vector. An
    encoder of pictures too offers ``encode_image`` and ``heatmap`` (``fusionkit.protocols``).

    Args:
        text_dim: D, the width of the features.
    """

    def __init__(self, *, text_dim: int = 64) -> None:
        self.text_dim = text_dim

    def encode_text(self, prompts: list[str]) -> TextFeatures:
        """``pooled (B, D)``, ``tokens (B, L, D)``, ``mask (B, L)``, true where there is a word."""
        rows = [[self._vector(word) for word in p.lower().split() or [""]] for p in prompts]
        longest = max(map(len, rows))
        tokens = torch.zeros(len(rows), longest, self.text_dim)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.stack(row)
            mask[i, : len(row)] = True
        return TextFeatures(
            pooled=tokens.sum(1) / mask.sum(1, keepdim=True), tokens=tokens, mask=mask
        )

    def _vector(self, word: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
        return torch.randn(self.text_dim, generator=generator)
