"""Do heat maps find what a word names? Two measures, pair by pair, against masks or boxes.

``pointing`` is 1 where the highest place of the map lies on the thing (pointing game; J. Zhang et
al., "Top-Down Neural Attention by Excitation Backprop", ECCV 2016, without its margin of 15
pixels); ``area`` is the area under the ROC curve: the chance that a place on the thing scores
higher than one elsewhere. A box is coarser than a mask, so both are kinder with boxes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fusionkit.protocols import JointEncoder, Pair

SOURCES = ("infrared", "visible", "both")
"""What is looked at; ``both`` is the mean of the two maps."""
LEAST = 0.001
"""Share of the picture below which a rendered thing is not asked for."""


@torch.no_grad()
def pointing(
    encoder: JointEncoder, pairs: Iterable[Pair], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How well the maps of ``the <label>`` find it, in either picture of each pair and in both.

    Returns:
        ``{"pointing: person, infrared": {pair name: value}}``: a pair that does not show a label is
        not asked for it.
    """
    found: dict[str, dict[str, float]] = {}
    for pair in pairs:
        for label in labels:
            mask = where(pair, label)
            if mask is None:
                continue
            pictures = torch.stack([pair.infrared.expand(3, -1, -1), pair.visible])
            maps = encoder.heatmap([f"the {label}"], pictures)[:, 0].float().cpu()
            for source, heat in zip(SOURCES, (*maps, maps.mean(0)), strict=True):
                hit = float(mask.flatten()[heat.argmax()])
                found.setdefault(f"pointing: {label}, {source}", {})[pair.name] = hit
                found.setdefault(f"area: {label}, {source}", {})[pair.name] = area(heat, mask)
    return found


def where(pair: Pair, label: str) -> Tensor | None:
    """Where the thing is, ``(H, W)`` bool, from masks or else boxes; None where it is not."""
    if label in pair.masks:
        here = pair.masks[label][0] > 0.5
        least = LEAST * here.numel()
    else:
        things = () if pair.masks else pair.things
        here = boxed([t.box for t in things if t.label == label], pair.visible.shape[-2:])
        least = 1
    return here if least <= int(here.sum()) < here.numel() else None


def boxed(boxes: Iterable[Sequence[float]], size: Sequence[int]) -> Tensor:
    """What lies in any of the boxes (x0, y0, x1, y1), in pixels: ``(H, W)`` bool of that size."""
    inside = torch.zeros(*size, dtype=torch.bool)
    for box in boxes:
        x0, y0, x1, y1 = (max(round(side), 0) for side in box)
        inside[y0:y1, x0:x1] = True
    return inside


def area(heat: Tensor, mask: Tensor) -> float:
    """Area under the ROC curve of a map ``(H, W)`` for a mask that is neither empty nor full.

    Ties count a half (Mann and Whitney's statistic).

    Example:
        >>> area(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
        0.875
    """
    inside, outside = heat[mask].double(), heat[~mask].double().sort().values
    below = torch.searchsorted(outside, inside)
    not_above = torch.searchsorted(outside, inside, right=True)
    return float((below + not_above).double().mean() / (2 * len(outside)))
