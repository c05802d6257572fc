"""VGG-19's convolutions as a measure of likeness: named layers of a picture.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015; layout and weights of torchvision.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fusionkit.color import BT601
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import read_weights

WIDTHS = (64, 64, None, 128, 128, None, *[256] * 4, None, *[512] * 4, None, *[512] * 4)
"""Channels of the convolutions up to the fifth block; None is a pooling."""
TAPS = {
    "relu1_1": 1,
    "relu2_1": 6,
    "relu3_1": 11,
    "relu4_1": 20,
    "relu4_4": 26,
    "relu5_1": 29,
    "relu5_4": 35,
}
"""Layers that may be read, by their place in torchvision's ``features``."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE = "vgg19-dcbb9e9d.pth"
"""What torchvision calls its ImageNet weights."""


class Vgg19(nn.Module):
    """Features of grey pictures, frozen; gradients reach the picture.

    Args:
        weights: ``imagenet`` (``vgg19-dcbb9e9d.pth`` in the folder that the variable
            FUSIONKIT_WEIGHTS names, in torch's cache, or fetched by torchvision), a file in
            torchvision's layout, or ``untrained`` for fixed random ones.
        offline: what to take, with a warning, where the ImageNet weights cannot be had; None
            makes that an error.

    Raises:
        MissingWeights: ImageNet weights are wanted and not to be had.
        BadRequest: the file holds other tensors.
    """

    def __init__(self, weights: str | os.PathLike[str] = "imagenet", *, offline: str | None = None):
        super().__init__()
        try:
            state = _state(weights)
        except MissingWeights as error:
            if offline is None:
                raise
            warnings.warn(
                f"{error} Until then the contrast is measured by {offline!r} features, which are "
                "not those of the paper: compare with no published figure.",
                stacklevel=2,
            )
            state = _state(offline)
        self.features = _features()
        if state is not None:
            self._load(state, weights)
        kernel = self.features[0].weight.detach()
        collapsed = (kernel * kernel.new_tensor(BT601).view(1, 3, 1, 1)).sum(1, keepdim=True)
        self.register_buffer("grey_kernel", collapsed)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(
        self,
        grey: Tensor,
        taps: Sequence[str] = ("relu4_4", "relu5_4"),
        *,
        collapsed: bool = False,
    ) -> list[Tensor]:
        """Layers of pictures ``(N, 1, H, W)`` in [0, 1], in one pass: ``(N, C, h, w)`` each.

        The picture is repeated to three channels and normalised; ``collapsed`` sends it as it is
        through a first kernel of one channel, the three weighted as luma weighs them.
        """
        if collapsed:
            x = torch.conv2d(grey, self.grey_kernel, self.features[0].bias, padding=1)
        else:
            x = self.features[0]((grey.expand(-1, 3, -1, -1) - self.mean) / self.std)
        x = x.contiguous(memory_format=torch.channels_last)
        wanted = {TAPS[name]: name for name in taps}
        found = {}
        for place, layer in enumerate(self.features[1 : max(wanted) + 1], 1):
            x = layer(x)
            if place in wanted:
                found[wanted[place]] = x
        return [found[name] for name in taps]

    def _load(self, state: Mapping[str, Tensor], where: object) -> None:
        state = {k: v for k, v in state.items() if k.startswith("features.")}
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise BadRequest(f"{where} holds no VGG-19 in torchvision's layout: {reason}") from None


def _features() -> nn.Sequential:
    """torchvision's ``vgg19().features`` up to the last ReLU, with fixed random weights."""
    generator = torch.Generator().manual_seed(19)
    layers: list[nn.Module] = []
    inputs = 3
    for width in WIDTHS:
        if width is None:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.utils.skip_init(nn.Conv2d, inputs, width, 3, padding=1)
        with torch.no_grad():
            conv.weight.normal_(std=(2 / (9 * inputs)) ** 0.5, generator=generator)
            conv.bias.zero_()
        layers += [conv, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def _state(weights: str | os.PathLike[str]) -> Mapping[str, Tensor] | None:
    """Tensors by torchvision's names; None for random ones."""
    if weights == "untrained":
        return None
    if weights != "imagenet":
        return read_weights(weights)
    places = [Path(torch.hub.get_dir()) / "checkpoints" / FILE]
    if root := os.environ.get("FUSIONKIT_WEIGHTS"):
        places.insert(0, Path(root) / FILE)
    for place in places:
        if place.is_file():
            return read_weights(place)
    from torchvision.models import VGG19_Weights

    try:
        return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # whatever the network, the disk or the check of the hash raises
        reason = " ".join(str(error).split())[:120]
        raise MissingWeights(
            f"the ImageNet weights of VGG-19 are not on this machine and could not be fetched "
            f"({reason}). Run once with a network, put {FILE} into the folder that the variable "
            f"FUSIONKIT_WEIGHTS names, pass weights=FILE, or weights='untrained' for fixed "
            "random features."
        ) from error
