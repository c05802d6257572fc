"""Affine fusion unit: infrared features weighted by the sentence, then added to the visible ones.

Source: C. Cheng et al., "TextFusion: Unveiling the power of textual semantics for controllable
image fusion", Information Fusion 117 (2025) 102790, and its released code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusionkit.batch import TextFeatures


class AffineFusion(nn.Module):
    r"""Add the infrared map to the visible one, each channel as much as the sentence says.

    .. math:: y = A_v\,\mathrm{ReLU}(C_v v) + (W t) \odot A_r\,\mathrm{ReLU}(C_r r)

    with 1x1 convolutions C (C to 2C channels) and A (to as many as come out). The paper's unit has
    as many output channels as the text has dimensions (512) and multiplies by the text itself; in
    a network of another width a linear map W brings the text to that many numbers
    (``project=True``). There is no gate and no softmax, as in the released code. For the ablation
    each branch has a residual, :math:`v + A_v(\cdot)` and :math:`(W t) \odot (r + A_r(\cdot))`; W
    starts at zero weight and unit bias, the A's at zero, so it starts as plain addition like every
    scheme of the bench. ``out_channels=text_dim, project=False, residual=False`` is the paper's
    unit, and what the network ``textfusion`` has.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text.
        out_channels: depth of the result; None is C.
        project: bring the text to that depth; False needs a result as deep as the text is wide.
        residual: start as plain addition; needs a result as deep as the maps.

    Shape:
        - visible, infrared: ``(B, C, H, W)``; text.pooled ``(B or 1, D)``; result
          ``(B, out_channels, H, W)``
    """

    starts_as_sum = True

    def __init__(
        self,
        *,
        channels: int,
        text_dim: int,
        out_channels: int | None = None,
        project: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        out = channels if out_channels is None else out_channels
        if not project and out != text_dim:
            raise ValueError(
                f"textfusion without projection needs as many channels as the text is wide: "
                f"{out} channels, text of width {text_dim}."
            )
        if residual and out != channels:
            raise ValueError(
                f"textfusion with residuals keeps its {channels} channels, but {out} are to come "
                "out: pass residual=False."
            )
        self.residual = residual
        self.visible = _branch(channels, out)
        self.infrared = _branch(channels, out)
        self.weight = nn.Linear(text_dim, out) if project else nn.Identity()
        if project:
            nn.init.zeros_(self.weight.weight)
            nn.init.ones_(self.weight.bias)
        if residual:
            nn.init.zeros_(self.visible[-1].weight)
            nn.init.zeros_(self.infrared[-1].weight)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        weight = self._weight(text, visible.dtype)[..., None, None]
        if self.residual:
            added = weight * (infrared + self.infrared(infrared))
            return (visible + self.visible(visible) + added).to(visible.dtype)
        return (self.visible(visible) + weight * self.infrared(infrared)).to(visible.dtype)

    def kernels(self, text: TextFeatures | None, out: nn.Conv2d) -> tuple[Tensor, Tensor]:
        r"""The unit's second convolutions A and a 3x3 convolution O to one channel, as one.

        Nothing nonlinear stands between them, so the deep map need not exist:

        .. math:: O * y = K_v * \mathrm{ReLU}(C_v v) + K_r * \mathrm{ReLU}(C_r r),\quad
                  K_v = O A_v,\quad K_r = O\,\mathrm{diag}(W t) A_r

        with 2C channels to one; :meth:`taps` and :func:`add_shifted` apply them. Reflection at the
        border commutes with 1x1 convolutions. For a unit without residuals.

        Returns:
            K_v ``(1, 9, 2C)`` and K_r ``(B or 1, 9, 2C)``, float32.
        """
        weight = self._weight(text, torch.float32)
        taps = out.weight[0].flatten(1).float().T
        visible, infrared = (b[2].weight.flatten(1).float() for b in (self.visible, self.infrared))
        return (taps @ visible)[None], (taps * weight[:, None]) @ infrared

    def taps(self, visible: Tensor, infrared: Tensor, kernels: tuple[Tensor, Tensor]) -> Tensor:
        """What each pixel gives to its nine neighbours, ``(B, 9, H, W)``."""
        hidden = (b[0](x).relu_() for b, x in ((self.visible, visible), (self.infrared, infrared)))
        first, second = (_product(x, k) for x, k in zip(hidden, kernels, strict=True))
        return first.float() + second.float()

    def _weight(self, text: TextFeatures | None, dtype: torch.dtype) -> Tensor:
        if text is None:
            raise ValueError(
                "textfusion acts by text, but the batch has none: encode prompts first."
            )
        return self.weight(text.pooled.to(dtype)).to(dtype)


def _product(x: Tensor, kernel: Tensor) -> Tensor:
    """``(B, C, H, W)``, ``(B or 1, 9, C)`` -> ``(B, 9, H, W)``."""
    if len(kernel) == 1:
        return functional.conv2d(x, kernel[0, :, :, None, None].to(x.dtype))
    return torch.einsum("bkc,bchw->bkhw", kernel.to(x.dtype), x)


def add_shifted(nine: Tensor) -> Tensor:
    """Nine maps, each moved to where its tap of a 3x3 convolution reads it: ``(B, 1, H, W)``."""
    height, width = nine.shape[-2:]
    padded = functional.pad(nine, (1, 1, 1, 1), mode="reflect")
    return sum(
        padded[:, 3 * y + x, y : y + height, x : x + width] for y in range(3) for x in range(3)
    )[:, None]


def _branch(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(2 * channels, out, 1, bias=False),
    )
