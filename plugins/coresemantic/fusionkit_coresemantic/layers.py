"""The parts that the network is made of. Source: ours, after the published description."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, pad

SLOPE = 0.2
"""Of every leaky ReLU."""
LARGE = 64
"""Pixels per side from which mirrored edges are computed apart."""


class Conv3(nn.Conv2d):
    """3x3 convolution; beyond an edge the picture is mirrored (the edge pixel is not repeated).

    Without gradients, a large map is not copied to be padded: it is convolved with zeros around it,
    and the four edges of the result are computed again from narrow mirrored strips.

    Args:
        channels, out: depths.
        bias: whether there is one; a convolution of the mask has none, so that no mask is zero.
        exact: leaves autocast, where bfloat16 would show in the picture.
    """

    def __init__(self, channels: int, out: int, *, bias: bool = True, exact: bool = False) -> None:
        super().__init__(channels, out, 3, bias=bias)
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with weights made from this layer's."""
        if self.exact and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return mirrored(x.to(weight.dtype), weight, bias)
        return mirrored(x, weight, bias)


def mirrored(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:class:`Conv3` as a function: ``(B, C, H, W)`` -> ``(B, out, H, W)``; H, W at least 2."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or min(x.shape[-2:]) < LARGE:
        return conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)
    y = conv2d(x, weight, bias, padding=1)
    for rows, columns, sides in (
        (slice(None, 2), slice(None), (1, 1, 1, 0)),
        (slice(-2, None), slice(None), (1, 1, 0, 1)),
        (slice(None), slice(None, 2), (1, 0, 1, 1)),
        (slice(None), slice(-2, None), (0, 1, 1, 1)),
    ):
        edge = conv2d(pad(x[..., rows, columns], sides, mode="reflect"), weight, bias)
        target = y
        if rows != slice(None):
            target = y[..., :1, :] if rows.stop else y[..., -1:, :]
        else:
            target = y[..., :1] if columns.stop else y[..., -1:]
        target.copy_(edge)
    return y


class ResidualBlock(nn.Module):
    """Convolution, group norm, leaky ReLU, convolution, group norm, plus the input, leaky ReLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = (Conv3(channels, channels, bias=False) for _ in range(2))
        self.norm1, self.norm2 = (nn.GroupNorm(groups, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.norm1(self.first(x)), SLOPE, inplace=True)
        y = self.norm2(self.second(y)).to(x.dtype)
        return leaky_relu(x + y, SLOPE, inplace=True)


class MaskInjection(nn.Module):
    r"""The mask of the named objects enters a feature map.

    .. math:: F' = F + s\, g \odot F \odot (2M - 1)_+ + K * e, \qquad
              e = \mathrm{LReLU}(E * M), \qquad g = \sigma(G * [F, e])

    with a learned number s, from 0.1, and K from zero. E and K have no bias, so a mask of zeros
    changes nothing, and any mask changes nothing farther than one pixel from it.

    Args:
        channels: C, the depth of F; e has half of it.

    Shape:
        - features ``(B, C, H, W)``, mask ``(B, 1, H, W)`` in [0, 1] -> ``(B, C, H, W)``
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.embed = Conv3(1, half, bias=False)
        self.gate = Conv3(channels + half, channels)
        self.enter = nn.Conv2d(half, channels, 1, bias=False)
        self.strength = nn.Parameter(torch.tensor(0.1))
        nn.init.zeros_(self.enter.weight)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        mask = mask.to(features.dtype)
        embedded = leaky_relu(self.embed(mask), SLOPE).to(features.dtype)
        gate = self.gate(torch.cat([features, embedded], 1)).sigmoid()
        inside = (2 * mask - 1).relu() * self.strength.to(features.dtype)
        changed = torch.addcmul(features, features * inside, gate.to(features.dtype))
        return changed + self.enter(embedded).to(features.dtype)


class ModalGate(nn.Module):
    r"""Two modalities become one map: weighted by a softmax between them, plus what joins both.

    .. math:: w = \mathrm{softmax}_{ir, vi}(G * [F_{ir}, F_{vi}]), \qquad
              F = w_{ir} F_{ir} + w_{vi} F_{vi} + J [F_{ir}, F_{vi}]

    for each channel and pixel. A softmax of two is a sigmoid of their difference, so one map per
    channel is convolved, with the difference of the weights, where two are meant.

    Shape:
        - infrared, visible ``(B, C, H, W)`` -> the two summands, infrared and visible (which
          carries the joint part), ``(B, C, H, W)`` each
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = Conv3(2 * channels, 2 * channels)
        self.join = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([infrared, visible], 1)
        weight, bias = (p.chunk(2) for p in (self.weigh.weight, self.weigh.bias))
        share = self.weigh.convolve(both, weight[0] - weight[1], bias[0] - bias[1]).sigmoid()
        share = share.to(infrared.dtype)
        joint = self.join(both).to(infrared.dtype)
        return share * infrared, torch.addcmul(joint, 1 - share, visible)
