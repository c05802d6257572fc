"""Layers of LDFusion in the forms that are fast on a CPU with channels-last memory.

Same functions, same parameters as the released code's; ``benchmarks/README.md`` has the seconds.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, pad, pixel_shuffle

EPSILON = 1e-5


def instance_norm(x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    r"""AdaIN, :math:`(x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot scale + shift`; plain without.

    Mean and biased variance per sample and channel. Source: X. Huang, S. Belongie, "Arbitrary
    Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, eq. 8.

    Args:
        x: ``(B, C, H, W)``.
        shift, scale: ``(B, C)``.
    """
    if x.device.type != "cpu":
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
        y = (wide - mean) * (variance + EPSILON).rsqrt()
        if scale is not None:
            y = torch.addcmul(shift[..., None, None], y, scale[..., None, None])
        return y.to(x.dtype)
    # Of one sample it is batch normalisation, the one form that torch has for this layout.
    wide = torch.promote_types(x.dtype, torch.float32)
    done = []
    for number, row in enumerate(x.split(1)):
        affine = (None, None) if scale is None else (scale[number].to(wide), shift[number].to(wide))
        done.append(batch_norm(row, None, None, *affine, True, 0.0, EPSILON))
    return done[0] if len(done) == 1 else torch.cat(done)


class InstanceNorm(nn.Module):
    """:func:`instance_norm` without shift and scale."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


class LayerNorm(nn.Module):
    r""":math:`(x - \mu) / (s + \epsilon) \cdot \gamma_c + \beta_c` over channels and places.

    s is the unbiased deviation and epsilon is added to it, not to the variance: the released
    code's form.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """May use the memory of its input when no gradient is wanted."""
        half = x.dtype in (torch.bfloat16, torch.float16)
        fast = x.device.type == "cpu" and (half or x.dtype == torch.float32)
        if not fast or torch.is_grad_enabled():
            wide = x.float() if half else x
            mean = wide.mean((1, 2, 3), keepdim=True)
            centred = wide - mean
            count = x[0].numel()
            deviation = (centred.square().sum((1, 2, 3), keepdim=True) / (count - 1)).sqrt()
            rate = self.gamma[:, None, None] / (deviation + EPSILON)
            return torch.addcmul(self.beta[:, None, None], centred, rate).to(x.dtype)
        mean, deviation = _moments(x)
        rate = self.gamma / (deviation + EPSILON)[:, None]  # B C
        offset = self.beta - mean[:, None] * rate
        if not half:
            return torch.addcmul(offset[..., None, None], x, rate[..., None, None], out=x)
        # Half precision maps with single precision numbers: one rounding instead of three.
        none, one = torch.zeros_like(self.beta), torch.ones_like(self.beta)
        rows = zip(x.split(1), rate, offset, strict=True)
        done = [batch_norm(row, none, one, a, b, False, 0.0, 0.0) for row, a, b in rows]
        return done[0] if len(done) == 1 else torch.cat(done)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation of each sample, ``(B,)`` float32."""
    count = x[0].numel()
    if x.dtype == torch.float32:
        rows = x.permute(0, 2, 3, 1).flatten(2)  # B H (W C), as it lies in memory
        mean = rows.sum((1, 2)).double() / count
        squares = torch.linalg.vector_norm(rows, dim=2).double().square().sum(1)
    else:
        one = torch.ones(x.shape[1])
        found = [
            torch.native_batch_norm(row, one, 0 * one, None, None, True, 0.0, 1e-12)[1:]
            for row in x.split(1)
        ]
        means, rates = (torch.stack(part).double() for part in zip(*found, strict=True))
        mean = means.mean(1)
        squares = (rates**-2 + means.square()).mean(1) * count
    variance = (squares - count * mean.square()).clamp(min=0) / (count - 1)
    return mean.float(), variance.sqrt().float()


class FirstConv(nn.Conv2d):
    """A convolution of a picture, in single precision whatever surrounds it.

    In bfloat16 a picture has eight bits, and the normalisation that follows enlarges what a smooth
    picture has lost: two thirds of the network's error came from here, at a hundredth of its cost.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class LastConv(nn.Conv2d):
    """A convolution to one channel behind mirrored edges, for 4 x 4 results at once.

    Libraries leave fifteen sixteenths of a vector register empty for a single channel. With the
    kernel written at each of the sixteen places of a block, it is a convolution of stride 4 to
    sixteen channels: twice the arithmetic, a sixth of the time on a CPU. Done in strips, because
    a mirrored copy of the whole map costs more than the convolution.
    """

    BLOCK, STRIP = 4, 96

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, 1, H, W)``, or its top left window of ``size`` alone."""
        margin = self.kernel_size[0] // 2
        height, width = size or x.shape[-2:]
        # Whole blocks: beyond the window where there is map, mirrored where there is not.
        rows, columns = (-(-side // self.BLOCK) * self.BLOCK for side in (height, width))
        right = max(0, columns + margin - x.shape[-1])
        below = max(0, rows + margin - x.shape[-2])
        kernel = self._kernel()
        strips = []
        for top in range(0, rows, self.STRIP):
            bottom = min(top + self.STRIP, rows)
            strip = x[..., max(0, top - margin) : bottom + margin, : columns + margin]
            ends = (0 if top else margin), (below if bottom == rows else 0)
            strip = pad(strip, (margin, right, *ends), mode="reflect")
            strips.append(conv2d(strip, kernel, self.bias.expand(len(kernel)), stride=self.BLOCK))
        return pixel_shuffle(torch.cat(strips, 2), self.BLOCK)[..., :height, :width]

    def _kernel(self) -> Tensor:
        """``(16, C, k + 3, k + 3)``: the kernel at each place of a block."""
        last = self.BLOCK - 1
        places = [(top, left) for top in range(self.BLOCK) for left in range(self.BLOCK)]
        moved = [pad(self.weight, (x, last - x, y, last - y)) for y, x in places]
        return torch.cat(moved).contiguous(memory_format=torch.channels_last)
