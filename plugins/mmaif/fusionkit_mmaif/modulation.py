"""MMAIF's way of using text, as a scheme for other networks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit_mmaif.transformer import LoraAdaLN, normalise


class AdaLN(nn.Module):
    r"""Scale, shift and gate of a normalised map, from the sentence through a low rank.

    .. math:: y = x + \alpha \odot (\mathrm{LN}(x) \odot (1 + \gamma) + \beta),
              \qquad (\gamma, \beta, \alpha) = U\,V\,\mathrm{SiLU}(c) + u

    with x the sum of the two maps, LN over the channels of each place, and c a small perceptron of
    the pooled text. U and u start at zero, so y = x. In MMAIF's layers attention, or the experts,
    stand between the shift and the gate; here what follows in the network takes that part.

    Source: MMAIF (ICCV 2025), "LoRA-AdaLN"; W. Peebles, S. Xie, "Scalable Diffusion Models with
    Transformers", ICCV 2023.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text.
        rank: r.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``
    """

    starts_as_sum = True
    paper = "MMAIF, ICCV 2025, arXiv 2503.14944"

    def __init__(self, *, channels: int, text_dim: int, rank: int = 16) -> None:
        super().__init__()
        self.sentence = nn.Sequential(
            nn.Linear(text_dim, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.condition = LoraAdaLN(channels, rank, vectors=3)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError("adaln acts by text, but the batch has none: encode prompts first.")
        x = visible + infrared
        pooled = text.pooled.to(self.sentence[0].weight.dtype)
        scale, shift, gate = (
            vector.mT[..., None].to(x.dtype) for vector in self.condition(self.sentence(pooled))
        )  # each B C 1 1
        y = normalise(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        change = torch.addcmul(shift, y, 1 + scale)
        return torch.addcmul(x, gate, change.to(x.dtype)).to(x.dtype)
