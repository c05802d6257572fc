"""Perceptual loss against the stronger of the two sources, over features of VGG19.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks", ICLR 2015 (the network);
the released LDFusion trainer (the loss).
"""

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import read_weights
from fusionkit_ldfusion.color import grey_pictures

PLAN = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512)
"""VGG19 up to conv4_2."""
TAPS = {6: "conv2_1", 11: "conv3_1", 22: "conv4_2"}
"""Index of the ReLU after a convolution (its result is what counts), as torchvision numbers."""
FILE = "vgg19-dcbb9e9d.pth"
"""torchvision's ImageNet weights."""
FOLDER = "FUSIONKIT_WEIGHTS"
"""Environment variable: a folder that is looked at first."""


def features() -> nn.Sequential:
    """VGG19 up to the ReLU after conv4_2, layers numbered as in torchvision."""
    layers: list[nn.Module] = []
    channels = 3
    for width in PLAN:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)


class VggMax(nn.Module):
    r"""Features of the fused picture against the element-wise maximum of those of the sources.

    .. math:: \sum_k \overline{\big(\phi_k(f) - \max(\phi_k(v), \phi_k(i))\big)^2}

    over the ReLUs after conv2_1, conv3_1 and conv4_2 of VGG19, on grey pictures repeated to three
    channels *without* ImageNet normalisation, as released. Term ``perceptual``.

    Args:
        weights: ``imagenet`` (torchvision's, from ``$FUSIONKIT_WEIGHTS`` or its own cache, else
            fetched once), a file, or ``seeded``: random numbers, which make the loss run and mean
            nothing; :attr:`remark` says so.
        offline: what takes the place of ImageNet weights that cannot be had: ``error`` or
            ``seeded`` (with a warning).
        size: side to which pictures are shrunk first; None takes them as they are.

    Raises:
        MissingWeights: no weights, and ``offline`` is ``error``.
    """

    remark = ""

    def __init__(
        self, *, weights: str = "imagenet", offline: str = "error", size: int | None = None
    ) -> None:
        super().__init__()
        if offline not in ("error", "seeded"):
            raise BadRequest(f"vgg-max: offline is error or seeded, not {offline!r}.")
        if size is not None and size < 8:
            raise BadRequest(f"vgg-max: size is at least 8 pixels, not {size}.")
        self.size = size
        self.features = features()
        try:
            state = None if weights == "seeded" else _state(weights)
        except MissingWeights as error:
            if offline == "error":
                raise
            state = None
            warnings.warn(f"{error} Until then its numbers are random.", stacklevel=2)
        if state is None:
            self.remark = (
                "The perceptual term used a VGG19 of random numbers: it is not meaningful."
            )
            self._draw()
        else:
            self._fill(state, weights)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def _draw(self) -> None:
        """Random numbers, the same each time, that keep the contrast of pictures."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(19)
            for layer in self.features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

    def _fill(self, state: dict[str, Any], origin: str) -> None:
        try:
            wanted = self.features.state_dict()
            self.features.load_state_dict({key: state[f"features.{key}"] for key in wanted})
        except (KeyError, RuntimeError, TypeError) as error:
            raise BadRequest(f"{origin} holds no weights of torchvision's VGG19: {error}") from None

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        grey, visible, infrared = grey_pictures(batch, fused)
        return {"perceptual": sum(self.terms(grey, visible, infrared).values())}

    def terms(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        """The mean squared error at each tap, for grey pictures ``(B, 1, H, W)``."""
        with torch.no_grad():
            sources = self.taps(torch.cat([visible, infrared]))
        found = self.taps(fused)
        errors = {}
        for name, values in found.items():
            target = torch.maximum(*sources[name].chunk(2))
            errors[name] = (values.float() - target.float()).square().mean()
        return errors

    def taps(self, grey: Tensor) -> dict[str, Tensor]:
        """The three feature maps of grey pictures."""
        if self.size is not None and min(grey.shape[-2:]) > self.size:
            scale = self.size / min(grey.shape[-2:])
            size = [round(side * scale) for side in grey.shape[-2:]]
            grey = interpolate(grey, size, mode="bilinear", align_corners=False, antialias=True)
        x = grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        found = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                found[TAPS[index]] = x
        return found


def _state(weights: str) -> dict[str, Any]:
    """The state dict of torchvision's VGG19.

    Raises:
        MissingWeights: neither here nor to be had.
        BadRequest: the file cannot be read.
    """
    if weights != "imagenet":
        return read_weights(weights)
    if folder := os.environ.get(FOLDER):
        file = Path(folder) / FILE
        if file.is_file():
            return read_weights(file)
    found = _fetched()
    if isinstance(found, Exception):
        raise MissingWeights(
            f"the ImageNet weights of VGG19 (550 MB) are not here and cannot be fetched ({found}). "
            f"Put torchvision's {FILE} into the folder that ${FOLDER} names, or into "
            f"{torch.hub.get_dir()}/checkpoints; or leave out the loss 'vgg-max'; or set its "
            "option weights to 'seeded' to try the machinery with random numbers."
        )
    return found


@cache
def _fetched() -> dict[str, Any] | Exception:
    """What torchvision has or fetches, without the classifier; or why not. Asked once a process."""
    try:
        from torchvision.models import VGG19_Weights

        state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (ImportError, OSError, RuntimeError) as error:
        return error
    return {key: value for key, value in state.items() if key.startswith("features.")}
