"""Semantic interaction guidance: per-channel scale and shift from the sentence.

Source: X. Yi et al., "Text-IF: Leveraging Semantic Text Guidance for Degradation-Aware and
Interactive Image Fusion", CVPR 2024 (SIGM), and its released code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures


class TextModulation(nn.Module):
    r"""One scale and one shift per channel from a perceptron over the sentence (SIGM).

    .. math:: y = (1 + \gamma) \odot x + \beta, \qquad
              (\gamma, \beta) = W_2\,\mathrm{LeakyReLU}_{0.01}(W_1 t + b_1) + b_2

    with W_1 from the text's width to ``hidden``. This is FiLM with the paper's own perceptron: the
    bench's ``film`` has SiLU and a hidden layer of 128. Text-IF itself modulates one map, x; as a
    scheme of another network x is the sum of the two maps that meet there.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text; 512 in the paper.
        hidden: width of the hidden layer.
        identity: start at y = x, like every scheme of the bench; False is the paper's start.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``; infrared may be None
    """

    paper = "Yi et al., Text-IF, CVPR 2024"

    def __init__(
        self, *, channels: int, text_dim: int, hidden: int = 1024, identity: bool = True
    ) -> None:
        super().__init__()
        self.MLP = nn.Sequential(
            nn.Linear(text_dim, hidden), nn.LeakyReLU(0.01), nn.Linear(hidden, 2 * channels)
        )
        if identity:
            nn.init.zeros_(self.MLP[-1].weight)
            nn.init.zeros_(self.MLP[-1].bias)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor | None,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        x = visible if infrared is None else visible + infrared
        gamma, beta = self.scale_and_shift(text, x)
        return (x * (1 + gamma) + beta).to(x.dtype)

    def scale_and_shift(self, text: TextFeatures | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and beta, ``(B, C, 1, 1)`` each."""
        if text is None:
            raise ValueError("textif acts by text, but the batch has none: encode prompts first.")
        with torch.autocast(x.device.type, enabled=False):  # two small products, and all depends on
            affine = self.MLP(text.pooled.to(self.MLP[0].weight.dtype))
        return affine[..., None, None].chunk(2, 1)
