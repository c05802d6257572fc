r"""The two terms of TextFusion: inside the region the sentence speaks of, and elsewhere.

Source: C. Cheng et al., "TextFusion", Information Fusion 117 (2025) 102790, section on the loss;
formulas as in the released code. Both read the luma of the visible picture, the infrared one, what
the network made of them (``fused.maps["luma"]``, else the luma of its picture), and B.
"""

import os
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import read_weights
from fusionkit_textfusion.color import split_luma
from fusionkit_textfusion.densefuse import DenseFuseEncoder

LEVELS = (3, 8, 17, 26, 35)
"""Where VGG-19 is read: before the activation of conv1_2, 2_2, 3_4, 4_4 and 5_4."""
SALIENCY_SCALE = 4000.0


class RegionIntensity(nn.Module):
    r"""Inside the region, keep the modality that is more active at each pixel.

    .. math:: L_{int} = \overline{(B\, w_r (F - I_r))^2} + \overline{(B\, w_v (F - I_v))^2},\quad
              w_r = \sigma(a_r - a_v),\; w_v = 1 - w_r,\; a = \sum_c E(I)_c

    with E the encoder of DenseFuse, means over all pixels of the picture. Term ``interested``.

    Args:
        activity: ``densefuse``: E with its own weights; ``brightness``: a substitute without
            weights, :data:`BRIGHTNESS_GAIN` times the picture.
        weights: file of DenseFuse's weights (``DenseFuse.model``).
    """

    def __init__(
        self,
        *,
        activity: Literal["densefuse", "brightness", "auto"] = "auto",
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if activity not in ("densefuse", "brightness", "auto"):
            raise BadRequest(
                f"activity={activity!r}: it is densefuse, brightness or auto (densefuse where "
                "weights are given)."
            )
        if activity == "densefuse" and weights is None:
            raise MissingWeights(
                "loss 'region-intensity' with activity densefuse needs DenseFuse.model (it lies "
                "beside the authors' code): pass its path as option weights."
            )
        self.encoder = None
        if weights is not None and activity != "brightness":
            self.encoder = DenseFuseEncoder.from_official(weights)
        elif activity == "auto":
            warnings.warn(
                "loss 'region-intensity': no DenseFuse weights were given (option weights), so "
                "brightness stands in for activity: not the paper's loss.",
                stacklevel=2,
            )

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        visible, infrared, result, region = _inputs(batch, fused)
        with torch.no_grad(), torch.autocast(result.device.type, enabled=False):
            weight = torch.sigmoid(self.activity(infrared) - self.activity(visible))
        inside = (region * weight * (result - infrared)).square().mean()
        return {"interested": inside + (region * (1 - weight) * (result - visible)).square().mean()}

    def activity(self, picture: Tensor) -> Tensor:
        """a of a picture ``(B, 1, H, W)``, likewise."""
        if self.encoder is None:
            return BRIGHTNESS_GAIN * picture
        return self.encoder(picture).sum(1, keepdim=True)


BRIGHTNESS_GAIN = 14.5
"""Slope of DenseFuse's activity over the grey value, by least squares over both pictures of the
authors' sample pair at half size (14.4 and 14.7; correlation 0.97 and 0.98)."""


class SaliencyWeightedMse(nn.Module):
    r"""Outside the region, stay near both pictures, nearer to the one with more structure.

    .. math:: L_{non} = u_r \overline{(N (F - I_r))^2} + u_v \overline{(N (F - I_v))^2},\quad
              N = 1 - B,\; u_r = \sigma(S_r - S_v),\; u_v = 1 - u_r

    S of a picture is the mean over five levels of VGG-19 of
    :math:`\sum N_k s_k^2 / \sum N_k / 4000`, with s the 8-neighbour Laplacian of the sum of all
    channels, N_k the mask halved by nearest neighbour from level to level. The picture enters as
    grey in [0, 1], without the normalisation of ImageNet, as in the released code. One weight per
    picture; the mean over the batch. Term ``non_interested``.

    Args:
        saliency: ``vgg19``: as above; ``laplacian``: a substitute without weights: u_r is the
            infrared picture's share of the masked energy of the pictures' own Laplacians; ``auto``:
            vgg19 where its weights are at hand, without fetching them.
        weights: file of VGG-19's weights as torchvision keeps them; None takes torchvision's own.
    """

    def __init__(
        self,
        *,
        saliency: Literal["vgg19", "laplacian", "auto"] = "auto",
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if saliency not in ("vgg19", "laplacian", "auto"):
            raise BadRequest(f"saliency={saliency!r}: it is vgg19, laplacian or auto.")
        self.levels = None
        if saliency != "laplacian":
            try:
                self.levels = vgg_levels(weights, fetch=saliency == "vgg19")
            except MissingWeights as error:
                if saliency == "vgg19":
                    raise
                warnings.warn(
                    f"loss 'saliency-weighted-mse': {error} Until then the pictures' own "
                    "Laplacians stand in for VGG-19: not the paper's loss.",
                    stacklevel=2,
                )

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        visible, infrared, result, region = _inputs(batch, fused)
        rest = 1 - region
        with torch.no_grad(), torch.autocast(result.device.type, enabled=False):
            weight = self.weight(infrared, visible, rest)
        to_infrared, to_visible = (
            (rest * (result - picture)).square().mean((1, 2, 3)) for picture in (infrared, visible)
        )
        return {"non_interested": (weight * to_infrared + (1 - weight) * to_visible).mean()}

    def weight(self, infrared: Tensor, visible: Tensor, rest: Tensor) -> Tensor:
        """u_r of each pair, ``(B,)``."""
        if self.levels is None:
            first, second = (energy(picture, rest) for picture in (infrared, visible))
            return (first + 1e-12) / (first + second + 2e-12)
        first, second = (self.saliency(x, rest).mean(0) for x in (infrared, visible))
        return torch.sigmoid((first - second) / SALIENCY_SCALE)

    def saliency(self, picture: Tensor, rest: Tensor) -> Tensor:
        """Masked energy at each level, ``(5, B)``."""
        found, maps = [], picture.expand(-1, 3, -1, -1)
        for level in self.levels:
            maps = level(maps)
            found.append(energy(maps.sum(1, keepdim=True), rest))
            rest = functional.interpolate(rest, scale_factor=0.5, mode="nearest")
        return torch.stack(found)


def energy(total: Tensor, rest: Tensor) -> Tensor:
    """Mean over N of the squared 8-neighbour Laplacian of ``(B, 1, h, w)``; 0 for empty N."""
    kernel = total.new_full((1, 1, 3, 3), 1 / 8)
    kernel[..., 1, 1] = -1
    padded = functional.pad(total, (1, 1, 1, 1), mode="reflect")
    squared = functional.conv2d(padded, kernel).square()
    area = rest.sum((1, 2, 3))
    inside = (rest * squared).sum((1, 2, 3)) / torch.where(area > 0, area, torch.ones_like(area))
    return torch.where(area > 0, inside, torch.zeros_like(inside))


def vgg_levels(
    weights: str | os.PathLike[str] | None = None, *, fetch: bool = True
) -> nn.ModuleList:
    """VGG-19 (K. Simonyan, A. Zisserman, ICLR 2015, table 1, E) cut where the loss reads it.

    Args:
        weights: a file with torchvision's keys; None takes torchvision's ImageNet weights.
        fetch: whether they may be downloaded (548 MB), or must lie in torch's cache.

    Raises:
        MissingWeights: they cannot be had.
    """
    layers: list[nn.Module] = []
    with torch.device("meta"):
        channels = 3
        for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
    starts = (0, *LEVELS)
    levels = nn.ModuleList(
        nn.Sequential(*layers[a:b]) for a, b in zip(starts, LEVELS, strict=False)
    )
    state = _imagenet(fetch) if weights is None else read_weights(weights)
    try:
        for start, level in zip(starts, levels, strict=False):
            level.load_state_dict(
                {
                    name: state[f"features.{start + int(name.split('.')[0])}.{name.split('.')[1]}"]
                    for name in level.state_dict()
                },
                assign=True,
            )
    except (KeyError, RuntimeError) as error:
        raise BadRequest(f"{weights} holds no VGG-19 as torchvision keeps it: {error}.") from None
    return levels.requires_grad_(False).eval()


def _imagenet(fetch: bool) -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights

    source = VGG19_Weights.IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / source.url.rpartition("/")[2]
    if not (fetch or cached.is_file()):
        raise MissingWeights(
            f"the weights of VGG-19 are not at {cached}: option saliency=vgg19 fetches them "
            "(548 MB), option weights takes a file."
        )
    try:
        return source.get_state_dict(progress=False)
    except Exception as error:  # no network, no room, a file cut short
        raise MissingWeights(
            f"the weights of VGG-19 cannot be had from {source.url} ({type(error).__name__}): put "
            f"the file at {cached}, or pass its path as option weights."
        ) from error


def _inputs(batch: Batch, fused: Fused) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Visible luma, infrared, fused luma and B, ``(B, 1, H, W)`` each, float32."""
    region = batch.guides.get("association", batch.targets.get("mask"))
    if region is None:
        raise ValueError(
            "the losses of TextFusion need the region the sentence speaks of: "
            "batch.guides['association'] (guide 'association'), or a true mask."
        )
    visible, _ = split_luma(batch.visible)
    result = fused.maps["luma"] if "luma" in fused.maps else split_luma(fused.image)[0]
    return visible.float(), batch.infrared.float(), result.float(), region.float()
