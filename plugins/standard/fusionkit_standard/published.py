"""Published sets as their authors lay them out: MSRS, LLVIP, M3FD, FMB, MFNet.

Each is a folder as it comes out of its archive. Masks are those of its segmentation labels, boxes
those of its annotations. Layouts follow the authors' pages and the programs that read them; what
could not be compared with the files themselves says so.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fusionkit.catalogue import Download
from fusionkit.data import FolderPairs, MissingFile, PairPaths, match_pairs
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.protocols import Thing
from fusionkit_standard.datasets import MIRROR, find_root


class Published(FolderPairs):
    """A set in folders of its own.

    Args:
        root: the folder of the set; without it, looked for by :func:`fusionkit.data.find_data`.
        split: one of the set's, or ``all``.
        count: at most so many pairs, the first ones.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        seed: not used; folders have a fixed order.
        faulty: see :class:`fusionkit.data.FolderPairs`.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    licence: ClassVar[str]
    source: ClassVar[str]
    folder: ClassVar[str]
    downloads: ClassVar[tuple[Download, ...]] = ()
    splits: ClassVar[Mapping[str, tuple[str, str]]]
    """Split -> its infrared and its visible folder."""
    classes: ClassVar[Mapping[int, str]] = {}
    """Value in a label picture -> what it marks."""

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        faulty: str = "refuse",
    ) -> None:
        found = find_root(type(self), root)
        super().__init__(found, paths=self._members(found, split), count=count, size=size,
                         faulty=faulty)  # fmt: skip

    def _members(self, root: Path, split: str) -> list[PairPaths]:
        """The pairs of a split, from its two folders."""
        if split not in (*self.splits, "all"):
            known = [*self.splits, "all"]
            raise BadRequest(
                f"data set {self.folder!r} has no split {split!r}.{did_you_mean(split, known)} "
                f"There are {', '.join(known)}.",
                asked=split,
                known=known,
            )
        members: list[PairPaths] = []
        for wanted, folders in self.splits.items():
            if split in (wanted, "all"):
                ir, vi = (root / folder for folder in folders)
                if not (ir.is_dir() and vi.is_dir()):
                    raise BadRequest(
                        f"{root} holds no {folders[0]} and {folders[1]}; expected is {self.layout}."
                    )
                members += match_pairs(ir, vi)
        return members

    def _label_file(self, name: str) -> Path | None:
        """The label picture of a pair; None where the set has none."""
        return None

    def _masks(self, name: str, visible: Tensor) -> dict[str, Tensor]:
        file = self._label_file(name)
        if file is None or not file.is_file():
            return {}
        try:
            with Image.open(file) as picture:
                values = torch.from_numpy(np.array(picture))
        except OSError as error:
            raise BadRequest(f"{file} is no label picture that can be read ({error}).") from error
        if values.shape != visible.shape[1:]:
            raise BadRequest(
                f"{file} has the shape {tuple(values.shape)}, its pair {tuple(visible.shape[1:])}: "
                "labels are one class number per pixel."
            )
        present = set(values.unique().tolist())
        return {
            label: (values == number).float()[None]
            for number, label in self.classes.items()
            if number in present
        }

    def _beside(self, name: str, of: str, to: str) -> Path | None:
        """``<name>.png`` in a folder beside the pair's infrared folder."""
        paths = next((p for p in self.paths if p.name == name), None)
        if paths is None or paths.ir.parent.name != of:
            return None
        return paths.ir.parent.with_name(to) / f"{paths.ir.stem}.png"


MFNET_CLASSES = {
    1: "car", 2: "person", 3: "bicycle", 4: "curve", 5: "car stop", 6: "guardrail",
    7: "colour cone", 8: "bump",
}  # fmt: skip


class Msrs(Published):
    """1,444 aligned road pairs, day and night: 1,083 to train, 361 to test; masks of eight classes.

    A name ends in D by day, in N by night. What the labels do not mark is in no mask.

    Args: as :class:`Published`.

    Source: L. Tang et al., "PIAFusion", Information Fusion 83-84 (2022); made from MFNet.
    """

    name = folder = "msrs"
    layout = "{train,test}/{ir,vi}/NAME.png, {train,test}/Segmentation_labels/NAME.png"
    licence = "none stated; the authors ask to be cited, and MFNet's terms hold"
    source = "github.com/Linfeng-Tang/MSRS"
    splits = {"train": ("train/ir", "train/vi"), "test": ("test/ir", "test/vi")}
    classes = MFNET_CLASSES
    downloads = (
        Download(
            "https://github.com/CharlesShan-hub/MSRS-Backup/releases/download/v1.0/MSRS-main.zip",
            "md5:dfc32330f411437fbefae701e1bb9ba0",
            inside="MSRS-main",
            note=MIRROR,
        ),
    )

    def _label_file(self, name: str) -> Path | None:
        return self._beside(name, "ir", "Segmentation_labels")


