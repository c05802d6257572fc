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

_LUMA_THOUSANDTHS = (299.0, 587.0, 114.0)  # BT.601 in whole numbers, so that a tie is a tie


class _StraightThrough(torch.autograd.Function):
    """The rounded value forward, the gradient of the unrounded one backward."""

    @staticmethod
    def forward(ctx: Any, rounded: Tensor, smooth: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def _rounded(value: Tensor, smooth: Tensor) -> Tensor:
    return _StraightThrough.apply(value, smooth) if smooth.requires_grad else value


def grey_levels(image: Tensor, *, quantise: bool = True) -> Tensor:
    """Grey levels 0..255 of pictures.

    Args:
        image: ``(B, 1 or 3, H, W)`` floats in [0, 1]; what lies outside is clipped, as saving does.
        quantise: Round as an 8-bit file does. The values are then whole numbers, and a gradient
            passes the rounding unchanged. ``False`` keeps the continuous picture.

    Returns:
        ``(B, H, W)`` float64.

    Raises:
        BadRequest: For another shape, for integers, or for values that are not numbers.

    Example:
        >>> grey_levels(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).item()  # 0.299 * 255
        76.0
    """
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise BadRequest(
            f"a score reads pictures of shape (B, 1 or 3, H, W), not {tuple(image.shape)}."
        )
    if not image.is_floating_point():
        raise BadRequest(f"a score reads floats in [0, 1], not {image.dtype}; divide by 255 first.")
    if image.isnan().any():
        raise BadRequest("a picture holds NaN; there is no grey level for it.")
    smooth = image.clamp(0, 1).double() * 255
    if not quantise:
        return luma(smooth)[:, 0]
    if image.dtype in (torch.float16, torch.bfloat16):
        image = image.float()  # 8 bits and a half do not fit into these types
    levels = _rounded(to_uint8(image).double(), smooth)
    if levels.shape[1] == 1:
        return levels[:, 0]
    weights = levels.new_tensor(_LUMA_THOUSANDTHS).view(1, 3, 1, 1)
    grey = (levels * weights).sum(1) / 1000
    return _rounded(grey.round(), grey)


def safe_sqrt(value: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    if not value.requires_grad:
        return value.sqrt()
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


class Score:
    """One score per picture: facts about the formula, and the way from pictures to grey levels.

    A subclass names the facts and writes ``score``, which gets the pictures listed in ``needs``, in
    that order, as ``(B, H, W)`` float64 grey levels 0..255 and returns ``(B,)``. Two things are
    called A and B in the papers: here A is the infrared picture and B the visible one.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    range: ClassVar[tuple[float, float]]
    unit: ClassVar[str]
    source: ClassVar[str]
    variant: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("fused", "ir", "vi")
    min_size: ClassVar[int] = 1
    """Smallest height and width for which the formula is defined."""
    differentiable: ClassVar[bool] = False
    """Whether a gradient reaches the pictures; counting grey levels has none."""
    quantise: bool = True

    def score(self, *pictures: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(
        self, fused: Tensor, ir: Tensor | None = None, vi: Tensor | None = None, **context: Any
    ) -> Tensor:
        """Score pictures.

        Args:
            fused, ir, vi: ``(B, 1 or 3, H, W)`` floats in [0, 1]. Those not in ``needs`` are
                ignored.

        Returns:
            ``(B,)`` float64. NaN where the formula is undefined for a picture.

        Raises:
            BadRequest: When sizes differ or a picture is smaller than ``min_size``.
        """
        given: Mapping[str, Tensor | None] = {"fused": fused, "ir": ir, "vi": vi}
        pictures = {}
        for role in self.needs:
            image = given[role]
            if image is None:
                raise BadRequest(f"{self.name} needs the picture {role!r}; it was not given.")
            pictures[role] = grey_levels(image, quantise=self.quantise)
        shapes = {role: tuple(levels.shape) for role, levels in pictures.items()}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{role} {shape}" for role, shape in shapes.items())
            raise BadRequest(f"{self.name} compares pictures of one (B, H, W): {listed}.")
        height, width = shapes["fused"][1:]
        if min(height, width) < self.min_size:
            raise BadRequest(
                f"{self.name} is defined for pictures of at least {self.min_size} x "
                f"{self.min_size} pixels; these are {height} x {width}."
            )
        return self.score(*pictures.values())


class SmoothScore(Score):
    """A score with a gradient.

    Args:
        quantise: Round the pictures to 8 bits first, as published tables do; the gradient then
            passes the rounding unchanged. ``False`` scores the continuous picture, which is a
            different number and belongs into no table.
    """

    differentiable = True

    def __init__(self, *, quantise: bool = True) -> None:
        self.quantise = quantise
