"""Visual information fidelity in the wavelet domain, given pictures on the scale 0..1.

Source: H. R. Sheikh, A. C. Bovik, "Image information and visual quality", IEEE Trans. Image
Processing 15 (2006): steerable pyramid, vectors of 3 x 3 coefficients, two orientations of four
levels. The noise of the eye, 0.4, is meant for grey levels 0..255; the textual attention metrics
use it on 0..1, which is why values above 1 are normal here.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from fusionkit_standard.metrics.base import SmoothScore, ratio, total
from fusionkit_standard.metrics.windows import box, slide

LEVELS = 4
VECTOR = 3
EYE_NOISE = 0.4
TINY = 1e-15

# Filters of the steerable pyramid with six orientations (E. P. Simoncelli, W. T. Freeman, 1995):
# one quarter of each, from the corner to the middle. The oriented one is odd along its rows.
LOW_FIRST = (
    (0.00341614, -0.01551246, -0.03848215),
    (-0.01551246, 0.05586982, 0.15925570),
    (-0.03848215, 0.15925570, 0.40304148),
)
LOW = (
    (0.00085404, -0.00244917, -0.00387812, -0.00944432, -0.00962054),
    (-0.00244917, -0.00523281, -0.00661117, 0.00410600, 0.01002988),
    (-0.00387812, -0.00661117, 0.01396746, 0.03277038, 0.03981393),
    (-0.00944432, 0.00410600, 0.03277038, 0.06426333, 0.08169618),
    (-0.00962054, 0.01002988, 0.03981393, 0.08169618, 0.10096540),
)
BAND = (
    (0.00277643, -0.00986904, -0.01021852, 0.0),
    (0.00496194, -0.00893064, -0.03075356, 0.0),
    (0.01026699, 0.01189859, -0.08226445, 0.0),
    (0.01455399, 0.02755155, -0.11732297, 0.0),
)


def _whole(quarter: Sequence[Sequence[float]], like: Tensor, *, odd: bool = False) -> Tensor:
    top = like.new_tensor(quarter)
    half = torch.cat((top, (-1 if odd else 1) * top[:, :-1].flip(1)), 1)
    return torch.cat((half, half[:-1].flip(0)))


def _filtered(pictures: Tensor, window: Tensor, stride: int = 1) -> Tensor:
    """Correlation of ``(N, H, W)`` with a window, mirrored border without repeating the edge."""
    r = window.shape[-1] // 2
    framed = pad(pictures[:, None], (r, r, r, r), mode="reflect")
    return conv2d(framed, window[None, None], stride=stride)[:, 0]


def oriented_bands(pictures: Tensor) -> Iterator[tuple[int, Tensor]]:
    """``(level, band)`` for the horizontal and the vertical band of each level, finest first.

    ``(..., H, W)`` -> ``(..., h, w)``, about half the size of the level before.
    """
    shape, pictures = pictures.shape[:-2], pictures.flatten(0, -3)
    low = 2 * _whole(LOW, pictures)
    band = _whole(BAND, pictures, odd=True)
    pictures = _filtered(pictures, _whole(LOW_FIRST, pictures))
    for level in range(LEVELS):
        for window in (band, band.T):
            found = _filtered(pictures, window)
            yield level, found.unflatten(0, shape)
        if level < LEVELS - 1:
            pictures = _filtered(pictures, low, stride=2)


def _block_means(maps: Tensor, side: int) -> Tensor:
    """Means over ``side`` x ``side`` around the middle of each 3 x 3 block, mirrored border."""
    r = side // 2
    framed = pad(maps.flatten(0, -3)[:, None], (r, r, r, r), mode="reflect")[:, 0]
    means = slide(framed[:, 1:, 1:], box(side), stride=VECTOR)
    count = [length // VECTOR for length in maps.shape[-2:]]
    return means[:, : count[0], : count[1]].unflatten(0, maps.shape[:-2])


def _channel(reference: Tensor, fused: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Gain and noise of the fused band as a distortion of the reference, per block."""
    products = (reference, fused, reference * fused, reference.square(), fused.square())
    mean_r, mean_f, rf, rr, ff = _block_means(torch.stack(products), side)
    area = side**2
    covariance = area * (rf - mean_r * mean_f)
    spread_r = (area * (rr - mean_r.square())).clamp_min(0)
    spread_f = (area * (ff - mean_f.square())).clamp_min(0)
    gain = covariance / (spread_r + TINY)
    noise = (spread_f - gain * covariance) / area
    flat_r, flat_f, against = spread_r < TINY, spread_f < TINY, gain < 0
    gain = torch.where(flat_r | flat_f | against, 0.0, gain)
    noise = torch.where(flat_r | against, spread_f, noise)
    noise = torch.where(flat_f, 0.0, noise)
    return gain, noise.clamp_min(TINY)


