"""Too little light, too much, and a lamp in the lens."""

from __future__ import annotations

import math

import torch

from fusionkit.color import luma
from fusionkit_standard.degradations.base import (
    Damage,
    filtered,
    normal,
    normalised,
    ramp,
    taps,
    uniform,
)


class LowLight(Damage):
    """Too little light: power 1.9 to 2.5, gain 0.53 to 0.30, and the noise of a high gain."""

    name = "low-light"
    modality = "visible"
    stage = "light"
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
    stage = "light"
    source = "power law, gain and offset with clipping at the sensor's white level"

    def apply(self, image, severity, generator, context):
        power = ramp(severity, 1.0, 0.75, 0.75)
        gain = ramp(severity, 1.0, 1.8, 2.3)
        offset = ramp(severity, 0.0, 0.03, 0.08)
        return gain * image**power + offset


class Flare(Damage):
    """Glare around the brightest place: a glow of 0.1 to 0.5 of the width, and 4 to 8 rays.

    Blended as light, ``1 - (1 - x)(1 - R)``; gain up to 1.5. Number and turn of the rays are drawn.
    """

    name = "flare"
    modality = "visible"
    stage = "light"
    source = "screen blend of a radial glow and of rays, as in flare synthesis"

    def apply(self, image, severity, generator, context):
        count, _, height, width = image.shape
        rays = uniform(4.0, 9.0, count, generator, image).floor()
        turn = uniform(0.0, 2 * math.pi, count, generator, image)
        place = taps(3, image)
        soft = torch.exp(-(place**2) / 2)
        spot = normalised((soft[:, None] * soft)[None].expand(count, -1, -1))
        grey = luma(image) if image.shape[1] == 3 else image.mean(1, keepdim=True)
        brightest = filtered(grey, spot).flatten(1).argmax(1).reshape(count, 1, 1, 1)
        row = torch.arange(height, device=image.device).reshape(1, 1, -1, 1) - brightest // width
        column = torch.arange(width, device=image.device) - brightest % width
        distance = (row**2 + column**2).to(image).sqrt()
        direction = torch.atan2(row.to(image), column.to(image))
        radius = (0.1 + 0.4 * severity) * width
        ray = torch.cos(rays / 2 * (direction - turn)).abs() ** 40
        glow = torch.exp(-((distance / radius) ** 2)) + 0.6 * ray * torch.exp(-distance / radius)
        return 1.0 - (1.0 - image) * (1.0 - (1.5 * severity * glow).clamp(0.0, 1.0))
