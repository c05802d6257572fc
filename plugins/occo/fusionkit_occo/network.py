"""OCCO's network: two convolutional pyramids, an interaction block at each level, a way back up.

Source: the network of "LVM-guided infrared and visible image fusion with object-aware and
contextual contrastive learning" (OCCO), IJCV 2025, arXiv 2503.18635, as released. The language and
vision models of the title make training masks; the network itself reads no text and no mask.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, interpolate, linear, max_pool2d, pad

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.protocols import BuildModulation
from fusionkit_occo.colour import to_rgb, to_ycbcr

WIDTHS = (32, 64, 112, 160)
HEADS = (4, 4, 4, 1)
STATISTICS = ("batch", "running")


class Occo(nn.Module):
    """The released network, 3.6 million parameters.

    Args:
        modulation: None; there is no text point, so a scheme is refused.
        text_dim: not read.
        widths: channels at full, half, quarter and eighth size.
        heads: attention heads of the interaction block at each size.
        statistics: what batch normalisation goes by when fusing. ``batch``: the picture's own
            statistics, as the released test program does (it never leaves training mode, and reads
            one picture at a time). ``running``: the ones kept in training, folded into the
            convolutions.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; H, W >= 16
        - maps: ``luma`` ``(B, 1, H, W)`` in [0, 1], the stretched output of the network; what the
          losses compare
    """

    modulation_points = ()
    uses_text = False
    multiple_of = 1
    min_size = 16
    layers = ("fusion.0", "fusion.1", "fusion.2", "fusion.3", "decoder.2", "decoder.1", "decoder.0")

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int | None = None,
        widths: Sequence[int] = WIDTHS,
        heads: Sequence[int] = HEADS,
        statistics: str = "batch",
    ) -> None:
        super().__init__()
        if modulation is not None:
            raise BadRequest(
                "network 'occo' has no point at which text meets features, so it takes no "
                "modulation: leave it unset, or choose another network."
            )
        check_statistics(statistics)
        self.statistics = statistics
        below = (1, *widths[:-1])
        self.visible = nn.ModuleList(map(Stage, below, widths))
        self.infrared = nn.ModuleList(map(Stage, below, widths))
        self.fusion = nn.ModuleList(map(InteractionFusion, widths, heads))
        self.decoder = nn.ModuleList(map(Up, widths[:-1], widths[1:]))
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, batch: Batch) -> Fused:
        luma, cb, cr = to_ycbcr(batch.visible)
        if self.training:
            # As released, the least and the largest value are those of the whole batch.
            fused = stretch(self.raw(luma, batch.infrared))
            return Fused(image=to_rgb(fused, cb, cr), maps={"luma": fused})
        if self.statistics == "batch":
            alone = zip(luma.split(1), batch.infrared.split(1), strict=True)
            raw = torch.cat([self.raw(y, ir, self.statistics) for y, ir in alone])
        else:
            raw = self.raw(luma, batch.infrared, self.statistics)
        fused = stretch(raw, dim=(1, 2, 3))
        return Fused(image=to_rgb(fused, cb, cr).clamp(0, 1), maps={"luma": fused})

    def raw(self, visible: Tensor, infrared: Tensor, statistics: str = "running") -> Tensor:
        """Luma and infrared ``(B, 1, H, W)`` -> fused luma of the same shape, in no fixed range.

        Outside training ``statistics`` says what normalisation goes by: the ones of this very batch
        or the ones kept.
        """
        own = self.training or statistics == "batch"
        fused = []
        for level, (see, feel) in enumerate(zip(self.visible, self.infrared, strict=True)):
            visible, infrared = see(visible, own), feel(infrared, own)
            fused.append(self.fusion[level](visible, infrared, own))
            if level < 3:
                visible, infrared = max_pool2d(visible, 2), max_pool2d(infrared, 2)
        x = fused[3]
        for level in (2, 1, 0):
            x = self.decoder[level](fused[level], x)
        return self.last(x).float()


def stretch(raw: Tensor, dim: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """Values brought to [0, 1] by the least and the largest one over these dimensions."""
    low, high = raw.amin(dim, keepdim=True), raw.amax(dim, keepdim=True)
    return (raw - low) / (high - low).clamp(min=1e-12)


def check_statistics(statistics: str) -> None:
    if statistics not in STATISTICS:
        raise BadRequest(
            f"occo normalises by {' or '.join(STATISTICS)} statistics, not {statistics!r}."
            f"{did_you_mean(statistics, STATISTICS)}"
        )


class Stage(nn.Module):
    """One level of a pyramid: twice convolution, batch normalisation, ReLU.

    Shape:
        - ``(B, inputs, H, W)`` -> ``(B, channels, H, W)``
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, channels, 3, padding=1), BatchNorm(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), BatchNorm(channels)

    def forward(self, x: Tensor, own: bool) -> Tensor:
        return self.norm2.after(
            self.conv2, self.norm1.after(self.conv1, x, own).relu_(), own
        ).relu_()


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that, with kept statistics, costs nothing: it joins the layer before."""

    def after(self, conv: nn.Conv2d, x: Tensor, own: bool) -> Tensor:
        """Convolution, then normalisation by the batch's own statistics or by the kept ones."""
        if self.training:
            return self(conv(x))
        if own:
            # Without the bias, which is subtracted again: in half precision it would cost digits.
            return self.by_own(torch.conv2d(x, conv.weight, padding=conv.padding))
        scale, shift = self.affine_form()
        weight = conv.weight * scale[:, None, None, None]
        return torch.conv2d(x, weight, conv.bias * scale + shift, padding=conv.padding)

    def by_own(self, x: Tensor) -> Tensor:
        """By the statistics of this batch; in training they are also kept."""
        if self.training:
            return self(x)
        return batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def affine_form(self) -> tuple[Tensor, Tensor]:
        """The a and b of ``a x + b`` that normalisation by the kept statistics comes to."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class InteractionFusion(nn.Module):
    """Feature interaction fusion block: gates by channel and place, cross attention, merging.

    Every step after the gates is linear in the tokens but for one ReLU, one sigmoid and the layer
    normalisation, so products of small matrices are formed first: the channel gates go into the
    projection, keys and values into the tokens' Gram matrix (:meth:`CrossAttention.contexts`),
    queries times context into the output projection. The sums are the released ones in another
    order.

    Args:
        channels: C.
        heads: heads of the cross attention.

    Shape:
        - visible, infrared and result: ``(B, C, H, W)``
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channel_gates = ChannelGates(channels)
        self.spatial_gate = SpatialGate(channels)
        self.attention = CrossAttention(channels, heads)
        self.merge = Merge(channels)

    def forward(self, visible: Tensor, infrared: Tensor, own: bool) -> Tensor:
        size = visible.shape[-2:]
        gates = self.channel_gates(visible, infrared)
        x = tokens(visible), tokens(infrared)
        queries = self.attention.queries(*x, *gates)
        contexts = self.attention.contexts(*queries)
        joined = self.attention.join(x, queries, contexts, self.spatial_gate)
        return self.merge(*joined, size, own)

    def attended(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """What each modality's tokens take from the other one, ``(2, B, H W, C)``; for looking."""
        gates = self.channel_gates(visible, infrared)
        queries = self.attention.queries(tokens(visible), tokens(infrared), *gates)
        return torch.stack(self.attention(*queries))


class ChannelGates(nn.Module):
    """A number in (0, 1) for each channel of both maps, from their means and maxima.

    Shape:
        - visible, infrared ``(B, C, H, W)`` -> two ``(B, C)``
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * channels, 4 * channels)
        self.out = nn.Linear(4 * channels, 2 * channels)

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        both = visible, infrared
        seen = [x.mean((2, 3)) for x in both] + [x.amax((2, 3)) for x in both]
        gates = self.out(self.hidden(torch.cat(seen, 1)).relu()).sigmoid()
        return gates.chunk(2, 1)


class SpatialGate(nn.Module):
    """A number in (0, 1) for each place; as released, one gate with one set of weights reads both.

    Shape:
        - tokens ``(B, N, C)`` -> ``(B, N, 1)``
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x).relu_()).sigmoid()


