"""TeRF's training terms, and those by which an effect leans the network towards one source.

Source: TeRF, ACM MM 2024, doi 10.1145/3664647.3680971; the loss files of the released code.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma

WINDOW, SIGMA = 13, 1.5
C1, C2 = 0.01**2, 0.03**2
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Cb and Cr without their offset."""
FUSION = {
    "ssim_visible": 1.0,
    "ssim_infrared": 1.0,
    "intensity": 10.0,
    "gradient": 10.0,
    "color": 10.0,
}
LEAN = {"intensity": 10.0, "color": 12.0, "gradient": 5.0}
"""Weights as released, of the backbone's training and of the two leaning effects."""


class FusionTerms(nn.Module):
    r"""Structure, intensity, gradient and colour.

    With V the visible picture, I the infrared one on three channels, F the fused one, S the Sobel
    responses of a picture's luma:

    * ``ssim_visible`` :math:`1 - \mathrm{SSIM}(V, F)`, ``ssim_infrared`` the same with I;
    * ``intensity`` :math:`\overline{|\max(V, I) - F|}`;
    * ``gradient`` :math:`\overline{(|S F| - \max(|S V|, |S I|))^2}`, both directions added;
    * ``color`` :math:`\overline{|Cb_F - Cb_V|} + \overline{|Cr_F - Cr_V|}`.

    The recipe weights them 1, 1, 10, 10, 10.
    """

    min_size = WINDOW

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        with torch.autocast(fused.image.device.type, enabled=False):
            image, visible, infrared = _single(batch, fused)
            return {
                "ssim_visible": 1 - ssim(visible, image),
                "ssim_infrared": 1 - ssim(infrared.expand_as(image), image),
                "intensity": (torch.maximum(visible, infrared) - image).abs().mean(),
                "gradient": gradient(image, visible, infrared),
                "color": color(image, visible),
            }


class LeanInfrared(nn.Module):
    r"""What pulls towards the infrared picture: ``intensity`` :math:`\overline{|I - F|}`.

    And ``color`` and ``gradient`` of :class:`FusionTerms`; TeRF weights them 10, 12, 5.
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        with torch.autocast(fused.image.device.type, enabled=False):
            image, visible, infrared = _single(batch, fused)
            return {
                "intensity": (infrared - image).abs().mean(),
                "color": color(image, visible),
                "gradient": gradient(image, visible, infrared),
            }


class LeanVisible(nn.Module):
    r"""What pulls towards the visible picture.

    ``intensity`` :math:`\overline{|V - F|} + \tfrac12\,\overline{|I - F|}`, and ``color`` and
    ``gradient`` of :class:`FusionTerms`; TeRF weights them 10, 12, 5.
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        with torch.autocast(fused.image.device.type, enabled=False):
            image, visible, infrared = _single(batch, fused)
            near = (visible - image).abs().mean() + 0.5 * (infrared - image).abs().mean()
            return {
                "intensity": near,
                "color": color(image, visible),
                "gradient": gradient(image, visible, infrared),
            }


def _single(batch: Batch, fused: Fused) -> tuple[Tensor, Tensor, Tensor]:
    return fused.image.float(), batch.visible.float(), batch.infrared.float()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of pictures ``(B, C, H, W)`` in [0, 1], a scalar.

    Gaussian window of 13x13, deviation 1.5, each channel by itself, no padding.

    Raises:
        ValueError: pictures smaller than the window.
    """
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(
            f"TeRF's structural term needs pictures of {WINDOW} pixels at least, "
            f"got {x.shape[-2]}x{x.shape[-1]}."
        )
    steps = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    kernel = torch.exp(-steps.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    stacked = torch.cat([x, y, x * x, y * y, x * y]).flatten(0, 1)[:, None]
    stacked = conv2d(conv2d(stacked, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    mx, my, xx, yy, xy = stacked.chunk(5)
    luminance = (2 * mx * my + C1) / (mx * mx + my * my + C1)
    structure = (2 * (xy - mx * my) + C2) / (xx - mx * mx + yy - my * my + C2)
    return (luminance * structure).mean()


def gradient(image: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Squared distance of the Sobel responses to the larger of the sources', directions added."""
    responses = (_sobel(luma(picture)).abs() for picture in (image, visible, infrared))
    found, v, i = responses
    across, down = (found - torch.maximum(v, i)).square().unbind(1)
    return across.mean() + down.mean()


def color(image: Tensor, visible: Tensor) -> Tensor:
    """Mean absolute difference of Cb, plus that of Cr."""
    weights = image.new_tensor(CHROMA)[:, :, None, None]
    blue, red = conv2d(image - visible, weights).abs().unbind(1)
    return blue.mean() + red.mean()


def _sobel(grey: Tensor) -> Tensor:
    """Responses across and down, ``(B, 2, H, W)``, edges repeated."""
    across = grey.new_tensor(SOBEL)
    kernels = torch.stack([across, across.T])[:, None]
    return conv2d(pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
