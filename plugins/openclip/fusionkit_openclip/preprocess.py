"""From a picture in [0, 1] to what an image tower reads, differentiable and on any device.

open_clip prepares Pillow pictures one by one; losses need the same on batches of tensors, with
gradients. The rules (which side is resized, what is cut off, mean and deviation) are those that
open_clip resolves for a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fusionkit.errors import BadRequest, did_you_mean

RESIZE_MODES = ("shortest", "squash", "longest")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a model wants its pictures. Field names and meanings are open_clip's."""

    size: tuple[int, int]
    """Height and width of the model's input."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    """``bicubic`` or ``bilinear``."""
    resize_mode: str = "shortest"
    """``shortest``: the shorter side is fitted and the centre cut out. ``squash``: both sides are
    fitted, the aspect is lost, every pixel counts. ``longest``: the longer side is fitted and the
    rest filled."""
    fill_color: float = 0
    """Grey level 0..255 around a ``longest`` picture."""
    antialias: bool = True
    """Low-pass before shrinking, as Pillow and torchvision do. LDFusion does not."""

    def fit(self, image: Tensor) -> Tensor:
        """The picture as the model was trained to see it, ``(B, 3, *size)``, normalised."""
        return self._normalise(self._place(image))

    def whole(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """The whole picture at a given size, nothing cut off, normalised."""
        return self._normalise(self._resize(image, size))

    def keeps_all(self, height: int, width: int) -> bool:
        """Whether :meth:`fit` shows the whole of such a picture and nothing else."""
        return self.resize_mode == "squash" or height * self.size[1] == width * self.size[0]

    def whole_size(
        self, height: int, width: int, stride: int, shorter: int | None = None
    ) -> tuple[int, int]:
        """The size for :meth:`whole`: aspect kept, sides rounded to multiples of the patch.

        ``shorter`` is the wanted shorter side; None takes the model's own, and then a ``squash``
        model gets the square it is used to.
        """
        if shorter is None and self.keeps_all(height, width):
            return self.size
        scale = (shorter or min(self.size)) / min(height, width)
        return tuple(max(1, round(side * scale / stride)) * stride for side in (height, width))

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for records and configuration files."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def _place(self, image: Tensor) -> Tensor:
        target = self.size
        if self.resize_mode == "squash":
            return self._resize(image, target)
        sides = image.shape[-2:]
        ratios = [side / goal for side, goal in zip(sides, target, strict=True)]
        if self.resize_mode == "longest":
            size = tuple(round(side / max(ratios)) for side in sides)
        elif target[0] == target[1]:
            # torchvision rounds the longer side down here, and to the nearest elsewhere
            size = tuple(int(target[0] * side / min(sides)) for side in sides)
        else:
            size = tuple(round(side / min(ratios)) for side in sides)
        return self._cut_or_fill(self._resize(image, tuple(max(1, side) for side in size)))

    def _cut_or_fill(self, image: Tensor) -> Tensor:
        height, width = self.size
        missing = [max(0, height - image.shape[-2]), max(0, width - image.shape[-1])]
        if any(missing):
            top, left = (gap // 2 for gap in missing)
            around = (left, missing[1] - left, top, missing[0] - top)
            image = pad(image, around, value=self.fill_color / 255)
        top = round((image.shape[-2] - height) / 2)
        left = round((image.shape[-1] - width) / 2)
        return image[..., top : top + height, left : left + width]

    def _resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(image.shape[-2:]) == tuple(size):
            return image
        resized = interpolate(
            image, size, mode=self.interpolation, align_corners=False, antialias=self.antialias
        )
        if self.interpolation != "bicubic":
            return resized
        # Bicubic overshoots at edges and 8-bit pictures saturate there; the gradient must not,
        # or a network that overshoots in training would hear nothing about those pixels.
        return resized + (resized.clamp(0, 1) - resized).detach()

    def _normalise(self, image: Tensor) -> Tensor:
        image = image.expand(-1, 3, -1, -1)
        mean, std = (
            torch.tensor(v, dtype=image.dtype, device=image.device).view(3, 1, 1)
            for v in (self.mean, self.std)
        )
        return (image - mean) / std


def changed(base: Preprocess, changes: Mapping[str, Any]) -> Preprocess:
    """``base`` with some fields changed by the user.

    Raises:
        BadRequest: a field that does not exist, or a value that cannot be.
    """
    known = [f.name for f in fields(Preprocess) if f.name != "size"]
    for name in changes:
        if name not in known:
            raise BadRequest(
                f"preprocess has no field {name!r}.{did_you_mean(name, known)} Fields: "
                f"{', '.join(known)} (the size is the option image_size).",
                asked=name,
                known=known,
            )
    result = replace(base, **changes)
    for name, valid in (("resize_mode", RESIZE_MODES), ("interpolation", INTERPOLATIONS)):
        if getattr(result, name) not in valid:
            raise BadRequest(
                f"preprocess {name} is {getattr(result, name)!r}; use one of {', '.join(valid)}.",
                asked=str(getattr(result, name)),
                known=valid,
            )
    triples = {}
    for name in ("mean", "std"):
        value = getattr(result, name)
        value = (value,) * 3 if isinstance(value, int | float) else value
        triples[name] = tuple(float(v) for v in value)
        if len(triples[name]) != 3 or (name == "std" and min(triples[name]) <= 0):
            raise BadRequest(f"preprocess {name} is {value!r}; give three numbers, std above 0.")
    return replace(result, **triples)
