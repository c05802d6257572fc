"""Image tokenizers: pictures to a latent grid an eighth of their size, and back.

The paper fuses in the latent space of a frozen tokenizer, Cosmos continuous image 8x8. Every
tokenizer here maps ``(B, 3, H, W)`` in [-1, 1] to standardised latents ``(B, z, H/8, W/8)``, H and
W multiples of 8. ``latent_channels`` is z.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv2d,
    conv_transpose2d,
    pixel_shuffle,
    pixel_unshuffle,
    silu,
)

from fusionkit import hub
from fusionkit.errors import BadRequest, MissingWeights, did_you_mean

FACTOR = 8
WEIGHTS = Path(__file__).with_name("autoencoder.safetensors")
SMALL: Mapping[str, Any] = {
    "fold": 4,
    "widths": (64, 96),
    "bottom": 1,
    "norm": False,
    "linear": True,
}
"""The size of the autoencoder whose weights come with the plugin."""


class SpaceToDepth(nn.Module):
    """Every 8x8 block's pixels as channels: loses nothing, learns nothing. 192 channels."""

    latent_channels = 3 * FACTOR * FACTOR

    def encode(self, image: Tensor) -> Tensor:
        return pixel_unshuffle(image, FACTOR)

    def decode(self, latent: Tensor) -> Tensor:
        return pixel_shuffle(latent, FACTOR)


class ConvAutoencoder(nn.Module):
    r"""A convolutional autoencoder, 8x8 pixels to 16 numbers. Our own design.

    3x3 convolution, then per halving a residual block and a strided convolution, ``bottom``
    residual blocks at an eighth, 1x1 to the latents; the decoder mirrors it with nearest
    up-sampling. Posteriors are Gaussian of a fixed deviation, so that their divergence from a
    standard normal is :math:`|z|^2 / 2` but for a constant.

    Args:
        latent_channels: z.
        fold: pixels of so many rows and columns become channels before the first convolution;
            1, 2, 4 or 8. Convolutions at full size are what costs.
        widths: channels at each size, from ``1 / fold`` to an eighth.
        bottom: residual blocks at an eighth.
        norm: group normalisation before each activation.
        linear: add a linear map of each 8x8 block, which learns the principal components and
            leaves the rest to the convolutions.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 16,
        fold: int = 1,
        widths: Sequence[int] = (64, 128, 256, 256),
        bottom: int = 1,
        norm: bool = True,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if fold * 2 ** (len(widths) - 1) != FACTOR:
            raise BadRequest(
                f"a fold of {fold} and {len(widths)} widths reduce by "
                f"{fold * 2 ** (len(widths) - 1)}, not by {FACTOR}: give one width per size from "
                f"1/{fold} to 1/{FACTOR}."
            )
        self.latent_channels, self.fold = latent_channels, fold
        steps = list(pairwise(widths))
        last = widths[-1]
        self.encoder = nn.Sequential(
            nn.Conv2d(3 * fold * fold, widths[0], 3, padding=1),
            *(
                layer
                for here, there in steps
                for layer in (
                    Residual(here, norm),
                    nn.Conv2d(here, there, 3, stride=2, padding=1),
                )
            ),
            *(Residual(last, norm) for _ in range(bottom)),
            nn.Conv2d(last, latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, last, 3, padding=1),
            *(Residual(last, norm) for _ in range(bottom)),
            *(
                layer
                for here, there in reversed(steps)
                for layer in (
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(there, here, 3, padding=1),
                    Residual(here, norm),
                )
            ),
            nn.Conv2d(widths[0], 3 * fold * fold, 3, padding=1),
        )
        self.linear = nn.Parameter(torch.zeros(latent_channels, 3, 8, 8)) if linear else None
        self.linear_back = nn.Parameter(torch.zeros(latent_channels, 3, 8, 8)) if linear else None
        if linear:  # the convolutions begin as a correction of nothing
            for layer in (self.encoder[-1], self.decoder[-1]):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("deviation", torch.ones(latent_channels))

    def encode(self, image: Tensor) -> Tensor:
        latent = self.raw(image)
        return (latent - self.mean[:, None, None]) / self.deviation[:, None, None]

    def decode(self, latent: Tensor) -> Tensor:
        return self.raw_back(latent * self.deviation[:, None, None] + self.mean[:, None, None])

    def raw(self, image: Tensor) -> Tensor:
        """Latents before they are standardised."""
        latent = self.encoder(pixel_unshuffle(image, self.fold))
        if self.linear is not None:
            latent = latent + conv2d(image, self.linear, stride=FACTOR)
        return latent

    def raw_back(self, latent: Tensor) -> Tensor:
        """The picture of latents that are not standardised."""
        image = pixel_shuffle(self.decoder(latent), self.fold)
        if self.linear_back is not None:
            image = image + conv_transpose2d(latent, self.linear_back, stride=FACTOR)
        return image


class Residual(nn.Module):
    """Two 3x3 convolutions behind activations, added to what came in."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            nn.GroupNorm(8, channels) if norm else nn.Identity() for _ in range(2)
        )
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(silu(norm(y)))
        return x + y


