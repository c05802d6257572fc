"""Damage to pictures, by the models that all-in-one restoration trains on.

Severity runs linearly through each model's range; 0 changes nothing. Ranges are ours where MMAIF
does not state them; strengths marked [C] are those of the public scripts of ControlFusion, which
lie inside them. The context may hold ``depth``, ``(B, 1, H, W)`` in metres, for haze; without it
depth is guessed from height and brightness.
"""

import io
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from fusionkit_mmaif.prompts import clauses, sentence

Generator = torch.Generator


class Degradation:
    """``(image, severity, generator, **context) -> image`` on ``(B, C, H, W)`` in [0, 1].

    A subclass damages one picture at a time, ``(1, C, H, W)``.
    """

    name: ClassVar[str]
    modality: ClassVar[str] = "visible"
    prompts: ClassVar[tuple[str, ...]]
    statements: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            cls.prompts = tuple(sentence([clause]) for clause in clauses(cls.name))

    def __call__(
        self,
        image: Tensor,
        severity: float | Tensor,
        generator: Generator | None = None,
        **context: Any,
    ) -> Tensor:
        if image.ndim != 4 or not image.is_floating_point():
            raise ValueError(
                f"{self.name} takes a float image (B, C, H, W) in [0, 1]; "
                f"it got {image.dtype} of shape {tuple(image.shape)}."
            )
        strength = torch.as_tensor(severity, dtype=torch.float64).flatten().cpu()
        if strength.numel() not in (1, len(image)) or not ((strength >= 0) & (strength <= 1)).all():
            raise ValueError(
                f"{self.name} takes a severity in [0, 1], one or one per picture ({len(image)}); "
                f"it got {severity}."
            )
        generator = generator or torch.default_generator
        rows = []
        for row, s in enumerate(strength.expand(len(image)).tolist()):
            one = image[row : row + 1]
            given = {k: v[row : row + 1] for k, v in context.items() if isinstance(v, Tensor)}
            rows.append(one if s == 0 else self.damage(one, s, generator, given).clamp(0, 1))
        return torch.cat(rows).to(image.dtype)

    def damage(self, x: Tensor, s: float, generator: Generator, context: dict) -> Tensor:
        """One picture at a severity above 0; clipped by the caller."""
        raise NotImplementedError


class GaussianNoise(Degradation):
    """``x + N(0, s^2)`` for every channel; s up to 50 of 255 ([C] 20)."""

    name = "mmaif-gaussian-noise"
    source = "additive white Gaussian noise"

    def damage(self, x, s, generator, context):
        return x + 50 / 255 * s * _normal(x.shape, generator, x)


class InfraredNoise(GaussianNoise):
    """``x + N(0, s^2)``; s up to 50 of 255 ([C] 14)."""

    name = "mmaif-ir-noise"
    modality = "infrared"


class PoissonNoise(Degradation):
    """``Poisson(x k) / k``; k photons at white, from 200 down to 20 ([C] 70 to 90)."""

    name = "mmaif-poisson-noise"
    source = "photon noise"

    def damage(self, x, s, generator, context):
        k = 200 - 180 * s
        rate = (x.double() * k).to(generator.device)
        return torch.poisson(rate, generator=generator).to(x) / k


class SaltPepper(Degradation):
    """Pixels set to white or black, up to one in a hundred ([C] 2e-4)."""

    name = "mmaif-ir-salt-pepper"
    modality = "infrared"
    source = "defective pixels"

    def damage(self, x, s, generator, context):
        chance = _uniform((1, 1, *x.shape[-2:]), generator, x)
        x = torch.where(chance < 0.005 * s, 1.0, x)
        return torch.where(chance > 1 - 0.005 * s, 0.0, x)


class GaussianBlur(Degradation):
    """Gaussian kernel of sigma up to 4 pixels, cut at 3 sigma."""

    name = "mmaif-gaussian-blur"
    source = "Gaussian point spread"

    def damage(self, x, s, generator, context):
        return gaussian_blur(x, 4 * s)


