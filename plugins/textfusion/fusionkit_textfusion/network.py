r"""The network of TextFusion ("t" variant): one two-stream window transformer and the affine unit.

The parts carry the names of the paper's figure: an *embedding* per modality, a *two-stream block*
(rescaled layer norm, window attention, feed-forward), the *affine fusion unit* where the sentence
weights the infrared features, an output convolution. Everything at full resolution.

Source: C. Cheng et al., "TextFusion: Unveiling the power of textual semantics for controllable
image fusion", Information Fusion 117 (2025) 102790; where the released code differs from what one
would expect, it is followed, because the released weights were trained with it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.protocols import BuildModulation
from fusionkit_textfusion.color import join_luma, split_luma
from fusionkit_textfusion.modulation import AffineFusion, add_shifted

WINDOW = 8
"""Side of an attention window in pixels."""
AT_ONCE = 24
"""Attention windows computed at once on a CPU: their weights of both heads take 0.8 MB."""
STATISTICS_EPS = 1e-5

Statistics = tuple[Tensor, Tensor]
"""Mean and deviation of each sample over channels, rows and columns, ``(B, 1, 1, 1)`` each."""


class TextFusion(nn.Module):
    """Fuse the luma of the visible picture with the infrared one, under a sentence.

    Args:
        modulation: another scheme at the affine unit; None is the unit itself, as wide as the text.
        text_dim: D, the width of the text; 512 for the paper's CLIP ViT-B/32.
        channels: width of the two streams.
        heads: attention heads.
        infrared_attention: whose attention the infrared stream adds: ``visible`` as in the released
            code, which throws its own away, or ``own``.
        fold: compute the affine unit and the output convolution as one (exactly the same function,
            see :meth:`AffineFusion.kernels`). Not done where somebody listens to feature maps.
        band: rows that a CPU computes at a time when it needs no gradients (a multiple of 8):
            exact, faster, and memory stays small. None computes the picture at once, as a GPU does.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)``, text.pooled ``(B or 1, D)`` ->
          ``(B, 3, H, W)``, the visible picture's chroma; ``maps["luma"]``: what the network makes,
          ``(B, 1, H, W)`` in (0, 1).
    """

    modulation_points = ("affine",)
    min_size = 5
    """Below, a reflection is wider than the picture."""
    layers = (
        "embed_visible",
        "embed_infrared",
        "block.visible.feed_forward",
        "block.infrared.feed_forward",
    )

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int,
        channels: int = 24,
        heads: int = 2,
        infrared_attention: Literal["visible", "own"] = "visible",
        fold: bool = True,
        band: int | None = 64,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads.")
        if band is not None and (band < WINDOW or band % WINDOW):
            raise ValueError(f"band={band}: rows at a time are a multiple of {WINDOW}, or None.")
        self.fold, self.band = fold, band
        self.embed_visible = Embedding(channels)
        self.embed_infrared = Embedding(channels)
        self.block = TwoStreamBlock(channels, heads, infrared_attention)
        if modulation is None:
            self.affine = AffineFusion(
                channels=channels,
                text_dim=text_dim,
                out_channels=text_dim,
                project=False,
                residual=False,
            )
            self.out = nn.Conv2d(text_dim, 1, 3, padding=1, padding_mode="reflect")
        else:
            self.affine = modulation(channels)
            self.out = nn.Conv2d(channels, 1, 3, padding=1, padding_mode="reflect")

    def forward(self, batch: Batch) -> Fused:
        luma, chroma = split_luma(batch.visible)
        fused = self.fuse_luma(luma, batch.infrared, batch.text, batch.guides)
        return Fused(image=join_luma(fused, chroma).clamp(0, 1), maps={"luma": fused})

    def fuse_luma(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Two one-channel pictures ``(B, 1, H, W)`` in [0, 1] -> fused ``(B, 1, H, W)`` in (0, 1).

        Raises:
            ValueError: the pictures differ in size, or there is no text.
        """
        if visible.shape != infrared.shape:
            raise ValueError(
                f"visible is {tuple(visible.shape)} and infrared {tuple(infrared.shape)}: the two "
                "pictures of a pair have one size."
            )
        height, width = visible.shape[-2:]
        pad = (0, -width % 4, 0, -height % 4)
        visible = functional.pad(visible, pad, mode="reflect")
        infrared = functional.pad(infrared, pad, mode="reflect")
        # Thin layers cost memory traffic, not arithmetic: on a CPU bfloat16 gains nothing here.
        with torch.autocast("cpu", enabled=False):
            if self._records():
                v, a = self.embed_visible(visible), self.embed_infrared(infrared)
                block = self.block(_reach(v), _reach(a), (statistics([v]), statistics([a])))
                logits = self.out(self.affine(*block, text, guides or {}))
            else:
                logits = self._in_bands(visible, infrared, self.affine.kernels(text, self.out))
        return (torch.tanh(logits.float()) / 2 + 0.5)[..., :height, :width]

    def _records(self) -> bool:
        """Whether every map is to exist: another scheme is in the unit, or somebody listens."""
        listened = any(module._forward_hooks for module in self.modules())
        folds = isinstance(self.affine, AffineFusion) and not self.affine.residual
        return listened or not self.fold or not folds

    def _in_bands(
        self, visible: Tensor, infrared: Tensor, kernels: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The logits, some rows at a time.

        Exact: the statistics are those of the whole picture, windows do not cross bands, and what a
        convolution sees beyond its band is computed twice.
        """
        height = visible.shape[2]
        whole = self.band is None or torch.is_grad_enabled() or visible.device.type != "cpu"
        # A rest of half a window goes to the band above it, whose rows its reflection needs.
        tops = range(0, max(1, height - 4), height if whole else self.band)
        bands = list(zip(tops, [*tops[1:], height], strict=True))
        embeds = (self.embed_visible, visible), (self.embed_infrared, infrared)
        # The embedding is computed twice; keeping it whole costs more.
        found = [statistics(embed(x, *band) for band in bands) for embed, x in embeds]
        nine = []
        for top, bottom in bands:
            v, a = (
                _reach(embed(x, max(0, top - 2), bottom + 2), top == 0, bottom == height)
                for embed, x in embeds
            )
            nine.append(self.affine.taps(*self.block(v, a, found), kernels))
        return add_shifted(torch.cat(nine, 2)) + self.out.bias.float().view(1, 1, 1, 1)


class Embedding(nn.Module):
    """3x3 convolution of a one-channel picture, ``(B, 1, H, W)`` -> ``(B, C, H, W)``.

    Computed as a matrix product over the nine neighbours, which gives channels-last memory (torch
    cannot tell the layout of a single channel), and in single precision whatever autocast says: in
    bfloat16 the picture itself would be rounded to 8 bits.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3)

    def forward(self, picture: Tensor, top: int = 0, bottom: int | None = None) -> Tensor:
        """The rows from ``top`` to before ``bottom`` (or the last one)."""
        width = picture.shape[-1]
        padded = functional.pad(picture, (1, 1, 1, 1), mode="reflect")[:, 0]
        rows = min(padded.shape[1] - 2, bottom or padded.shape[1]) - top
        neighbours = [
            padded[:, top + y : top + y + rows, x : x + width] for y in range(3) for x in range(3)
        ]
        with torch.autocast(picture.device.type, enabled=False):
            weight = self.conv.weight.flatten(1)
            found = functional.linear(torch.stack(neighbours, -1), weight, self.conv.bias)
        return found.permute(0, 3, 1, 2)


