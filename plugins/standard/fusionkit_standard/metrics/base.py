"""What every score does before its formula: the picture as it would be saved, in grey levels.

Published tables are computed on saved 8-bit pictures, on the scale 0..255, and colour is turned
into grey first. Scores here do the same to what they are given: each channel is rounded to 8 bits
as :func:`fusionkit.color.to_uint8` does, colour becomes the BT.601 grey level rounded to an
integer (half to even), and the formula runs in float64. A score therefore does not change when the
picture is written to a PNG and read back, and a grey picture scores the same with one channel or
with three equal ones.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusionkit.color import luma, to_uint8
from fusionkit.errors import BadRequest
from fusionkit_standard.metrics.windows import at_once

COLOURS = ("grey", "channels")
_LUMA_THOUSANDTHS = (299.0, 587.0, 114.0)  # BT.601 in whole numbers, so that a tie is a tie


class _StraightThrough(torch.autograd.Function):
    """The rounded value forward, the gradient of the unrounded one backward."""

    @staticmethod
    def forward(ctx: Any, rounded: Tensor, smooth: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def rounded(value: Tensor, smooth: Tensor) -> Tensor:
    """``value`` forward, the gradient of ``smooth`` backward."""
    return _StraightThrough.apply(value, smooth) if smooth.requires_grad else value


def check_picture(image: Tensor) -> None:
    """BadRequest for what is no batch of pictures in floats."""
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise BadRequest(
            f"a score reads pictures of shape (B, 1 or 3, H, W), not {tuple(image.shape)}."
        )
    if not image.is_floating_point():
        raise BadRequest(f"a score reads floats in [0, 1], not {image.dtype}; divide by 255 first.")


def levels_of(image: Tensor, *, quantise: bool = True) -> Tensor:
    """Each channel on the scale 0..255, as a saved picture holds it.

    Args:
        image: ``(B, 1 or 3, H, W)`` floats in [0, 1]; what lies outside is clipped, as saving does.
        quantise: Round as an 8-bit file does. The values are then whole numbers, and a gradient
            passes the rounding unchanged. ``False`` keeps the continuous picture.

    Returns:
        ``(B, C, H, W)`` float64.

    Raises:
        BadRequest: For another shape, for integers, or for values that are not numbers.
    """
    check_picture(image)
    if image.isnan().any():
        raise BadRequest("a picture holds NaN; there is no grey level for it.")
    if quantise:
        if image.dtype in (torch.float16, torch.bfloat16):
            image = image.float()  # 8 bits and a half do not fit into these types
        levels = to_uint8(image.detach()).double()
        if not image.requires_grad:
            return levels
        return rounded(levels, image.clamp(0, 1).double() * 255)
    return image.clamp(0, 1).double() * 255


def grey_levels(image: Tensor, *, quantise: bool = True) -> Tensor:
    """Grey levels 0..255 of pictures, ``(B, 1 or 3, H, W)`` in [0, 1] -> ``(B, H, W)`` float64.

    Arguments and errors as for :func:`levels_of`; with ``quantise`` the grey level is rounded to an
    integer too.

    Example:
        >>> grey_levels(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).item()  # 0.299 * 255
        76.0
    """
    levels = levels_of(image, quantise=quantise)
    if levels.shape[1] == 1:
        return levels[:, 0]
    if not quantise:
        return luma(levels)[:, 0]
    weights = levels.new_tensor(_LUMA_THOUSANDTHS).view(1, 3, 1, 1)
    grey = (levels * weights).sum(1) / 1000
    return rounded(grey.round(), grey)


def safe_sqrt(value: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    if not value.requires_grad:
        return value.sqrt()
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


def average(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the picture, ``(B, H, W)`` -> ``(B,)``, of equal or given weights.

    ``weight`` may be larger than ``values``, the map of a window that lies inside the picture:
    each place then has the weight of the window's middle.
    """
    if weight is None:
        return values.mean((-2, -1))
    weight = middle(weight, values)
    return (values * weight).sum((-2, -1)) / weight.sum((-2, -1))


