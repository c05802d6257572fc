"""What the detectors add: noise of either camera, the pattern and defects of a thermal one."""

from __future__ import annotations

import torch

from fusionkit_standard.degradations.base import Damage, EitherModality, normal, ramp


class Noise(Damage):
    """White Gaussian noise, sigma 0.11 to 0.16."""

    name = "noise"
    modality = "visible"
    stage = "sensor"
    source = "additive white Gaussian noise"

    def apply(self, image, severity, generator, context):
        sigma = ramp(severity, 0.0, 0.11, 0.16)
        return image + sigma * normal(tuple(image.shape), generator, image)


class InfraredNoise(Noise):
    """White Gaussian noise, sigma 0.11 to 0.16."""

    name = "ir-noise"
    modality = "infrared"


class PoissonNoise(EitherModality):
    """Photon noise, ``Poisson(k x) / k`` with k = 20 / severity photons at white.

    The variance is ``severity x / 20``, so it vanishes with the severity.
    """

    name = "poisson-noise"
    stage = "sensor"
    source = "photon counting statistics"

    def apply(self, image, severity, generator, context):
        photons = 20.0 / severity.double().clamp_min(1e-6)
        rate = image.double().clamp(0.0, 1.0) * photons
        device = image.device if generator is None else generator.device
        counted = torch.poisson(rate.to(device), generator=generator).to(image.device)
        return torch.where(severity > 0, (counted / photons).to(image), image)


class Stripes(Damage):
    """Fixed column noise, sigma 0.09 to 0.13."""

    name = "ir-stripes"
    modality = "infrared"
    stage = "sensor"
    source = "column-wise offsets of an uncooled detector's read-out"

    def apply(self, image, severity, generator, context):
        sigma = ramp(severity, 0.0, 0.09, 0.13)
        count, _, _, width = image.shape
        return image + sigma * normal((count, 1, 1, width), generator, image)


class LowContrast(Damage):
    """Contrast about the mean reduced to 0.32 down to 0.18."""

    name = "ir-low-contrast"
    modality = "infrared"
    stage = "light"
    source = "linear gain about the mean"

    def apply(self, image, severity, generator, context):
        gain = ramp(severity, 1.0, 0.32, 0.18)
        mean = image.mean((1, 2, 3), keepdim=True)
        return gain * image + (1.0 - gain) * mean


class DeadPixels(Damage):
    """Single pixels that stay black or white, up to one in a hundred, as many of either kind.

    A defect is of the detector: it lies at the same place in every channel.
    """

    name = "ir-dead-pixels"
    modality = "infrared"
    stage = "sensor"
    source = "defective elements of a thermal detector"

    def apply(self, image, severity, generator, context):
        count, _, height, width = image.shape
        device = image.device if generator is None else generator.device
        drawn = torch.rand((count, 1, height, width), generator=generator, device=device)
        drawn = drawn.to(image.device)
        image = torch.where(drawn < 0.005 * severity, 0.0, image)
        return torch.where(drawn > 1.0 - 0.005 * severity, 1.0, image)