def _vectors(band: Tensor) -> tuple[Tensor, Tensor]:
    """Strength of each 3 x 3 block of the reference, and the variances of its model.

    Returns ``(B, h, w)`` and ``(B, 9)``.
    """
    height, width = band.shape[-2:]
    inner = height - VECTOR + 1, width - VECTOR + 1
    places = [(row, column) for column in range(VECTOR) for row in range(VECTOR)]
    every = torch.stack(
        [band[:, r : r + inner[0], c : c + inner[1]].flatten(1) for r, c in places], 1
    )
    every = every - every.mean(2, keepdim=True)
    covariance = every @ every.transpose(1, 2) / every.shape[2]
    blocks = torch.stack([band[:, r::VECTOR, c::VECTOR] for r, c in places], 1)
    flat = blocks.flatten(2)
    solved = torch.linalg.solve_ex(covariance, flat).result
    strength = (solved * flat).sum(1) / len(places)
    variances = torch.linalg.eigvalsh(covariance)
    return strength.view(len(band), *blocks.shape[-2:]), variances


def wavelet_fidelity(
    fused: Tensor, references: Sequence[Tensor], weight: Tensor | None = None
) -> list[Tensor]:
    """Information of each reference kept in the fused picture, as a share of what there was.

    Args:
        fused: ``(B, H, W)`` on whatever scale the noise of 0.4 is to have; at least 65 x 65.
        references: As many of that shape as wanted.
        weight: A weight per pixel; a block has that of its middle.

    Returns:
        One ``(B,)`` per reference. NaN for a constant one.
    """
    count = len(references)
    constant = [r.amin((-2, -1)) == r.amax((-2, -1)) for r in references]
    kept, there = [0.0] * count, [0.0] * count
    for level, bands in oriented_bands(torch.stack((fused, *references))):
        side = 2 ** (LEVELS - level) + 1
        rows, columns = (length // VECTOR * VECTOR for length in bands.shape[-2:])
        bands = bands[..., :rows, :columns]
        skipped = -(-(side // 2) // VECTOR)
        inside = (..., slice(skipped, -skipped), slice(skipped, -skipped))
        here = None
        if weight is not None:
            here = weight[:, :: 2**level, :: 2**level][:, 1:rows:VECTOR, 1:columns:VECTOR][inside]
        for i in range(count):
            reference = bands[i + 1]
            if constant[i].any():
                reference = torch.where(constant[i][:, None, None], _noise(reference), reference)
            gain, noise = (m[inside] for m in _channel(reference, bands[0], side))
            strength, variances = _vectors(reference)
            signal = strength[inside][:, None] * variances[..., None, None]
            clean = (1 + signal / EYE_NOISE).log2().sum(1)
            passed = (1 + gain.square()[:, None] * signal / (noise + EYE_NOISE)[:, None]).log2()
            kept[i] = kept[i] + total(passed.sum(1), here)
            there[i] = there[i] + total(clean, here)
    return [ratio(k, t.masked_fill(c, 0)) for k, t, c in zip(kept, there, constant, strict=True)]


def _noise(like: Tensor) -> Tensor:
    """What stands in for a constant reference, whose model has no inverse."""
    made = torch.rand(like.shape[1:], generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    return made.to(like.device).expand_as(like)


class WaveletFidelity(SmoothScore):
    """Visual information fidelity in the wavelet domain on pictures 0..1, mean over the sources.

    Not comparable with other values called VIF. Undefined, hence NaN, when a source is constant.
    """

    name = "vif_wavelet_unit"
    range = (0.0, float("inf"))
    source = "TextFusion, after Sheikh, Bovik, IEEE TIP 15(2), 2006"
    variant = "8-bit grey divided by 255, steerable pyramid, noise variance 0.4, mean over sources"
    min_size = 65

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return sum(wavelet_fidelity(fused / 255, (ir / 255, vi / 255), weight)) / 2
