"""Scores that belong to the language-driven loss: did fusion move the picture as the words say?"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit.protocols import JointEncoder
from fusionkit_ldfusion.language import Language, direction_cosine

SOURCE = "Wang et al., ACM MM 2025 (arXiv 2402.16267)"


class DirectionVisible:
    r"""Cosine between the move visible -> fused and the move of the sentences, in the joint space.

    .. math:: \cos(e_f - e_v,\; t_f - t_v)

    One of the two cosines that the training loss raises, over whole grey pictures: 1 says that
    fusion moved the picture the way the sentences say, 0 across it. It is a number of the encoder
    and of the three sentences, so only figures of one encoder and one set of sentences compare;
    measured with the encoder that was trained against, it flatters. NaN where fusion left the
    picture where it was. Of several objectives the mean of the cosines is given.

    Args:
        encoder: a joint encoder.
        sentences: by role, ``visible``, ``infrared``, ``fused``; the released ones where not
            given.
    """

    name = "direction_vis"
    role = "visible"
    higher_is_better = True
    range = (-1.0, 1.0)
    unit = ""
    source = SOURCE
    variant = "grey, encoder's space"
    needs = ("fused", "ir", "vi")

    def __init__(
        self,
        *,
        encoder: JointEncoder,
        sentences: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        self.language = Language(encoder, sentences)

    def __call__(self, fused: Tensor, ir: Tensor, vi: Tensor, **context: Any) -> Tensor:
        source = vi if self.role == "visible" else ir
        # In double precision: three equal channels must weigh what one does.
        grey = [luma(picture.double()).float() for picture in (fused, source)]
        f, s = self.language.see(torch.cat(grey)).chunk(2)
        kind = self.language.kind(self.role)
        wanted = self.language.sentence("fused")
        cosines = torch.stack([direction_cosine(f, s, row[None], kind) for row in wanted]).mean(0)
        still = (grey[0] == grey[1]).flatten(1).all(1).to(cosines.device)
        return torch.where(still, torch.nan, cosines).to(fused.device)


class DirectionInfrared(DirectionVisible):
    r"""Cosine between the move infrared -> fused and the move of the sentences.

    .. math:: \cos(e_f - e_i,\; t_f - t_i)

    See :class:`DirectionVisible`.
    """

    name = "direction_ir"
    role = "infrared"


class DetailEnergy:
    """How much neighbouring pixels differ: 0.002 times the sum of four Frobenius norms.

    Of the forward differences along rows, columns and both diagonals, on the grey picture in
    [0, 1]. LDFusion logs it in training. It grows with the size of the picture, so it compares
    pictures of one size only; noise raises it as detail does.
    """

    name = "detail_energy"
    higher_is_better = True
    range = (0.0, float("inf"))
    unit = ""
    source = SOURCE
    variant = "grey"
    needs = ("fused",)

    def __call__(self, fused: Tensor, ir: Any = None, vi: Any = None, **context: Any) -> Tensor:
        grey = luma(fused)
        if min(grey.shape[-2:]) < 2:
            raise BadRequest("detail_energy compares neighbours: give pictures of 2 x 2 or more.")
        return 0.002 * difference_norms(grey).sum(0)


def difference_norms(grey: Tensor) -> Tensor:
    """Norms of the horizontal, vertical and both diagonal differences: ``(4, B)``."""
    x = grey.double()
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    return torch.stack([d.square().sum((1, 2, 3)).sqrt() for d in differences])
