"""``folder-masks``: masks made before, by any program or by hand, read from a folder.

Source: ours.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.batch import Batch
from fusionkit.data import SUFFIXES, read_image
from fusionkit.errors import BadRequest
from fusionkit_grounding.masks import MAPS, SOURCES, check_sources, named

FOLDERS = {
    "visible": ("mask_vi", "mask_vis", "mask_visible"),
    "infrared": ("mask_ir", "mask_inf", "mask_infrared"),
}
"""Where the mask of a picture may lie; ``SHARED`` holds one mask for both pictures of a pair."""
SHARED = ("mask", "masks")


class FolderMasks:
    """One mask file per picture, or one per pair: what is white is inside.

    ``mask_vi/NAME.png`` and ``mask_ir/NAME.png`` for the two pictures of pair NAME, or
    ``mask/NAME.png`` for both; ``mask_NAME.png`` is found too. A mask is brought to the size of
    its picture. Prompts are not read.

    Args:
        root: the folder above the mask folders.
        sources: the pictures whose masks are wanted.
        visible, infrared: mask folders under the root, where they have other names.

    Raises:
        BadRequest: no such folder; when called, a pair without a name or a mask file.
    """

    name = "folder-masks"
    maps = MAPS

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        sources: Sequence[str] = SOURCES,
        visible: str | None = None,
        infrared: str | None = None,
    ) -> None:
        self.sources = check_sources(self.name, sources)
        self.maps = ("mask", *(f"mask_{source}" for source in self.sources))
        self.root = Path(root)
        given = {"visible": visible, "infrared": infrared}
        self.folders = {source: self._folder(source, given[source]) for source in self.sources}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Masks ``(B, 1, H, W)``, 0 or 1, by the names of the pairs."""
        if len(batch.names) != len(batch):
            raise BadRequest(
                "guide 'folder-masks' finds masks by the names of the pairs, and this batch has "
                f"{len(batch.names)} names for {len(batch)} pairs."
            )
        size = tuple(batch.visible.shape[-2:])
        masks = {
            source: torch.stack([self._read(source, pair, size) for pair in batch.names])
            for source in self.sources
        }
        return named({source: mask.to(batch.visible) for source, mask in masks.items()})

    def _folder(self, source: str, given: str | None) -> Path:
        wanted = (given,) if given is not None else FOLDERS[source] + SHARED
        for folder in wanted:
            if (self.root / folder).is_dir():
                return self.root / folder
        raise BadRequest(
            f"guide 'folder-masks' finds no masks of the {source} pictures under {self.root}: it "
            f"needs a folder called {' or '.join(wanted)}."
        )

    def _read(self, source: str, pair: str, size: tuple[int, int]) -> Tensor:
        above, _, name = pair.rpartition("/")
        folder = self.folders[source] / above
        for stem in (name, f"mask_{name}"):
            for suffix in SUFFIXES:
                if (file := folder / f"{stem}{suffix}").is_file():
                    mask = read_image(file, 1)
                    if mask.shape[1:] != size:
                        mask = interpolate(mask[None], size, mode="area")[0]
                    return (mask > 0.5).float()
        raise BadRequest(
            f"pair {pair!r} has no mask of its {source} picture: there is neither {name}.png nor "
            f"mask_{name}.png in {folder} (other suffixes were tried too)."
        )
