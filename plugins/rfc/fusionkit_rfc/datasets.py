"""The folders that the released training and test programs read."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusionkit.data import (
    SUFFIXES,
    FolderPairs,
    find_data,
    read_image,
    resize,
    resize_shorter,
)
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair


@dataclass(frozen=True, slots=True)
class InstructedPair(Pair):
    """A damaged pair with the instruction to mend it and what is to come of it."""

    goals: dict[str, Tensor] = field(default_factory=dict)
    """``visible`` ``(3, H, W)``, ``infrared`` and ``mask`` ``(1, H, W)``; empty where a test pair
    has none."""


class Instructed(FolderPairs):
    """Damaged pairs with instructions, in the layout of the release.

    A missing mask says that the instruction names no region. The authors' 14,654 training samples
    are not released; this is for one's own in their form.

    Args:
        root: the folder with ``train/`` and ``test/``.
        split: ``train``, or ``test`` (pairs without goals).
        count: at most so many pairs.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; folders have a fixed order.
        part: which folder under ``test/``; empty when ``ir`` and ``vi`` lie directly there.
    """

    layout = (
        "train/{ir,vi}/NAME.png, train/text/NAME.txt, train/groundtruth/{ir,vi,mask}/NAME.png; "
        "test/<part>/{ir,vi}/NAME.png"
    )
    licence = "none stated; pictures derive from MFNet, LLVIP, M3FD, FMB and RoadScene"
    source = "github.com/HaoZhang1018/RFC"
    folder = "rfc"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        part: str = "",
    ) -> None:
        if split not in ("train", "test"):
            raise BadRequest(f"data set 'rfc' has no split {split!r}: it has train and test.")
        found = find_data(self.folder) if root is None else Path(root)
        if found is None or not found.is_dir():
            raise BadRequest(
                f"data set 'rfc' is not there: nothing at {root or '$FUSIONKIT_DATA/rfc'}. Lay "
                f"your pairs out as {self.layout} and pass the folder as root."
            )
        self.base = found / split / part if split == "test" else found / split
        pictures = self.base / "ir", self.base / "vi"
        if not all(place.is_dir() for place in pictures):
            raise BadRequest(
                f"{self.base} holds no ir/ and vi/; expected is {self.layout}."
                + (" Name the folder under test/ as part." if split == "test" else "")
            )
        super().__init__(ir=pictures[0], vi=pictures[1], split="all", count=count)
        self.wanted = size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return super().__getitem__(index)
        pair = super().__getitem__(index)
        said = self._instruction(pair.name)
        goals = self._goals(pair)
        sized = self._sized(pair)
        if goals is not None:
            goals = self._sized(goals)
        return InstructedPair(
            name=pair.name,
            visible=sized.visible,
            infrared=sized.infrared,
            texts={} if said is None else {"instruction": said},
            goals={}
            if goals is None
            else {
                "visible": goals.visible,
                "infrared": goals.infrared,
                "mask": goals.masks["region"],
            },
        )

    def _instruction(self, name: str) -> str | None:
        """The first line of the pair's text; empty where the file is."""
        file = self.base / "text" / f"{name}.txt"
        if not file.is_file():
            return None
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        return lines[0].strip() if lines else ""

    def _goals(self, pair: Pair) -> Pair | None:
        """Reference pair and mask; None where the split has none."""
        files = {kind: self._goal(kind, pair.name) for kind in ("ir", "vi", "mask")}
        if files["ir"] is None and files["vi"] is None:
            return None
        if files["ir"] is None or files["vi"] is None:
            raise BadRequest(
                f"{pair.name!r} has only one picture under {self.base / 'groundtruth'}: a goal is "
                "a pair."
            )
        visible, infrared = read_image(files["vi"], 3), read_image(files["ir"], 1)
        empty = torch.zeros_like(infrared)
        mask = empty if files["mask"] is None else read_image(files["mask"], 1)
        for what, picture in (("vi", visible), ("ir", infrared), ("mask", mask)):
            if picture.shape[1:] != pair.visible.shape[1:]:
                raise BadRequest(
                    f"{files[what]} is {picture.shape[-1]}x{picture.shape[-2]}, but its pair "
                    f"{pair.visible.shape[-1]}x{pair.visible.shape[-2]} (width x height)."
                )
        return Pair(pair.name, visible, infrared, masks={"region": mask})

    def _goal(self, kind: str, name: str) -> Path | None:
        places = (self.base / "groundtruth" / kind / f"{name}{suffix}" for suffix in SUFFIXES)
        return next((place for place in places if place.is_file()), None)

    def _sized(self, pair: Pair) -> Pair:
        if self.wanted is None:
            return pair
        if isinstance(self.wanted, int):
            return resize_shorter(pair, self.wanted)
        return resize(pair, *self.wanted)
