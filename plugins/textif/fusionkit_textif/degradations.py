"""The synthetic degradations of the EMS data set, from their rules.

EMS ("Enhanced Multi-Spectral Various Scenarios", the training data of Text-IF) makes six of its
degradations by program; low light, over-exposure and low infrared contrast are photographs as they
came, with restored targets, so there is no rule for them (the bench has stand-ins of its own:
``low-light``, ``over-exposure``, ``ir-low-contrast``).

Severity 1 is EMS's own strength; below it the result is mixed with the clean picture. EMS works on
8-bit pictures, and so do the rules here: every step ends at whole grey levels.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fusionkit_textif.prompts import sentences


class EmsDegradation:
    """``(image, severity, generator, **context) -> image`` on ``(B, C, H, W)`` in [0, 1]."""

    name: ClassVar[str]
    modality: ClassVar[str] = "visible"
    prompts: ClassVar[tuple[str, ...]]
    statements: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "EMS data set of Text-IF, re-implemented from its rule"
    paper = "Yi et al., Text-IF, CVPR 2024"

    def __init_subclass__(cls) -> None:
        cls.prompts = sentences(cls.name)

    def __call__(
        self,
        image: Tensor,
        severity: float | Tensor,
        generator: torch.Generator | None = None,
        **context: Any,
    ) -> Tensor:
        if image.ndim != 4 or not image.is_floating_point():
            raise ValueError(
                f"{self.name} takes a float image (B, C, H, W) in [0, 1]; "
                f"it got {image.dtype} of shape {tuple(image.shape)}."
            )
        strength = torch.as_tensor(severity, dtype=image.dtype, device=image.device)
        if strength.numel() not in (1, len(image)) or not ((strength >= 0) & (strength <= 1)).all():
            raise ValueError(
                f"{self.name} takes a severity in [0, 1], one or one per picture ({len(image)}); "
                f"it got {severity}."
            )
        grey = (image.float() * 255).round()
        damaged = self.damage(grey, generator or torch.default_generator) / 255
        strength = strength.reshape(-1, 1, 1, 1)
        return torch.lerp(image, damaged.to(image.dtype), strength).clamp(0, 1)

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        """The damage at EMS's strength; grey levels in, grey levels out, ``(B, C, H, W)``."""
        raise NotImplementedError


class InfraredNoise(EmsDegradation):
    """Gaussian noise of 20 grey levels, then photon noise of 80 photons at white, then a few dots.

    Single pixels turn white with probability 3e-6 and black with 1e-6.
    """

    name = "ems-ir-noise"
    modality = "infrared"

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        grey = _levels(grey + 20 * _normal(grey.shape, generator, grey))
        grey = _levels(_poisson(grey / 255 * 80, generator) / 80 * 255)
        chance = _uniform(grey.shape, generator, grey)
        grey = torch.where(chance < 3e-6, 255.0, grey)
        return torch.where(chance > 1 - 1e-6, 0.0, grey)


class InfraredStripes(EmsDegradation):
    """One offset per column of 3 to 8 grey levels deviation, and pixel noise of 3 to 5."""

    name = "ems-ir-stripes"
    modality = "infrared"

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        count, _, _, width = grey.shape
        pixel = 3 + 2 * _uniform((count, 1, 1, 1), generator, grey)
        column = 3 + 5 * _uniform((count, 1, 1, 1), generator, grey)
        grey = grey + pixel * _normal(grey.shape, generator, grey)
        grey = grey + column * _normal((count, 1, 1, width), generator, grey)
        return grey.round().clamp(0, 255)


class VisibleNoise(EmsDegradation):
    """Gaussian noise of 10 grey levels, then photon noise of 70 to 90 photons at white."""

    name = "ems-noise"

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        grey = _levels(grey + 10 * _normal(grey.shape, generator, grey))
        peak = torch.randint(70, 91, (len(grey), 1, 1, 1), generator=generator).to(grey)
        return _levels(_poisson(grey / 255 * peak, generator) / peak * 255)


