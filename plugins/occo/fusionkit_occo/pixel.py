"""OCCO's pixel terms: structure, intensity and gradient of both sources."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma
from fusionkit_occo.colour import to_ycbcr

SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


class PixelTerms(nn.Module):
    r"""Structure, intensity and gradient towards both sources.

    With V the visible luma, I the infrared picture and F the fused luma:

    * ``ssim``: :math:`(1 - \mathrm{SSIM}(V, F)) + (1 - \mathrm{SSIM}(I, F))`;
    * ``intensity``: :math:`\overline{(F - V)^2} + \overline{[V < I]\,|F - I|}`, squared towards the
      visible picture, absolute where the infrared one is brighter;
    * ``gradient``: :math:`\overline{|\max(|S V|, |S I|) - |S F||}` for both Sobel directions.

    The paper's recipe weights them 1, 10, 1. Source:
    OCCO, IJCV 2025 (arXiv 2503.18635), released code.
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        fused_luma, visible, infrared = lumas(batch, fused)
        with torch.autocast(fused_luma.device.type, enabled=False):
            return {
                "ssim": 2 - ssim(visible, fused_luma) - ssim(infrared, fused_luma),
                "intensity": intensity(fused_luma, visible, infrared),
                "gradient": gradient(fused_luma, visible, infrared),
            }


def lumas(batch: Batch, fused: Fused) -> tuple[Tensor, Tensor, Tensor]:
    """Fused luma, visible luma and infrared, ``(B, 1, H, W)`` in single precision.

    The fused one is what the network says it is, else the luma of its picture.
    """
    found = fused.maps["luma"] if "luma" in fused.maps else luma(fused.image)
    return found.float(), to_ycbcr(batch.visible.float())[0], batch.infrared.float()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of pictures ``(B, 1, H, W)`` in [0, 1], a scalar.

    Gaussian window of 11x11, deviation 1.5, zeros beyond the border, borders included.
    """
    steps = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    kernel = torch.exp(-steps.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    stacked = torch.cat([x, y, x * x, y * y, x * y])
    stacked = conv2d(stacked, kernel.view(1, 1, -1, 1), padding=(WINDOW // 2, 0))
    stacked = conv2d(stacked, kernel.view(1, 1, 1, -1), padding=(0, WINDOW // 2))
    mx, my, xx, yy, xy = stacked.chunk(5)
    luminance = (2 * mx * my + C1) / (mx * mx + my * my + C1)
    structure = (2 * (xy - mx * my) + C2) / (xx - mx * mx + yy - my * my + C2)
    return (luminance * structure).mean()


def intensity(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Squared distance to the visible picture, absolute to the infrared one where brighter."""
    hotter = (visible < infrared).to(fused.dtype)
    return (fused - visible).square().mean() + (hotter * (fused - infrared).abs()).mean()


def gradient(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Distance of the Sobel responses to the larger one of the sources, both directions added."""
    f, v, i = (_sobel(x).abs() for x in (fused, visible, infrared))
    across, down = (torch.maximum(v, i) - f).abs().unbind(1)
    return across.mean() + down.mean()


def _sobel(x: Tensor) -> Tensor:
    """Responses across and down, ``(B, 2, H, W)``, zeros beyond the border."""
    across = x.new_tensor(SOBEL)
    return conv2d(x, torch.stack([across, across.T.flip(0)])[:, None], padding=1)
