"""IVT, the authors' data with five sentences per pair, as it lies on disk."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fusionkit.data import FolderPairs, find_data, natural, read_image
from fusionkit.errors import BadRequest

FINE = "Final_Finetuned_BinaryInterestedMap.png"
"""Name of the fine association map of a sentence."""


class Ivt(FolderPairs):
    """Pairs with sentences and, for training, the authors' association maps.

    Texts are kept as ``"1"`` to ``"5"`` (1 to 3 describe one thing each, 4 and 5 join two of them),
    the first line of each file; fine association maps as masks ``association:1`` to
    ``association:5``. Both layouts of the released code are read: the training set, and the input
    of the generator of the maps.

    Args:
        root: the folder of the set, or the one above it with ``IVT_train``, ``IVT_test``; without
            it, looked for as ``ivt``, see :func:`fusionkit.data.find_data`.
        split, count, size: as :class:`~fusionkit.data.FolderPairs`.
        seed: not used; folders have a fixed order.

    Source: C. Cheng et al., "TextFusion", Information Fusion 117 (2025) 102790; made from LLVIP,
    TNO and RoadScene.
    """

    layout = (
        "IVT_train/ir/<n>.png, vis/<n>.png, text/<n>_<k>.txt, "
        f"association/*_imageIndex_<n>_textIndex_<k>/{FINE}; "
        "or <set>_ir/<n>.png, <set>_vis/<n>.png, <set>_text/<n>/<n>_<k>.txt"
    )
    licence = "that of the sources: LLVIP is for non-commercial use; see the authors' page"
    source = "github.com/AWCXV/TextFusion"
    folder = "ivt"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        found = find_data("ivt") if root is None else Path(root)
        if found is None or not found.is_dir():
            where = "under $FUSIONKIT_DATA/ivt" if root is None else f"at {root}"
            raise BadRequest(
                f"data set 'ivt' is not there: nothing {where}. Get it from {self.source} "
                f"(licence: {self.licence}), laid out as {self.layout}, and pass the folder."
            )
        own = found / f"IVT_{split}"
        base, split_given = (own, "all") if own.is_dir() else (found, split)
        ir, vi, self.texts = _folders(base)
        self.associations = _associations(base / "association")
        super().__init__(base, ir=ir, vi=vi, split=split_given, count=count, size=size)

    def _texts(self, name: str) -> dict[str, str]:
        files = [*self.texts.glob(f"{name}_*.txt"), *(self.texts / name).glob(f"{name}_*.txt")]
        found = {}
        for file in sorted(files, key=lambda f: natural(f.name)):
            lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            found[file.stem.rpartition("_")[2]] = lines[0].strip() if lines else ""
        return found

    def _masks(self, name: str, visible: Tensor) -> dict[str, Tensor]:
        masks = {}
        for sentence, file in self.associations.get(name, {}).items():
            mask = read_image(file, 1)
            if mask.shape[1:] != visible.shape[1:]:
                raise BadRequest(
                    f"{file} is {tuple(mask.shape[1:])}, its pair {tuple(visible.shape[1:])}."
                )
            masks[f"association:{sentence}"] = mask
        return masks


def _folders(base: Path) -> tuple[Path, Path, Path]:
    """Infrared, visible and text folder of either layout."""
    if (base / "ir").is_dir() and (base / "vis").is_dir():
        return base / "ir", base / "vis", base / "text"
    for ir in sorted(base.glob("*_ir")):
        vi = ir.with_name(ir.name.removesuffix("_ir") + "_vis")
        if vi.is_dir():
            return ir, vi, ir.with_name(ir.name.removesuffix("_ir") + "_text")
    raise BadRequest(f"{base} is not laid out as data set 'ivt'. Expected: {Ivt.layout}.")


def _associations(folder: Path) -> Mapping[str, Mapping[str, Path]]:
    """Fine maps by pair and sentence."""
    found: dict[str, dict[str, Path]] = {}
    for file in folder.glob(f"*_imageIndex_*_textIndex_*/{FINE}"):
        name, _, sentence = file.parent.name.partition("_imageIndex_")[2].partition("_textIndex_")
        found.setdefault(name, {})[sentence] = file
    return found
