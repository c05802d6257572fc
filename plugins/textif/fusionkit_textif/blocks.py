"""The parts of the network: normalisation, channel attention, feed-forward, changes of scale.

Names of modules and parameters are those of the released code, so that its state dict loads as it
is. What differs is how the same numbers are computed:

* two linear layers with nothing between them are one: the feed-forward's 1x1 convolution and the
  3x3 convolution after it (two fifths of the whole network's arithmetic are saved by that), and the
  attention over channels together with the projection after it;
* queries and keys are not normalised at full size, only their small product is;
* under autocast only the blocks compute in the lower precision, and their residual sums stay in the
  parameters' own: the rest is a small part of the arithmetic and makes half of the error;
* without gradients a map is worked through in strips of rows, so that what is two to six times as
  wide as the map itself never exists at full size. A strip reads one more row on either side, which
  is what a 3x3 convolution needs, so the result is that of the whole map.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIP_BYTES = {"cpu": 12 << 20, "cuda": 2 << 30}
"""Bytes of the widest map of one strip: on a CPU about what its caches hold."""


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A forward pass that leaves autocast."""

    @functools.wraps(forward)
    def run(self: nn.Module, *maps: Tensor) -> Tensor:
        device = maps[0].device.type
        if not torch.is_autocast_enabled(device):
            return forward(self, *maps)
        with torch.autocast(device, enabled=False):
            return forward(self, *(x.float() for x in maps))

    return run


class Convolution(nn.Conv2d):
    """A convolution without bias, outside autocast."""

    def __init__(self, channels: int, out: int, size: int) -> None:
        super().__init__(channels, out, size, padding=size // 2, bias=False)

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class LayerNorm(nn.Module):
    """Per pixel over channels, biased variance, with weight and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    r"""Attention between channels (MDTA of Restormer): C/h x C/h numbers per head say what mixes.

    .. math:: y = W_o\,\mathrm{softmax}\!\left(\tau\,\frac{q k^\top}{|q||k|}\right) v,
              \qquad (q, k, v) = D * W_{qkv} x

    with a 1x1 convolution :math:`W_{qkv}`, a depth-wise 3x3 convolution D, norms and products taken
    over all pixels, and a head a run of channels.

    Source: S. Zamir et al., "Restormer", CVPR 2022, eq. 1.

    Shape:
        - x, y: ``(B, C, H, W)``
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """``x`` plus attention over ``norm(x)``."""
        count, channels, height, width = x.shape
        exact = torch.promote_types(self.temperature.dtype, torch.float32)
        product = squares = 0
        values = None
        for strip in strips(x, 3 * channels):
            z = strip.convolve(self.qkv(norm(strip.rows)), self.qkv_dwconv)
            z = z.permute(0, 2, 3, 1).flatten(1, 2)  # B n 3C
            q, k, v = z.chunk(3, 2)
            q, k = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k))
            product = product + (q.mT @ k).to(exact)  # B h c c
            squares = squares + z[..., : 2 * channels].to(exact).square().sum(1)
            if strip.whole:
                values = v
            else:
                if values is None:
                    values = v.new_empty(count, height * width, channels)
                values[:, strip.start * width : strip.stop * width] = v
        lengths = squares.clamp_min(1e-24).sqrt().unflatten(1, (2, self.heads, -1))
        lengths_q, lengths_k = lengths.unbind(1)
        alike = product / (lengths_q[..., None] * lengths_k[..., None, :])
        mixing = (alike * self.temperature.to(exact)).softmax(-1)  # B h c c
        weight = self.project_out.weight.flatten(1).unflatten(1, (self.heads, -1)).transpose(0, 1)
        mixing = torch.cat((weight.to(exact) @ mixing).unbind(1), -1)  # B C C
        flat, mixing = x.permute(0, 2, 3, 1).flatten(1, 2), mixing.mT.to(values.dtype)
        if x.dtype == values.dtype:
            y = torch.baddbmm(flat, values, mixing)
        else:
            y = flat + values @ mixing
        return y.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """1x1 convolution C -> 2C, 3x3 convolution, GELU, 1x1 convolution back; no gate.

    The 3x3 convolution is a full one (Restormer's, whose name its parameter kept, is depth-wise).
    It follows the 1x1 convolution directly, so both are computed as one 3x3 convolution C -> 2C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        self.project_out = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self._kept: tuple[tuple, Tensor] | None = None

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """``x`` plus the branch over ``norm(x)``."""
        weight = self.weight()
        y = None
        for strip in strips(x, 2 * x.shape[1]):
            hidden = functional.gelu(strip.convolve(norm(strip.rows), weight))
            change = self.project_out(hidden)
            if strip.whole:
                return x + change
            if y is None:
                y = torch.empty_like(x)
            rows = slice(strip.start, strip.stop)
            torch.add(x[:, :, rows], change, out=y[:, :, rows])
        return y

    def weight(self) -> Tensor:
        """Both convolutions as one, ``(2C, C, 3, 3)``; kept until a parameter changes."""
        if torch.is_grad_enabled():
            return self._product()
        parameters = self.project_in.weight, self.dwconv.weight
        now = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in parameters)
        if self._kept is None or self._kept[0] != now:
            with torch.autocast(parameters[0].device.type, enabled=False):
                self._kept = now, self._product().detach()
        return self._kept[1]

    def _product(self) -> Tensor:
        inner, outer = self.project_in.weight.flatten(1), self.dwconv.weight
        with torch.autocast(inner.device.type, enabled=False):
            product = outer.permute(0, 2, 3, 1) @ inner
        return product.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": None}


class Block(nn.Module):
    """Channel attention and feed-forward, each on normalised features with a residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = ChannelAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.ffn = FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.norm1.body.weight.dtype)
        return self.ffn(self.attn(x, self.norm1), self.norm2)


