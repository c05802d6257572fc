"""EMS on disk: degraded pairs, clean ones beside them, and the sentences of each degradation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fusionkit.data import SUFFIXES, find_data, read_image, resize, resize_shorter
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair

SIDES = {
    "visible": "Visible",
    "infrared": "Infrared",
    "clean_visible": "Visible_gt",
    "clean_infrared": "Infrared_gt",
}


@dataclass(frozen=True, slots=True)
class DegradedPair(Pair):
    """A pair as it was taken, with what it should look like."""

    clean_visible: Tensor | None = None
    """``(3, H, W)``; None where no clean picture is known."""
    clean_infrared: Tensor | None = None
    """``(1, H, W)``."""
    task: str = ""
    """The degradation, as its folder is called, in lower case."""
    prompts: tuple[str, ...] = ()
    """Sentences that name the degradation."""


class Ems(Sequence[Pair]):
    """EMS-Lite, EMS-Full, or any data laid out like them.

    Pictures belong together by their place in the order of names, as in the released reader; names
    need not match, numbers must.

    Args:
        root: the folder that holds one folder per degradation; without it ``ems`` is looked for,
            see :func:`fusionkit.data.find_data`.
        split: ``train``, or ``test`` (also ``validation``): the folder ``eval``; ``all`` is both.
        count: at most so many pairs, the first ones of every degradation in turn.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; folders have a fixed order.
        tasks: degradations to read, by folder name; None reads all.
    """

    layout = (
        "<degradation>/train/{Visible,Infrared,Visible_gt,Infrared_gt}/, <degradation>/train/"
        "text.txt with a sentence per line, <degradation>/eval/{Visible,Infrared}/; in EMS-Lite "
        "the degradations Low_light, Over_exposure, IR_Low_contrast, IR_Noise"
    )
    licence = "academic research only, no redistribution; terms of MFNet, RoadScene, FLIR and LLVIP"
    source = "github.com/XunpengYi/EMS"
    folder = "ems"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        tasks: Sequence[str] | None = None,
    ) -> None:
        found = find_data(self.folder) if root is None else Path(root)
        if found is None or not found.is_dir():
            raise BadRequest(
                f"data set 'ems' is not there: nothing at {root or '$FUSIONKIT_DATA/ems'}. Get it "
                f"from {self.source} (licence: {self.licence}), laid out as {self.layout}."
            )
        folders = {"train": ["train"], "all": ["train", "eval"]}
        parts = folders.get(split, ["eval"] if split in ("test", "validation") else None)
        if parts is None:
            raise BadRequest(f"data set 'ems' has train, test, validation and all, not {split!r}.")
        self.size = size
        self.prompts: dict[str, tuple[str, ...]] = {}
        wanted = None if tasks is None else {task.lower() for task in tasks}
        lists = []
        for folder in sorted(p for p in found.iterdir() if p.is_dir()):
            task = folder.name.lower()
            if wanted is not None and task not in wanted:
                continue
            self.prompts[task] = _lines(folder / "train" / "text.txt")
            for part in parts:
                if (folder / part / "Visible").is_dir():
                    lists.append([(task, files) for files in _files(folder / part)])
        turns = [t for turn in range(max(map(len, lists), default=0)) for t in _turn(lists, turn)]
        self.entries: list[tuple[str, dict[str, Path]]] = turns[:count]
        if not self.entries:
            raise BadRequest(
                f"{found} holds no pairs for {split!r}; expected there: {self.layout}."
            )

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Pair names, in order."""
        return [f"{task}/{files['visible'].stem}" for task, files in self.entries]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        task, files = self.entries[index]
        pictures = {
            side: read_image(file, 3 if side.endswith("visible") else 1)
            for side, file in files.items()
        }
        sizes = {side: tuple(picture.shape[1:]) for side, picture in pictures.items()}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{files[side]} is {h}x{w}" for side, (h, w) in sizes.items())
            raise BadRequest(f"the pictures of a pair have one size (height x width), but {said}.")
        name = self.names[index]
        degraded = self._sized(Pair(name, pictures["visible"], pictures["infrared"]))
        clean = None
        if "clean_visible" in pictures:
            clean = self._sized(Pair(name, pictures["clean_visible"], pictures["clean_infrared"]))
        return DegradedPair(
            name=name,
            visible=degraded.visible,
            infrared=degraded.infrared,
            clean_visible=None if clean is None else clean.visible,
            clean_infrared=None if clean is None else clean.infrared,
            task=task,
            prompts=self.prompts[task],
        )

    def _sized(self, pair: Pair) -> Pair:
        if self.size is None:
            return replace(pair)
        if isinstance(self.size, int):
            return resize_shorter(pair, self.size)
        return resize(pair, *self.size)


def _turn(lists: Sequence[Sequence], turn: int) -> list:
    return [entries[turn] for entries in lists if turn < len(entries)]


def _files(folder: Path) -> list[dict[str, Path]]:
    """The files of each pair; clean ones only where both folders of them are there."""
    sides = {side: folder / name for side, name in SIDES.items() if (folder / name).is_dir()}
    if not {"clean_visible", "clean_infrared"} <= set(sides):
        sides = {side: sides[side] for side in ("visible", "infrared") if side in sides}
    if "infrared" not in sides:
        raise BadRequest(f"{folder} has a folder Visible but none called Infrared.")
    files = {
        side: sorted(
            (f for f in path.iterdir() if f.suffix.lower() in SUFFIXES),
            key=lambda f: f.name,
        )
        for side, path in sides.items()
    }
    counts = {side: len(found) for side, found in files.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{sides[side].name} {count}" for side, count in counts.items())
        raise BadRequest(
            f"{folder}: pictures belong together by their place in the order of names, so every "
            f"folder needs as many; there are {said}."
        )
    return [dict(zip(files, row, strict=True)) for row in zip(*files.values(), strict=True)]


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
