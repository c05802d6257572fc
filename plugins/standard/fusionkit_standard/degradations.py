"""Eight ways to damage a picture, batched and repeatable.

Each follows ``degradation(image, severity, generator, **context) -> image``: image (B, C, H, W)
float in [0, 1], severity in [0, 1] as one number or one per picture (B,). Severity 0 changes
nothing, 0.5 to 1 spans the usable range of strengths; in between the physical parameters run
linearly. All chance comes from `generator` and is drawn on its device; None is torch's own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from .scenes.texts import repair_prompts, statement


def ramp(severity: Tensor, none: float, half: float, full: float) -> Tensor:
    """Piecewise linear: `none` at severity 0, `half` at 0.5, `full` at 1."""
    lower = none + (half - none) * (severity * 2.0).clamp(max=1.0)
    return lower + (full - half) * (severity * 2.0 - 1.0).clamp(min=0.0)


def normal(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Standard normal numbers from the generator's device, moved to that of `like`."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def uniform(
    low: float, high: float, count: int, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """Uniform numbers of shape (count, 1, 1, 1)."""
    device = like.device if generator is None else generator.device
    drawn = torch.rand((count, 1, 1, 1), generator=generator, device=device, dtype=like.dtype)
    return (low + (high - low) * drawn).to(like.device)


class Damage:
    """Shared checks; a subclass gives `apply` and its facts."""

    name: ClassVar[str]
    modality: ClassVar[str]
    prompts: ClassVar[tuple[str, ...]]
    statements: ClassVar[tuple[str, ...]]
    source: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.prompts = repair_prompts(cls.name)
        cls.statements = statement(cls.name)

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
        count = len(image)
        strength = torch.as_tensor(severity, dtype=image.dtype, device=image.device)
        if strength.ndim > 1 or strength.numel() not in (1, count):
            raise ValueError(
                f"{self.name} takes one severity or one per picture ({count}); "
                f"it got shape {tuple(strength.shape)}."
            )
        low, high = torch.aminmax(strength)
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{self.name}: severity lies in [0, 1]; it got {float(low):g} to {float(high):g}."
            )
        strength = strength.reshape(-1, 1, 1, 1).expand(count, 1, 1, 1)
        return self.apply(image, strength, generator, context).clamp(0.0, 1.0)

    def apply(
        self, image: Tensor, severity: Tensor, generator: torch.Generator | None, context: dict
    ) -> Tensor:
        """The damage itself; severity is (B, 1, 1, 1)."""
        raise NotImplementedError


class LowLight(Damage):
    """Too little light: power 1.9 to 2.5, gain 0.53 to 0.30, and the noise of a high gain."""

    name = "low-light"
    modality = "visible"
    source = "power law and gain with Gaussian read noise, usual in low-light synthesis"

    def apply(self, image, severity, generator, context):
        power = ramp(severity, 1.0, 1.9, 2.5)
        gain = ramp(severity, 1.0, 0.53, 0.30)
        sigma = ramp(severity, 0.0, 0.012, 0.025)
        return gain * image**power + sigma * normal(tuple(image.shape), generator, image)


class OverExposure(Damage):
    """Too much light: power 0.75, gain 1.8 to 2.3 and an offset, clipped at white."""

    name = "over-exposure"
    modality = "visible"
    source = "power law, gain and offset with clipping at the sensor's white level"

    def apply(self, image, severity, generator, context):
        power = ramp(severity, 1.0, 0.75, 0.75)
        gain = ramp(severity, 1.0, 1.8, 2.3)
        offset = ramp(severity, 0.0, 0.03, 0.08)
        return gain * image**power + offset


class Noise(Damage):
    """White Gaussian noise, sigma 0.11 to 0.16."""

    name = "noise"
    modality = "visible"
    source = "additive white Gaussian noise"

    def apply(self, image, severity, generator, context):
        sigma = ramp(severity, 0.0, 0.11, 0.16)
        return image + sigma * normal(tuple(image.shape), generator, image)


class Blur(Damage):
    """Two passes of a box of radius 2 to 3 pixels; fractions weight the outermost pixels."""

    name = "blur"
    modality = "visible"
    source = "two box filters, a triangular point spread"
    reach = 3

    def apply(self, image, severity, generator, context):
        count, channels, height, width = image.shape
        radius = ramp(severity, 0.0, 2.0, 3.0).reshape(count, 1)
        taps = torch.arange(-self.reach, self.reach + 1, device=image.device, dtype=image.dtype)
        box = (radius - taps.abs() + 1.0).clamp(0.0, 1.0)  # B taps
        box = box / box.sum(1, keepdim=True)
        # Two box passes are one pass with the box convolved with itself.
        twice = functional.conv1d(
            box.unsqueeze(0), box.flip(1).unsqueeze(1), padding=2 * self.reach, groups=count
        )[0]
        kernel = twice.repeat_interleave(channels, 0)  # B*C 13
        flat = image.reshape(1, count * channels, height, width)
        margin = 2 * self.reach
        flat = functional.pad(flat, (margin, margin, margin, margin), mode="replicate")
        flat = functional.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
        flat = functional.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
        return flat.reshape(image.shape)


class Haze(Damage):
    """Scattering by the true depth: extinction 1.3 to 2.1 per 60 m, air light 0.70 to 0.92."""

    name = "haze"
    modality = "visible"
    source = "Koschmieder's law: I = J t + A (1 - t), t = exp(-beta d)"

    def apply(self, image, severity, generator, context):
        depth = context.get("depth")
        if depth is None:
            raise ValueError(
                "haze needs the depth of the picture: pass depth=(B, 1, H, W) in metres. "
                "Generated scenes have it; for pictures without depth choose another degradation."
            )
        if depth.ndim != 4 or depth.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"haze needs depth (B, 1, H, W) of the picture's size {tuple(image.shape[-2:])}; "
                f"it got {tuple(depth.shape)}."
            )
        extinction = ramp(severity, 0.0, 1.3, 2.1) / 60.0
        light = uniform(0.70, 0.92, len(image), generator, image)
        clear = torch.exp(-extinction * depth.to(image))
        return light + (image - light) * clear


class Stripes(Damage):
    """Fixed column noise, sigma 0.09 to 0.13."""

    name = "ir-stripes"
    modality = "infrared"
    source = "column-wise offsets of an uncooled detector's read-out"

    def apply(self, image, severity, generator, context):
        sigma = ramp(severity, 0.0, 0.09, 0.13)
        count, _, _, width = image.shape
        return image + sigma * normal((count, 1, 1, width), generator, image)


class LowContrast(Damage):
    """Contrast about the mean reduced to 0.32 down to 0.18."""

    name = "ir-low-contrast"
    modality = "infrared"
    source = "linear gain about the mean"

    def apply(self, image, severity, generator, context):
        gain = ramp(severity, 1.0, 0.32, 0.18)
        mean = image.mean((1, 2, 3), keepdim=True)
        return gain * image + (1.0 - gain) * mean


class InfraredNoise(Noise):
    """White Gaussian noise, sigma 0.11 to 0.16."""

    name = "ir-noise"
    modality = "infrared"


DEGRADATIONS: dict[str, type[Damage]] = {
    cls.name: cls
    for cls in (
        LowLight,
        OverExposure,
        Noise,
        Blur,
        Haze,
        Stripes,
        LowContrast,
        InfraredNoise,
    )
}
