"""Pairs with fused pictures on disk, damaged or not."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.data import (
    SUFFIXES,
    FolderPairs,
    find_data,
    read_image,
    resize,
    resize_shorter,
    write_image,
)
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair


@dataclass(frozen=True, slots=True)
class FusedPair(Pair):
    """A pair with what it is to become."""

    fused: Tensor | None = None
    """``(3, H, W)``; None where no fused picture is known."""
    prompt: str = ""
    """What undoes its damage; empty for a clean pair, which training damages itself."""
    degradations: tuple[tuple[str, float], ...] = ()
    """Names and severities of its damage."""


class Degraded(FolderPairs):
    """Pairs with fused targets, and what was done to them; :func:`write` makes such folders.

    A pair with a ``meta`` file is damaged already, by the degradations that it lists, and its
    prompt asks to undo them; one without is clean.

    Args:
        root: the folder with ``train/`` and ``test/``; without it ``mmaif`` is looked for, see
            :func:`fusionkit.data.find_data`.
        split: ``train`` or ``test``.
        count: at most so many pairs.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; folders have a fixed order.
    """

    layout = (
        "train/{vis,ir,gt}/NAME.png, optional train/depth/NAME.png (white is a kilometre), "
        "train/meta/NAME.json with degradations and prompt; test/ likewise"
    )
    licence = "yours"
    source = "your own files; the authors' pairs are not released"
    folder = "mmaif"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        if split not in ("train", "test"):
            raise BadRequest(f"data set 'mmaif' has no split {split!r}: it has train and test.")
        found = find_data(self.folder) if root is None else Path(root)
        if found is None or not found.is_dir():
            raise BadRequest(
                f"data set 'mmaif' is not there: nothing at {root or '$FUSIONKIT_DATA/mmaif'}. Lay "
                f"your pairs out as {self.layout} and pass the folder as root."
            )
        self.base, self.wanted = found / split, size
        if not ((self.base / "ir").is_dir() and (self.base / "vis").is_dir()):
            raise BadRequest(f"{self.base} holds no ir/ and vis/; expected is {self.layout}.")
        super().__init__(ir=self.base / "ir", vi=self.base / "vis", split="all", count=count)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return super().__getitem__(index)
        pair = super().__getitem__(index)
        fused, depth = self._picture("gt", pair, 3), self._picture("depth", pair, 1)
        pair = Pair(
            name=pair.name,
            visible=pair.visible,
            infrared=pair.infrared,
            depth=None if depth is None else 1000 * depth,
        )
        sized = self._sized(pair)
        if fused is not None:
            fused = self._sized(Pair(pair.name, fused, pair.infrared)).visible
        meta = self._meta(pair.name)
        return FusedPair(
            name=pair.name,
            visible=sized.visible,
            infrared=sized.infrared,
            depth=sized.depth,
            fused=fused,
            prompt=meta.get("prompt", ""),
            degradations=tuple(
                (row["name"], float(row["severity"])) for row in meta.get("degradations", ())
            ),
        )

    def _picture(self, kind: str, pair: Pair, channels: int) -> Tensor | None:
        places = (self.base / kind / f"{pair.name}{suffix}" for suffix in SUFFIXES)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            return None
        picture = read_image(file, channels)
        if picture.shape[1:] != pair.visible.shape[1:]:
            raise BadRequest(
                f"{file} is {picture.shape[-1]}x{picture.shape[-2]}, but its pair "
                f"{pair.visible.shape[-1]}x{pair.visible.shape[-2]} (width x height)."
            )
        return picture

    def _meta(self, name: str) -> dict[str, Any]:
        file = self.base / "meta" / f"{name}.json"
        if not file.is_file():
            return {}
        try:
            meta = json.loads(file.read_text(encoding="utf-8"))
            [(row["name"], float(row["severity"])) for row in meta.get("degradations", ())]
            return meta
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(
                f"{file} is no description of a damaged pair ({error}): it holds "
                '{"degradations": [{"name": ..., "severity": ...}], "prompt": "..."}.'
            ) from None

    def _sized(self, pair: Pair) -> Pair:
        if self.wanted is None:
            return pair
        if isinstance(self.wanted, int):
            return resize_shorter(pair, self.wanted)
        return resize(pair, *self.wanted)


def write(batches: Sequence[Batch], folder: str | os.PathLike, split: str = "train") -> int:
    """Write samples of the task as a data set that :class:`Degraded` reads; how many.

    Names count on from 00000, with the name of the pair behind.
    """
    base, number = Path(folder) / split, 0
    for batch in batches:
        for row, name in enumerate(batch.names):
            stem = f"{number:05d}-{name.replace('/', '-')}"
            pictures = {"vis": batch.visible, "ir": batch.infrared, "gt": batch.targets["fused"]}
            for kind, picture in pictures.items():
                write_image(base / kind / f"{stem}.png", picture[row])
            damage = batch.labels["degradations"][row]
            meta = {
                "degradations": [{"name": n, "severity": round(s, 4)} for n, s in damage],
                "prompt": batch.prompts[row],
            }
            (base / "meta").mkdir(parents=True, exist_ok=True)
            (base / "meta" / f"{stem}.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
            number += 1
    return number
