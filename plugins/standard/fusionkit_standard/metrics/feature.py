"""Feature mutual information: what 3 x 3 windows of the fused picture tell about those of a source.

Source: M. B. A. Haghighat, A. Aghagolzadeh, H. Seyedarabi, "A non-reference image fusion metric
based on mutual information of image features", Computers & Electrical Engineering 37 (2011), and
the authors' fast version.

A window's nine numbers, scaled to sum to 1, are read as a distribution over its nine places. The
joint distribution of two windows is a mixture of independence and of the strongest dependence that
the margins allow (Frechet's bound), mixed so that the correlation comes out right. No gradient:
each window holds a zero, where the entropy is infinitely steep.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionkit_standard.metrics.base import Score, average
from fusionkit_standard.metrics.gradient import sobel
from fusionkit_standard.metrics.information import SMALLEST

SIDE = 3
PLACES = SIDE**2
LEAST = 1e-30  # in place of 0, whose last bit would make a number that processors are slow with
CHUNK = 1 << 12
"""Windows at a time on a CPU: what is computed of them stays in its cache."""
CHUNK_GPU = 1 << 20
"""On a GPU: about a gigabyte."""


def raw(levels: Tensor) -> Tensor:
    """The pixels themselves."""
    return levels


def row_gradient(levels: Tensor) -> Tensor:
    """Central differences along rows, one-sided at the ends."""
    return torch.gradient(levels, dim=-1)[0]


def cosines(levels: Tensor) -> Tensor:
    """Orthonormal two-dimensional DCT-II of the whole picture."""
    rows, columns = (_dct(side, levels) for side in levels.shape[-2:])
    return rows @ levels @ columns.T


def _dct(side: int, like: Tensor) -> Tensor:
    place = torch.arange(side, dtype=like.dtype, device=like.device)
    waves = (math.pi / side * (place + 0.5) * place[:, None]).cos() * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves


def edge_map(levels: Tensor) -> Tensor:
    """Thin Sobel edges, 1 or 0: squared strength above four times its mean, and a ridge.

    After the documented behaviour of MATLAB's ``edge``; not compared with it.
    """
    x, y = (g.abs() for g in sobel(levels))
    strength = x.square() + y.square()
    framed = pad(strength, (1, 1, 1, 1))
    ridge_x = (framed[:, 1:-1, :-2] <= strength) & (strength > framed[:, 1:-1, 2:]) & (x >= y)
    ridge_y = (framed[:, :-2, 1:-1] <= strength) & (strength > framed[:, 2:, 1:-1]) & (y >= x)
    strong = strength > 4 * strength.mean((-2, -1), keepdim=True)
    return (strong & (ridge_x | ridge_y)).to(levels.dtype)


def wavelet(levels: Tensor) -> Tensor:
    """One level of the discrete Meyer wavelet, its four bands side by side.

    The filter is sampled from Meyer's function, not taken from MATLAB; not compared with it.
    """
    low = levels.new_tensor(_meyer_taps())
    sign = torch.tensor([-1.0, 1.0], dtype=low.dtype, device=low.device).repeat(len(low) // 2)
    bands = torch.stack((low, low.flip(0) * sign))
    for axis in (-1, -2):
        moved = levels.movedim(axis, -1)
        reach = len(low) - 1
        framed = _mirrored(moved, reach)[..., 1:]
        found = framed.unfold(-1, len(low), 2) @ bands.flip(1).T
        levels = found.movedim(-1, -2).flatten(-2).movedim(-1, axis)
    return levels


def _mirrored(rows: Tensor, reach: int) -> Tensor:
    """Rows continued on both sides by their mirror image, the last pixel repeated."""
    count = rows.shape[-1]
    index = torch.arange(-reach, count + reach, device=rows.device).remainder(2 * count)
    return rows[..., torch.where(index < count, index, 2 * count - 1 - index)]


def _meyer_taps(count: int = 102) -> list[float]:
    """Low-pass filter of the Meyer wavelet, ``count - 1`` samples after a leading zero."""
    grid = 4096
    w = torch.arange(grid, dtype=torch.float64) * (2 * math.pi / grid)
    w = torch.minimum(w, 2 * math.pi - w)
    v = (3 * w / math.pi - 1).clamp(0, 1)
    smooth = v**4 * (35 - 84 * v + 70 * v**2 - 20 * v**3)
    response = math.sqrt(2) * (math.pi / 2 * smooth).cos()
    samples = torch.fft.irfft(response[: grid // 2 + 1], grid)
    half = (count - 2) // 2
    return [0.0, *torch.cat((samples[-half:], samples[: half + 1])).tolist()]


@torch.no_grad()
def feature_information(
    fused: Tensor, sources: Sequence[Tensor], weight: Tensor | None = None
) -> list[Tensor]:
    """Mean normalised information that windows of two feature maps share.

    Args:
        fused: ``(B, H, W)`` feature map, at least 3 x 3.
        sources: As many maps of that shape as wanted.
        weight: A weight per place; a window has that of its middle.

    Returns:
        One ``(B,)`` per source: 1 for equal maps.
    """
    height, width = fused.shape[-2] - SIDE + 1, fused.shape[-1] - SIDE + 1
    shares = fused.new_empty(len(sources), len(fused), height, width)
    at_once = CHUNK_GPU if fused.is_cuda else CHUNK
    count = max(1, at_once // (height * width))
    rows = max(1, at_once // (count * width))
    # glibc hands memory back to the system, to be cleared anew for the next chunk, until it has
    # seen a large block freed. Without this line a third of the time is spent so.
    torch.empty(1 << 24, dtype=torch.uint8, device=fused.device)
    for first in range(0, len(fused), count):
        for top in range(0, height, rows):
            here = slice(first, first + count), slice(top, min(top + rows, height) + SIDE - 1)
            kept = _described(fused[here])
            for source, share in zip(sources, shares, strict=True):
                part = share[first : first + count, top : top + rows]
                part.copy_(_shared(_described(source[here]), kept).view_as(part))
    return [average(share, weight) for share in shares]


class _Windows(NamedTuple):
    """Windows as they are and as distributions, ``(9, N)``; what is known of each, ``(N,)``."""

    numbers: Tensor
    p: Tensor
    centred: Tensor
    spread: Tensor
    entropy: Tensor
    mean: Tensor
    variance: Tensor


def _described(band: Tensor) -> _Windows:
    numbers = _windows(band)
    p = _distribution(numbers)
    centred = p - 1 / PLACES
    place = torch.arange(PLACES, dtype=p.dtype, device=p.device)
    mean, square = torch.stack((place, place.square())) @ p
    spread, entropy = centred.square().sum(0), -_plogp(p).sum(0)
    return _Windows(numbers, p, centred, spread, entropy, mean, square - mean.square())


def _windows(band: Tensor) -> Tensor:
    """The nine numbers of each window, column by column: ``(B, h, w)`` -> ``(9, windows)``."""
    height, width = band.shape[1] - SIDE + 1, band.shape[2] - SIDE + 1
    shifted = [
        band[:, row : row + height, column : column + width]
        for column in range(SIDE)
        for row in range(SIDE)
    ]
    return torch.stack(shifted).flatten(1)


def _distribution(windows: Tensor) -> Tensor:
    """Scaled from 0 to 1, then to a sum of 1; even where all nine are equal."""
    low, high = windows.amin(0), windows.amax(0)
    flat = low == high
    scaled = (windows - low) / torch.where(flat, 1.0, high - low)
    scaled += flat  # all ones
    return scaled / scaled.sum(0)


def _shared(source: _Windows, fused: _Windows) -> Tensor:
    """2 (H(p) + H(q) - H(p, q)) / (H(p) + H(q)) of windows -> ``(N,)``."""
    numerator = (source.centred * fused.centred).sum(0)
    spread = (source.spread * fused.spread).sqrt()
    related = (numerator != 0) & (spread > 0)
    correlation = torch.where(related, numerator / torch.where(related, spread, 1.0), 0.0)
    # The lower bound is the upper one with the order of q turned round, and the order does not
    # matter to anything that follows.
    against = correlation < 0
    p, q = source.p, torch.where(against, fused.p.flip(0), fused.p)
    mean_q = torch.where(against, PLACES - 1 - fused.mean, fused.mean)
    mass, at_p, at_q = _staircase(p.cumsum(0)[:-1], q.cumsum(0)[:-1])
    covariance = (mass * (at_p * at_q)).sum(0) - source.mean * mean_q
    deviation = source.variance * fused.variance
    mixed = (correlation != 0) & (deviation > 0) & (covariance != 0)
    t = correlation.abs() * deviation.clamp_min(0).sqrt() / torch.where(mixed, covariance, 1.0)
    t = torch.where(mixed, t, 0.0)
    # The joint distribution is (1-t) p q, whose entropy is known, plus t times the staircase.
    both = source.entropy + fused.entropy
    base = p.gather(0, at_p).mul_(q.gather(0, at_q)).mul_(1 - t)
    step = _plogp(mass.mul_(t).add_(base)).sum(0) - _plogp(base).sum(0)
    mutual = both - ((1 - t) * both - _plogp(1 - t) - step)
    # Three terms of order 1 cancel where nothing is shared.
    value = torch.where(mutual.abs() < 1e-15, 0.0, 2 * mutual / both)
    return torch.where((source.numbers == fused.numbers).all(0), 1.0, value)


def _staircase(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest dependence of two distributions: all mass lies on a path of 17 cells.

    Args:
        p, q: Cumulated, without the last 1, ``(8, N)``.

    Returns:
        Mass of each cell on the path, and its two places counted from 0, ``(17, N)``.
    """
    # Merge both rows of steps (Batcher's network). Their last bit says whose step it is; it moves
    # a probability by one part in 10^16.
    merged = torch.cat((_marked(p, 0), _marked(q.flip(0), 1)))
    half = len(p)
    while half:
        pairs = merged.view(-1, 2, half, merged.shape[-1])
        merged = torch.empty_like(pairs)
        torch.minimum(pairs[:, 0], pairs[:, 1], out=merged[:, 0])
        torch.maximum(pairs[:, 0], pairs[:, 1], out=merged[:, 1])
        half //= 2
    merged = merged.view(-1, p.shape[-1])
    at_q = pad((merged.view(torch.int64) & 1).cumsum(0), (0, 0, 1, 0))
    at_p = torch.arange(len(at_q), device=p.device)[:, None] - at_q
    mass = pad(merged, (0, 0, 0, 1), value=1.0).diff(dim=0, prepend=merged.new_zeros(1, len(p[0])))
    return mass, at_p, at_q


