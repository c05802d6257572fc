"""Features of paragraphs: BLIP-2's text branch, several texts side by side, and stored ones.

Source: J. Li et al., "BLIP-2", ICML 2023, for the features; the layout of stored ones is that of
IF-FILM's VLF data set (Z. Zhao et al., ICML 2024).
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit.devices import pick_device
from fusionkit.errors import BadRequest
from fusionkit.hub import load
from fusionkit.registry import Registry

OFFLINE = "features stored with the data (encoder 'stored-features'), or another encoder by name"


class Blip2Text(nn.Module):
    """Every token's last hidden state of the text branch of BLIP-2's Q-Former; frozen.

    768 numbers a token, word pieces of BERT, at most 512 of them; not the 256 numbers of its
    projection. What IF-FILM and MTG-Fusion call BLIP-2 text features.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder.
        device: where it computes.

    Source: J. Li et al., "BLIP-2", ICML 2023, section 3.1.
    """

    def __init__(self, *, model: str = "Salesforce/blip2-itm-vit-g", device: str = "cpu") -> None:
        super().__init__()
        where = pick_device(device)
        self.model, self.tokenizer = load(
            model, "Blip2TextModelWithProjection", where, OFFLINE, processor="AutoTokenizer"
        )
        config = self.model.config.qformer_config
        self.text_dim = config.hidden_size
        self.longest = config.max_position_embeddings

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextFeatures:
        words = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        ).to(next(self.model.parameters()).device)
        mask = words["attention_mask"].bool()
        states = self.model(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).last_hidden_state.float()
        return TextFeatures(pooled=states[:, 0], tokens=states, mask=mask)


class Paragraphs(nn.Module):
    """Another encoder, asked part by part: the tokens of all parts stand side by side.

    So a text of several paragraphs (blank lines between them) has the tokens of all of them, and an
    encoder that reads few words reads a long text sentence by sentence.

    Args:
        reader: the other encoder's name.
        split: where a text is taken apart.
        options: of the other encoder.
        registry: where it comes from; None discovers the installed plugins.
        device: where it computes.
    """

    def __init__(
        self,
        *,
        reader: str = "tiny-clip",
        split: Literal["paragraph", "sentence"] = "paragraph",
        options: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        if split not in ("paragraph", "sentence"):
            raise BadRequest(f"split={split!r}: texts are split by 'paragraph' or by 'sentence'.")
        registry = registry or Registry.from_environment()
        given = dict(options or {})
        if registry.accepts("encoder", reader, "device"):
            given.setdefault("device", device)
        self.reader = registry.create("encoder", reader, **given)
        self.split, self.text_dim = split, self.reader.text_dim

    def encode_text(self, prompts: list[str]) -> TextFeatures:
        parts = [self._parts(prompt) for prompt in prompts]
        distinct = list(dict.fromkeys(part for row in parts for part in row))
        found = self.reader.encode_text(distinct)
        tokens = found.pooled[:, None] if found.tokens is None else found.tokens
        if found.tokens is not None and found.mask is not None:
            words = [row[real] for row, real in zip(tokens, found.mask, strict=True)]
        else:
            words = list(tokens)
        place = {part: row for row, part in enumerate(distinct)}
        rows = []
        for row in parts:
            pooled = found.pooled[[place[p] for p in row]].mean(0, keepdim=True)
            rows.append(
                TextFeatures(pooled=pooled, tokens=torch.cat([words[place[p]] for p in row])[None])
            )
        return TextFeatures.cat(rows)

    def _parts(self, prompt: str) -> list[str]:
        if self.split == "paragraph":
            found = re.split(r"\n\s*\n", prompt)
        else:
            found = re.split(r"(?<=[.!?])\s+|\n\s*\n", prompt)
        return [part.strip() for part in found if part.strip()] or [""]


class StoredFeatures:
    """Features that were computed elsewhere: a text is the place where they lie.

    ``folder/name.npy``, or ``file.h5#group/name`` in HDF5; ``(1, L, D)`` or ``(L, D)``, any L.

    Args:
        root: folder of places that are not absolute.
        text_dim: D.
        text_tokens: bring every text to so many tokens; longer ones are cut, shorter ones repeat
            their last token, because zeros would shift a mean that knows no mask. None keeps the
            tokens as they are, and a mask says which are real.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        text_dim: int = 768,
        text_tokens: int | None = None,
    ) -> None:
        self.root = Path(root or ".")
        self.text_dim, self.text_tokens = text_dim, text_tokens

    def encode_text(self, prompts: list[str]) -> TextFeatures:
        return TextFeatures.cat([self._features(prompt) for prompt in prompts])

    def _features(self, place: str) -> TextFeatures:
        if not place:
            return TextFeatures(
                pooled=torch.zeros(1, self.text_dim),
                tokens=torch.zeros(1, 1, self.text_dim),
            )
        tokens = torch.from_numpy(self._read(place).astype(np.float32))
        tokens = tokens.reshape(-1, tokens.shape[-1]) if tokens.ndim > 1 else tokens[None]
        if tokens.shape[-1] != self.text_dim or not len(tokens):
            raise BadRequest(
                f"{place} holds features of the shape {tuple(tokens.shape)}, where (L, "
                f"{self.text_dim}) is expected; set text_dim if they are of another encoder."
            )
        tokens = _of_length(tokens, self.text_tokens)
        return TextFeatures(pooled=tokens.mean(0, keepdim=True), tokens=tokens[None])

    def _read(self, place: str) -> np.ndarray:
        file, _, inner = place.partition("#")
        path = self.root / file
        if not path.is_file():
            raise BadRequest(
                f"encoder 'stored-features' reads a text as the place of its features, and there "
                f"is no file {path}."
            )
        if not inner:
            try:
                return np.load(path, allow_pickle=False)
            except ValueError as error:
                raise BadRequest(f"{path} is no array of NumPy: {error}") from None
        try:
            import h5py
        except ImportError as error:
            raise BadRequest(
                "HDF5 files are read by h5py, which is not installed: pip install 'fusionkit[hub]'."
            ) from error
        with h5py.File(path, "r") as content:
            if inner not in content:
                raise BadRequest(f"{path} holds nothing at {inner!r}.")
            return np.asarray(content[inner])


def _of_length(tokens: Tensor, length: int | None) -> Tensor:
    if length is None or len(tokens) == length:
        return tokens
    if len(tokens) > length:
        return tokens[:length]
    return torch.cat([tokens, tokens[-1:].expand(length - len(tokens), -1)])
