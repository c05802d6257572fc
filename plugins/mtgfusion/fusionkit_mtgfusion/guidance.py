"""Where text meets features: the common features are filtered, the specific ones are weighted.

``CommonGuidance`` (TGCE in the release) builds the text cube, reorders it, filters by the domain
transform and gates; ``SpecificGuidance`` (TGSF) lets features and unique texts attend to each other
and weights the two modalities. Both come in the two variants that the release and its description
give: ``released`` (the program, with what it lacked repaired) and ``described`` (cube as an outer
product over height, width and channels; distances between texts; weights from products of text and
features).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionkit_mtgfusion.attention import attend, in_pieces
from fusionkit_mtgfusion.cube import (
    TextCube,
    TextMap,
    at_least_single,
    reorder,
    reorder_rank_one,
    spread,
)
from fusionkit_mtgfusion.transform import domain_transform, gate_distances

VARIANTS = ("released", "described")
AXIS = 64
"""Length of an axis of text before it is stretched to a height or width."""
PIXELS = 1 << 13
"""Pixels that go through a wide per-pixel network at once."""


@dataclass(frozen=True)
class Words:
    """A text in the width of the network."""

    tokens: Tensor
    """``(B, L, C)``."""
    mask: Tensor | None = None
    """True where a token counts, ``(B, L)``; None when all do."""

    @property
    def pooled(self) -> Tensor:
        """Mean over the tokens that count, ``(B, C)``."""
        if self.mask is None:
            return self.tokens.mean(1)
        weight = self.mask.to(self.tokens.dtype)[..., None]
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


@dataclass
class Common:
    """What the guidance of common features leaves."""

    features: Tensor
    """``(B, C, H, W)``."""
    cube: Tensor
    """Vectors of the cube: the at most 81 different ones, or all, ``(B, C, h, w)``."""
    full_cube: Callable[[], Tensor]
    """The cube at full size, ``(B, H, W, C)``."""
    reordered: Tensor
    """``(B, H, W, C)``."""
    index: Tensor
    """Which vector of the cube a pixel took, ``(B, H, W)``, as a share of their number."""
    rows: Tensor
    filtered: Tensor
    """After the pass along rows, and after both, ``(B, H, W, C)``."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """By name, ``(B, H, W)``: feedback, distances, gate."""


class CommonGuidance(nn.Module):
    """Text cube, reordering, domain transform and gate of the common features.

    Args:
        channels: C.
        variant: ``released`` or ``described``.
        detach: keep the gradient out of the text (released program; its texts never train here).
        blocks: cycle blocks of each text branch.
        metric: how ``described`` looks for the nearest vector: ``l2``, or ``cosine``, which for
            its cube of rank one tells only two directions apart.
        directions, iterations: of the domain transform.
        feedback: a of ``described``, a^distance; learned when ``learn_feedback``.
    """

    def __init__(
        self,
        channels: int = 64,
        *,
        variant: str = "released",
        detach: bool = False,
        blocks: int = 4,
        metric: str = "l2",
        directions: str = "forward",
        iterations: int = 1,
        feedback: float = 0.36787944117144233,
        learn_feedback: bool = False,
    ) -> None:
        super().__init__()
        self.variant, self.detach, self.metric = check_variant(variant), detach, metric
        self.directions, self.iterations = directions, iterations
        if variant == "released":
            self.text_A = TextMap(channels, blocks)
            self.text_B = TextMap(channels, blocks)
            self.text_AB = TextMap(channels, blocks)
            self.log_feedback = -1.0
        else:
            for name in ("to_h", "to_w", "to_c"):
                self.add_module(name, _axis(channels, channels if name == "to_c" else AXIS))
            if not 0 < feedback < 1:
                raise ValueError(f"feedback={feedback}: a lies between 0 and 1.")
            self.log_feedback = float(torch.tensor(feedback, dtype=torch.float64).log())
        self.raw_feedback = None
        if learn_feedback:
            self.raw_feedback = nn.Parameter(torch.logit(torch.tensor(feedback)))
        self.mlp_tv = _scalar_network()
        self.mlp_tt = _scalar_network()

    def forward(self, visual: Tensor, a: Words, b: Words, common: Words) -> Common:
        """Features ``(B, C, H, W)`` under the texts of both pictures and of what they share."""
        visual = at_least_single(visual).permute(0, 2, 3, 1)
        texts = [at_least_single(t.pooled) for t in (a, b, common)]
        build = self._released_cube if self.variant == "released" else self._described_cube
        with torch.autocast(visual.device.type, enabled=False):
            return build(visual, *texts)

    def _released_cube(self, visual: Tensor, a: Tensor, b: Tensor, common: Tensor) -> Common:
        size = tuple(visual.shape[1:3])
        small = self.text_A(a, size) * self.text_B(b, size) * self.text_AB(common, size)
        rows, columns = self.text_A.grid(size, visual.device)
        cube = TextCube(
            small.flatten(2).mT, rows[:, None] * small.shape[-1] + columns, tuple(small.shape[-2:])
        )
        chosen, index = reorder(visual.flatten(1, 2), cube.vectors, detach=self.detach)
        share = index / max(1, cube.vectors.shape[1] - 1)
        return self.filter(visual, chosen.view(visual.shape), share, small, cube.full)

    def _described_cube(self, visual: Tensor, a: Tensor, b: Tensor, common: Tensor) -> Common:
        height, width = visual.shape[1:3]
        down = _stretch(_precise(self.to_h, a), height)
        across = _stretch(_precise(self.to_w, b), width)
        depth = _precise(self.to_c, common)
        scale = (down[:, :, None] * across[:, None]).flatten(1)

        def full() -> Tensor:
            return (scale[..., None] * depth[:, None]).view(visual.shape).to(visual.dtype)

        pixels = visual.flatten(1, 2)
        if self.metric == "l2":
            chosen, index = reorder_rank_one(pixels, scale, depth)
        else:
            chosen, index = reorder(pixels, full().flatten(1, 2), metric=self.metric)
        if self.detach:
            chosen = chosen.detach()
        small = scale.view(-1, 1, height, width)[..., :: _step(height), :: _step(width)]
        small = (small * depth[..., None, None]).to(visual.dtype)
        share = index / max(1, scale.shape[1] - 1)
        return self.filter(visual, chosen.view(visual.shape), share, small, full)

    def filter(
        self,
        visual: Tensor,
        guide: Tensor,
        share: Tensor,
        cube: Tensor,
        full: Callable[[], Tensor],
    ) -> Common:
        """Domain transform and gate of ``(B, H, W, C)`` under a reordered cube of that shape."""
        released = self.variant == "released"
        feedback = self.log_feedback
        if self.raw_feedback is not None:
            feedback = F.logsigmoid(self.raw_feedback)
        filtered, parts = domain_transform(
            visual,
            guide,
            distance="vision-text" if released else "text-text",
            feedback=feedback,
            directions=self.directions,
            iterations=self.iterations,
        )
        rows = parts.pop("rows")
        d_tv, d_tt = gate_distances(filtered, guide)
        weight = torch.sigmoid(_per_pixel(self.mlp_tv, d_tv) + _per_pixel(self.mlp_tt, d_tt))
        return Common(
            features=(filtered * weight[..., None]).permute(0, 3, 1, 2),
            cube=cube,
            full_cube=full,
            reordered=guide,
            index=share.view(d_tv.shape),
            rows=rows,
            filtered=filtered,
            weights={**parts, "d_tv": d_tv, "d_tt": d_tt, "gate": weight},
        )


class TwoWayBlock(nn.Module):
    """A text asks the pixels, then the pixels ask the text that knows of them.

    Shape:
        - pixels ``(B, N, C)``, text ``(B, L, C)`` -> pixels ``(B, N, C)``
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        for side in ("text_1", "vis_2"):
            self.add_module(f"norm_{side}", nn.LayerNorm(channels))
            for part in ("q_proj", "k_proj", "v_proj", "attn_out"):
                self.add_module(f"{part}_{side}", nn.Linear(channels, channels))
        for side in ("text", "vis"):
            number = {"text": 1, "vis": 2}[side]
            self.add_module(f"norm_{side}_ff_{number}", nn.LayerNorm(channels))
            self.add_module(
                f"ff_{side}_{number}",
                nn.Sequential(
                    nn.Linear(channels, 2 * channels),
                    nn.GELU(),
                    nn.Linear(2 * channels, channels),
                ),
            )

    def forward(self, pixels: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        key, value = self.k_proj_text_1(pixels), self.v_proj_text_1(pixels)
        asked = attend(self.q_proj_text_1(self.norm_text_1(text)), key, value, self.heads)
        text = text + self.attn_out_text_1(asked)
        text = text + self.ff_text_1(self.norm_text_ff_1(text))

        key, value = self.k_proj_vis_2(text), self.v_proj_vis_2(text)

        def ask(part: Tensor) -> Tensor:
            query = self.q_proj_vis_2(self.norm_vis_2(part))
            part = part + self.attn_out_vis_2(attend(query, key, value, self.heads, mask))
            return part + self.ff_vis_2(self.norm_vis_ff_2(part))

        return in_pieces(ask, pixels)


class SpecificGuidance(nn.Module):
    r"""Weight the two modalities by their unique texts: :math:`S_A M_A + S_B M_B`.

    S are the features after ``cross_blocks`` two-way attentions with the text, whose outputs are
    stacked and reduced. M is one weight per pixel: from the text alone in the released program
    (so it varies near the border only), from products of text and features as described.

    Args:
        channels: C; heads: of the two-way attention.
        variant: ``released`` or ``described``.
        cross_blocks, blocks: two-way attentions, and cycle blocks of each text branch.
        normalise: scale the weights to sum to 1 at each pixel; neither variant does.
    """

    def __init__(
        self,
        channels: int = 64,
        *,
        heads: int = 4,
        variant: str = "released",
        cross_blocks: int = 4,
        blocks: int = 4,
        hidden: int = 32,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels.")
        self.variant, self.normalise = check_variant(variant), normalise
        for side in "AB":
            self.add_module(
                f"cross_blocks_{side}",
                nn.ModuleList(TwoWayBlock(channels, heads) for _ in range(cross_blocks)),
            )
            if variant == "released":
                text = TextMap(channels, blocks, name="cycle_blocks", margin=1)
                self.add_module(f"textDim{side}", text)
                self.add_module(f"reduce3{side}", nn.Conv2d(3 * channels, 3, 1))
                self.add_module(f"cnn{side}", _weight_network(hidden))
            else:
                self.add_module(side.lower(), ProductWeight(channels, hidden))
        self.final_reducer = nn.Conv2d(cross_blocks * channels, channels, 1)

    def forward(
        self, a: Tensor, b: Tensor, text_a: Words, text_b: Words
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Two maps ``(B, C, H, W)`` -> the fused one, and the weights M_A, M_B ``(B, 1, H, W)``."""
        parts, weights = [], []
        for side, features, text in (("A", a, text_a), ("B", b, text_b)):
            s = self.attended(side, features, text)
            parts.append(s)
            weights.append(self.weight(side, s, text.pooled))
        first, second = weights
        if self.normalise:
            total = (first + second).clamp(min=1e-6)
            first, second = first / total, second / total
        return parts[0] * first + parts[1] * second, first, second

    def attended(self, side: str, features: Tensor, text: Words) -> Tensor:
        """S: the features after every two-way attention, stacked and reduced."""
        batch, channels, height, width = features.shape
        pixels = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        reducer = self.final_reducer.weight[..., 0, 0].split(channels, 1)
        total = self.final_reducer.bias
        blocks = getattr(self, f"cross_blocks_{side}")
        for block, weight in zip(blocks, reducer, strict=True):
            pixels = block(pixels, text.tokens, text.mask)
            total = total + F.linear(pixels, weight)
        return total.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def weight(self, side: str, features: Tensor, pooled: Tensor) -> Tensor:
        """M of one side, ``(B, 1, H, W)``."""
        if self.variant == "described":
            return getattr(self, side.lower())(features, pooled)[0]
        branch: TextMap = getattr(self, f"textDim{side}")
        size = tuple(features.shape[-2:])
        small = branch(pooled, size)
        # The map stands three times in a row before this convolution: its weights may be added.
        reduce = getattr(self, f"reduce3{side}")
        weight = reduce.weight.unflatten(1, (3, -1)).sum(1)
        small = getattr(self, f"cnn{side}")(F.conv2d(small, weight, reduce.bias))
        return spread(small, *branch.grid(size, features.device))


class ProductWeight(nn.Module):
    r"""Weight of a modality from products of its text with each axis of its features.

    .. math::
        v_{hw} = \textstyle\sum_c S_{chw} t_c / \sqrt C,\quad
        v_{hc} = \sum_w S_{chw} t_w / \sqrt W,\quad v_{wc} = \sum_h S_{chw} t_h / \sqrt H

    The channel axes of the last two are stretched to the width and the height, so that all three
    are maps; a small convolutional network makes one weight of them.

    Shape:
        - features ``(B, C, H, W)``, pooled text ``(B, C)`` -> weight ``(B, 1, H, W)`` and the three
          maps ``(B, 3, H, W)``
    """

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.to_h = _axis(channels, AXIS)
        self.to_w = _axis(channels, AXIS)
        self.to_c = _axis(channels, channels)
        self.cnn = _weight_network(hidden)

    def forward(self, features: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        _, channels, height, width = features.shape
        down, across = _stretch(self.to_h(pooled), height), _stretch(self.to_w(pooled), width)
        depth = self.to_c(pooled)
        hw = torch.einsum("bchw,bc->bhw", features, depth) / channels**0.5
        hc = torch.einsum("bchw,bw->bhc", features, across) / width**0.5
        wc = torch.einsum("bchw,bh->bwc", features, down) / height**0.5
        hc = F.interpolate(hc, size=width, mode="linear", align_corners=False)
        wc = F.interpolate(wc, size=height, mode="linear", align_corners=False).mT
        maps = torch.stack([hw, hc, wc], 1)
        return self.cnn(maps), maps


def check_variant(variant: str) -> str:
    """The variant, if there is such a one."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is none of {', '.join(VARIANTS)}.")
    return variant


def _axis(channels: int, length: int, hidden: int = 256) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, length))


