"""The encoder of DenseFuse, whose features tell how active a picture is at each pixel.

Source: H. Li, X. Wu, "DenseFuse: A fusion approach to infrared and visible images", IEEE TIP 28(5)
2019, 2614-2623, section III. The weights are those authors' own; no licence is stated for them, so
they are not part of this plugin.
"""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.errors import BadRequest
from fusionkit.methods import read_weights

ENCODER = ("first", "dense.0", "dense.1", "dense.2")
OFFICIAL = ("conv1", *(f"DB1.denseblock.{i}.dense_conv" for i in range(3)))
DECODER = tuple(f"conv{i}." for i in range(2, 6))


class DenseFuseEncoder(nn.Module):
    """Four 3x3 convolutions of 16 channels, each reading all before it.

    Shape:
        - ``(B, 1, H, W)`` in [0, 1] -> ``(B, 64, H, W)``, not negative
    """

    def __init__(self) -> None:
        super().__init__()

        def layer(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, 16, 3, padding=1, padding_mode="reflect")

        self.first = layer(1)
        self.dense = nn.ModuleList(layer(channels) for channels in (16, 32, 48))

    def forward(self, picture: Tensor) -> Tensor:
        maps = torch.relu(self.first(picture))
        for layer in self.dense:
            maps = torch.cat([maps, torch.relu(layer(maps))], 1)
        return maps

    @classmethod
    def from_official(
        cls, weights: Mapping[str, Tensor] | str | os.PathLike[str]
    ) -> "DenseFuseEncoder":
        """With the weights of ``DenseFuse.model``, a state dict or its file; frozen.

        The decoder in it is not needed and left out.
        """
        state = weights if isinstance(weights, Mapping) else read_weights(weights)
        names = {
            f"{theirs}.conv2d.{leaf}": f"{ours}.{leaf}"
            for theirs, ours in zip(OFFICIAL, ENCODER, strict=True)
            for leaf in ("weight", "bias")
        }
        wrong = sorted(set(names) - set(state)) or sorted(
            key for key in state if key not in names and not key.startswith(DECODER)
        )
        if wrong:
            raise BadRequest(
                f"these are no weights of DenseFuse: {wrong[0]} is missing or unknown. Expected is "
                "DenseFuse.model of the TextFusion or DenseFuse authors."
            )
        encoder = cls()
        encoder.load_state_dict({ours: state[theirs] for theirs, ours in names.items()})
        return encoder.requires_grad_(False).eval()