class TwoStreamBlock(nn.Module):
    r"""One transformer block over both streams.

    .. math:: x' = x + (\mathrm{Attn}(\mathrm{RLN}(x)) \odot r + b),\qquad
              y = x' + \mathrm{MLP}(x')

    for the visible and the infrared stream, each with weights of its own; r and b are what the
    rescaled layer norm makes of the statistics. No norm stands before the MLP.

    Shape:
        - both maps ``(B, C, H + 4, W)``, with the two rows above and below that the 5x5 convolution
          reaches; results ``(B, C, H, W)``. Windows begin at the first inner row.
    """

    def __init__(
        self, channels: int, heads: int, infrared_attention: Literal["visible", "own"]
    ) -> None:
        super().__init__()
        if infrared_attention not in ("visible", "own"):
            raise ValueError(
                f"infrared_attention={infrared_attention!r}: it is 'visible' or 'own'."
            )
        self.visible = Stream(channels, asks=True)
        self.infrared = Stream(channels, asks=infrared_attention == "own")
        self.attention = WindowAttention(heads)

    def forward(
        self, visible: Tensor, infrared: Tensor, statistics: tuple[Statistics, Statistics]
    ) -> tuple[Tensor, Tensor]:
        v, a = self.visible, self.infrared
        v_norm, v_rescale, v_rebias = v.norm(visible, statistics[0])
        a_norm, a_rescale, a_rebias = a.norm(infrared, statistics[1])
        v_values, a_values = v.values(v_norm), a.values(a_norm)
        attended = self._attend(v, v_norm, v_values)
        # The released code adds the visible stream's attention here, see infrared_attention.
        own = attended if a.questions is None else self._attend(a, a_norm, a_values)
        visible = torch.addcmul(_inner(visible) + v_rebias, v.mix(v_values, attended), v_rescale)
        infrared = torch.addcmul(_inner(infrared) + a_rebias, a.mix(a_values, own), a_rescale)
        return v.feed_forward(visible), a.feed_forward(infrared)

    def _attend(self, stream: "Stream", normed: Tensor, values: Tensor) -> Tensor:
        return self.attention(stream.questions(_inner(normed)), _inner(values))


