"""Training samples: whole pairs with their six texts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fusionkit.batch import Batch
from fusionkit.data import crop as cut
from fusionkit.data import resize
from fusionkit.protocols import Pair

KINDS = ("ir", "vi", "common", "ir_unique", "vi_unique", "fused")
"""The six texts of a pair."""
CLEAR = 0.06
"""Contrast to its surroundings from which a thing counts as seen."""


class TextedPairs:
    """Pairs with their descriptions, resized to one size as the published protocol does.

    A pair without descriptions but with true masks (the generated scenes) is described from them,
    see :func:`describe`; one without either has no text, like all of them when ``texts`` is False
    (first stage).

    Args:
        pairs: aligned pairs of any sizes.
        registry, encoder, guides: offered to every task, not needed here.
        crop: height and width of a sample; None is the smallest side of the pairs. Pictures are
            never enlarged.
        cutting: ``resize`` squeezes whole pictures (the release), ``crop`` cuts squares out.
        texts: whether samples carry texts.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Any = None,
        encoder: Any = None,
        guides: Any = None,
        crop: int | None = None,
        cutting: str = "resize",
        texts: bool = True,
    ) -> None:
        if cutting not in ("resize", "crop"):
            raise ValueError(f"cutting={cutting!r} is neither 'resize' nor 'crop'.")
        self.cutting, self.pairs = cutting, list(pairs)
        least = min((min(p.visible.shape[-2:]) for p in self.pairs), default=1)
        self.side = least if crop is None else min(crop, least)
        self.texts = [self.describe(pair) if texts else {} for pair in self.pairs]
        self.prompts = tuple(
            dict.fromkeys([""] + [text for texts in self.texts for text in texts.values()])
        )
        self._small: dict[int, tuple[Tensor, Tensor]] = {}

    def describe(self, pair: Pair) -> dict[str, str]:
        """The six texts of a pair, those there are."""
        written = {kind: pair.texts[kind] for kind in KINDS if pair.texts.get(kind)}
        return written or (describe(pair) if pair.masks else {})

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` pairs drawn with replacement; the prompt is the text of the ideal picture."""
        rows = torch.randint(len(self.pairs), (count,), generator=generator).tolist()
        pictures = [self._picture(row, generator) for row in rows]
        words = tuple(self.texts[row] for row in rows)
        return Batch(
            visible=torch.stack([visible for visible, _ in pictures]),
            infrared=torch.stack([infrared for _, infrared in pictures]),
            prompts=tuple(texts.get("fused", "") for texts in words),
            labels={"texts": words},
            names=tuple(self.pairs[row].name for row in rows),
        )

    def _picture(self, row: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pair = self.pairs[row]
        if self.cutting == "resize":
            if row not in self._small:
                small = resize(pair, self.side, self.side)
                self._small[row] = small.visible, small.infrared
            return self._small[row]
        corner = [
            int(torch.randint(extent - self.side + 1, (1,), generator=generator))
            for extent in pair.visible.shape[-2:]
        ]
        part = cut(pair, *corner, self.side, self.side)
        return part.visible, part.infrared


def describe(pair: Pair) -> dict[str, str]:
    """Six short texts of a pair with true masks, told from what each modality shows of each thing.

    A thing is seen in a picture when its mean differs by ``CLEAR`` from that of a ring around it.
    """
    seen: dict[str, list[str]] = {"ir": [], "vi": []}
    for label, mask in pair.masks.items():
        inside = mask > 0.5
        if not inside.any():
            continue
        ring = _grown(inside) & ~inside
        if not ring.any():
            continue
        for kind, picture in (("ir", pair.infrared), ("vi", pair.visible)):
            grey = picture.mean(0, keepdim=True)
            if (grey[inside].mean() - grey[ring].mean()).abs() > CLEAR:
                seen[kind].append(label)
    both = [name for name in seen["ir"] if name in seen["vi"]]
    only = {kind: [name for name in names if name not in both] for kind, names in seen.items()}
    every = list(dict.fromkeys(seen["ir"] + seen["vi"]))
    return {
        "ir": f"The infrared image shows {_listed(seen['ir'])}.",
        "vi": f"The visible image shows {_listed(seen['vi'])}.",
        "common": f"Both images show {_listed(both)}.",
        "ir_unique": f"Only the infrared image shows {_listed(only['ir'])}.",
        "vi_unique": f"Only the visible image shows {_listed(only['vi'])}.",
        "fused": f"The fused image shows {_listed(every)} clearly.",
    }


def _grown(inside: Tensor, by: int = 4) -> Tensor:
    """A mask with a border of some pixels."""
    return avg_pool2d(inside.float()[None], 2 * by + 1, 1, by)[0] > 0


def _listed(names: Sequence[str]) -> str:
    *others, last = [f"the {name}" for name in names] or ["little"]
    return f"{', '.join(others)} and {last}" if others else last