def total(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum over the picture, ``(B, H, W)`` -> ``(B,)``; weights as in :func:`average`."""
    if weight is not None:
        values = values * middle(weight, values)
    return values.sum((-2, -1))


def middle(weight: Tensor, values: Tensor) -> Tensor:
    """The part of a map in the middle that is as large as ``values``."""
    height, width = values.shape[-2:]
    top, left = (weight.shape[-2] - height) // 2, (weight.shape[-1] - width) // 2
    return weight[..., top : top + height, left : left + width]


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``; NaN where the whole is 0, and no gradient from there."""
    there = whole != 0
    return torch.where(there, part / torch.where(there, whole, 1.0), torch.nan)


def _cut(value: Any, count: int, start: int, each: int) -> Any:
    """The part of a value per picture; one value for all stays what it is."""
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return value[start : start + each]
    return value


class Score:
    """One score per picture: facts about the formula, and the way from pictures to grey levels.

    A subclass names the facts and writes ``score``, which gets the pictures listed in ``needs``, in
    that order, as ``(B, H, W)`` float64 grey levels 0..255, and ``weight``: None, or ``(B, H, W)``
    with a weight for each place (:mod:`.region`). It returns ``(B,)``. Two things are called A and
    B in the papers: here A is the infrared picture and B the visible one.

    Args:
        colour: ``grey`` turns colour into grey first, as nearly every program does; ``channels``
            scores each channel (a single one stands for three) and averages the scores, as VIFB
            does.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]]
    unit: ClassVar[str] = ""
    source: ClassVar[str]
    variant: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("fused", "ir", "vi")
    min_size: ClassVar[int] = 1
    """Smallest height and width for which the formula is defined."""
    differentiable: ClassVar[bool] = False
    """Whether a gradient reaches the pictures; counting grey levels has none."""
    weighted: ClassVar[bool] = True
    """Whether ``score`` takes a weight per pixel."""
    reads: ClassVar[tuple[str, ...]] = ("fused", "ir", "vi", "reference")
    """What of ``needs`` is a picture; the rest goes to ``score`` by name."""
    quantise: bool = True

    def __init__(self, *, colour: str = "grey") -> None:
        if colour not in COLOURS:
            raise BadRequest(
                f"colour={colour!r} is no rule for colour; {' or '.join(map(repr, COLOURS))} is."
            )
        self.colour = colour

    def score(self, *pictures: Tensor, weight: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def __call__(
        self,
        fused: Tensor,
        ir: Tensor | None = None,
        vi: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        **context: Any,
    ) -> Tensor:
        """Score pictures.

        Args:
            fused, ir, vi: ``(B, 1 or 3, H, W)`` floats in [0, 1]. Those not in ``needs`` are
                ignored.
            weight: ``(B, 1, H, W)``, how much each place counts; None counts all alike.
            context: What else is in ``needs``.

        Returns:
            ``(B,)`` float64. NaN where the formula is undefined for a picture.

        Raises:
            BadRequest: When sizes differ or a picture is smaller than ``min_size``.
        """
        given: Mapping[str, Any] = {**context, "fused": fused, "ir": ir, "vi": vi}
        for role in self.needs:
            if given.get(role) is None:
                what = "the picture " if role in self.reads else ""
                raise BadRequest(f"{self.name} needs {what}{role!r}; it was not given.")
        pictures = {role: given[role] for role in self.needs if role in self.reads}
        rest = {role: given[role] for role in self.needs if role not in self.reads}
        self._check(pictures)
        if weight is not None:
            rest["weight"] = weight[:, 0].double()
        count, each = len(fused), at_once(fused)
        parts = [
            self._part(
                {role: picture[start : start + each] for role, picture in pictures.items()},
                {role: _cut(value, count, start, each) for role, value in rest.items()},
            )
            for start in range(0, count, each)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, pictures: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Tensor:
        """The score of as many pictures as are worked on together."""
        if self.colour == "channels":
            planes = [levels_of(p, quantise=self.quantise) for p in pictures.values()]
        else:
            planes = [grey_levels(p, quantise=self.quantise)[:, None] for p in pictures.values()]
        channels = max(levels.shape[1] for levels in planes)
        if channels == 1:
            return self.score(*(levels[:, 0] for levels in planes), **rest)
        planes = [levels.expand(-1, channels, -1, -1) for levels in planes]
        return self.score_channels(*planes, **{"weight": None, **rest})

    def score_channels(self, *pictures: Tensor, weight: Tensor | None, **rest: Any) -> Tensor:
        """Score of colour pictures ``(B, 3, H, W)``: the mean of the scores of the channels."""
        planes = zip(*(picture.unbind(1) for picture in pictures), strict=True)
        return torch.stack([self.score(*p, weight=weight, **rest) for p in planes]).mean(0)

    def _check(self, pictures: Mapping[str, Tensor]) -> None:
        for picture in pictures.values():
            check_picture(picture)
        shapes = {role: (len(p), *p.shape[2:]) for role, p in pictures.items()}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{role} {shape}" for role, shape in shapes.items())
            raise BadRequest(f"{self.name} compares pictures of one (B, H, W): {listed}.")
        height, width = next(iter(shapes.values()))[1:]
        if min(height, width) < self.min_size:
            raise BadRequest(
                f"{self.name} is defined for pictures of at least {self.min_size} x "
                f"{self.min_size} pixels; these are {height} x {width}."
            )


class SmoothScore(Score):
    """A score with a gradient.

    Args:
        colour: As for :class:`Score`.
        quantise: Round the pictures to 8 bits first, as published tables do; the gradient then
            passes the rounding unchanged. ``False`` scores the continuous picture, which is a
            different number and belongs into no table.
    """

    differentiable = True

    def __init__(self, *, quantise: bool = True, colour: str = "grey") -> None:
        super().__init__(colour=colour)
        self.quantise = quantise
