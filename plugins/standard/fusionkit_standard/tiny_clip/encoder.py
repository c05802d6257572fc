"""The encoder `tiny-clip`: a frozen joint text-image encoder small enough to ship in the package.

It knows what the generator of `scenes` knows: street scenes, twelve kinds of thing, eight ways in
which a picture can be degraded, and many phrasings of the wish to see or to repair them. It
demonstrates the machinery; for claims about real photographs, name a real CLIP instead. What it can
and cannot do is measured in ``measures.json``, on photographs too.

Source: ours, after A. Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fusionkit.batch import ImageFeatures, TextFeatures
from fusionkit.devices import autocast, pick_precision
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair
from fusionkit_standard.tiny_clip.tokenizer import Tokenizer
from fusionkit_standard.tiny_clip.towers import CONFIG, ImageTower, Towers

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "tiny_clip.safetensors"
VOCABULARY = FOLDER / "vocabulary.json"
LONGEST_SIDE = 192
"""Larger pictures are shrunk to this side, keeping their shape, where places are looked for. On
rendered scenes as large as photographs 160 to 256 rank alike, see ``by_reading_size`` of
``measures``; among these it was chosen by the boxes on photographs."""
WHOLE_SIDE = 320
"""The same for a picture as a whole, ``pooled``: noise and blur are gone from a smaller one. Of
eight damages on photographs .70 are named at 192, .93 at 320."""


class TinyClip(nn.Module):
    """Sentences and pictures in one space of 128 numbers.

    Frozen: no parameter wants a gradient, but gradients reach the picture. Texts are read without
    gradient. Works at any picture size: read at stride 8 with sides rounded to multiples of 8, 16
    at least; a picture longer than ``longest_side`` is shrunk to it first,
    its shape kept (for ``pooled`` to ``WHOLE_SIDE``).

    Args:
        weights: a file made by ``make_tiny_clip.py``; the shipped one by default. A file
            ``vocabulary.json`` beside it is read with it.
        device: where to compute.
        precision: ``auto`` (bfloat16 on processors that have the instruction, else float32),
            ``bfloat16`` or ``float32``. Results are float32 in each case.
        longest_side: limit of the picture size, in pixels.

    Raises:
        BadRequest: the file is missing, damaged or of another architecture.
    """

    text_dim: int = CONFIG["joint"]
    image_size: int = CONFIG["image"]["size"]
    patch_size: int = ImageTower.stride

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        longest_side: int = LONGEST_SIDE,
    ) -> None:
        super().__init__()
        pick_precision(precision, torch.device(device))  # an unknown name stops here
        path = Path(weights) if weights is not None else WEIGHTS
        self.precision, self.longest_side = precision, longest_side
        vocabulary = path.with_name(VOCABULARY.name)
        self.tokenizer = Tokenizer.from_file(
            vocabulary if vocabulary.exists() else VOCABULARY,
            CONFIG["text"]["vocabulary"],
            CONFIG["text"]["length"],
        )
        self.towers = load_towers(path).to(device, memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "TinyClip":
        """Frozen: stays in evaluation mode whatever is asked."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.towers.bias.device

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextFeatures:
        """Pooled ``(B, 128)`` of unit length, tokens ``(B, 24, 128)``, mask ``(B, 24)``.

        Any text will do, the empty one too: unknown words share buckets, longer texts are cut at
        24 tokens. A prompt that comes twice is read once.
        """
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=self.device)
        ids = self.tokenizer(unique).to(self.device)
        with autocast(self.device, pick_precision(self.precision, self.device)):
            pooled, tokens = self.towers.text(ids)
        return TextFeatures(pooled=pooled, tokens=tokens.float(), mask=ids > 0)[rows]

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """``(B, 1 or 3, H, W)`` in [0, 1] -> pooled ``(B, 128)``, patches ``(B, 128, h, w)``.

        Both of unit length, in the space of the text; one patch per 8 x 8 pixels of the picture
        as it was read. A grey picture counts as one with three equal channels.
        """
        pooled, dense = self._see(image, self.longest_side)
        if max(image.shape[-2:]) > self.longest_side:
            pooled, _ = self._see(image, max(WHOLE_SIDE, self.longest_side))
        return ImageFeatures(pooled=pooled, patches=F.normalize(F.avg_pool2d(dense, 2), dim=1))

    def heatmap(self, prompts: list[str], image: Tensor) -> Tensor:
        """Where each picture shows what its prompt names: ``(B, 1, H, W)`` in [0, 1].

        One prompt, or one per picture. A score is the sigmoid of scaled cosine plus bias, learned
        and then calibrated on scenes kept apart: an estimate of how likely the place shows what
        the prompt names, comparable between pictures and prompts. Instructions work like names
        (``highlight the car``); what names nothing visible (``remove the haze``) scores near zero
        everywhere. Compared at stride 4 of the picture as it was read, then interpolated.
        """
        text = self.encode_text(prompts).expand(len(image)).pooled
        logits = self.towers.logits(text[:, None], self._see(image, self.longest_side)[1])
        return F.interpolate(
            logits, image.shape[-2:], mode="bilinear", align_corners=False
        ).sigmoid()

    def heatmap_grid(self, prompts: list[str], image: Tensor) -> Tensor:
        """Every prompt in every picture, at stride 4: ``(B, len(prompts), h, w)`` in [0, 1]."""
        dense = self._see(image, self.longest_side)[1]
        return self.towers.logits(self.encode_text(prompts).pooled, dense).sigmoid()

    def adapt(self, pairs: Sequence[Pair], **options: Any) -> "TinyClip":
        """A copy adapted to pairs without labels, see :func:`tiny_clip.adapting.adapt`."""
        from fusionkit_standard.tiny_clip.adapting import adapt

        return adapt(self, pairs, **options)

    def save(self, path: str | Path) -> None:
        """Write the weights, for the option ``weights``, and the vocabulary beside them."""
        from fusionkit_standard.tiny_clip.adapting import save

        save(self, path)

    def _see(self, image: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Pooled and dense features of pictures of any size, one or three channels."""
        if image.dim() != 4 or image.shape[1] not in (1, 3):
            raise BadRequest(
                f"tiny-clip reads pictures (B, 1 or 3, H, W) with values in [0, 1]; this one is "
                f"{tuple(image.shape)}."
            )
        size = reading_size(*image.shape[-2:], longest)
        image = image.to(self.device, torch.float32)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        image = image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, pick_precision(self.precision, self.device)):
            pooled, dense = self.towers.image(image)
        return pooled, dense.float()


def reading_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """The size at which a picture is read: at most ``longest``, sides multiples of 8, 16 or more.

    >>> reading_size(128, 128, 256), reading_size(480, 640, 256), reading_size(97, 5, 256)
    ((128, 128), (192, 256), (96, 16))
    """
    shrink = min(1.0, longest / max(height, width))
    return tuple(
        max(16, ImageTower.stride * round(side * shrink / ImageTower.stride))
        for side in (height, width)
    )


def load_towers(path: Path) -> Towers:
    """The towers with the weights of a safetensors file (half precision on disk).

    Raises:
        BadRequest: missing or damaged; names the file and the way to make it anew.
    """
    cure = (
        "Make it with `python plugins/standard/make_tiny_clip.py --out FOLDER` in a clone of the "
        "project (an hour of one processor core), or install the package again."
    )
    if not path.exists():
        raise BadRequest(f"The weights of tiny-clip are not there: {path}. {cure}")
    towers = Towers(CONFIG)
    try:
        towers.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise BadRequest(f"{path} holds no weights of tiny-clip ({reason}). {cure}") from error
    return towers
