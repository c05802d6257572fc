"""What becomes of an instruction: functional condition, spatial condition, dense control prior.

Source: "Robust Fusion Controller" (RFC), arXiv 2504.05795, and its released code (``net.py``),
which is followed where the two differ. Names of parameters are those of the released state dict.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, linear

from fusionkit_rfc.bands import Band, Convolution, by_bands

GRID = 64
"""Channels of CLIPSeg's feature grid, per modality."""
MAPS, GRIDS = "rfc_maps", "rfc_grids"
"""Guides that hold the spatial response, see :func:`response`."""


class Functional(nn.Module):
    r"""What to do: a scale and a shift per channel and coupling module, linear in the sentence.

    .. math:: \alpha^w_i = W^w_i t, \qquad \alpha^b_i = W^b_i t

    without bias; t is the process phrase's raw text vector. (The release calls it
    ``processmodule`` and writes the maps as one-dimensional convolutions.)

    Shape:
        - pooled ``(B, D)`` -> two of ``(modules, B, C)``
    """

    def __init__(self, text_dim: int, channels: int, modules: int) -> None:
        super().__init__()
        self.modules_count = modules
        for side in "wb":
            for i in range(1, modules + 1):
                layer = nn.Conv1d(1, channels, text_dim, bias=False)
                self.add_module(f"{side}conv{i}", layer)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        weights = [layer.weight[:, 0] for layer in self.children()]  # w1 w2 ... b1 b2 ..., each C D
        with torch.autocast(pooled.device.type, enabled=False):  # small, and everything hangs on it
            found = linear(pooled.to(weights[0].dtype), torch.cat(weights))  # B 2mC
        found = found.unflatten(1, (2, self.modules_count, -1)).permute(1, 2, 0, 3)
        return found[0], found[1]


class Coupling(nn.Module):
    r"""Multi-condition coupling (MCC): the two conditions meet in one dense map.

    .. math:: u = \alpha^w \odot \phi(C_1 * m) + \alpha^b, \qquad
              m' = m + \phi(C_2 * [u, \beta])

    with LeakyReLU :math:`\phi` and 3x3 convolutions without bias. The scale is w, not 1 + w.

    Shape:
        - m, m' ``(B, C, H, W)``; beta ``(B, S, H, W)``; scale, shift ``(B, C)``
    """

    def __init__(self, channels: int, spatial: int) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, channels, bias=False)
        self.conv2 = Convolution(channels + spatial, channels, bias=False)

    def forward(self, m: Tensor, beta: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        scale, shift = scale[..., None, None], shift[..., None, None]

        def functional(band: Band) -> Tensor:
            u = leaky_relu(self.conv1(m, band=band))
            return torch.addcmul(shift.to(u.dtype), u, scale.to(u.dtype))

        u = by_bands(m, m.shape[1], functional)

        def spatial(band: Band) -> Tensor:
            return leaky_relu(self.conv2(u, beta, band=band)) + band.of(m)

        return by_bands(m, m.shape[1] + u.shape[1] + beta.shape[1], spatial)


class DenseAffine(nn.Module):
    """A scale and a shift for every channel and pixel of K feature maps, read off the prior.

    3x3 convolutions without bias (``imagemoudle`` in the release).
    """

    def __init__(self, channels: int, out: int, count: int) -> None:
        super().__init__()
        for side in "wb":
            for k in range(1, count + 1):
                self.add_module(f"{side}conv{k}", Convolution(channels, out, bias=False))

    def forward(self, prior: Tensor, k: int, band: Band | None = None) -> tuple[Tensor, Tensor]:
        """w_k and b_k, ``(B, out, rows, W)`` each; k counts from 1."""
        scale, shift = self.get_submodule(f"wconv{k}"), self.get_submodule(f"bconv{k}")
        return scale(prior, band=band), shift(prior, band=band)


def upsampling(channels: int = GRID) -> nn.Sequential:
    """A feature grid at 16 times its size; trainable, one set of weights for both modalities."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.01, inplace=True),
        nn.ConvTranspose2d(channels, channels, 4, stride=4),
        nn.LeakyReLU(0.01, inplace=True),
        nn.ConvTranspose2d(channels, channels, 4, stride=4),
        nn.LeakyReLU(0.01, inplace=True),
    )


def mask_feature(channels: int, out: int) -> nn.Sequential:
    """Features of the region at the size of the picture."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.01, inplace=True),
        nn.Conv2d(channels, out, 3, padding=1),
        nn.LeakyReLU(0.01, inplace=True),
    )


def spatial_condition(
    maps: Tensor, grids: Tensor, size: tuple[int, int], enlarge: nn.Module, refine: nn.Module
) -> Tensor:
    """beta: features of both modalities and both maps, ``(B, 2 F + 2, H, W)``.

    Args:
        maps: where the instruction points, ``(B, 2, h, w)`` in [0, 1]; infrared first.
        grids: features of the same, ``(B, 2 * 64, h', w')``; infrared first.
        size: of the picture.
        enlarge, refine: :func:`upsampling` and :func:`mask_feature`.
    """
    count = len(grids)
    x = grids.unflatten(1, (2, -1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    x = refine(resized(enlarge(x), size))
    x = x.unflatten(0, (count, 2)).flatten(1, 2)  # (B 2) F H W -> B (2 F) H W
    beta = torch.cat([x, resized(maps, size).to(x.dtype)], 1)
    return beta.contiguous(memory_format=torch.channels_last)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, without antialiasing, as the release resizes maps and features."""
    if x.shape[-2:] == size:
        return x
    return interpolate(x, size, mode="bilinear", align_corners=False)


def response(guides: Mapping[str, Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(B, 2, h, w)`` and feature grids ``(B, 128, h', w')`` of a batch's guides.

    Those of the guide ``rfc-regions``; else the map ``heatmap`` for both modalities, with empty
    grids; else nothing anywhere, which is what the release makes of an empty instruction.
    """
    if MAPS in guides:
        return guides[MAPS], guides[GRIDS]
    empty = like.new_zeros(len(like), 2 * GRID, 2, 2, dtype=torch.float32)
    if "heatmap" in guides:
        return guides["heatmap"].expand(-1, 2, -1, -1), empty
    return empty[:, :2], empty