def blocks(channels: int, heads: int, count: int) -> nn.Sequential:
    """``count`` blocks in a row."""
    return nn.Sequential(*(Block(channels, heads) for _ in range(count)))


class Downsample(nn.Module):
    """Half the size, twice the channels: 3x3 convolution C -> C/2, pixels into channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Convolution(channels, channels // 2, 3), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Twice the size, half the channels: 3x3 convolution C -> 2C, channels into pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Convolution(channels, 2 * channels, 3), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Strip:
    """Rows of a map with their neighbours, where there are any."""

    def __init__(self, x: Tensor, start: int, stop: int) -> None:
        height = x.shape[2]
        above, below = start > 0, stop < height
        self.start, self.stop, self.whole = start, stop, not above and not below
        self.rows = x[:, :, start - above : stop + below]
        self.missing = (0, 0, int(not above), int(not below))

    def convolve(self, z: Tensor, layer: nn.Conv2d | Tensor) -> Tensor:
        """A 3x3 convolution of what was made from :attr:`rows`, zeros around the whole map."""
        depthwise = isinstance(layer, nn.Conv2d)
        weight, groups = (layer.weight, layer.groups) if depthwise else (layer, 1)
        if self.whole:
            return functional.conv2d(z, weight, padding=1, groups=groups)
        if any(self.missing):
            z = functional.pad(z, self.missing)
        return functional.conv2d(z, weight, padding=(0, 1), groups=groups)


def strips(x: Tensor, channels: int) -> Iterator[Strip]:
    """A map from top to bottom; in one piece where gradients are wanted.

    Args:
        x: ``(B, C, H, W)``.
        channels: of the widest map that is made from a strip.
    """
    height = x.shape[2]
    rows = height
    if not torch.is_grad_enabled():
        row = len(x) * channels * x.shape[3] * x.element_size()
        rows = max(8, STRIP_BYTES.get(x.device.type, STRIP_BYTES["cuda"]) // row)
    for start in range(0, height, rows):
        yield Strip(x, start, min(start + rows, height))