class CrossAttention(nn.Module):
    r"""Linear attention: each modality's channels are mixed as the other one's context says.

    .. math:: q_i = c_i,\quad G_i = \mathrm{softmax}_k(k_i^\top v_i / \sqrt d),\quad
              o_1 = q_1 G_2,\ o_2 = q_2 G_1

    The query is the input itself. Cost grows with the number of places, not with its square.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.keys_values = nn.ModuleList(
            nn.Linear(channels, 2 * channels, bias=False) for _ in range(2)
        )
        self.out = nn.ModuleList(nn.Linear(2 * channels, channels) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def queries(
        self, visible: Tensor, infrared: Tensor, visible_gates: Tensor, infrared_gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, N, C)`` with channel gates ``(B, C)``, projected: two ``(B, N, C)``."""
        return tuple(
            _each_by_its_own(x, layer.weight * gates[:, None], layer.bias).relu_()
            for layer, x, gates in zip(
                self.project, (visible, infrared), (visible_gates, infrared_gates), strict=True
            )
        )

    def contexts(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """G of each modality, ``(B, heads, d, d)``, from queries ``(B, N, C)``.

        With keys and values linear in c, their product is ``W_k (c' c) W_v'``: the tokens
        are passed once. In single precision always, because it adds up over all places and the
        softmax of such large numbers tells small differences.
        """
        found = []
        for layer, c in zip(self.keys_values, (visible, infrared), strict=True):
            with torch.autocast(c.device.type, enabled=False):
                c = c.float()
                keys, values = layer.weight.float().unflatten(0, (2, self.heads, -1))
                product = keys @ (c.mT @ c)[:, None] @ values.mT
                found.append((product / keys.shape[1] ** 0.5).softmax(-2))
        return tuple(found)

    def join(
        self,
        x: tuple[Tensor, Tensor],
        queries: tuple[Tensor, Tensor],
        contexts: tuple[Tensor, Tensor],
        gate: SpatialGate,
    ) -> list[Tensor]:
        """``LayerNorm(x + W [s, o] + b)`` of each modality, s = gate(x) x: ``(B, N, C)``."""
        joined = []
        for i in range(2):
            spatial, attended = self.out[i].weight.chunk(2, 1)
            split = attended.mT.unflatten(0, (self.heads, -1))
            through = (contexts[1 - i].to(split.dtype) @ split).flatten(1, 2)
            y = _each_by_its_own(queries[i], through.mT, self.out[i].bias)
            y = y.addcmul_(linear(x[i], spatial), gate(x[i])).add_(x[i])
            joined.append(self.norm[i](y))
        return joined

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Queries ``(B, N, C)`` -> what each takes from the other modality, ``(B, N, C)``."""
        contexts = self.contexts(visible, infrared)
        return tuple(
            (c.unflatten(-1, (self.heads, -1)).transpose(1, 2) @ contexts[1 - i].to(c.dtype))
            .transpose(1, 2)
            .flatten(2)
            for i, c in enumerate((visible, infrared))
        )


class Merge(nn.Module):
    """Two sets of tokens become one map: a linear path plus one with a look at the neighbours.

    Shape:
        - two ``(B, H W, C)`` -> ``(B, C, H, W)``
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Linear(2 * channels, channels, bias=False)
        self.embed = nn.Linear(2 * channels, channels)
        self.around = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.back = nn.Conv2d(channels, channels, 1)
        self.norm1 = BatchNorm(channels)
        self.norm2 = BatchNorm(channels)

    def forward(self, visible: Tensor, infrared: Tensor, size: torch.Size, own: bool) -> Tensor:
        embedded = _of_both(visible, infrared, self.embed.weight, self.embed.bias)
        around = self.around(picture(embedded, size)).relu_()
        if own:
            straight = _of_both(visible, infrared, self.residual.weight, None)
            changed = self.norm1.after(self.back, around, own)
            return self.norm2.by_own(changed + picture(straight, size))
        inner, inner_shift = self.norm1.affine_form()
        outer, outer_shift = self.norm2.affine_form()
        shift = (self.back.bias * inner + inner_shift) * outer + outer_shift
        straight = _of_both(visible, infrared, self.residual.weight * outer[:, None], shift)
        back = self.back.weight.flatten(1) * (inner * outer)[:, None]
        return picture(_add_product(straight, tokens(around), back), size)


class Up(nn.Module):
    """One step up: the deeper map doubled, beside the map of this level, two convolutions.

    Args:
        channels: of this level and of the result.
        deeper: of the deeper map.

    Shape:
        - ``(B, channels, H, W)``, ``(B, deeper, H // 2, W // 2)`` -> ``(B, channels, H, W)``
    """

    def __init__(self, channels: int, deeper: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels + deeper, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, skip: Tensor, deeper: Tensor) -> Tensor:
        up = interpolate(deeper, scale_factor=2, mode="bilinear", align_corners=True)
        down, across = (a - b for a, b in zip(skip.shape[-2:], up.shape[-2:], strict=True))
        if down or across:  # an odd size lost a row or column on the way down
            edges = (across // 2, across - across // 2, down // 2, down - down // 2)
            up = pad(up, edges, mode="reflect")
        return self.conv2(self.conv1(torch.cat([skip, up], 1)).relu_()).relu_()


def tokens(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B, H W, C)``, row by row; no copy where x lies channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def picture(x: Tensor, size: torch.Size) -> Tensor:
    """``(B, H W, C)`` -> ``(B, C, H, W)``, channels-last."""
    return x.unflatten(1, tuple(size)).permute(0, 3, 1, 2)


def _of_both(visible: Tensor, infrared: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer over both sets of tokens beside each other, which are never put together."""
    first, second = weight.chunk(2, 1)
    return _add_product(linear(visible, first, bias), infrared, second)


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``total + x W'`` in the memory of the total."""
    total.flatten(0, 1).addmm_(x.flatten(0, 1).to(total.dtype), weight.mT.to(total.dtype))
    return total


def _each_by_its_own(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer whose weight ``(B, D, C)`` differs from picture to picture."""
    if len(x) == 1:  # the fast kernel, which takes one weight
        return linear(x, weight[0], bias)
    return torch.baddbmm(bias, x, weight.mT)