class Small(ConvAutoencoder):
    """The autoencoder that comes with the plugin, trained on the embedded scenes.

    660,000 parameters; ``make_autoencoder.py`` makes its weights and their measures
    (``autoencoder.json``) anew.

    Args:
        weights: another file of the same form.
    """

    def __init__(self, *, weights: str | os.PathLike[str] = WEIGHTS) -> None:
        super().__init__(**SMALL)
        from safetensors.torch import load_file

        path = Path(weights)
        if not path.is_file():
            raise MissingWeights(
                f"there is no autoencoder at {path}; make_autoencoder.py makes one."
            )
        try:
            self.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        except RuntimeError as error:
            raise BadRequest(f"{path} does not hold this autoencoder: {error}") from None


class Cosmos(nn.Module):
    """Cosmos continuous tokenizer, 8x8 pixels to 16 numbers; its weights never come with us.

    Two forms of the same family are read:

    - diffusers' ``AutoencoderKLCosmos`` (the tokenizer of images and videos: a picture is a video
      of one frame, which its causal convolutions encode by itself), from the hub or a folder;
    - the TorchScript files ``encoder.jit`` and ``decoder.jit`` of the image tokenizer CI8x8, from a
      folder.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder of either form.
        subfolder: where in it the tokenizer lies, for the first form.
        mean, deviation: of the latents, per channel or one number; None takes those of the
            configuration, else 0 and 1.

    Source: NVIDIA, "Cosmos World Foundation Model Platform for Physical AI", 2025, section 4;
    NVIDIA Open Model License.
    """

    def __init__(
        self,
        *,
        model: str = "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8",
        subfolder: str | None = "vae",
        mean: float | Sequence[float] | None = None,
        deviation: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        folder = Path(model).expanduser()
        self.scripted = (folder / "encoder.jit").is_file()
        if self.scripted:
            self.inner = nn.ModuleDict(
                {
                    part: torch.jit.load(str(folder / f"{part}.jit"), map_location="cpu")
                    for part in ("encoder", "decoder")
                }
            )
            with torch.no_grad():
                self.latent_channels = self._encode(torch.zeros(1, 3, 64, 64)).shape[1]
        else:
            self.inner = hub.load_diffusers(
                model,
                "AutoencoderKLCosmos",
                "another tokenizer by name ('small' comes with the plugin)",
                subfolder=subfolder,
            )
            config = self.inner.config
            self.latent_channels = config.latent_channels
            # Stored per channel and latent frame; a picture has the first frame only.
            mean = _first_frame(config.latents_mean, self.latent_channels) if mean is None else mean
            if deviation is None:
                deviation = _first_frame(config.latents_std, self.latent_channels)
        ones = torch.ones(self.latent_channels)
        self.register_buffer("mean", ones * torch.as_tensor(0.0 if mean is None else mean))
        self.register_buffer(
            "deviation", ones * torch.as_tensor(1.0 if deviation is None else deviation)
        )

    def encode(self, image: Tensor) -> Tensor:
        latent = self._encode(image)
        return (latent - self.mean[:, None, None]) / self.deviation[:, None, None]

    def decode(self, latent: Tensor) -> Tensor:
        latent = latent * self.deviation[:, None, None] + self.mean[:, None, None]
        if self.scripted:
            return self.inner["decoder"](latent)
        return self.inner.decode(latent[:, :, None]).sample[:, :, 0]

    def _encode(self, image: Tensor) -> Tensor:
        if self.scripted:
            found = self.inner["encoder"](image)
            return found[0] if isinstance(found, tuple) else found
        return self.inner.encode(image[:, :, None]).latent_dist.mode()[:, :, 0]


def _first_frame(values: Sequence[float] | None, channels: int) -> Tensor | None:
    return None if values is None else torch.as_tensor(values).reshape(channels, -1)[:, 0]


TOKENIZERS = {
    "small": Small,
    "cosmos": Cosmos,
    "conv": ConvAutoencoder,
    "space-to-depth": SpaceToDepth,
}


def build_tokenizer(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A tokenizer by name, frozen.

    Raises:
        BadRequest: no such name, or an option it does not have.
        MissingWeights: its weights cannot be had.
    """
    if name not in TOKENIZERS:
        raise BadRequest(
            f"mmaif has no tokenizer {name!r}; use one of {', '.join(TOKENIZERS)}."
            + did_you_mean(name, tuple(TOKENIZERS))
        )
    given = dict(options or {})
    weights = given.pop("weights", None) if name == "conv" else None
    try:
        tokenizer = TOKENIZERS[name](**given)
    except TypeError as error:
        raise BadRequest(f"tokenizer {name!r} does not take these options: {error}.") from None
    if weights is not None:
        from safetensors.torch import load_file

        tokenizer.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return tokenizer.eval().requires_grad_(False)


def measures() -> dict[str, Any]:
    """What was measured when the weights of ``small`` were made."""
    return json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
