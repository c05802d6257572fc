"""A full-size map worked through from top to bottom, so that what is wider never exists whole.

Everything in RFC happens at the size of the picture. Without gradients a step that makes a wide map
on its way (scale and shift of 128 channels each, two maps side by side) runs over bands of rows. A
band reads one more row on either side where a 3x3 convolution follows, so the result is that of the
whole map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

BAND_BYTES = {"cpu": 8 << 20, "cuda": 2 << 30}
"""Bytes of the widest map of one band."""


@dataclass(frozen=True, slots=True)
class Band:
    """Rows ``start`` to ``stop``, end exclusive, of a map of ``height`` rows."""

    start: int
    stop: int
    height: int

    def of(self, x: Tensor) -> Tensor:
        """These rows of a map ``(B, C, H, W)``."""
        return x[:, :, self.start : self.stop]

    def grown(self) -> "Band":
        """With a row more on either side, where there is one."""
        return Band(max(0, self.start - 1), min(self.height, self.stop + 1), self.height)


class Convolution(nn.Conv2d):
    """3x3 convolution with zeros around the picture, of a whole map or of a band of one.

    Several maps count as one with their channels side by side. One that is ``exact`` leaves
    autocast.
    """

    def __init__(self, channels: int, out: int, *, bias: bool = True, exact: bool = False) -> None:
        super().__init__(channels, out, 3, padding=1, bias=bias)
        self.exact = exact

    def forward(self, *maps: Tensor, band: Band | None = None) -> Tensor:
        device = maps[0].device.type
        if self.exact and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._convolve(maps, band)
        return self._convolve(maps, band)

    def _convolve(self, maps: Sequence[Tensor], band: Band | None) -> Tensor:
        dtype = (
            self.weight.dtype
            if self.exact
            else min((x.dtype for x in maps), key=lambda kind: kind.itemsize)
        )
        if band is None or band.stop - band.start == band.height:
            return conv2d(_beside(maps, dtype), self.weight, self.bias, padding=1)
        grown = band.grown()
        x = _beside([grown.of(x) for x in maps], dtype)
        top, bottom = band.start == grown.start, band.stop == grown.stop
        # At an edge of the picture zeros stand on both sides, and the row at the other is dropped.
        x = conv2d(x, self.weight, self.bias, padding=(int(top or bottom), 1))
        return x[:, :, :-1] if top else x[:, :, 1:] if bottom else x


def _beside(maps: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    maps = [x.to(dtype) for x in maps]
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


def by_bands(x: Tensor, channels: int, make: Callable[[Band], Tensor]) -> Tensor:
    """What ``make`` gives for each band, as one map; in one piece where gradients are wanted.

    Args:
        x: ``(B, C, H, W)``; the result has its height and width.
        channels: of the widest map that is made on the way.
        make: a band -> ``(B, C', rows, W)``.
    """
    count, _, height, width = x.shape
    rows = height
    if not torch.is_grad_enabled():
        row = count * channels * width * x.element_size()
        rows = max(8, BAND_BYTES.get(x.device.type, BAND_BYTES["cpu"]) // row)
    if rows >= height:
        return make(Band(0, height, height))
    whole = None
    for start in range(0, height, rows):
        band = Band(start, min(start + rows, height), height)
        part = make(band)
        if whole is None:
            whole = torch.empty(
                (count, part.shape[1], height, width),
                dtype=part.dtype,
                device=part.device,
                memory_format=torch.channels_last,
            )
        band.of(whole).copy_(part)
    return whole