class Stream(nn.Module):
    """What one modality has of its own in a block.

    Args:
        channels: C.
        asks: whether it has queries and keys; a stream that borrows attention needs none.
    """

    def __init__(self, channels: int, *, asks: bool = True) -> None:
        super().__init__()
        self.norm = RescaledNorm(channels)
        self.questions = nn.Conv2d(channels, 2 * channels, 1) if asks else None
        self.values = nn.Conv2d(channels, channels, 1)
        self.local = nn.Conv2d(channels, channels, 5, groups=channels)
        self.projection = nn.Conv2d(channels, channels, 1)
        self.feed_forward = FeedForward(channels)
        # Gains of the released code: 1 for queries and keys, (8 * depth)^(-1/4) elsewhere.
        for conv in (self.values, self.local, self.projection):
            _initialise(conv, 8**-0.25)
        if asks:
            _initialise(self.questions, 1.0)

    def mix(self, values: Tensor, attended: Tensor) -> Tensor:
        """Depth-wise 5x5 convolution of the values, plus attention, projected."""
        sides = functional.pad(values, (2, 2, 0, 0), mode="reflect")
        return self.projection(self.local(sides) + attended)


class RescaledNorm(nn.Module):
    r"""Layer norm over channels, rows and columns together, which also returns what it took away.

    .. math:: y = (x - \mu) / \sigma \cdot w + b,\qquad
              r = w_1 \sigma + b_1,\qquad s = w_2 \mu + b_2

    Source: the "RLN" of Y. Song et al., "Vision Transformers for Single Image Dehazing", IEEE TIP
    2023, eq. 1-4. As the statistics span the picture, a tile alone would be normalised otherwise:
    they are taken of the whole picture and handed in.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        shape = (1, channels, 1, 1)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.rescale_weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self.rescale_bias = nn.Parameter(torch.ones(shape))
        self.rebias_weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self.rebias_bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor, Tensor]:
        mean, deviation = statistics
        scale = self.weight / deviation
        y = torch.addcmul((self.bias - mean * scale).to(x.dtype), x, scale.to(x.dtype))
        rescale = self.rescale_weight * deviation + self.rescale_bias
        rebias = self.rebias_weight * mean + self.rebias_bias
        return y, rescale.to(x.dtype), rebias.to(x.dtype)


class WindowAttention(nn.Module):
    r"""Attention within windows of 8x8 pixels, with a bias by relative position.

    .. math:: \mathrm{softmax}(q k^T / \sqrt{d} + B)\, v,\qquad
              B_{ij} = \mathrm{MLP}(\mathrm{sign}(\delta) \ln(1 + |\delta|))

    with :math:`\delta` the rows and columns between query i and key j. Maps whose sides are no
    multiple of 8 are reflected at the right and at the bottom.
    """

    relative_positions: Tensor

    def __init__(self, heads: int, hidden: int = 256) -> None:
        super().__init__()
        self.heads = heads
        self.meta = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, heads))
        self.register_buffer("relative_positions", relative_positions(WINDOW), persistent=False)

    def bias(self) -> Tensor:
        """B, ``(heads, 64, 64)``."""
        return self.meta(self.relative_positions).permute(2, 0, 1)

    def forward(self, questions: Tensor, values: Tensor) -> Tensor:
        """Queries and keys ``(B, 2C, H, W)``, values ``(B, C, H, W)`` -> ``(B, C, H, W)``."""
        height, width = values.shape[-2:]
        pad = (0, -width % WINDOW, 0, -height % WINDOW)
        if any(pad):
            questions = functional.pad(questions, pad, mode="reflect")
            values = functional.pad(values, pad, mode="reflect")
        query, key = _windows(questions, 2, self.heads)
        (value,) = _windows(values, 1, self.heads)
        found = _attend(query, key, value, self.bias().to(query.dtype))
        return _join_windows(found, *values.shape[-2:])[..., :height, :width]


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + B) v of windows ``(N, heads, 64, d)``."""
    if torch.is_grad_enabled() or query.device.type != "cpu":
        # Four dimensions, or torch takes a slow kernel.
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
    # With 12 numbers a head torch's kernel takes twice as long as plain products of few windows,
    # whose weights stay in the cache.
    found = torch.empty_like(value, memory_format=torch.contiguous_format)
    bias = bias.repeat(AT_ONCE, 1, 1)
    windows = (part.split(AT_ONCE) for part in (query, key, value, found))
    for q, k, v, out in zip(*windows, strict=True):
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        weights = torch.baddbmm(bias[: len(q)], q, k.mT, alpha=q.shape[-1] ** -0.5)
        torch.bmm(weights.softmax(-1), v, out=out.flatten(0, 1))
    return found