class Fmb(Published):
    """1,500 aligned pairs: 1,220 to train, 280 to test; masks of fourteen classes.

    Args: as :class:`Published`.

    Source: J. Liu et al., "Multi-interactive Feature Learning and a Full-time Multi-modality
    Benchmark for Image Fusion and Segmentation" (SegMiF), ICCV 2023. The order of the classes is
    that of programs that read the set.
    """

    name = folder = "fmb"
    layout = "{train,test}/{Infrared,Visible,Label}/NAME.png"
    licence = "none stated; the authors ask to be cited"
    source = "github.com/JinyuanLiu-CV/SegMiF"
    splits = {
        "train": ("train/Infrared", "train/Visible"),
        "test": ("test/Infrared", "test/Visible"),
    }
    classes = dict(
        enumerate(
            (
                "road", "sidewalk", "building", "lamp", "sign", "vegetation", "sky", "person",
                "car", "truck", "bus", "motorcycle", "bicycle", "pole",
            ),
            1,
        )
    )  # fmt: skip
    downloads = tuple(
        Download(
            f"https://github.com/CharlesShan-hub/FMB_Backup/releases/download/V1.0.0/{part}.zip",
            f"md5:{md5}",
            inside=part,
            into=part,
            note=MIRROR,
        )
        for part, md5 in (
            ("train", "896c457d6fadb828fced86d7c0e0d66f"),
            ("test", "916b3482f1d5988046ea74c287bbf518"),
        )
    )

    def _label_file(self, name: str) -> Path | None:
        return self._beside(name, "Infrared", "Label")


class Boxed(Published):
    """A set with a VOC file of boxes per pair."""

    annotations: ClassVar[str] = ""
    """Their folder under the root."""
    labels: ClassVar[Mapping[str, str]] = {}
    """Class names of the files -> labels here; others are taken in lower case."""

    def _things(self, name: str) -> tuple[Thing, ...]:
        stem = name.rsplit("/", 1)[-1]
        file = (self.root or Path()) / self.annotations / f"{stem}.xml"
        return read_voc(file, self.labels) if file.is_file() else ()


class Llvip(Boxed):
    """15,488 aligned street pairs, mostly at night: 12,025 to train, 3,463 to test; persons boxed.

    Args: as :class:`Published`.

    Source: X. Jia et al., "LLVIP: A Visible-infrared Paired Dataset for Low-light Vision",
    ICCV workshops 2021.
    """

    name = folder = "llvip"
    layout = "{infrared,visible}/{train,test}/NAME.jpg, Annotations/NAME.xml"
    licence = "non-commercial use, by the authors' terms"
    source = "bupt-ai-cz.github.io/LLVIP"
    splits = {
        "train": ("infrared/train", "visible/train"),
        "test": ("infrared/test", "visible/test"),
    }
    annotations = "Annotations"


class M3fd(Boxed):
    """Aligned pairs in many weathers: 300 for fusion, and 4,200 with boxes of six classes.

    The folder may hold ``M3FD_Fusion`` and ``M3FD_Detection`` or be one of them. The authors divide
    neither; every fifth pair is ``test``. Tables use the 300: ``split="all"``.

    Args:
        root, split, count, size, seed, faulty: as :class:`Published`.
        part: ``fusion`` or ``detection``; None takes the first that is there.

    Source: J. Liu et al., "Target-aware Dual Adversarial Learning and a Multi-scenario
    Multi-Modality Benchmark to Fuse Infrared and Visible for Object Detection", CVPR 2022.
    """

    name = folder = "m3fd"
    layout = "M3FD_Fusion/{Ir,Vis}/NAME.png; M3FD_Detection/{Ir,Vis}/NAME.png, Annotation/NAME.xml"
    licence = "none stated; the authors ask to be cited"
    source = "github.com/JinyuanLiu-CV/TarDAL"
    annotations = "Annotation"
    labels = {"People": "person"}
    parts = {"fusion": "M3FD_Fusion", "detection": "M3FD_Detection"}

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        part: str | None = None,
        faulty: str = "refuse",
    ) -> None:
        if part not in (None, *self.parts):
            raise BadRequest(
                f"data set 'm3fd' has no part {part!r}: there are {', '.join(self.parts)}.",
                asked=part or "",
                known=self.parts,
            )
        found = find_root(type(self), root)
        inner = [found / folder for name, folder in self.parts.items() if part in (None, name)]
        base = next(filter(Path.is_dir, inner), None)
        if base is None:
            if part is not None and found.name != self.parts[part]:
                raise BadRequest(f"{found} holds no {self.parts[part]}/; expected: {self.layout}.")
            base = found
        FolderPairs.__init__(
            self, base, ir=_of(base, "Ir", self.layout), vi=_of(base, "Vis", self.layout),
            split=split, count=count, size=size, faulty=faulty,
        )  # fmt: skip