class Blur(EmsDegradation):
    """Gaussian blur of one pixel, then a picture of half or a quarter the size and back.

    Args:
        factor: 2 or 4; None draws one for each picture.
    """

    name = "ems-blur"

    def __init__(self, *, factor: int | None = None) -> None:
        self.factor = factor

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(0, 2, (len(grey),), generator=generator).tolist()
        factors = [self.factor or (2, 4)[k] for k in drawn]
        return torch.cat([blur(x[None], f) for x, f in zip(grey, factors, strict=True)])


class Haze(EmsDegradation):
    """Haze around a fixed place of the picture, row 100 and column 300, whatever its size."""

    name = "ems-haze"

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        return (255 * haze(grey / 255)).round().clamp(0, 255)


class Rain(EmsDegradation):
    """Streaks of 50 pixels, one direction per picture within 45 degrees of upright.

    Args:
        angle: degrees; None draws one for each picture.
    """

    name = "ems-rain"

    def __init__(self, *, angle: float | None = None) -> None:
        self.angle = angle

    def damage(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        drops = 256 * _uniform((len(grey), 1, *grey.shape[-2:]), generator, grey)
        drops = torch.where(drops >= 256 - 0.01 * 500, drops, 0.0)
        spread = grey.new_tensor([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]])
        drops = functional.conv2d(_mirror(drops, 1, 1, 1, 1), spread[None, None])
        drawn = (90 * _uniform((len(grey),), generator, grey) - 45).tolist()
        angles = [drawn_angle if self.angle is None else self.angle for drawn_angle in drawn]
        layers = [rain_layer(d[None], angle) for d, angle in zip(drops, angles, strict=True)]
        return rain(grey, torch.cat(layers))


# ------------------------------------------------------------------------------------- the rules


def blur(grey: Tensor, factor: int) -> Tensor:
    """Gaussian blur of sigma 1, cubic down by 2 or 4, cubic back; whole grey levels at each step.

    Cubic convolution with a = -0.75, without antialiasing. A side that the factor does not divide
    is rounded, halves to even, and still sampled every ``factor`` pixels.
    """
    # The Gaussian in steps of 1/256, as 8-bit pictures are filtered.
    taps = grey.new_tensor([1, 14, 62, 102, 62, 14, 1]) / 256
    rows = _mirror(grey, 3, 3, 3, 3).flatten(0, 1)[:, None]
    smooth = functional.conv2d(rows, taps[None, None, None])
    smooth = functional.conv2d(smooth, taps[None, None, :, None]).reshape(grey.shape)
    small = (smooth + 0.5).floor().clamp(0, 255)
    height, width = grey.shape[-2:]
    low = max(1, round(height / factor)), max(1, round(width / factor))
    small = _cubic(small, low, (factor, factor)).round().clamp(0, 255)
    back = _cubic(small, (height, width), (low[0] / height, low[1] / width))
    return back.round().clamp(0, 255)


