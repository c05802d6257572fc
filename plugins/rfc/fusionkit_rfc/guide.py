"""``rfc-regions``: where an instruction points, in either picture, and features of the place.

Source: "Robust Fusion Controller" (RFC), arXiv 2504.05795, its spatial condition; the answers are
CLIPSeg's (T. Lüddecke and A. Ecker, CVPR 2022). The joint encoder in its place is ours.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from fusionkit import hub
from fusionkit.batch import Batch
from fusionkit.devices import pick_device
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import read_weights
from fusionkit_rfc import clipseg
from fusionkit_rfc.controller import GRID, GRIDS, MAPS, resized
from fusionkit_rfc.instructions import IMAGE, PARSERS


class Regions:
    """The spatial response to each instruction: maps and feature grids, infrared first.

    By CLIPSeg, asked with the target phrase alone. A region gives its map and the features that
    the decoder ends in; the whole image gives ones and the reduced deepest features; an empty
    instruction gives zeros and asks nothing.

    In its place, a joint encoder: its heat map of the phrase, and its patch features times the
    phrase's vector, whose sum over channels is the similarity; the image gives the patch features.

    Args:
        encoder: the run's encoder.
        model: CLIPSeg as ``OWNER/NAME`` on the hub or a folder; None asks the encoder, and so
            does, with a warning, a model that cannot be had while the encoder reads pictures.
        weights: a file of the CLIPSeg authors (``rd64-uni-refined.pth``) for the model's decoder.
        grid: side of the feature grids that are made from the encoder.
        parser: how an instruction is split: ``grammar``, or ``spacy`` as the release does.
        device: where CLIPSeg computes; maps lie where the pictures came from.

    Raises:
        MissingWeights: no CLIPSeg and no joint encoder.
    """

    maps = (MAPS, GRIDS)

    def __init__(
        self,
        *,
        encoder: Any = None,
        model: str | None = "CIDAS/clipseg-rd64-refined",
        weights: str | None = None,
        grid: int = 22,
        parser: str = "grammar",
        device: str = "auto",
    ) -> None:
        if parser not in PARSERS:
            raise BadRequest(f"parser {parser!r}: it is one of {', '.join(PARSERS)}.")
        if grid < 1:
            raise BadRequest(f"grid={grid}: at least 1.")
        self.split, self.grid, self.encoder, self.model = PARSERS[parser], grid, encoder, None
        joint = hasattr(encoder, "heatmap") and hasattr(encoder, "encode_image")
        if model is None:
            if not joint:
                raise BadRequest(
                    "guide 'rfc-regions' without a model asks the encoder, which must read "
                    "pictures too (tiny-clip, openclip)."
                )
            return
        try:
            self.model, processor = hub.load(
                model,
                "CLIPSegForImageSegmentation",
                pick_device(device),
                "a joint encoder (tiny-clip) answers in its place, with another kind of features",
            )
        except MissingWeights as error:
            if not joint:
                raise
            warnings.warn(
                f"guide 'rfc-regions': {error} Until then regions are found by the encoder's heat "
                "maps, which is not the method of the paper: train anew, and compare with no "
                "published figure.",
                stacklevel=2,
            )
            return
        self.tokenizer = processor.tokenizer
        if weights is not None:
            clipseg.load_decoder(self.model, read_weights(weights))
        if (width := self.model.config.reduce_dim) != GRID:
            raise BadRequest(
                f"RFC reads CLIPSeg's features of {GRID} channels, but {model!r} has {width}: "
                "take CIDAS/clipseg-rd64-refined."
            )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``rfc_maps`` ``(B, 2, h, w)`` in [0, 1] and ``rfc_grids`` ``(B, 128, h', w')``."""
        if len(batch.prompts) != len(batch):
            raise BadRequest("guide 'rfc-regions' needs an instruction for each pair, in words.")
        targets = [self.split(prompt)[0] for prompt in batch.prompts]
        answer = self._by_encoder if self.model is None else self._by_clipseg
        sides = [answer(picture, targets) for picture in (batch.infrared, batch.visible)]
        like = batch.visible
        return {
            MAPS: torch.cat([maps for maps, _ in sides], 1).to(like),
            GRIDS: torch.cat([grids for _, grids in sides], 1).to(like),
        }

    def _by_clipseg(self, picture: Tensor, targets: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        pixels = clipseg.prepared(picture.float()).to(self.model.device)
        patch = self.model.config.vision_config.patch_size
        maps = torch.zeros(len(pixels), 1, *pixels.shape[-2:], device=pixels.device)
        cells = [side // patch for side in pixels.shape[-2:]]
        grids = torch.zeros(len(pixels), GRID, *cells, device=pixels.device)
        asked = [i for i, target in enumerate(targets) if target is not None]
        if not asked:
            return maps, grids
        seen = clipseg.activations(self.model, pixels[asked])
        for row, i in enumerate(asked):
            own = [activation[row : row + 1] for activation in seen]
            if targets[i] == IMAGE:
                maps[i], grids[i] = 1, clipseg.whole(self.model, own)[0]
            else:
                phrase = clipseg.phrases(self.model, self.tokenizer, [targets[i]])
                logits, grid = clipseg.region(self.model, own, phrase)
                maps[i], grids[i] = logits[0].sigmoid(), grid[0]
        return maps, grids

    def _by_encoder(self, picture: Tensor, targets: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        words = [target or IMAGE for target in targets]
        heat = self.encoder.heatmap(words, picture)
        patches = adaptive_avg_pool2d(self.encoder.encode_image(picture).patches.float(), self.grid)
        phrase = self.encoder.encode_text(words).pooled.to(patches)
        # Of unit length on average, like the features behind CLIPSeg's last layer norm.
        patches = normalize(patches, dim=1) * patches.shape[1] ** 0.5
        told = patches * normalize(phrase, dim=1)[..., None, None] * phrase.shape[1] ** 0.5
        kinds = torch.tensor(
            [0 if t is None else 1 if t == IMAGE else 2 for t in targets], device=patches.device
        )[:, None, None, None]
        grids = torch.where(kinds == 2, told, patches) * (kinds > 0)
        heat = heat.to(patches)
        maps = torch.where(kinds == 2, heat, torch.ones_like(heat)) * (kinds > 0)
        return maps, projected(grids, GRID)


def projected(x: Tensor, channels: int) -> Tensor:
    """``(B, D, h, w)`` -> ``(B, channels, h, w)`` by fixed random numbers; equal widths stay."""
    width = x.shape[1]
    if width == channels:
        return x
    generator = torch.Generator().manual_seed(width)
    matrix = torch.randn(channels, width, generator=generator) * width**-0.5
    return torch.einsum("cd,bdhw->bchw", matrix.to(x), x)


def segmix(infrared: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    r"""One soft mask from the answers in both pictures, ``(B, 1, H, W)`` in [0, 0.964].

    .. math:: M = \tanh(\sigma(l_{ir}) + \sigma(l_{vi}))

    of logits ``(B, 1, h, w)`` that are resized first: the other order than in the network.
    """
    return torch.tanh(resized(infrared, size).sigmoid() + resized(visible, size).sigmoid())
