"""What can be said of a picture without any model: how bright it is, and where it stands out."""

import numpy as np
from scipy import ndimage
from torch import Tensor

from fusionkit.color import luma
from fusionkit_captions.facts import Facts, Item

SMALLEST = 0.0008
"""Share of the picture below which a spot is not mentioned."""


def measure(image: Tensor, modality: str, most: int = 6) -> Facts:
    """Facts of one picture ``(C, H, W)`` in [0, 1]: its tone, and its brightest and darkest spots.

    A spot is a connected area more than 1.5 standard deviations from the mean after smoothing;
    the larger ones are told first.
    """
    grey = luma(image[None].float())[0, 0].cpu().numpy()
    mean, spread = float(grey.mean()), float(grey.std())
    tone = "dark" if mean < 0.25 else "bright" if mean > 0.6 else "evenly lit"
    article = "an" if tone[0] in "aeiou" else "a"
    contrast = "low" if spread < 0.1 else "high" if spread > 0.25 else "medium"
    smooth = ndimage.gaussian_filter(grey, max(1.0, min(grey.shape) / 100))
    bright, dark = ("warm", "cold") if modality == "infrared" else ("bright", "dark")
    spots = [
        (size, Item(f"a {word} area", box))
        for word, away in ((bright, smooth - mean), (dark, mean - smooth))
        for size, box in _areas(away > max(1.5 * spread, 0.02))
    ]
    spots.sort(key=lambda entry: -entry[0])
    return Facts(
        caption=f"{article} {tone} {modality} image of {contrast} contrast",
        items=tuple(item for _, item in spots[:most]),
        modality=modality,
    )


def _areas(marked: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Size and box of each connected area that is worth mentioning."""
    labels, _ = ndimage.label(marked)
    sizes = np.bincount(labels.ravel())[1:]
    return [
        (int(size), (window[1].start, window[0].start, window[1].stop, window[0].stop))
        for size, window in zip(sizes, ndimage.find_objects(labels), strict=True)
        if size >= SMALLEST * marked.size
    ]