class MotionBlur(Degradation):
    """Line of 3 to 21 pixels (odd) in a drawn direction ([C] 5 pixels, 20 degrees)."""

    name = "mmaif-motion-blur"
    source = "uniform linear motion"

    def damage(self, x, s, generator, context):
        angle = 180 * _number(generator)
        length = 2 * round((3 + 18 * s - 1) / 2) + 1
        return filtered(x, line(length, angle).to(x))


class Downsample(Degradation):
    """Antialiased bicubic to a size smaller by a factor of up to 4, bicubic back."""

    name = "mmaif-downsample"
    source = "bicubic downsampling"

    def damage(self, x, s, generator, context):
        size = x.shape[-2:]
        small = [max(1, round(side / (1 + 3 * s))) for side in size]
        x = interpolate(x, small, mode="bicubic", antialias=True, align_corners=False)
        return interpolate(x, size, mode="bicubic", align_corners=False)


class Jpeg(Degradation):
    """Written as JPEG and read again, quality 90 down to 10."""

    name = "mmaif-jpeg"
    source = "JPEG compression"

    def damage(self, x, s, generator, context):
        from PIL import Image

        grey = (x[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        file = io.BytesIO()
        Image.fromarray(grey.squeeze(-1) if grey.shape[-1] == 1 else grey).save(
            file, "JPEG", quality=round(90 - 80 * s)
        )
        back = np.array(Image.open(file)).reshape(grey.shape)
        return (torch.from_numpy(back).permute(2, 0, 1)[None] / 255).to(x)


class LowLight(Degradation):
    """``a x^g``: g from 1 to 4, a from 1 to 0.4.

    Args:
        noise: deviation of Gaussian noise on top, of 255 at severity 1.
    """

    name = "mmaif-low-light"
    source = "power law and gain"

    def __init__(self, *, noise: float = 0.0) -> None:
        self.noise = noise

    def damage(self, x, s, generator, context):
        x = (1 - 0.6 * s) * x ** (1 + 3 * s)
        if self.noise:
            x = x + self.noise / 255 * s * _normal(x.shape, generator, x)
        return x


class OverExposure(Degradation):
    """Exposure e from 1 to 6 with a soft knee, ``(1 - exp(-e x)) / (1 - exp(-e))``."""

    name = "mmaif-over-exposure"
    source = "exponential film response"

    def damage(self, x, s, generator, context):
        e = 1 + 5 * s
        return (1 - torch.exp(-e * x)) / (1 - math.exp(-e))


class LowContrast(Degradation):
    """``a x + b``: a from 1 to 0.4, b from 0 to 0.35 ([C] 0.5 and 90/255)."""

    name = "mmaif-ir-low-contrast"
    modality = "infrared"
    source = "linear gain and offset"

    def damage(self, x, s, generator, context):
        return (1 - 0.6 * s) * x + 0.35 * s


class Stripes(Degradation):
    """One offset per column, normal with up to 15 of 255 ([C] 5 to 7).

    Args:
        rows: one per row instead.
    """

    name = "mmaif-ir-stripes"
    modality = "infrared"
    source = "fixed pattern of a detector's read-out"

    def __init__(self, *, rows: bool = False) -> None:
        self.rows = rows

    def damage(self, x, s, generator, context):
        _, _, height, width = x.shape
        shape = (1, 1, height, 1) if self.rows else (1, 1, 1, width)
        return x + 15 / 255 * s * _normal(shape, generator, x)


class DarkStripes(Degradation):
    """Up to 24 bands of 1 to 4 columns, dimmed to 0.4 to 0.9 of themselves."""

    name = "mmaif-ir-dark-stripes"
    modality = "infrared"
    source = "weak columns of a detector"

    def damage(self, x, s, generator, context):
        width = x.shape[-1]
        gain = torch.ones(width)
        for _ in range(max(1, round(24 * s))):
            place, wide = _below(width, generator), 1 + _below(4, generator)
            gain[place : place + wide] *= 0.4 + 0.5 * _number(generator)
        return x * gain.to(x)


class Haze(Degradation):
    """``J t + A (1 - t)``, t = exp(-beta d), d in [0, 1]: beta up to 2.5, A from 0.6 to 1.

    ([C] beta 1 to 2, A 0.6 to 0.9.) A depth in metres becomes d = m / (m + 30).
    """

    name = "mmaif-haze"
    source = "Koschmieder's law"

    def damage(self, x, s, generator, context):
        light = 0.6 + 0.4 * _number(generator)
        t = transmission(x, 2.5 * s, context.get("depth"))
        return x * t + light * (1 - t)


class Rain(Degradation):
    """The brightest of drawn noise, smeared along a line of 50 pixels: ``a x + (1 - a) R``.

    1 - a up to 0.3 ([C] 0.15), 2 % of the pixels, within 45 degrees of upright, streaks of width 3.
    """

    name = "mmaif-rain"
    source = "streak layer of thresholded noise"

    def damage(self, x, s, generator, context):
        noise = _uniform((1, 1, *x.shape[-2:]), generator, x)
        angle = 90 + 90 * (_number(generator) - 0.5)
        drops = torch.where(noise > 1 - 500 * 0.01 / 256, noise, 0.0)
        spread = x.new_tensor([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]])
        length = min(51, 2 * (min(x.shape[-2:]) // 2) - 1)
        layer = filtered(filtered(drops, spread), line(max(3, length), angle, width=3).to(x))
        low, high = layer.aminmax()
        layer = (layer - low) / (high - low).clamp_min(1e-6)
        return x + 0.3 * s * (layer - x)


class Snow(Degradation):
    """Round flakes of radius 1 to 4, up to 4 in a thousand pixels: ``1 - (1 - x)(1 - R)``."""

    name = "mmaif-snow"
    source = "screen blend of Gaussian spots"

    def damage(self, x, s, generator, context):
        height, width = x.shape[-2:]
        layer = x.new_zeros(1, 1, height, width)
        count = math.ceil(0.004 * s * height * width)
        radii, places = (
            torch.randint(low, high, (count,), generator=generator, device=generator.device).cpu()
            for low, high in ((1, 5), (0, height * width))
        )
        for radius in radii.unique().tolist():
            spots = torch.zeros(height * width)
            spots[places[radii == radius]] = 1.0
            taps = gaussian(radius / 2)
            kernel = torch.outer(taps, taps) / taps.max() ** 2
            layer = layer + filtered(spots.view_as(layer).to(x), kernel.to(x), border="constant")
        return 1 - (1 - x) * (1 - layer.clamp(0, 1))


class Flare(Degradation):
    """A glow and 4 to 8 rays around the brightest place: radius to half the width, gain to 1.5."""

    name = "mmaif-flare"
    source = "screen blend of a radial glow"

    def damage(self, x, s, generator, context):
        height, width = x.shape[-2:]
        grey = gaussian_blur(x.mean(1, keepdim=True), 1.0)
        row, column = divmod(int(grey.argmax()), width)
        y, x_ = torch.meshgrid(
            torch.arange(height) - row, torch.arange(width) - column, indexing="ij"
        )
        distance, direction = (y**2 + x_**2).float().sqrt(), torch.atan2(y.float(), x_.float())
        radius = (0.1 + 0.4 * s) * width
        rays, turn = 4 + _below(5, generator), 2 * math.pi * _number(generator)
        ray = torch.cos(rays / 2 * (direction - turn)).abs() ** 40
        glow = torch.exp(-((distance / radius) ** 2)) + 0.6 * ray * torch.exp(-distance / radius)
        layer = (1.5 * s * glow).clamp(0, 1).to(x)
        return 1 - (1 - x) * (1 - layer)


def transmission(x: Tensor, beta: float, depth: Tensor | None = None) -> Tensor:
    """``exp(-beta d)`` of a picture, ``(1, 1, H, W)`` in (0, 1]; see :class:`Haze`."""
    if depth is not None:
        d = depth.to(x) / (depth.to(x) + 30)
    else:
        height, width = x.shape[-2:]
        down = torch.linspace(1, 0, height, device=x.device, dtype=x.dtype)
        bright = x.amin(1, keepdim=True)  # the haze that is there already is bright in all colours
        guess = 0.75 * down[:, None].expand(height, width) + 0.25 * bright
        d = avg_pool2d(pad(guess, (11, 10, 11, 10), mode="replicate"), 22, stride=1)
    return torch.exp(-beta * d)


def gaussian(sigma: float) -> Tensor:
    """Taps of a Gaussian up to 3 sigma, sum 1."""
    reach = math.ceil(3 * sigma)
    taps = torch.exp(-((torch.arange(-reach, reach + 1).double() / sigma) ** 2) / 2)
    return (taps / taps.sum()).float()


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Mirrored at the border; a picture smaller than the kernel repeats its edge."""
    taps = gaussian(sigma).to(x)
    return filtered(filtered(x, taps[None]), taps[:, None])


def line(length: int, angle: float, width: float = 1.0) -> Tensor:
    """A line through the middle of ``(length, length)``, degrees from the row; sum 1."""
    reach = length // 2
    place = torch.arange(-reach, reach + 1).double()
    y, x = place[:, None], place[None]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, along = (y * c + x * s).abs(), (x * c - y * s).abs()
    kernel = (width / 2 + 0.5 - across).clamp(0, 1) * (reach + 0.5 - along).clamp(0, 1)
    return (kernel / kernel.sum()).float()


def filtered(x: Tensor, kernel: Tensor, border: str = "reflect") -> Tensor:
    """Every channel by one kernel of odd sides, at the same size."""
    high, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    if border == "reflect" and (high >= x.shape[-2] or wide >= x.shape[-1]):
        border = "replicate"
    flat = x.flatten(0, 1)[:, None]
    flat = conv2d(pad(flat, (wide, wide, high, high), mode=border), kernel[None, None])
    return flat.view_as(x)


def _normal(shape: Any, generator: Generator, like: Tensor) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(like)


def _uniform(shape: Any, generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(like)


def _number(generator: Generator) -> float:
    return float(torch.rand((), generator=generator, device=generator.device))


def _below(high: int, generator: Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))


DEGRADATIONS: dict[str, type[Degradation]] = {
    kind.name: kind
    for kind in (
        GaussianNoise,
        InfraredNoise,
        PoissonNoise,
        SaltPepper,
        GaussianBlur,
        MotionBlur,
        Downsample,
        Jpeg,
        LowLight,
        OverExposure,
        LowContrast,
        Stripes,
        DarkStripes,
        Haze,
        Rain,
        Snow,
        Flare,
    )
}

GENERAL = (
    "mmaif-gaussian-blur",
    "mmaif-motion-blur",
    "mmaif-downsample",
    "mmaif-gaussian-noise",
    "mmaif-ir-noise",
    "mmaif-rain",
    "mmaif-haze",
    "mmaif-snow",
    "mmaif-jpeg",
)
"""What may befall a pair of any fusion task."""
VISIBLE_INFRARED = (
    *GENERAL,
    "mmaif-low-light",
    "mmaif-over-exposure",
    "mmaif-ir-low-contrast",
    "mmaif-ir-stripes",
    "mmaif-ir-dark-stripes",
)
"""The pool of visible-infrared pairs."""

ORDER = (
    ("low-light", "over-exposure", "ir-low-contrast"),
    ("haze",),
    ("rain", "snow", "flare"),
    ("gaussian-blur", "motion-blur"),
    ("downsample",),
    (
        "gaussian-noise",
        "poisson-noise",
        "ir-noise",
        "ir-salt-pepper",
        "ir-stripes",
        "ir-dark-stripes",
    ),
    ("jpeg",),
)
"""From the scene to the file: the order in which several degradations befall a picture."""


def stage(name: str) -> int:
    """The place of a degradation in :data:`ORDER`; behind it for one that is not there."""
    short = name.removeprefix("mmaif-")
    return next((place for place, row in enumerate(ORDER) if short in row), len(ORDER))
