"""A folder layout as pairs.

Source: write here who made the pictures, and under which licence.
"""

import os
from pathlib import Path

from fusionkit.data import FolderPairs
from fusionkit.errors import BadRequest


class Component(FolderPairs):
    """Pairs of two folders, ``thermal`` and ``rgb``, whose pictures are called alike.

    Args:
        root: the folder above the two.
        split: ``train``, ``test``, ``validation`` or ``all``; see ``fusionkit.data.FolderPairs``.
        count: at most so many pairs, the first ones.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; folders have a fixed order.
    """

    layout = "thermal/*.png and rgb/*.png of equal names"
    licence = "write here what its owners allow"
    source = "write here where it can be had"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        if root is None:
            raise BadRequest(
                f"data set 'component-name' needs root, the folder with {self.layout}."
            )
        folders = {"ir": Path(root, "thermal"), "vi": Path(root, "rgb")}
        super().__init__(root, **folders, split=split, count=count, size=size)