def _marked(values: Tensor, bit: int) -> Tensor:
    bits = values.clamp_min(LEAST).view(torch.int64)
    return ((bits & -2) | bit).view(torch.float64)


def _plogp(p: Tensor) -> Tensor:
    return p.abs().clamp_min_(SMALLEST).log_().mul_(p)


class FeatureInformation(Score):
    """Feature mutual information on raw pixels (FMI), mean over the sources."""

    name = "fmi_none"
    range = (-1.0, 1.0)
    source = "Haghighat, Aghagolzadeh, Seyedarabi, Computers & Electrical Engineering 37(5), 2011"
    variant = "8-bit grey, raw pixels, windows 3 x 3, mean over sources"
    min_size = SIDE
    feature: Callable[[Tensor], Tensor] = staticmethod(raw)

    @torch.no_grad()
    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        maps = [self.feature(picture) for picture in (fused, ir, vi)]
        return sum(feature_information(maps[0], maps[1:], weight)) / 2


class FeatureInformationGradient(FeatureInformation):
    """Feature mutual information on differences along rows, mean over the sources."""

    name = "fmi_gradient"
    variant = "8-bit grey, differences along rows, windows 3 x 3, mean over sources"
    feature = staticmethod(row_gradient)


class FeatureInformationCosine(FeatureInformation):
    """Feature mutual information on the cosine transform of the picture (FMI_dct)."""

    name = "fmi_dct"
    variant = "8-bit grey, DCT of the whole picture, windows 3 x 3, mean over sources"
    feature = staticmethod(cosines)
    weighted = False  # its numbers have no place in the picture


class FeatureInformationEdge(FeatureInformation):
    """Feature mutual information on thin Sobel edges, what one tool prints as FMI_pixel.

    Approximate: the edge detector follows the documentation of MATLAB's, not its program.
    """

    name = "fmi_edge"
    variant = "8-bit grey, binary Sobel edges, windows 3 x 3, mean; not checked against a program"
    feature = staticmethod(edge_map)


class FeatureInformationWavelet(FeatureInformation):
    """Feature mutual information on one level of a Meyer wavelet (FMI_w).

    Approximate: the filter is sampled from its formula, not MATLAB's.
    """

    name = "fmi_wavelet"
    variant = "8-bit grey, Meyer wavelet, windows 3 x 3, mean; not checked against a program"
    feature = staticmethod(wavelet)
    weighted = False  # its numbers have no place in the picture
