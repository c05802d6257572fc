"""TeRF's fusion network: residual dense blocks, two transposed-attention blocks, a way back.

Source: "TeRF: Text-driven and Region-aware Flexible Visible and Infrared Image Fusion", ACM MM
2024, doi 10.1145/3664647.3680971, class RDN of the released code. The network reads no text and no
mask: words act on its result, see :mod:`fusionkit_terf.editing`.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, layer_norm

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest
from fusionkit.protocols import BuildModulation


class Terf(nn.Module):
    """The released network, 1.77 million parameters.

    Args:
        modulation: None; there is no text point, so a scheme is refused.
        text_dim: not read.
        features: channels between the blocks.
        growth: channels that a dense layer adds.
        blocks: residual dense blocks.
        layers_per_block: dense layers in each.
        refinements: transposed-attention blocks.
        heads: their attention heads.
        expansion: width of their feed-forward part, in units of ``features``.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; any size
    """

    modulation_points = ()
    uses_text = False
    multiple_of = 1
    min_size = 1
    layers = ("shallow", "gather", "reconstruct")

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int | None = None,
        features: int = 64,
        growth: int = 32,
        blocks: int = 3,
        layers_per_block: int = 6,
        refinements: int = 2,
        heads: int = 1,
        expansion: float = 2.66,
    ) -> None:
        super().__init__()
        if modulation is not None:
            raise BadRequest(
                "network 'terf' has no point at which text meets features, so it takes no "
                "modulation: leave it unset, or choose another network."
            )
        if features % heads:
            raise BadRequest(f"{features} features do not divide into {heads} heads.")
        self.shallow = nn.Sequential(
            _conv3(4, features), nn.PReLU(), _conv3(features, features),
            _conv3(features, features), nn.PReLU(),
        )  # fmt: skip
        self.dense = nn.ModuleList(
            DenseBlock(features, growth, layers_per_block) for _ in range(blocks)
        )
        self.gather = nn.Sequential(
            nn.Conv2d(blocks * features, features, 1), _conv3(features, features),
            _conv3(features, features), nn.PReLU(),
        )  # fmt: skip
        self.refinement = nn.Sequential(
            *(Refinement(features, heads, int(features * expansion)) for _ in range(refinements))
        )
        self.reconstruct = Reconstruct(features)
        self.out = _conv3(features, 3)

    def forward(self, batch: Batch) -> Fused:
        image = self.raw(batch.visible, batch.infrared)
        return Fused(image=image if self.training else image.clamp(0, 1))

    def raw(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """The fused picture ``(B, 3, H, W)`` as it leaves the last convolution, in no fixed range.

        The global residual adds the shallow features to the refined ones (the paper's F_DF).
        """
        x = torch.cat([infrared, visible], 1).contiguous(memory_format=torch.channels_last)
        shallow = x = self.shallow(x)
        found = []
        for block in self.dense:
            found.append(x := block(x))
        x = self.refinement(self.gather(torch.cat(found, 1)))
        return self.out(self.reconstruct(x + shallow)).float()


def _conv3(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class DenseBlock(nn.Module):
    """Residual dense block: every layer reads all that came before it, a 1x1 mixes, the input adds.

    Shape:
        - ``(B, C, H, W)`` -> the same
    """

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _conv3(features + growth * i, growth, bias=False) for i in range(layers)
        )
        self.mix = nn.Conv2d(features + growth * layers, features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for layer in self.layers:
            known = torch.cat([known, layer(known).relu_()], 1)
        return self.mix(known) + x


class Refinement(nn.Module):
    """Transformer block: attention between channels, then a convolutional feed-forward part.

    Shape:
        - ``(B, C, H, W)`` -> the same
    """

    def __init__(self, features: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = PixelNorm(features), PixelNorm(features)
        self.attention = ChannelAttention(features, heads)
        self.feed_forward = FeedForward(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x), x)
        return x + self.feed_forward(self.norm2(x))


class PixelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, with scale and shift."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        return layer_norm(rows, rows.shape[-1:], self.weight, self.bias, 1e-5).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    r"""Transposed attention: channels attend to channels, over all places of the picture.

    .. math:: A = \mathrm{softmax}(\tau\, \hat q \hat k^\top), \quad y = x + W A v

    with rows of q and k of unit length over the places. W A is one small matrix, formed first.

    Shape:
        - x normalised and the residual, ``(B, C, H, W)`` each -> ``(B, C, H, W)``
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(features, 3 * features, 1, bias=False)
        self.around = nn.Conv2d(
            3 * features, 3 * features, 3, padding=1, groups=3 * features, bias=False
        )
        self.project = nn.Conv2d(features, features, 1, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        found = self.around(self.qkv(x)).permute(0, 2, 3, 1).flatten(1, 2)  # B HW 3C
        query, key, value = found.chunk(3, -1)
        mixed = self.mixing(query, key)
        y = value @ mixed.mT.to(value.dtype)
        return residual + y.mT.unflatten(2, (height, width))

    def mixing(self, query: Tensor, key: Tensor) -> Tensor:
        """W A, ``(B, C, C)``, from ``(B, N, C)``; in single precision, as it adds up all places."""
        with torch.autocast(query.device.type, enabled=False):
            query, key = (
                z.float().unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (query, key)
            )
            lengths = [z.square().sum(2).clamp(min=1e-24).sqrt() for z in (query, key)]
            scores = query.mT @ key / (lengths[0][..., None] * lengths[1][:, :, None])
            attention = (scores * self.temperature.float()).softmax(-1)  # B heads d d
            project = self.project.weight.float().flatten(1).unflatten(1, (self.heads, -1))
            return (project.transpose(0, 1) @ attention).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """1x1 up, a full 3x3, PReLU, 1x1 down.

    Shape:
        - ``(B, C, H, W)`` -> the same
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(features, hidden, 1, bias=False)
        self.around = _conv3(hidden, hidden, bias=False)
        self.activation = nn.PReLU()
        self.down = nn.Conv2d(hidden, features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.around(self.up(x))))


class Reconstruct(nn.Module):
    """To twice the size and back: 3x3, pixel shuffle, 2x2 of stride two, 3x3, 1x1; no activation.

    A pixel of the strided convolution sees just the four that came from its own place, so shuffle
    and convolution are a 1x1 over the unshuffled channels. All five steps are linear: computed are
    two 3x3 convolutions of the same function, three times less arithmetic.

    Shape:
        - ``(B, C, H, W)`` -> the same
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.up = _conv3(features, 4 * features)
        self.down = nn.Conv2d(features, features, 2, stride=2)
        self.extend = _conv3(features, features)
        self.inner = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = conv2d(x, *self._folded(self.up, self.down), padding=1)
        return conv2d(x, *self._folded(self.extend, self.inner), padding=1)

    @staticmethod
    def _folded(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Kernel and bias of a 3x3 convolution with one that mixes its channels after it.

        Channel ``4 c + 2 i + j`` of the first is what the shuffle puts at row i, column j of c.
        """
        with torch.autocast(first.weight.device.type, enabled=False):
            mix = second.weight.flatten(1)
            kernel = (mix @ first.weight.flatten(1)).view(len(mix), *first.weight.shape[1:])
            return (
                kernel.contiguous(memory_format=torch.channels_last),
                mix @ first.bias + second.bias,
            )