def _precise(network: nn.Sequential, x: Tensor) -> Tensor:
    """A network of few numbers in double precision, where the device has it.

    The scalars of a cube lie close together: in single precision, rounding would pick neighbours.
    """
    dtype = x.dtype if x.device.type == "mps" else torch.float64
    first, _, last = network
    hidden = F.linear(x.to(dtype), first.weight.to(dtype), first.bias.to(dtype)).relu()
    return F.linear(hidden, last.weight.to(dtype), last.bias.to(dtype))


def _stretch(axis: Tensor, length: int) -> Tensor:
    """An axis ``(B, n)`` of text, linearly interpolated to ``(B, length)``."""
    return F.interpolate(axis[:, None], size=length, mode="linear", align_corners=False)[:, 0]


def _step(length: int, most: int = 64) -> int:
    """Every how many-th place to keep so that at most ``most`` remain."""
    return -(-length // most)


def _weight_network(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1), nn.Sigmoid()
    )


def _scalar_network(hidden: int = 256) -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def _per_pixel(network: nn.Module, values: Tensor) -> Tensor:
    """A network of single numbers, applied to ``(B, H, W)``, on a CPU in pieces."""
    flat = values.reshape(-1, 1)
    if torch.is_grad_enabled() or flat.device.type != "cpu":
        return network(flat).view(values.shape)
    return torch.cat([network(piece) for piece in flat.split(PIXELS)]).view(values.shape)
