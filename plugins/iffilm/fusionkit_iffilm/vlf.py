"""VLF: pairs of four fusion tasks with their paragraphs and the features of these, as released."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionkit.color import BT601, to_uint8
from fusionkit.data import SUFFIXES, find_data, read_image, resize, resize_shorter
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair

SIDES = {
    "IVF": (("IR",), ("VI",)),
    "MIF": (("MRI",), ("CT", "PET", "SPECT", "T")),
    "MEF": (("OVER",), ("UNDER",)),
    "MFF": (("NEAR",), ("FAR",)),
}
"""Task -> folders of picture A (in the place of infrared) and of picture B (visible)."""
SETS = {
    "IVF": ("MSRS", "M3FD", "RoadScene"),
    "MIF": ("Harvard",),
    "MEF": ("SICE", "MEFB"),
    "MFF": ("RealMFF", "Lytro"),
}
"""Task -> data sets of the release."""


class Vlf(Sequence[Pair]):
    """The vision-language fusion data of IF-FILM, as folders or as HDF5.

    A pair's text ``features`` is the place of its stored features, which the encoder
    ``stored-features`` reads; ``ir`` and ``vi`` are its paragraphs, where the root holds them as
    ``Text/<task>/<set>/<side>/<id>.txt``.

    Grey pictures as released: luma rounded to whole numbers of 255. With ``colour`` the visible
    picture keeps its colours, for results in colour. Picture A of a task stands in the place of
    infrared.

    Args:
        root: the folder that holds ``VLFDataset`` or ``VLFDataset_h5``, or one of these, or one
            ``.h5`` file.
        split: ``train`` or ``test``.
        count: at most so many pairs, the first ones.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; the order is that of the list, or of the sorted ids of an HDF5 file.
        task: IVF (infrared-visible), MIF (medical), MEF (exposures) or MFF (focus).
        set: which of the task's data sets; the first one by default.
        colour: keep the colours of picture B; HDF5 files hold none.

    Source: Z. Zhao et al., "Image Fusion via Vision-Language Model", ICML 2024, section 4.
    """

    layout = (
        "VLFDataset/Image/<task>/<set>/{train,test}.txt and <A>/<id>.png, <B>/<id>.png beside "
        "them; VLFDataset/TextFeature/<task>/<set>/<id>.npy; or VLFDataset_h5/<set>_<split>.h5 "
        "with groups imageA, imageB, text"
    )
    licence = "none stated with the release"
    source = "github.com/Zhaozixiang1228/IF-FILM"
    folder = "vlf"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        task: str = "IVF",
        set: str | None = None,
        colour: bool = True,
    ) -> None:
        if task not in SIDES:
            raise BadRequest(
                f"data set 'vlf' has no task {task!r}: it has {', '.join(SIDES)}.",
                asked=task,
                known=SIDES,
            )
        if split not in ("train", "test"):
            raise BadRequest(f"data set 'vlf' has the splits train and test, not {split!r}.")
        found = find_data(self.folder) if root is None else Path(root)
        if found is None or not found.exists():
            raise BadRequest(
                f"data set 'vlf' is not there: nothing "
                f"{f'at {root}' if root else 'under $FUSIONKIT_DATA/vlf or ../shared/data/vlf'}. "
                f"Get it from {self.source} and lay it out as {self.layout}."
            )
        self.set, self.task, self.size, self.colour = set or SETS[task][0], task, size, colour
        self.file = _h5_of(found, self.set, split)
        if self.file is not None:
            self.names = _ids_of(self.file)
        else:
            inner = found / "VLFDataset"
            self.root = inner if inner.is_dir() else found
            self.names = self._listed(split)
        self.names = self.names[:count]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name = self.names[index]
        pair = self._from_h5(name) if self.file is not None else self._from_folders(name)
        if self.size is None:
            return pair
        if isinstance(self.size, int):
            return resize_shorter(pair, self.size)
        return resize(pair, *self.size)

    def _listed(self, split: str) -> list[str]:
        pictures = self.root / "Image" / self.task / self.set
        names = pictures / f"{split}.txt"
        if not names.is_file():
            raise BadRequest(
                f"data set 'vlf': there is no list {names}. Expected under {self.root}: "
                f"{self.layout}."
            )
        lines = names.read_text(encoding="utf-8-sig").splitlines()
        return [line.strip().split(".", 1)[0] for line in lines if line.strip()]

    def _from_folders(self, name: str) -> Pair:
        first, second = (self._picture(side, name) for side in SIDES[self.task])
        features = self.root / "TextFeature" / self.task / self.set / f"{name}.npy"
        texts = {"features": str(features)} if features.is_file() else {}
        for kind, sides in zip(("ir", "vi"), SIDES[self.task], strict=True):
            for side in sides:
                file = self.root / "Text" / self.task / self.set / side / f"{name}.txt"
                if file.is_file():
                    texts[kind] = file.read_text(encoding="utf-8-sig").strip()
        visible = second if self.colour else whole_luma(second)
        return Pair(
            name=name,
            visible=visible.expand(3, -1, -1),
            infrared=whole_luma(first),
            texts=texts,
        )

    def _picture(self, sides: Sequence[str], name: str) -> Tensor:
        folder = self.root / "Image" / self.task / self.set
        files = [folder / side / f"{name}{suffix}" for side in sides for suffix in SUFFIXES]
        file = next(filter(Path.is_file, files), None)
        if file is None:
            raise BadRequest(
                f"data set 'vlf': no picture {name!r} in "
                f"{' or '.join(str(folder / side) for side in sides)}."
            )
        return read_image(file)

    def _from_h5(self, name: str) -> Pair:
        with _h5py().File(self.file, "r") as file:
            first, second = (
                torch.from_numpy(np.asarray(file[group][name], dtype=np.float32))
                for group in ("imageA", "imageB")
            )
            features = name in file.get("text", ())
        texts = {"features": f"{self.file}#text/{name}"} if features else {}
        return Pair(name=name, visible=second.expand(3, -1, -1), infrared=first, texts=texts)


def whole_luma(image: Tensor) -> Tensor:
    """Luma ``(1, H, W)`` of ``(C, H, W)``, rounded to whole numbers of 255, as in the release."""
    if len(image) == 3:
        image = torch.einsum("chw,c->hw", image, image.new_tensor(BT601))[None]
    return to_uint8(image).float() / 255


def _h5_of(root: Path, name: str, split: str) -> Path | None:
    """The HDF5 file of a set, where the root is one, or holds one."""
    if root.is_file():
        return root
    file = f"{name}_{split}.h5"
    places = (root / file, root / "VLFDataset_h5" / file)
    return next(filter(Path.is_file, places), None)


def _ids_of(file: Path) -> list[str]:
    with _h5py().File(file, "r") as content:
        missing = {"imageA", "imageB"} - content.keys()
        if missing:
            raise BadRequest(
                f"{file} is no file of VLF: it lacks the groups {', '.join(sorted(missing))}."
            )
        return sorted(content["imageA"])


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise BadRequest(
            "HDF5 files are read by h5py, which is not installed: pip install 'fusionkit[hub]'."
        ) from error
    return h5py
