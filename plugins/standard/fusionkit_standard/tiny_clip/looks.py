"""Domain randomisation: one scene as many cameras would show it.

Real pictures differ from rendered ones in ways nobody lists in advance, so each picture in training
gets a random look, drawn wider than real cameras are (J. Tobin et al., "Domain Randomization for
Transferring Deep Neural Networks from Simulation to the Real World", IROS 2017).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KNOTS = 5  # of a random tone curve


def restyle(image: Tensor, colour: bool, rng: np.random.Generator) -> Tensor:
    """Another look for each of ``(B, C, H, W)`` pictures in [0, 1]; the order of steps is fixed.

    Each step meets its own random part of the batch: resolution, sharpness, local contrast,
    a rising tone curve, lighting across the picture, contrast, noise; for colour pictures also
    colour balance and, seldom, a partly inverted brightness.
    """
    steps: list[tuple[float, Callable[[Tensor, np.random.Generator], Tensor]]] = [
        (0.3, coarser),
        (0.4, sharpness),
        (0.3 if colour else 0.4, flattened),
        (0.6, tone_curve),
        (0.4, lighting),
        (0.4, contrast),
        (0.3, noise),
    ]
    if colour:
        steps += [(0.5, balance), (0.05, partly_inverted)]
    image = image.clone()
    for odds, step in steps:
        hit = torch.from_numpy(np.flatnonzero(rng.random(len(image)) < odds))
        if len(hit):
            image[hit] = step(image[hit], rng).clamp(0, 1)
    return image


def coarser(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Fewer pixels, brought back: one factor of 1.3 to 2.5 for all."""
    size = [max(8, int(side / rng.uniform(1.3, 2.5))) for side in image.shape[-2:]]
    small = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(small, image.shape[-2:], mode="bilinear", align_corners=False)


def sharpness(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Softer, or sharper with the halos of an unsharp mask."""
    soft = _box(image, 1)
    return soft + (image - soft) * _per_picture(rng.uniform(0, 3.5, len(image)))


def flattened(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Local contrast control: differences from a wide mean kept, the mean itself pulled together.

    Thermal cameras do this so that a warm road does not hide what stands on it.
    """
    # A mean over few cells, drawn smooth: far quicker than a wide blur.
    cells = [int(rng.integers(3, 9))] * 2
    wide = F.adaptive_avg_pool2d(image, cells)
    wide = F.interpolate(wide, image.shape[-2:], mode="bilinear", align_corners=False)
    keep = _per_picture(rng.uniform(0.1, 0.8, len(image)))
    gain = _per_picture(rng.uniform(0.9, 1.8, len(image)))
    middle = wide.mean((1, 2, 3), keepdim=True)
    return middle + (wide - middle) * keep + (image - wide) * gain


def tone_curve(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A random rising curve per picture, piecewise linear over KNOTS steps.

    The ends stay; slopes differ by up to a factor of about ten, so grey levels crowd or spread.
    """
    rise = torch.from_numpy(rng.dirichlet(np.full(KNOTS, 1.5), len(image))).float()
    ends = F.pad(rise.cumsum(1), (1, 0))
    place = image.clamp(0, 1) * KNOTS
    below = place.floor().clamp(max=KNOTS - 1).long().flatten(1)
    low, high = ends.gather(1, below), ends.gather(1, below + 1)
    return torch.lerp(low, high, place.flatten(1) - below).view_as(image)


def lighting(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A smooth random gain across the picture, 0.6 to 1.6."""
    rough = np.exp(rng.uniform(np.log(0.6), np.log(1.6), (len(image), 1, 3, 4)))
    gain = torch.from_numpy(rough).float()
    return image * F.interpolate(gain, image.shape[-2:], mode="bilinear", align_corners=True)


def contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """More or less contrast about the mean, with another mean."""
    middle = image.mean((1, 2, 3), keepdim=True)
    gain = _per_picture(np.exp(rng.uniform(np.log(0.45), np.log(1.8), len(image))))
    return (image - middle) * gain + middle + _per_picture(rng.uniform(-0.15, 0.15, len(image)))


def noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gaussian noise, weaker than what counts as a degradation."""
    spread = _per_picture(rng.uniform(0.005, 0.03, len(image)))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return image + spread * torch.randn(image.shape, generator=generator)


def balance(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Another white balance and saturation."""
    grey = image.mean(1, keepdim=True)
    cast = torch.from_numpy(rng.uniform(0.7, 1.3, (len(image), image.shape[1], 1, 1))).float()
    return (grey + (image - grey) * _per_picture(rng.uniform(0, 2, len(image)))) * cast


def partly_inverted(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Dark becomes bright, in part: brightness says less about a thing than its outline."""
    return torch.lerp(image, 1 - image, _per_picture(rng.uniform(0.55, 1, len(image))))


def _box(image: Tensor, radius: int) -> Tensor:
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)


def _per_picture(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float().view(-1, 1, 1, 1)
