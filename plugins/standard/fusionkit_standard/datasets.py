"""Where pairs come from: any folder, two real sets, and generated street scenes.

Every class here is built as ``factory(root=None, split="train", count=None, size=None, seed=0)``
and is a sequence of :class:`~fusionkit.protocols.Pair`. ``layout``, ``licence`` and ``source`` say
what a person needs to know before using the data; ``folder`` is the name looked for under
``$FUSIONKIT_DATA`` and ``../shared/data`` (see :func:`fusionkit.data.find_data`), None where no
folder is needed or none can be known.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionkit.catalogue import Download
from fusionkit.data import FolderPairs, PairPaths, find_data, match_pairs, read_boxes
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair, Thing
from fusionkit_standard.scenes import CLASSES, Scene, render_many

BOXES = Path(__file__).with_name("boxes.json")
"""Boxes of persons and vehicles on real pictures, drawn by eye."""

RELEASE = Path(__file__).with_name("tno.json")
"""Which files of the TNO release make a pair."""

MIRROR = "a copy by a third party, whose program states the checksum; not compared here"
"""Note of a download."""


class Folder(FolderPairs):
    """One's own pairs: two folders of pictures that are called alike.

    What a root may hold and how it is split is told in :class:`fusionkit.data.FolderPairs`.

    Args:
        root: the folder with one sub-folder per modality.
        ir, vi: the two picture folders, where they have no common root or other names.
        split: ``train``, ``test``, ``validation`` or ``all``.
        count: at most so many pairs, the first ones.
        size: None for pictures as they are, a number for the shorter side, or (height, width).
        scale: how infrared numbers become [0, 1]: ``full``, ``minmax`` or the value that is white.
        seed: not used; folders have a fixed order.
        faulty: what becomes of pairs that cannot be used: ``refuse``, ``skip`` or ``keep``.
    """

    layout = (
        "ir/ and vi/ (or infrared/ and visible/, thermal/ and rgb/ ...) with pictures called "
        "alike; optional train.txt, test.txt, text/, mask/<label>/, boxes.json"
    )
    licence = "yours"
    source = "your own files"
    folder: str | None = None

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        ir: str | os.PathLike | None = None,
        vi: str | os.PathLike | None = None,
        scale: str | float = "full",
        faulty: str = "refuse",
    ) -> None:
        if root is None and (ir is None or vi is None):
            raise BadRequest(
                "data set 'folder' needs root, the folder of the pairs. Expected there: "
                f"{self.layout}."
            )
        super().__init__(
            root, ir=ir, vi=vi, split=split, count=count, size=size, scale=scale, faulty=faulty
        )


def find_root(known: type, root: str | os.PathLike | None) -> Path:
    """The folder of a known data set, given or found."""
    name = known.folder
    found = find_data(name) if root is None else Path(root)
    if found is not None and found.is_dir():
        return found
    tried = (
        f"at {root}"
        if root is not None
        else f"under $FUSIONKIT_DATA/{name} or ../shared/data/{name}"
    )
    fetch = (
        f", or `fusionkit datasets --download {name}`" if getattr(known, "downloads", ()) else ""
    )
    raise BadRequest(
        f"data set {name!r} is not there: nothing {tried}. Get it from {known.source} "
        f"(licence: {known.licence}){fetch}, lay it out as {known.layout}, and set FUSIONKIT_DATA "
        "to the folder above it, or pass root."
    )


class RoadScene(FolderPairs):
    """221 aligned road pairs, day and night, thermal and colour; 171 to train, 50 to test.

    The test pairs carry six English descriptions each (``ir``, ``vi``, ``ir_unique``,
    ``vi_unique``, ``common``, ``fused``; machine-written for MTG-Fusion and wrong in places) where
    the folder holds them, and boxes of persons and vehicles. A name in ``boxes`` was looked at:
    no box of a label then means that nothing large enough was seen.

    Of the release itself the aligned folders are read, ``cropinfrared`` and ``crop_LR_visible``;
    its division is the same.

    Args: as :class:`Folder`; without ``root`` the folder is looked for, see
    :func:`fusionkit.data.find_data`.

    Source: H. Xu et al., "FusionDN: A Unified Densely Connected Network for Image Fusion",
    AAAI 2020.
    """

    layout = (
        "ir/*.jpg, vi/*.jpg of equal names, train.txt, test.txt, text/<kind>/<name>.txt; or the "
        "release: cropinfrared/*.jpg, crop_LR_visible/*.jpg"
    )
    licence = "none stated; the authors ask to be cited"
    source = "github.com/hanna-xu/RoadScene"
    folder = "roadscene"
    downloads = (
        Download(
            "https://github.com/CharlesShan-hub/RoadScene-Backup/releases/download/v1.0.0/"
            "RoadScene-master.zip",
            "md5:02cd268c3b26d68b308e06df09251df5",
            inside="RoadScene-master",
            note=MIRROR,
        ),
    )

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
        root = find_root(type(self), root)
        boxes = read_boxes(BOXES, "roadscene")
        paths = None
        if (root / "cropinfrared").is_dir() and (root / "crop_LR_visible").is_dir():
            paths = match_pairs(root / "cropinfrared", root / "crop_LR_visible")
            if split in ("train", "test"):
                paths = [p for p in paths if (p.name in boxes) == (split == "test")]
        super().__init__(root, split=split, count=count, size=size, boxes=boxes, paths=paths,
                         faulty=faulty)  # fmt: skip


class Tno(FolderPairs):
    """25 aligned pairs of military and rural scenes, night vision and thermal, in grey.

    Published tables use all of them to test: ask for ``split="all"``. For work that also trains on
    them there is a fixed division, 15 to train and 10 to test, in which pictures of one place stay
    on one side (02 and 23, 03 and 04, 19 and 20; 01 and 22, 12, 13, 15 and 16). A ``train.txt`` or
    ``test.txt`` in the folder goes before it. Texts and boxes as in :class:`RoadScene`.

    The release itself, which is larger, is read too: its 55 still pairs with a thermal picture,
    under their places' names; of these every fifth is ``test``, and pairs whose pictures differ in
    size are left out. Which files make a pair is taken from a public program, not from the archive.

    Source: A. Toet, "The TNO Multiband Image Data Collection", Data in Brief 15 (2017).
    """

    layout = (
        "ir/01.png to ir/25.png, vi/ likewise, text/<kind>/<name>.txt; or the release: "
        "Athena_images/, DHV_images/, Triclobs_images/, tank/"
    )
    licence = "CC BY 4.0"
    source = "TNO Image Fusion Dataset, A. Toet, doi.org/10.6084/m9.figshare.1008029"
    folder = "tno"
    test = ("02", "03", "04", "05", "09", "11", "19", "20", "23", "25")
    downloads = (
        Download(
            "https://figshare.com/ndownloader/files/1475454",
            "md5:1ab9ce3b84dd3e5894630c13abd20953",
            inside="TNO_Image_Fusion_Dataset",
            note="the author's; the checksum is stated by a third party; not compared here",
        ),
    )

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        faulty: str | None = None,
    ) -> None:
        root = find_root(type(self), root)
        if (root / "Athena_images").is_dir():
            paths = _released_tno(root, split)
            super().__init__(root, paths=paths, count=count, size=size, faulty=faulty or "skip")
            return
        listed = (root / "train.txt").is_file() or (root / "test.txt").is_file()
        divide = split in ("train", "test") and not listed
        super().__init__(
            root,
            split="all" if divide else split,
            count=None if divide else count,
            size=size,
            boxes=read_boxes(BOXES, "tno"),
            faulty=faulty or "refuse",
        )
        if divide:
            wanted = [p for p in self.paths if (p.name in self.test) == (split == "test")]
            self.paths = wanted[:count]


def _released_tno(root: Path, split: str) -> list[PairPaths]:
    if split not in ("train", "test", "all"):
        raise BadRequest(f"data set 'tno' has no split {split!r}: it has train, test and all.")
    table = json.loads(RELEASE.read_text(encoding="utf-8"))["pairs"]
    known = [PairPaths(name, root / ir, root / vi) for name, (ir, vi) in table.items()]
    return [
        pair
        for index, pair in enumerate(known)
        if split == "all" or (index % 5 == 4) == (split == "test")
    ]


THERMAL = ("display", "radiometric")
COLDEST, HOTTEST = -40.0, 80.0  # degrees Celsius, the range of a radiometric picture


class Scenes(Sequence[Pair]):
    """Generated street scenes with true masks, depth, boxes and texts; no file, no download.

    A pair is a function of its number and the size. ``train`` counts from 0, ``test`` from 100,000,
    ``validation`` from 200,000, so splits never meet. Pairs are rendered when first asked for, many
    at a time in worker processes, and kept as 8-bit arrays. In a share of the scenes the visible
    picture is off by up to two pixels of 128, as real pairs are: maps follow the infrared picture.

    Texts: ``caption``, ``caption_2``, ``caption_3`` and ``dense`` (with boxes in pixels). Masks:
    one for each class that is in the picture. Depth in metres, 1000 in the sky.

    Args:
        root: None; there is no folder to read.
        split: ``train``, ``test`` or ``validation``.
        count: number of pairs; 512 to train, 64 otherwise.
        size: side in pixels, or (height, width); 128 by default.
        seed: another draw: seed 1 holds the numbers that follow those of seed 0.
        workers: processes that render; by default one per core, at most 8.
        cache: a folder to keep rendered pairs in, about 60 kB each at 128x128. Off by default:
            rendering is fast, and the files are only valid for one version of the generator
            (which they carry in their name).
        thermal: ``display`` is the 8-bit picture after the camera's gain control, white hot;
            ``radiometric`` the temperature before it, in hundredths of a kelvin, as 16-bit
            cameras deliver it: linear, 0 at -40 and 1 at +80 degrees Celsius.
    """

    layout = "none: generated from numbers"
    licence = "MIT, as this program"
    source = "fusionkit_standard.scenes"
    folder: str | None = None
    first = {"train": 0, "test": 100_000, "validation": 200_000}
    chunk = 256

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        *,
        workers: int | None = None,
        cache: str | os.PathLike | None = None,
        thermal: str = "display",
    ) -> None:
        if thermal not in THERMAL:
            raise BadRequest(
                f"thermal={thermal!r}: 'scenes' gives {' or '.join(THERMAL)} infrared pictures.",
                asked=thermal,
                known=THERMAL,
            )
        if split not in self.first:
            raise BadRequest(
                f"data set 'scenes' has no split {split!r}: it has {', '.join(self.first)}.",
                asked=split,
                known=self.first,
            )
        if root is not None:
            raise BadRequest(
                f"data set 'scenes' is generated and reads no folder, but was given {root}; "
                "for pictures of your own use data set 'folder'."
            )
        count = (512 if split == "train" else 64) if count is None else count
        if not 1 <= count <= 100_000:
            raise BadRequest(f"count={count}: 'scenes' has 1 to 100,000 pairs per split.")
        if seed < 0:
            raise BadRequest(f"seed={seed}: a seed counts from 0.")
        self.size = 128 if size is None else size
        if min((self.size,) if isinstance(self.size, int) else self.size) < 32:
            raise BadRequest(f"size={size}: a scene needs at least 32x32 pixels.")
        self.numbers = [self.first[split] + (seed * count + i) % 100_000 for i in range(count)]
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.thermal = thermal
        kind = str(self.size) + ("" if thermal == "display" else f"-{thermal}")
        self.cache = None if cache is None else Path(cache) / _generator_version() / kind
        self._kept: dict[int, dict[str, Any]] = {}

    @property
    def names(self) -> list[str]:
        """Pair names, in order; known without rendering."""
        return [f"scene-{number:06d}" for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            indices = range(*index.indices(len(self)))
            self._render([self.numbers[i] for i in indices])
            return [self[i] for i in indices]
        number = self.numbers[index]
        if number not in self._kept:
            # Somebody who looks at one pair waits for one; a second request means a walk.
            place = index % len(self)
            ahead = self.chunk if self._kept else 1
            self._render(self.numbers[place : place + ahead])
        return _as_pair(self._kept[number])

    def prepare(self) -> "Scenes":
        """Render everything now; returns the data set itself."""
        self._render(self.numbers)
        return self

    def _render(self, numbers: Sequence[int]) -> None:
        missing = [number for number in numbers if number not in self._kept]
        if self.cache is not None:
            for number in missing:
                if (kept := _load(self.cache / f"{number}.npz")) is not None:
                    self._kept[number] = kept
            missing = [number for number in missing if number not in self._kept]
        if not missing:
            return
        for number, scene in zip(
            missing, render_many(missing, self.size, workers=self.workers), strict=True
        ):
            self._kept[number] = _compact(scene, self.thermal)
            if self.cache is not None:
                _save(self.cache / f"{number}.npz", self._kept[number])


def _compact(scene: Scene, thermal: str) -> dict[str, Any]:
    """What a pair is made from, as small arrays and plain values."""
    texts = {"caption": scene.captions[0], "dense": scene.dense}
    texts |= {f"caption_{i}": text for i, text in enumerate(scene.captions[1:], 2)}
    return {
        "visible": np.ascontiguousarray(scene.visible.transpose(2, 0, 1)),
        "infrared": scene.infrared if thermal == "display" else scene.thermal,
        "classes": scene.classes,
        "depth": scene.depth.astype(np.float16),  # to 0.05 % of the distance
        "info": {
            "name": scene.name,
            "texts": texts,
            "things": [[thing.label, list(thing.box), thing.phrase] for thing in scene.things],
        },
    }


def _as_pair(kept: dict[str, Any]) -> Pair:
    info, classes = kept["info"], torch.from_numpy(kept["classes"])
    present = [int(k) for k in np.flatnonzero(np.bincount(kept["classes"].ravel()))]
    masks = (classes == torch.tensor(present, dtype=torch.uint8)[:, None, None]).float()
    return Pair(
        name=info["name"],
        visible=_unit(kept["visible"]),
        infrared=_unit(kept["infrared"])[None],
        texts=dict(info["texts"]),
        masks={CLASSES[k]: mask[None] for k, mask in zip(present, masks, strict=True)},
        depth=torch.from_numpy(kept["depth"].astype(np.float32))[None],
        things=tuple(
            Thing(label, tuple(float(value) for value in box), phrase)
            for label, box, phrase in info["things"]
        ),
    )


def _unit(values: np.ndarray) -> Tensor:
    """Eight bits to [0, 1]; sixteen, hundredths of a kelvin, from COLDEST 0 to HOTTEST 1."""
    if values.dtype == np.uint16:
        celsius = torch.from_numpy(values.astype(np.float32)) / 100 - 273.15
        return ((celsius - COLDEST) / (HOTTEST - COLDEST)).clamp(0, 1)
    return torch.from_numpy(values).float() / 255


def _generator_version() -> str:
    """A fingerprint of the generator's source: cached pairs of another version are not used."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).with_name("scenes").glob("*.py")):
        digest.update(file.read_bytes())
    return f"scenes-{digest.hexdigest()[:12]}"


def _load(file: Path) -> dict[str, Any] | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            kept = {key: stored[key] for key in ("visible", "infrared", "classes", "depth")}
            return kept | {"info": json.loads(str(stored["info"]))}
    except FileNotFoundError:
        return None
    except Exception:  # a half-written or foreign file: render again, and overwrite
        return None


def _save(file: Path, kept: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}-{os.getpid()}.npz")
    np.savez_compressed(temporary, **{**kept, "info": json.dumps(kept["info"])})
    temporary.replace(file)