class FeedForward(nn.Module):
    """x + MLP(x), two 1x1 convolutions with twice the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, channels, 1),
        )
        for conv in (self.mlp[0], self.mlp[2]):
            _initialise(conv, 8**-0.25)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


def relative_positions(window: int) -> Tensor:
    """sign(d) ln(1 + |d|) of row and column offsets, query minus key, ``(w*w, w*w, 2)``."""
    rows, columns = torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], -1)
    offset = (place[:, None] - place[None]).float()
    return offset.sign() * offset.abs().log1p()


def statistics(parts: Iterable[Tensor]) -> Statistics:
    """Of a map that comes in parts, each ``(B, C, h, W)``."""
    total, squares, count = 0.0, 0.0, 0
    for part in parts:
        total = total + part.sum((1, 2, 3), keepdim=True)
        squares = squares + part.square().sum((1, 2, 3), keepdim=True)
        count += part[0].numel()
    mean = total / count
    return mean, ((squares / count - mean.square()).clamp(min=0) + STATISTICS_EPS).sqrt()


def _reach(x: Tensor, above: bool = True, below: bool = True) -> Tensor:
    """Two rows more where the picture ends, reflected."""
    return functional.pad(x, (0, 0, 2 * above, 2 * below), mode="reflect") if above or below else x


def _inner(x: Tensor) -> Tensor:
    return x[:, :, 2:-2]


def _windows(x: Tensor, count: int, heads: int) -> Tensor:
    """``(B, count * C, H, W)`` -> ``count`` maps ``(B * windows, heads, 64, C / heads)``."""
    batch, channels, height, width = x.shape
    rows, columns, depth = height // WINDOW, width // WINDOW, channels // count // heads
    x = x.permute(0, 2, 3, 1).view(batch, rows, WINDOW, columns, WINDOW, count, heads, depth)
    x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)
    return x.reshape(count, -1, heads, WINDOW * WINDOW, depth)


def _join_windows(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`_windows` for one map, ``(B, C, H, W)``."""
    _, heads, _, depth = x.shape
    rows, columns = height // WINDOW, width // WINDOW
    x = x.view(-1, rows, columns, heads, WINDOW, WINDOW, depth)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, height, width, heads * depth)
    return x.permute(0, 3, 1, 2)


def _initialise(conv: nn.Conv2d, gain: float) -> None:
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(conv.weight)
    nn.init.trunc_normal_(conv.weight, std=gain * math.sqrt(2 / (fan_in + fan_out)))
    nn.init.zeros_(conv.bias)
