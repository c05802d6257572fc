"""What lies in the air between the scene and the camera."""

from __future__ import annotations

import math

import torch

from fusionkit_standard.degradations.base import Damage, filtered, ramp, taps, uniform
from fusionkit_standard.degradations.optics import line


class Haze(Damage):
    """Scattering by the true depth: extinction 1.3 to 2.1 per 60 m, air light 0.70 to 0.92."""

    name = "haze"
    modality = "visible"
    stage = "air"
    needs = ("depth",)
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


class Rain(Damage):
    """Bright streaks along a drawn direction within 30 degrees of upright, and a thin veil.

    Up to 1 in 100 pixels begins a streak; streaks are 0.06 to 0.14 of the height long (a longer
    exposure or a harder fall), at most 0.55 opaque, of light 0.9. The veil adds up to 0.08.
    """

    name = "rain"
    modality = "visible"
    stage = "weather"
    source = "thresholded noise smeared along a line, blended over the picture"

    def apply(self, image, severity, generator, context):
        count, _, height, width = image.shape
        angle = math.pi / 2 + uniform(-math.pi / 6, math.pi / 6, count, generator, image).float()
        drops = _drawn((count, 1, height, width), generator, image)
        drops = torch.where(drops < 0.01 * severity, 0.5 + 50.0 * drops, 0.0)
        length = ((0.06 + 0.08 * severity.float()) * height).clamp_min(3.0)
        streak = line(length[:, 0], angle[:, 0], math.ceil(max(3.0, 0.14 * height) / 2))
        layer = filtered(drops, streak, "constant").clamp(0.0, 1.0)
        cover = 0.55 * layer + 0.08 * severity
        return image + cover * (0.9 - image)


class Snow(Damage):
    """Round soft flakes of radius 1 to 4 per 256 rows, up to 4 in a thousand pixels.

    Small flakes are as many as large ones. Blended as light, ``1 - (1 - x)(1 - R)``.
    """

    name = "snow"
    modality = "visible"
    stage = "weather"
    source = "screen blend of Gaussian spots at random places"

    def apply(self, image, severity, generator, context):
        count, _, height, width = image.shape
        layer = torch.zeros(count, 1, height, width, device=image.device, dtype=image.dtype)
        for radius in (1.0, 2.0, 3.0, 4.0):
            flakes = _drawn((count, 1, height, width), generator, image) < 0.001 * severity
            sigma = max(0.5, radius * height / 256 / 2)
            place = taps(math.ceil(3 * sigma), image)
            soft = torch.exp(-((place / sigma) ** 2) / 2)
            spot = (soft[:, None] * soft)[None].expand(count, -1, -1)
            layer = layer + filtered(flakes.to(image), spot, "constant")
        return 1.0 - (1.0 - image) * (1.0 - layer.clamp(0.0, 1.0))


def _drawn(shape, generator: torch.Generator | None, like: torch.Tensor) -> torch.Tensor:
    device = like.device if generator is None else generator.device
    drawn = torch.rand(shape, generator=generator, device=device, dtype=torch.float32)
    return drawn.to(like)