def haze(image: Tensor) -> Tensor:
    """``I t + 0.8 (1 - t)``, t = exp(-0.12 d); d falls off around row 100, column 300.

    ``(..., H, W)`` in [0, 1]; d(r, c) = 17 - 0.04 |(r, c) - (100, 300)|, counted from 1.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(1, height + 1, device=image.device, dtype=image.dtype)[:, None]
    columns = torch.arange(1, width + 1, device=image.device, dtype=image.dtype)
    depth = 17 - 0.04 * ((rows - 100) ** 2 + (columns - 300) ** 2).sqrt()
    clear = torch.exp(-0.12 * depth)
    return image * clear + 0.8 * (1 - clear)


def rain_layer(drops: Tensor, angle: float, length: int = 50) -> Tensor:
    """Drops ``(B, 1, H, W)`` smeared along a direction, from 0 to 255 in whole grey levels."""
    kernel = streak(angle, length).to(drops)
    before, after = length // 2, length - 1 - length // 2
    smeared = functional.conv2d(_mirror(drops, before, after, before, after), kernel[None, None])
    low, high = smeared.amin((2, 3), keepdim=True), smeared.amax((2, 3), keepdim=True)
    return ((smeared - low) / (high - low).clamp_min(1e-12) * 255).floor()


def rain(grey: Tensor, layer: Tensor) -> Tensor:
    """The picture under a layer of rain: ``0.9 image + 0.1 layer + 0.8``, in grey levels."""
    return (0.9 * grey + 0.1 * layer + 0.8).round().clamp(0, 255)


def streak(angle: float, length: int = 50) -> Tensor:
    """The kernel of a streak, ``(length, length)``, float64: a shrunk diagonal, turned, softened.

    A diagonal is turned by ``angle - 45`` degrees about (length/2, length/2), counter-clockwise as
    the picture is seen, and scaled by ``1 - length/100``; bilinear at places rounded to 1/32 pixel
    (OpenCV's arithmetic), zero outside. Then smoothed by (1, 2, 1)/4 both ways. Its sum is not 1.
    """
    scale, turn = 1 - length / 100, math.radians(angle - 45)
    alpha, beta = math.cos(turn) / scale, math.sin(turn) / scale
    y, x = torch.meshgrid(*[torch.arange(length, dtype=torch.float64)] * 2, indexing="ij")
    centre = length / 2

    def place(along: Tensor, across: Tensor, origin: float) -> Tensor:
        return (((across + origin) * 1024).round() + (along * 1024).round() + 16).div(
            32
        ).floor() / 32

    source_x = place(alpha * x, -beta * y, centre * (1 - alpha + beta))
    source_y = place(beta * x, alpha * y, centre * (1 - alpha - beta))
    # The diagonal's value at a place between pixels, by bilinear interpolation.
    kernel = torch.zeros(length, length, dtype=torch.float64)
    left, above = source_x.floor(), source_y.floor()
    right_share, below_share = source_x - left, source_y - above
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, above + down
            inside = (column >= 0) & (column < length) & (row == column)
            weight = (right_share if right else 1 - right_share) * (
                below_share if down else 1 - below_share
            )
            kernel += torch.where(inside, weight, 0.0)
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    soft = functional.conv2d(
        _mirror(kernel[None, None], 1, 1, 1, 1), torch.outer(taps, taps)[None, None]
    )
    return soft[0, 0]


def _cubic(x: Tensor, size: tuple[int, int], step: tuple[float, float]) -> Tensor:
    """Sampled every ``step`` pixels by cubic convolution, edges repeated."""
    rows, columns = (
        _cubic_matrix(x.shape[axis], size[axis], step[axis]).to(x) for axis in (-2, -1)
    )
    return rows @ x @ columns.T


def _cubic_matrix(length: int, count: int, step: float, a: float = -0.75) -> Tensor:
    """``(count, length)``: what each sample takes from each pixel."""
    place = (torch.arange(count, dtype=torch.float64) + 0.5) * step - 0.5
    first = place.floor()
    matrix = torch.zeros(count, length, dtype=torch.float64)
    for tap in range(-1, 3):
        t = (place - first - tap).abs()
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        weight = torch.where(t <= 1, near, far)
        index = (first + tap).clamp(0, length - 1).long()
        matrix.scatter_add_(1, index[:, None], weight[:, None])
    return matrix


def _mirror(x: Tensor, left: int, right: int, above: int, below: int) -> Tensor:
    """Mirrored at the border without repeating it, as often as the picture is too small."""
    for axis, before, after in ((-1, left, right), (-2, above, below)):
        length = x.shape[axis]
        period = max(1, 2 * (length - 1))
        index = torch.arange(-before, length + after, device=x.device) % period
        x = x.index_select(axis, torch.where(index < length, index, period - index))
    return x


def _levels(grey: Tensor) -> Tensor:
    return grey.clamp(0, 255).floor()


def _normal(shape: Any, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(like)


def _uniform(shape: Any, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(like)


def _poisson(rate: Tensor, generator: torch.Generator) -> Tensor:
    return torch.poisson(rate.to(generator.device), generator=generator).to(rate)


DEGRADATIONS = {
    kind.name: kind for kind in (InfraredNoise, InfraredStripes, VisibleNoise, Blur, Haze, Rain)
}
