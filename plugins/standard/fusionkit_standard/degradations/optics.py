"""What lens, motion, sampling and file formats take away."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from torch.nn import functional

from fusionkit.errors import BadRequest
from fusionkit_standard.degradations.base import (
    Damage,
    EitherModality,
    filtered,
    normalised,
    ramp,
    taps,
    uniform,
)


class Blur(Damage):
    """Two passes of a box of radius 2 to 3 pixels; fractions weight the outermost pixels."""

    name = "blur"
    modality = "visible"
    stage = "optics"
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


class GaussianBlur(EitherModality):
    """Gaussian point spread, sigma up to 4 pixels, cut at 3 sigma."""

    name = "gaussian-blur"
    stage = "optics"
    source = "Gaussian point spread function"
    widest = 4.0

    def apply(self, image, severity, generator, context):
        sigma = (self.widest * severity.float()).reshape(-1, 1).clamp_min(1e-3)
        place = taps(math.ceil(3 * self.widest), image)
        row = torch.exp(-((place / sigma) ** 2) / 2) * (place.abs() <= (3 * sigma).ceil())
        return filtered(image, normalised(row[:, :, None] * row[:, None]))


class Defocus(EitherModality):
    """The disc of a lens out of focus, radius up to 6 pixels, its rim antialiased."""

    name = "defocus"
    stage = "optics"
    source = "uniform disc, the point spread of geometrical optics"
    widest = 6.0

    def apply(self, image, severity, generator, context):
        radius = (self.widest * severity.float()).reshape(-1, 1, 1)
        place = taps(math.ceil(self.widest), image)
        distance = (place[:, None] ** 2 + place**2).sqrt()
        return filtered(image, normalised((radius + 0.5 - distance).clamp(0.0, 1.0)))


class MotionBlur(EitherModality):
    """A straight movement in a drawn direction, up to 21 pixels long."""

    name = "motion-blur"
    stage = "optics"
    source = "uniform linear motion during the exposure"
    longest = 21.0

    def apply(self, image, severity, generator, context):
        angle = uniform(0.0, math.pi, len(image), generator, image).float()[:, 0]
        length = self.longest * severity.float()[:, 0]
        smeared = filtered(image, normalised(line(length, angle, math.ceil(self.longest / 2))))
        return torch.where(severity > 0, smeared, image)


class Downsample(EitherModality):
    """Antialiased bicubic to a size smaller by a factor of up to 4, bicubic back."""

    name = "downsample"
    stage = "sampling"
    source = "bicubic downsampling, usual in super-resolution"

    def apply(self, image, severity, generator, context):
        size = image.shape[-2:]
        rows = []
        for row, factor in zip(image, (1 + 3 * severity).flatten().tolist(), strict=True):
            small = [max(1, round(side / factor)) for side in size]
            if small != list(size):
                row = _bicubic(_bicubic(row[None], small, antialias=True), size)[0]
            rows.append(row)
        return torch.stack(rows)


class Jpeg(EitherModality):
    """Written as JPEG and read again, quality 90 down to 10; severity 0 writes nothing.

    Args:
        codec: ``file`` writes a true JPEG in memory, picture by picture. ``kornia`` computes the
            whole batch where it lies, on a GPU too, and passes gradients (needs kornia, extra
            ``data``); of the true file it differs by some grey levels.
        modality: ``visible`` or ``infrared``.
    """

    name = "jpeg"
    stage = "file"
    source = "JPEG, ITU-T T.81"

    def __init__(self, *, codec: str = "file", modality: str = "visible") -> None:
        super().__init__(modality=modality)
        if codec not in ("file", "kornia"):
            raise BadRequest(f"jpeg has the codecs file and kornia, not {codec!r}.")
        self.codec = codec
        self._coded = _kornia() if codec == "kornia" else None

    def apply(self, image, severity, generator, context):
        quality = (90 - 80 * severity).round()
        if self._coded is not None:
            colour = image if image.shape[1] == 3 else image.expand(-1, 3, -1, -1)
            back = self._coded(colour.float(), quality.float().flatten())
            back = back if image.shape[1] == 3 else back.mean(1, keepdim=True)
        else:
            pairs = zip(image, quality.flatten().tolist(), strict=True)
            back = torch.stack([_written(row, int(q)) for row, q in pairs])
        return torch.where(severity > 0, back.to(image), image)


def line(length: torch.Tensor, angle: torch.Tensor, reach: int) -> torch.Tensor:
    """Lines through the middle, ``(B, 1, 1)`` pixels and radians from the row; not normalised."""
    place = taps(reach, length)
    y, x = place[:, None], place
    along = (x * angle.cos() - y * angle.sin()).abs()
    across = (y * angle.cos() + x * angle.sin()).abs()
    return (1.0 - across).clamp(0.0, 1.0) * (length / 2 + 0.5 - along).clamp(0.0, 1.0)


def _bicubic(image: torch.Tensor, size, *, antialias: bool = False) -> torch.Tensor:
    return functional.interpolate(
        image, tuple(size), mode="bicubic", antialias=antialias, align_corners=False
    )


def _written(image: torch.Tensor, quality: int) -> torch.Tensor:
    """One picture ``(C, H, W)`` through a JPEG file in memory."""
    from PIL import Image

    grey = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pixels = grey.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, "JPEG", quality=quality
    )
    with Image.open(file) as picture:
        back = np.array(picture).reshape(pixels.shape)
    return torch.from_numpy(back).permute(2, 0, 1).float() / 255


def _kornia():
    try:
        from kornia.enhance import jpeg_codec_differentiable
    except ImportError as error:
        raise BadRequest(
            "degradation 'jpeg' with codec='kornia' needs kornia: pip install 'fusionkit[data]'. "
            "Without it: codec='file'."
        ) from error
    return jpeg_codec_differentiable