class Mfnet(Published):
    """1,569 road pairs, day and night, as pictures of four channels; masks of eight classes.

    Pairs are not aligned everywhere, and the infrared pictures have little contrast; MSRS is made
    from them. A name ends in D by day, in N by night.

    Args: as :class:`Published`; the splits are the lists that come with the set.

    Source: Q. Ha et al., "MFNet: Towards Real-Time Semantic Segmentation for Autonomous Vehicles
    with Multi-Spectral Scenes", IROS 2017.
    """

    name = folder = "mfnet"
    layout = "images/NAME.png (red, green, blue, infrared), labels/NAME.png, {train,val,test}.txt"
    licence = "none stated; the authors ask to be cited"
    source = "www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral"
    splits = {"train": ("train.txt",), "test": ("test.txt",), "validation": ("val.txt",)}
    classes = MFNET_CLASSES

    def _members(self, root: Path, split: str) -> list[PairPaths]:
        if not (root / "images").is_dir():
            raise BadRequest(f"{root} holds no images/; expected is {self.layout}.")
        if split not in (*self.splits, "all"):
            raise BadRequest(f"data set 'mfnet' has no split {split!r}: {', '.join(self.splits)}.")
        names: dict[str, None] = {}
        for wanted, (file,) in self.splits.items():
            if split in (wanted, "all"):
                if not (root / file).is_file():
                    raise MissingFile(f"{root / file}: no such list of names.")
                lines = (root / file).read_text(encoding="utf-8").split()
                names |= dict.fromkeys(line.removesuffix(".png") for line in lines)
        files = {name: root / "images" / f"{name}.png" for name in names}
        return [PairPaths(name, file, file) for name, file in files.items()]

    def _pictures(self, paths: PairPaths) -> tuple[Tensor, Tensor]:
        try:
            with Image.open(paths.ir) as picture:
                values = np.array(picture)
        except OSError as error:
            raise BadRequest(f"{paths.ir} cannot be read ({error}).") from error
        if values.ndim != 3 or values.shape[2] != 4 or values.dtype != np.uint8:
            raise BadRequest(
                f"{paths.ir} has the shape {values.shape}; a picture of MFNet has four channels of "
                "8 bits: red, green, blue and infrared."
            )
        channels = torch.from_numpy(values).permute(2, 0, 1).float() / 255
        return channels[:3].contiguous(), channels[3:].contiguous()

    def _label_file(self, name: str) -> Path | None:
        return (self.root or Path()) / "labels" / f"{name}.png"


def read_voc(file: Path, labels: Mapping[str, str]) -> tuple[Thing, ...]:
    """Boxes of a PASCAL VOC file; its pixels count from 1, the end included."""
    try:
        tree = ElementTree.parse(file)
        things = []
        for item in tree.iterfind("object"):
            found = item.findtext("name") or ""
            label = labels.get(found, found.lower())
            corners = [float(item.findtext(f"bndbox/{k}") or "") for k in
                       ("xmin", "ymin", "xmax", "ymax")]  # fmt: skip
            x0, y0, x1, y1 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
            things.append(Thing(label, (max(0.0, x0), max(0.0, y0), x1, y1), f"the {label}"))
        return tuple(things)
    except (ElementTree.ParseError, ValueError) as error:
        raise BadRequest(f"{file} is no VOC file of boxes ({error}).") from error


def _of(base: Path, folder: str, layout: str) -> Path:
    """A sub-folder, upper or lower case."""
    same = [p for p in base.iterdir() if p.is_dir() and p.name.lower() == folder.lower()]
    if not same:
        raise BadRequest(f"{base} holds no {folder}/; expected is {layout}.")
    return same[0]


PUBLISHED: Sequence[type[Published]] = (Msrs, Llvip, M3fd, Fmb, Mfnet)
