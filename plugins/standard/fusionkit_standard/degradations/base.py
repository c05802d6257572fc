"""What every damage shares: checks, chance, strength, and filtering with a kernel per picture."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fusionkit.errors import BadRequest
from fusionkit_standard.degradations.words import HELD_OUT, PROMPTS, STATEMENTS


def ramp(severity: Tensor, none: float, half: float, full: float) -> Tensor:
    """Piecewise linear: `none` at severity 0, `half` at 0.5, `full` at 1."""
    lower = none + (half - none) * (severity * 2.0).clamp(max=1.0)
    return lower + (full - half) * (severity * 2.0 - 1.0).clamp(min=0.0)


def normal(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Standard normal numbers from the generator's device, moved to that of `like`."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def uniform(
    low: float, high: float, count: int, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """Uniform numbers of shape (count, 1, 1, 1)."""
    device = like.device if generator is None else generator.device
    drawn = torch.rand((count, 1, 1, 1), generator=generator, device=device, dtype=like.dtype)
    return (low + (high - low) * drawn).to(like.device)


class Damage:
    """Shared checks; a subclass gives `apply` and its facts."""

    name: ClassVar[str]
    modality: str
    stage: ClassVar[str]
    """Where between the scene and the file it happens: one of ``fusionkit.degrading.STAGES``."""
    prompts: tuple[str, ...]
    """Requests to undo it, for training."""
    held_out: tuple[str, ...]
    """Further requests, none of which is among the prompts of any damage here."""
    statements: tuple[str, ...]
    source: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            cls.prompts, cls.held_out = PROMPTS[cls.name], HELD_OUT[cls.name]
            cls.statements = STATEMENTS[cls.name]

    def __call__(
        self,
        image: Tensor,
        severity: float | Tensor,
        generator: torch.Generator | None = None,
        **context: Any,
    ) -> Tensor:
        if image.ndim != 4 or not image.is_floating_point():
            raise ValueError(
                f"{self.name} takes a float image (B, C, H, W) in [0, 1]; "
                f"it got {image.dtype} of shape {tuple(image.shape)}."
            )
        count = len(image)
        strength = torch.as_tensor(severity, dtype=image.dtype, device=image.device)
        if strength.ndim > 1 or strength.numel() not in (1, count):
            raise ValueError(
                f"{self.name} takes one severity or one per picture ({count}); "
                f"it got shape {tuple(strength.shape)}."
            )
        low, high = torch.aminmax(strength)
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{self.name}: severity lies in [0, 1]; it got {float(low):g} to {float(high):g}."
            )
        strength = strength.reshape(-1, 1, 1, 1).expand(count, 1, 1, 1)
        return self.apply(image, strength, generator, context).clamp(0.0, 1.0)

    def apply(
        self, image: Tensor, severity: Tensor, generator: torch.Generator | None, context: dict
    ) -> Tensor:
        """The damage itself; severity is (B, 1, 1, 1)."""
        raise NotImplementedError


class EitherModality(Damage):
    """Damage that befalls both cameras alike.

    Args:
        modality: ``visible`` or ``infrared``: whose picture it is, and which one the prompts name.
    """

    modality = "visible"

    def __init__(self, *, modality: str = "visible") -> None:
        if modality not in ("visible", "infrared"):
            raise BadRequest(
                f"{self.name} damages the visible or the infrared picture, not {modality!r}.",
                asked=modality,
                known=("visible", "infrared"),
            )
        if modality != self.modality:
            self.modality = modality
            for kind in ("prompts", "held_out", "statements"):
                said = (text.replace("visible", "infrared") for text in getattr(self, kind))
                setattr(self, kind, tuple(said))


def filtered(image: Tensor, kernels: Tensor, border: str = "replicate") -> Tensor:
    """Every picture by its own kernel of odd sides, ``(B, h, w)``, at the same size.

    By Fourier transform: the cost does not grow with the kernel. ``border`` is the mode of
    ``torch.nn.functional.pad``. Correlation as in convolution layers; in float32 at least.
    """
    high, wide = kernels.shape[-2] // 2, kernels.shape[-1] // 2
    exact = torch.promote_types(image.dtype, torch.float32)
    padded = functional.pad(image.to(exact), (wide, wide, high, high), mode=border)
    size = tuple(padded.shape[-2:])
    spectrum = torch.fft.rfft2(kernels.to(padded).flip(-2, -1), s=size)[:, None]
    mixed = torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum, s=size)
    # The first 2 * high rows and 2 * wide columns wrap around.
    return mixed[..., 2 * high :, 2 * wide :].to(image.dtype)


def taps(reach: int, like: Tensor) -> Tensor:
    """Places from -reach to reach."""
    return torch.arange(-reach, reach + 1, device=like.device, dtype=torch.float32)


def normalised(kernels: Tensor) -> Tensor:
    """Kernels ``(B, h, w)`` of sum 1."""
    return kernels / kernels.sum((-2, -1), keepdim=True)
