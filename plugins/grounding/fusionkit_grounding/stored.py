"""``stored-maps``: maps that any guide drew before, read from a folder. Source: ours."""

import os

import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.guides import MapFolder, enlarge


class StoredMaps:
    """Maps by the names and prompts of the pairs, as ``fusionkit guides`` wrote them.

    Maps that mark a place are brought to the size of the pictures; others keep their grid. Pictures
    other than those that the maps were drawn over, a crop say, are refused.

    Args:
        root: the folder.

    Raises:
        BadRequest: no such folder; when called, a pair or prompt that it does not hold.
    """

    def __init__(self, *, root: str | os.PathLike[str]) -> None:
        self.folder = MapFolder(root)
        if not self.folder.maps:
            raise BadRequest(
                f"{root} holds no maps: `fusionkit guides NAME --dataset SET --text PROMPT -o "
                f"{root}` draws them."
            )
        self.maps = self.folder.maps

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """What the guide drew, ``(B, C, h, w)`` by name."""
        if not len(batch.names) == len(batch.prompts) == len(batch):
            raise BadRequest(
                "guide 'stored-maps' finds maps by the names and prompts of the pairs, and this "
                f"batch has {len(batch.names)} names and {len(batch.prompts)} prompts for "
                f"{len(batch)} pairs."
            )
        size = tuple(batch.visible.shape[-2:])
        rows = []
        for k, (name, prompt) in enumerate(zip(batch.names, batch.prompts, strict=True)):
            found = self.folder.read(name, prompt, batch.visible[k], batch.infrared[k])
            rows.append(
                {n: enlarge(m[None], size) if len(m) == 1 else m[None] for n, m in found.items()}
            )
        return {name: torch.cat([row[name] for row in rows]).to(batch.visible) for name in rows[0]}
