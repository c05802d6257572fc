"""Prompts encoded once. A text tower costs as much as a training step, a look-up costs nothing."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fusionkit.batch import TextFeatures
from fusionkit.protocols import Encoder


class TextBank:
    """Features of prompts by their words, optionally standardised.

    Sentence embeddings of one encoder point in nearly the same direction; what differs between two
    prompts is a small part of each number. Standardising every dimension over a bank of prompts
    gives the modulation that difference at unit size. The statistics belong to a trained network:
    :meth:`state` goes into its checkpoint.

    Args:
        encoder: turns prompts into features.
        standardise: subtract the mean and divide by the deviation of the bank, per dimension;
            token features likewise, over all real tokens.
        device: where the features live.
        reads: what of a prompt the encoder is told; None tells it all.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        standardise: bool = False,
        device: torch.device | str = "cpu",
        reads: Callable[[str], str] | None = None,
    ) -> None:
        self.encoder = encoder
        self.reads = reads or str
        self.standardise = standardise
        self.device = torch.device(device)
        self._rows: dict[str, int] = {}
        self._raw: TextFeatures | None = None
        self._bank: TextFeatures | None = None
        self._scale: dict[str, Tensor] = {}

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the encoder was told so far, in order."""
        return tuple(self._rows)

    @torch.no_grad()
    def add(self, prompts: Iterable[str]) -> None:
        """Encode the prompts that are not in the bank yet."""
        new = [p for p in dict.fromkeys(map(self.reads, prompts)) if p not in self._rows]
        if not new:
            return
        found = self.encoder.encode_text(new).to(device=self.device, dtype=torch.float32)
        for prompt in new:
            self._rows[prompt] = len(self._rows)
        self._raw = found if self._raw is None else TextFeatures.cat([self._raw, found])
        self._bank = None

    def fit(self) -> None:
        """Take the statistics of the prompts encoded so far; later prompts are scaled by them."""
        if not self.standardise or self._raw is None:
            return
        raw = self._raw
        self._scale = dict(zip(("mean", "deviation"), _statistics(raw.pooled), strict=True))
        if raw.tokens is not None:
            tokens = raw.tokens.flatten(0, 1) if raw.mask is None else raw.tokens[raw.mask]
            self._scale |= dict(
                zip(("token_mean", "token_deviation"), _statistics(tokens), strict=True)
            )
        self._bank = None

    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of the prompts, ``(len(prompts), D)``."""
        self.add(prompts)
        if self._bank is None:
            self._bank = self.scale(self._raw)
        rows = [self._rows[self.reads(p)] for p in prompts]
        return self._bank[torch.tensor(rows, device=self.device)]

    def scale(self, text: TextFeatures) -> TextFeatures:
        """Given features, standardised by the statistics of the bank."""
        if not self._scale:
            return text
        scale = {key: value.to(text.pooled.device) for key, value in self._scale.items()}
        tokens = text.tokens
        if tokens is not None:
            tokens = (tokens - scale["token_mean"]) / scale["token_deviation"]
            if text.mask is not None:
                tokens = tokens * text.mask[..., None]
        pooled = (text.pooled - scale["mean"]) / scale["deviation"]
        return TextFeatures(pooled=pooled, tokens=tokens, mask=text.mask)

    def state(self) -> dict[str, Tensor]:
        """The statistics, for a checkpoint; empty when nothing is standardised."""
        return {key: value.cpu() for key, value in self._scale.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Statistics of a checkpoint."""
        self._scale = {key: value.to(self.device) for key, value in state.items()}
        self._bank = None


def _statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per dimension; a dimension that never varies is left at its size."""
    mean = rows.mean(0)
    deviation = rows.std(0, correction=0)
    return mean, torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
