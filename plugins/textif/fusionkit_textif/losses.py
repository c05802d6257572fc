"""Text-IF's training terms, and their sum with weights by the degradation of each sample.

V and I are the clean visible and infrared pictures (``batch.targets``, else the inputs), F is the
network's output. Every function here gives one value per picture, ``(B,)``.

Source: Yi et al., Text-IF, CVPR 2024; the released code (``scripts/losses.py``), its present head
and, as variant ``legacy``, the state before the consistency term was taken out, which is probably
nearer to the paper.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma
from fusionkit.errors import did_you_mean

WINDOW = 48
"""Side of the SSIM window: even, so its centre is its 25th pixel; sigma is 1.5 all the same."""

DEFAULTS: dict[str, Any] = {
    "max": 4.0, "ssim": 1.0, "ssim_visible": 1.0, "ssim_infrared": 1.0, "color": 12.0, "grad": 10.0,
    "consist": 0.0, "consist_infrared": 1.0, "max_mode": "l1", "consist_mode": "l1",
}  # fmt: skip
"""Weights of plain fusion: the defaults of the released loss."""

_LOW_LIGHT = {"max": 8.0}
_IR_NOISE = {"max": 6.0}

TABLE: dict[str, dict[str, Any]] = {
    "plain": {},
    "low_light": _LOW_LIGHT,
    "over_exposure": {"ssim": 0.0, "grad": 2.0},
    "ir_low_contrast": {"max": 8.0},
    "ir_noise": _IR_NOISE,
    # Not in the released code, which has weights for four degradations: a start to be edited.
    "noise": _LOW_LIGHT,
    "haze": _LOW_LIGHT,
    "rain": _LOW_LIGHT,
    "blur": _LOW_LIGHT,
    "ir_stripes": _IR_NOISE,
}
"""What a degradation changes in :data:`DEFAULTS`."""

LEGACY: dict[str, dict[str, Any]] = {
    "plain": {},
    "low_light": {"max": 8.0},
    "over_exposure": {
        "max_mode": "l2", "consist": 4.0, "consist_mode": "l2", "ssim": 0.0, "grad": 2.0,
    },
    "ir_low_contrast": {"max": 8.0, "consist": 1.0},
    "ir_noise": {"max": 6.0, "consist": 4.0},
}  # fmt: skip
"""The same for the earlier loss."""

TABLES = {"current": TABLE, "legacy": LEGACY}


class TaskWeighted:
    """The released objective: four terms (``legacy``: five), weighted by what ails the sample.

    A sample's row of the table is chosen by ``batch.labels["task"]``; without such labels every
    sample is plain fusion. The terms are means over the batch and weighted already, so a recipe
    counts each once.

    Args:
        variant: ``current`` or ``legacy``.
        table: rows by degradation, each what it changes in :data:`DEFAULTS`; added to the variant's
            table, and in place of its rows of the same name.
        window: side of the SSIM window.

    Returns:
        ``ssim``, ``max``, ``color``, ``grad``; ``legacy`` also ``consist``.

    Raises:
        ValueError: a degradation without a row, or pictures smaller than the window.
    """

    min_size = WINDOW

    def __init__(
        self,
        *,
        variant: str = "current",
        table: Mapping[str, Mapping[str, Any]] | None = None,
        window: int = WINDOW,
    ) -> None:
        if variant not in TABLES:
            raise ValueError(f"variant is one of {', '.join(TABLES)}, not {variant!r}.")
        self.legacy, self.window = variant == "legacy", window
        self.table = {}
        for task, row in {**TABLES[variant], **(table or {})}.items():
            if unknown := sorted(set(row) - set(DEFAULTS)):
                raise ValueError(
                    f"task {task!r}: a row has no {unknown[0]!r}."
                    f"{did_you_mean(unknown[0], DEFAULTS)} It has {', '.join(DEFAULTS)}."
                )
            self.table[_plain(task)] = DEFAULTS | row

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        tasks = batch.labels.get("task", ("plain",) * len(batch))
        rows = [self._row(task) for task in tasks]
        visible, infrared, image = _pictures(batch, fused)

        def weights(name: str) -> Tensor:
            return image.new_tensor([row[name] for row in rows])

        def by_mode(name: str, measure: Callable[[str], Tensor]) -> Tensor:
            modes = [row[name] for row in rows]
            if len(set(modes)) == 1:
                return measure(modes[0])
            squared = torch.tensor([mode == "l2" for mode in modes], device=image.device)
            return torch.where(squared, measure("l2"), measure("l1"))

        structure = weights("ssim_visible") * (1 - ssim(visible, image, self.window))
        structure = structure + weights("ssim_infrared") * (
            1 - ssim(luma(infrared), luma(image), self.window)
        )
        terms = {
            "ssim": weights("ssim") * structure,
            "max": weights("max")
            * by_mode("max_mode", lambda mode: intensity(visible, infrared, image, mode)),
            "color": weights("color") * color(visible, image),
            "grad": weights("grad") * gradient(visible, infrared, image),
        }
        if self.legacy:
            share = weights("consist_infrared")
            terms["consist"] = weights("consist") * by_mode(
                "consist_mode",
                lambda mode: consistency(
                    luma(visible), luma(infrared), luma(image), mode, infrared_weight=share
                ),
            )
        return {name: values.mean() for name, values in terms.items()}

    def _row(self, task: str) -> dict[str, Any]:
        if (name := _plain(task)) not in self.table:
            raise ValueError(
                f"no loss weights for the degradation {task!r}.{did_you_mean(name, self.table)} "
                f"There are rows for {', '.join(self.table)}; give one in the option 'table'."
            )
        return self.table[name]


class Intensity:
    """Distance to the brighter source per pixel, all three channels from one. Term ``max``."""

    def __init__(self, *, mode: str = "l1") -> None:
        self.mode = _mode(mode)

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        return {"max": intensity(*_pictures(batch, fused), self.mode).mean()}


class Structure:
    """1 - SSIM with the visible picture in colour, and with the infrared one in grey.

    Terms ``ssim_visible`` and ``ssim_infrared``.
    """

    min_size = WINDOW

    def __init__(self, *, window: int = WINDOW) -> None:
        self.window = window

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        visible, infrared, image = _pictures(batch, fused)
        return {
            "ssim_visible": 1 - ssim(visible, image, self.window).mean(),
            "ssim_infrared": 1 - ssim(luma(infrared), luma(image), self.window).mean(),
        }


class Color:
    """Distance of both chroma channels from those of the visible picture. Term ``color``."""

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        visible, _, image = _pictures(batch, fused)
        return {"color": color(visible, image).mean()}


class Gradient:
    """Distance to the steeper source, per direction; the released code calls it the text loss.

    Args:
        joint: take both directions together, ``|Sx| + |Sy|``, before the larger one is chosen and
            compared; in the released code, but not used there.
    """

    def __init__(self, *, joint: bool = False) -> None:
        self.joint = joint

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        return {"grad": gradient(*_pictures(batch, fused), joint=self.joint).mean()}


class Consistency:
    """Distance to both sources, half each: the term of the earlier loss. Term ``consist``.

    Args:
        mode: ``l1`` or ``l2``.
        colour: compare in colour; the earlier loss compares in grey.
        visible, infrared: weights of the two distances.
    """

    def __init__(
        self,
        *,
        mode: str = "l1",
        colour: bool = False,
        visible: float = 1.0,
        infrared: float = 1.0,
    ) -> None:
        self.mode, self.colour, self.weights = _mode(mode), colour, (visible, infrared)

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        pictures = _pictures(batch, fused)
        if not self.colour:
            pictures = tuple(luma(picture) for picture in pictures)
        return {"consist": consistency(*pictures, self.mode, *self.weights).mean()}


# ------------------------------------------------------------------------------------- formulas


def intensity(visible: Tensor, infrared: Tensor, image: Tensor, mode: str = "l1") -> Tensor:
    """Mean |F - T|, T = I where its channel mean is larger than that of V, else V."""
    brighter = infrared.mean(1, keepdim=True) > visible.mean(1, keepdim=True)
    return _distance(image, torch.where(brighter, infrared, visible), mode)


def color(visible: Tensor, image: Tensor) -> Tensor:
    """Mean |Cb - Cb'| + mean |Cr - Cr'|, full-range BT.601."""
    chroma = image.new_tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    difference = ((visible - image)[:, None] * chroma[..., None, None]).sum(2)
    return difference.abs().mean((2, 3)).sum(1)


def gradient(visible: Tensor, infrared: Tensor, image: Tensor, *, joint: bool = False) -> Tensor:
    """Mean | |S F| - max(|S V|, |S I|) | on grey pictures, Sobel across plus Sobel down."""
    of_visible, of_infrared, of_image = (
        sobel(luma(picture)).abs() for picture in (visible, infrared, image)
    )
    if joint:
        of_visible, of_infrared, of_image = (
            steepness.sum(1, keepdim=True) for steepness in (of_visible, of_infrared, of_image)
        )
    return (of_image - torch.maximum(of_visible, of_infrared)).abs().mean((2, 3)).sum(1)


def consistency(
    visible: Tensor,
    infrared: Tensor,
    image: Tensor,
    mode: str = "l1",
    visible_weight: float | Tensor = 1.0,
    infrared_weight: float | Tensor = 1.0,
) -> Tensor:
    """(d(V, F) + d(I, F)) / 2, each with its weight."""
    of_visible, of_infrared = (_distance(source, image, mode) for source in (visible, infrared))
    return (visible_weight * of_visible + infrared_weight * of_infrared) / 2


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def sobel(gray: Tensor) -> Tensor:
    """``(B, 1, H, W)`` -> differences across and down, ``(B, 2, H, W)``; the edge is repeated."""
    across = gray.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return conv2d(
        pad(gray, (1, 1, 1, 1), mode="replicate"), torch.stack([across, across.T])[:, None]
    )


def ssim(reference: Tensor, image: Tensor, window: int = WINDOW) -> Tensor:
    """Mean SSIM of each picture over channels and places, for values in [0, 1].

    Gaussian of sigma 1.5, no padding: of each side ``window - 1`` places are lost. Weights that are
    zero to single precision are not multiplied out.
    """
    if min(image.shape[-2:]) < window:
        raise ValueError(
            f"SSIM with a window of {window} needs pictures of at least {window}x{window} pixels, "
            f"got {image.shape[-2]}x{image.shape[-1]}: train on larger crops, or set 'window'."
        )
    count, channels = image.shape[:2]
    pictures = torch.cat([reference, image, reference**2, image**2, reference * image], 1)
    smooth = _smooth(pictures.flatten(0, 1)[:, None], window).unflatten(0, (count, 5, channels))
    mean, mean_f, square, square_f, product = smooth.squeeze(3).unbind(1)
    variance, variance_f = square - mean**2, square_f - mean_f**2
    covariance = product - mean * mean_f
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * covariance + c2) / (variance + variance_f + c2)
    brightness = (2 * mean * mean_f + c1) / (mean**2 + mean_f**2 + c1)
    return (brightness * structure).mean((1, 2, 3))


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def _smooth(x: Tensor, window: int, sigma: float = 1.5) -> Tensor:
    """``(N, 1, H, W)`` under the window, ``(N, 1, H - window + 1, W - window + 1)``."""
    centre = window // 2
    weights = [math.exp(-((i - centre) ** 2) / (2 * sigma**2)) for i in range(window)]
    first = next(i for i, weight in enumerate(weights) if weight > 1e-12)
    last = max(i for i, weight in enumerate(weights) if weight > 1e-12)
    taps = x.new_tensor(weights[first : last + 1]) / sum(weights)
    height, width = x.shape[-2:]
    x = x[..., first : height - (window - 1 - last), first : width - (window - 1 - last)]
    return conv2d(conv2d(x, taps[None, None, None]), taps[None, None, :, None])


def _distance(a: Tensor, b: Tensor, mode: str) -> Tensor:
    difference = a - b
    return (difference.square() if mode == "l2" else difference.abs()).mean((1, 2, 3))


def _mode(mode: str) -> str:
    if mode not in ("l1", "l2"):
        raise ValueError(f"mode is 'l1' or 'l2', not {mode!r}.")
    return mode


def _pictures(batch: Batch, fused: Fused) -> tuple[Tensor, Tensor, Tensor]:
    """V, I and F, ``(B, 3, H, W)`` each."""
    visible = batch.targets.get("visible", batch.visible)
    infrared = batch.targets.get("infrared", batch.infrared)
    return tuple(p.float().expand(-1, 3, -1, -1) for p in (visible, infrared, fused.image))


def _plain(task: str) -> str:
    return task.lower().replace("-", "_").removeprefix("ems_")
