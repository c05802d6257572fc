"""IF-FILM's way of using text as a scheme for any network."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit_iffilm.scan import WIDTH, ScanGate, resize, token_weight

SMALL_GRID = (48, 64)
"""Grid of the scheme outside its own network: 3,072 pixels, a thirty-sixth of the paper's."""


class TextScan(nn.Module):
    r"""The text asks, strips of each stream answer, and a gate of 256 numbers goes over the map.

    .. math:: y = (v + \mathrm{up}(\Delta_v)) + (r + \mathrm{up}(\Delta_r))

    with :math:`\Delta` of each stream as in :class:`~fusionkit_iffilm.scan.ScanGate`, each with
    weights of its own as in the paper. Its last layers start at zero, so it starts as plain
    addition like every scheme of the bench.

    In its own network the scheme has a grid of 288 x 384 and a gate whose absolute values sum to 1,
    so that the text begins a few hundred times weaker than the features. Here the grid is
    ``(48, 64)`` by default, for maps that are smaller than pictures, and the gate's values sum to
    256, one each on average: the same functions, reached in fewer steps. ``grid=(288, 384),
    total=1`` is the paper's.

    Source: Z. Zhao et al., "Image Fusion via Vision-Language Model", ICML 2024, figure 2, and its
    released code.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the text tokens.
        grid: rows and columns of the attention's grid; together a multiple of 256 pixels.
        heads: of the attention.
        total: sum of the gate's absolute values.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.tokens ``(B, L, D)``; an encoder without
          tokens offers its pooled vector as the only one.
    """

    starts_as_sum = True

    def __init__(
        self,
        *,
        channels: int,
        text_dim: int,
        grid: Sequence[int] = SMALL_GRID,
        heads: int = 8,
        total: float = float(WIDTH),
    ) -> None:
        super().__init__()
        self.text_process = nn.Linear(text_dim, WIDTH)
        self.infrared = ScanGate(channels, tuple(grid), heads, total)
        self.visible = ScanGate(channels, tuple(grid), heads, total)
        for scan in (self.infrared, self.visible):
            nn.init.zeros_(scan.back.weight)
            nn.init.zeros_(scan.back.bias)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError("iffilm acts by text, but the batch has none: encode prompts first.")
        tokens = text.pooled[:, None] if text.tokens is None else text.tokens
        mask = None if text.tokens is None else text.mask
        asked, weight = self.text_process(tokens), token_weight(tokens, mask)
        size = tuple(visible.shape[-2:])
        y = visible + infrared
        for scan, stream in ((self.visible, visible), (self.infrared, infrared)):
            y = y + resize(scan(stream, asked, weight).change, size)
        return y.to(visible.dtype)
