"""Pairs from disk: read, match, check, cut, stack.

A picture is a float32 tensor ``(C, H, W)`` in [0, 1]. How stored numbers become that range is one
rule, :func:`read_image`; how files become pairs is one rule, :func:`match_pairs`. Everything that
moves pixels of a pair moves both pictures, the masks, the depth and the boxes together.
"""

import json
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from fusionkit.batch import Batch
from fusionkit.color import luma, to_uint8
from fusionkit.errors import BadRequest, FusionkitError, did_you_mean
from fusionkit.protocols import Pair, Thing

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".webp", ".jp2")
"""What counts as a picture in a folder; everything else there is skipped."""

INFRARED_FOLDERS = ("ir", "infrared", "inf", "thermal", "lwir", "tir")
VISIBLE_FOLDERS = ("vi", "visible", "vis", "rgb", "color", "colour")
"""Sub-folder names that tell the modality, upper or lower case."""

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "val", "valid"),
}
"""Splits and the names they go by, as ``<name>.txt`` or as a folder."""

_SIDE_FOLDERS = ("depth", "mask", "masks", "text", "texts", "label", "labels", "fused")
_SAVE_OPTIONS = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}


class MissingFile(BadRequest, FileNotFoundError):
    """A file or folder that is not there."""


class FaultyPairs(BadRequest):
    """Pairs that cannot be used; ``problems`` lists every one, the message the first ten."""

    def __init__(self, message: str, problems: "Iterable[Problem]" = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class CannotWrite(FusionkitError, OSError):
    """A picture that could not be saved: permission, full disk, something in the way."""


# ---------------------------------------------------------------------------- one picture


def read_image(
    path: str | os.PathLike, channels: int | None = None, *, scale: str | float = "full"
) -> Tensor:
    """A picture file as a float32 tensor ``(C, H, W)`` in [0, 1].

    The orientation written by a camera (EXIF) is applied. Transparency is dropped, not blended:
    the stored colours are the measurement. Palette, CMYK, YCbCr and Lab become RGB, one bit and
    grey with alpha become grey. Of a file with several pages the first is read. Colour with
    16 bits per channel is read with 8, because Pillow keeps no more; grey keeps all 16.

    Args:
        path: the file.
        channels: 1 (BT.601 luma of a colour picture), 3 (grey repeated) or None, as stored.
        scale: how numbers become [0, 1].
            ``"full"``: by the range of the type, so 8 bits are divided by 255 and 16 bits by
            65535; floating-point files must already lie in [0, 1].
            ``"minmax"``: from this picture's own smallest to its largest value (all 0 where it
            is constant): for raw thermal counts, at the price that pictures lose their common
            scale.
            A number: the value that becomes 1 (16383 for 14-bit counts stored in 16); larger
            ones are clipped.

    Raises:
        MissingFile: nothing is there (also a FileNotFoundError).
        BadRequest: not a picture, damaged, empty, not finite, or outside the range.
    """
    path = Path(path)
    if channels not in (None, 1, 3):
        raise BadRequest(f"channels={channels!r}: a picture is read with 1 or 3, or None.")
    values, white = _decode(path)
    values = _to_unit_range(values, white, scale, path)
    image = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
    if channels == 1 and len(image) == 3:
        red, green, blue = image
        if torch.equal(red, green) and torch.equal(red, blue):
            return red[None].clone()
        return luma(image[None])[0]
    if channels == 3 and len(image) == 1:
        return image.repeat(3, 1, 1)
    return image


def _decode(path: Path) -> tuple[np.ndarray, float | None]:
    """Pixels ``(H, W, C)`` as stored, and the value that is white (None: not known)."""
    if not path.exists():
        raise MissingFile(f"{path}: no such file.")
    if path.is_dir():
        raise BadRequest(f"{path} is a folder, not a picture.")
    if path.stat().st_size == 0:
        raise BadRequest(f"{path} is empty (0 bytes): copy or download it again.")
    try:
        with Image.open(path) as file:
            stored = file.format
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except UnidentifiedImageError as error:
        raise BadRequest(f"{path} is not a picture that can be read{_what_is(path)}.") from error
    except Image.DecompressionBombError as error:
        raise BadRequest(
            f"{path} claims {error}. If it is genuine, raise PIL.Image.MAX_IMAGE_PIXELS first."
        ) from error
    except PermissionError as error:
        raise BadRequest(f"{path}: no permission to read it.") from error
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadRequest(
            f"{path} is damaged or cut short ({error}): copy or download it again, or leave it out."
        ) from error
    mode = picture.mode
    if mode == "P" or mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBA", "RGBX", "PA"):
        picture = picture.convert("RGBA" if mode in ("P", "PA") else "RGB").convert("RGB")
    elif mode in ("1", "LA", "La"):
        picture = picture.convert("L")
    elif mode == "RGBa":
        picture = picture.convert("RGBA").convert("RGB")
    values = np.asarray(picture)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.size == 0:
        raise BadRequest(f"{path} has no pixels (size {picture.size}).")
    if values.dtype == np.uint8:
        return values, 255.0
    if picture.mode.startswith("I;16") or (picture.mode == "I" and stored in ("PNG", "PPM")):
        return values, 65535.0  # Pillow before 11 opens 16-bit PNG as 32-bit integers
    return values, 1.0 if picture.mode == "F" else None


def _what_is(path: Path) -> str:
    """A guess at what a file that is no picture is."""
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer; run `git lfs pull`"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return f" (a {path.suffix or 'file'} of unknown content): convert it to PNG or TIFF"
    return f": it is text, starting with {text.strip()[:20]!r}"


def _to_unit_range(
    values: np.ndarray, white: float | None, scale: str | float, path: Path
) -> np.ndarray:
    values = values.astype(np.float32 if values.dtype != np.float64 else np.float64)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise BadRequest(
            f"{path} holds {bad} values that are not numbers (NaN or infinity): replace them first."
        )
    low, high = float(values.min()), float(values.max())
    if scale == "minmax":
        values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    elif scale == "full":
        if white is None or low < -1e-6 or high > white * (1 + 1e-6):
            raise BadRequest(
                f"{path} holds values from {low:g} to {high:g}, and its type does not say which of "
                'them is white: pass scale="minmax", or scale=<the value that is white>.'
            )
        values = values / white
    elif isinstance(scale, int | float) and not isinstance(scale, bool) and scale > 0:
        values = values / scale
    else:
        raise BadRequest(f'scale={scale!r}: use "full", "minmax" or a positive number.')
    return np.clip(values, 0, 1).astype(np.float32)


def write_image(path: str | os.PathLike, image: Tensor) -> Path:
    """Save a picture with 8 bits per channel; the suffix decides between PNG, JPEG and TIFF.

    The file appears whole or not at all: it is written beside its place under another name and
    then moved. Missing folders are made.

    Args:
        path: where, ending in .png, .jpg, .jpeg, .tif or .tiff.
        image: ``(C, H, W)`` or ``(1, C, H, W)`` with 1 or 3 channels; values are clipped to [0, 1].

    Returns:
        The path.

    Raises:
        BadRequest: unknown suffix, wrong shape, or values that are not numbers.
        CannotWrite: permission, full disk, a file in the way (also an OSError).
    """
    path = Path(path)
    options = _SAVE_OPTIONS.get(path.suffix.lower())
    if options is None:
        known = ", ".join(_SAVE_OPTIONS)
        raise BadRequest(
            f"{path}: cannot tell the format from {path.suffix!r}; use one of {known}."
        )
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise BadRequest(f"{path}: a picture is (1, H, W) or (3, H, W), not {tuple(image.shape)}.")
    image = image.detach().float().cpu()
    if not torch.isfinite(image).all():
        raise BadRequest(f"{path}: the picture holds values that are not numbers; not written.")
    pixels = to_uint8(image).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            picture.save(file, **options)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a file is where its folder should be"
        raise CannotWrite(
            f"cannot write {path} ({reason}): choose a folder that is writable and has room."
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------------------- files to pairs


class PairPaths(NamedTuple):
    """The two files of a pair."""

    name: str
    ir: Path
    vi: Path


class Matching(NamedTuple):
    """Files that belong together, and those that have no partner."""

    pairs: list[PairPaths]
    only_ir: list[Path]
    only_vi: list[Path]


def match_pairs(ir: str | os.PathLike, vi: str | os.PathLike | None = None) -> list[PairPaths]:
    """The infrared and visible files that belong together, in natural order (2 before 10).

    Given two folders, both are searched to any depth. Given one, it is a root whose sub-folders
    tell the modality (``ir`` and ``vi``, ``infrared`` and ``visible``, ``Inf`` and ``Vis``,
    ``thermal`` and ``rgb`` ...), at any depth. Two files make one pair.

    Files belong together when their names without suffix are equal; where one name occurs in
    several sub-folders, the sub-folders must be equal too and the pair is called
    ``sub-folder/name``. If no names are equal, modality marks are ignored (``IR7`` and ``VIS7``,
    ``a_thermal`` and ``a_rgb``). Hidden files and files that are no pictures are skipped.

    Raises:
        MissingFile: a folder does not exist.
        BadRequest: no pictures, no match, or two files that claim one name.

    Warns:
        UserWarning: files without partner, the first few by name.
    """
    matching = match_all(ir, vi)
    lonely = matching.only_ir + matching.only_vi
    if lonely:
        some = ", ".join(str(path) for path in lonely[:5]) + (", ..." if len(lonely) > 5 else "")
        warnings.warn(
            f"{len(lonely)} pictures have no partner and are left out "
            f"({len(matching.only_ir)} infrared, {len(matching.only_vi)} visible): {some}",
            stacklevel=2,
        )
    return matching.pairs


def match_all(ir: str | os.PathLike, vi: str | os.PathLike | None = None) -> Matching:
    """:func:`match_pairs` with the files without partner, instead of a warning about them."""
    ir, vi = Path(ir), None if vi is None else Path(vi)
    for path in (ir, vi):
        if path is not None and not path.exists():
            raise MissingFile(f"{path}: no such folder.")
    if vi is None:
        infrared, visible = _by_folder_names(ir)
    else:
        if ir.is_file() and vi.is_file():
            return Matching([PairPaths(ir.stem, ir, vi)], [], [])
        if ir.is_file() or vi.is_file():
            raise BadRequest(f"{ir} and {vi}: give two folders, or two files.")
        if ir.resolve() == vi.resolve():
            raise BadRequest(f"infrared and visible are the same folder, {ir}: give one of each.")
        infrared = {file: file.relative_to(ir).parent.parts for file in _pictures(ir)}
        visible = {file: file.relative_to(vi).parent.parts for file in _pictures(vi)}
        for folder, found in ((ir, infrared), (vi, visible)):
            if not found:
                raise BadRequest(f"{folder} holds no pictures ({', '.join(SUFFIXES)}).")
    for key in (_stem, _stem_with_folder, _unmarked_stem, _unmarked_stem_with_folder):
        first, second = _index(infrared, key), _index(visible, key)
        common = first.keys() & second.keys()
        claimed = [name for name in common if len(first[name]) > 1 or len(second[name]) > 1]
        if claimed and key in (_stem, _unmarked_stem):
            continue  # the same name in several sub-folders
        if claimed:
            name = min(claimed, key=natural)
            files = first[name] if len(first[name]) > 1 else second[name]
            raise BadRequest(
                f"{len(files)} files claim the name {name!r}: {', '.join(map(str, files))}. "
                "Keep one of them."
            )
        if common:
            names = sorted(common, key=natural)
            return Matching(
                [PairPaths(name, first[name][0], second[name][0]) for name in names],
                [file for name, files in first.items() if name not in common for file in files],
                [file for name, files in second.items() if name not in common for file in files],
            )
    raise _no_match(infrared, visible)


def match_fused(
    pairs: Sequence[PairPaths], folder: str | os.PathLike
) -> tuple[dict[str, Path], list[Path]]:
    """The fused pictures of a folder by the name of their pair, and those that belong to none.

    Names are compared as in :func:`match_pairs`. If none is equal, marks of a result are ignored
    too: ``fused``, ``fusion``, ``result`` and the name of the folder (``01_DenseFuse``). One file
    belongs to a single pair whatever it is called.

    Raises:
        MissingFile: the folder does not exist.
        BadRequest: it holds no pictures, none that matches, or two that claim one pair.
    """
    folder = Path(folder)
    if not folder.exists():
        raise MissingFile(f"{folder}: no such folder of fused pictures.")
    if folder.is_file():
        if len(pairs) == 1:
            return {pairs[0].name: folder}, []
        raise BadRequest(f"{folder} is one file, but there are {len(pairs)} pairs: give a folder.")
    files = {file: file.relative_to(folder).parent.parts for file in _pictures(folder)}
    if not files:
        raise BadRequest(f"{folder} holds no pictures ({', '.join(SUFFIXES)}).")
    marks = "|".join(map(re.escape, ("fused", "fusion", "fuse", "result", folder.name)))
    mark = re.compile(rf"^(?:{marks})[-_ ]?(?=.)|(?<=.)[-_ ]?(?:{marks})$", re.IGNORECASE)

    def plain(name: str) -> str:
        *above, stem = mark.sub("", name).split("/")
        return "/".join((*above, _unmarked_stem(Path(f"{stem}.png"), ())))

    twice: list[Path] = []
    for of_pair, of_file in (
        (str, _stem),
        (str, _stem_with_folder),
        (plain, lambda file, folders: plain(file.stem)),
        (plain, lambda file, folders: "/".join((*folders, plain(file.stem)))),
    ):
        index = _index(files, of_file)
        found = {p.name: index[name] for p in pairs if (name := of_pair(p.name)) in index}
        claimed = next((those for those in found.values() if len(those) > 1), [])
        if found and not claimed:
            used = {path for (path,) in found.values()}
            return {name: path for name, (path,) in found.items()}, [
                file for file in files if file not in used
            ]
        twice = twice or claimed
    if twice:
        raise BadRequest(
            f"{len(twice)} fused pictures claim one pair: {', '.join(map(str, twice))}. If the "
            f"sub-folders of {folder} are methods, give each of them; otherwise keep one picture."
        )
    some = ", ".join(str(file) for file in list(files)[:3])
    names = ", ".join(repr(pair.name) for pair in pairs[:3])
    raise BadRequest(
        f"none of the {len(files)} pictures in {folder} is called like one of the {len(pairs)} "
        f"pairs. Pictures: {some}. Pairs: {names}. A fused picture bears the name of its pair, "
        "apart from the suffix."
    )


def picture_kind(path: str | os.PathLike) -> str:
    """What a picture file is, from its header: ``8-bit grey PNG``.

    Raises:
        BadRequest: it is no picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            mode, kind = file.mode, file.format
    except (OSError, Image.DecompressionBombError) as error:
        raise BadRequest(f"{path} is not a picture that can be read ({error}).") from error
    bits = {"1": "1-bit", "F": "float"}.get(mode, "16-bit" if mode.startswith("I") else "8-bit")
    colour = "grey" if mode[0] in "1LIF" and mode != "LAB" else "colour"
    return f"{bits} {colour} {kind}"


def _no_match(infrared: Mapping[Path, tuple], visible: Mapping[Path, tuple]) -> BadRequest:
    shown = [", ".join(str(file) for file in list(side)[:3]) for side in (infrared, visible)]
    twice = [
        n for side in (infrared, visible) for n, f in _index(side, _stem).items() if len(f) > 1
    ]
    hint = f" ({twice[0]!r} occurs in several sub-folders that differ.)" if twice else ""
    return BadRequest(
        f"none of {len(infrared)} infrared and {len(visible)} visible pictures have the same name. "
        f"Infrared: {shown[0]}. Visible: {shown[1]}.{hint} Files of a pair must be called alike, "
        "apart from the suffix."
    )


def _pictures(folder: Path) -> list[Path]:
    """Picture files at any depth, in natural order; hidden ones skipped."""
    found = []
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        found += [
            Path(base, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found, key=lambda path: natural(path.as_posix()))


def _by_folder_names(root: Path) -> tuple[dict[Path, tuple], dict[Path, tuple]]:
    """Files under a root by modality, each with its sub-folders less the one that tells it."""
    if root.is_file():
        raise BadRequest(f"{root} is a file: give the folder of the pairs.")
    sides: tuple[dict, dict] = ({}, {})
    for file in _pictures(root):
        parts = file.relative_to(root).parent.parts
        lower = [part.lower() for part in parts]
        if any(part in _SIDE_FOLDERS for part in lower):
            continue
        for place in reversed(range(len(parts))):
            rest = parts[:place] + parts[place + 1 :]
            if lower[place] in INFRARED_FOLDERS:
                sides[0][file] = rest
                break
            if lower[place] in VISIBLE_FOLDERS:
                sides[1][file] = rest
                break
    if not sides[0] or not sides[1]:
        raise BadRequest(
            f"{root} holds no pairs: {len(sides[0])} infrared and {len(sides[1])} visible pictures "
            f"found. It needs two sub-folders, one of {', '.join(INFRARED_FOLDERS)} and one of "
            f"{', '.join(VISIBLE_FOLDERS)}, with pictures called alike; or give both folders."
        )
    return sides


def _index(files: Mapping[Path, tuple], key: Any) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = {}
    for file, folders in files.items():
        index.setdefault(key(file, folders), []).append(file)
    return index


def _stem(file: Path, folders: tuple) -> str:
    return file.stem


def _stem_with_folder(file: Path, folders: tuple) -> str:
    return "/".join((*folders, file.stem))


_MARKS = "|".join(sorted({*INFRARED_FOLDERS, *VISIBLE_FOLDERS}, key=len, reverse=True))
_MARK_BEFORE = re.compile(rf"^({_MARKS})[-_ ]?(?=\d)|^({_MARKS})[-_ ]", re.IGNORECASE)
_MARK_AFTER = re.compile(rf"[-_ ]({_MARKS})$|(?<=\d)({_MARKS})$", re.IGNORECASE)


def _unmarked_stem(file: Path, folders: tuple) -> str:
    return _MARK_AFTER.sub("", _MARK_BEFORE.sub("", file.stem)) or file.stem


def _unmarked_stem_with_folder(file: Path, folders: tuple) -> str:
    return "/".join((*folders, _unmarked_stem(file, folders)))


def natural(name: str) -> list:
    """Sort key that counts digits as numbers: ``a2`` before ``a10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# ---------------------------------------------------------------------------- folders


class FolderPairs(Sequence[Pair]):
    """Pairs of a folder, read when asked for.

    Beside the pictures a root may hold

    - ``text/<kind>/<name>.txt`` or ``text/<name>.txt`` (kind ``caption``), UTF-8;
    - ``mask/<label>/<name>.png`` or ``masks/...``: what is white is inside;
    - ``depth/<name>.png`` or ``.npy``: see :func:`read_depth`;
    - ``boxes.json``: see :func:`read_boxes`;
    - ``train.txt``, ``test.txt``, ``validation.txt``: names, one per line.

    Args:
        root: folder with one sub-folder per modality, see :func:`match_pairs`.
        ir, vi: the two picture folders, where they have no common root or other names.
        split: ``train``, ``test``, ``validation`` or ``all`` (None). Taken from ``<split>.txt``,
            else from folders of that name; where a root has neither, every fifth pair is ``test``
            and the others are ``train`` (a single pair is both).
        count: at most so many, the first ones in the order of the split file, else in natural
            order.
        size: None for pictures as they are, a number for the shorter side (shape kept,
            antialiased), or ``(height, width)``.
        scale: see :func:`read_image`; for the infrared pictures only. Visible ones are ``full``.
        boxes: things by pair name, instead of ``boxes.json``.
        paths: the pairs, where they are known already; then nothing is searched or split.
        faulty: what becomes of pairs that :func:`glance` finds fault with on opening: ``refuse``
            raises one report about all of them, ``skip`` leaves them out and warns, ``keep`` does
            not look.

    Raises:
        BadRequest: nothing there, or an impossible argument.
        FaultyPairs: pairs that cannot be used (also a BadRequest).
    """

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        ir: str | os.PathLike | None = None,
        vi: str | os.PathLike | None = None,
        split: str | None = None,
        count: int | None = None,
        size: int | tuple[int, int] | None = None,
        scale: str | float = "full",
        boxes: Mapping[str, Sequence[Thing]] | None = None,
        paths: Sequence[PairPaths] | None = None,
        faulty: str = "refuse",
    ) -> None:
        if root is None and paths is None and (ir is None or vi is None):
            raise BadRequest("give a root folder, or both ir and vi.")
        if (ir is None) != (vi is None):
            raise BadRequest("give both ir and vi, or neither.")
        if count is not None and count < 1:
            raise BadRequest(f"count={count}: at least 1 pair, or None for all.")
        if isinstance(size, int) and size < 1:
            raise BadRequest(f"size={size}: at least 1 pixel, or None for pictures as they are.")
        self.root = None if root is None else Path(root)
        if paths is None:
            paths = match_pairs(self.root) if ir is None else match_pairs(ir, vi)
            paths = _take_split(paths, self.root, split)
        self.paths = _without_faults(list(paths[:count]), faulty)
        self.size = size
        self.scale = scale
        if boxes is None and self.root is not None and (self.root / "boxes.json").is_file():
            boxes = read_boxes(self.root / "boxes.json")
        self.boxes = boxes or {}

    @property
    def names(self) -> list[str]:
        """Pair names, in order."""
        return [path.name for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        paths = self.paths[index]
        visible, infrared = self._pictures(paths)
        if visible.shape[1:] != infrared.shape[1:]:
            raise BadRequest(
                f"pair {paths.name!r} is not aligned: {paths.ir} is {_size(infrared)}, "
                f"{paths.vi} is {_size(visible)} (width x height). Register and crop them first."
            )
        pair = Pair(
            name=paths.name,
            visible=visible,
            infrared=infrared,
            texts=self._texts(paths.name),
            masks=self._masks(paths.name, visible),
            depth=self._depth(paths.name, visible),
            things=self._things(paths.name),
        )
        if self.size is None:
            return pair
        if isinstance(self.size, int):
            return resize_shorter(pair, self.size)
        return resize(pair, *self.size)

    def _pictures(self, paths: PairPaths) -> tuple[Tensor, Tensor]:
        """Visible ``(3, H, W)`` and infrared ``(1, H, W)``; a layout may keep them elsewhere."""
        return read_image(paths.vi, 3), read_image(paths.ir, 1, scale=self.scale)

    def _things(self, name: str) -> tuple[Thing, ...]:
        return tuple(self.boxes.get(name, ()))

    def _texts(self, name: str) -> dict[str, str]:
        if self.root is None or not (self.root / "text").is_dir():
            return {}
        folder = self.root / "text"
        files = {"caption": folder / f"{name}.txt"}
        kinds = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        files |= {kind: folder / kind / f"{name}.txt" for kind in kinds}
        return {kind: _read_text(file) for kind, file in files.items() if file.is_file()}

    def _masks(self, name: str, visible: Tensor) -> dict[str, Tensor]:
        masks = {}
        for folder in ("mask", "masks"):
            if self.root is None or not (self.root / folder).is_dir():
                continue
            for label in sorted(p for p in (self.root / folder).iterdir() if p.is_dir()):
                files = [label / f"{name}{suffix}" for suffix in SUFFIXES]
                for file in filter(Path.is_file, files):
                    mask = read_image(file, 1)
                    if mask.shape[1:] != visible.shape[1:]:
                        raise BadRequest(
                            f"{file} is {_size(mask)}, but its pair is {_size(visible)} "
                            "(width x height)."
                        )
                    masks[label.name] = mask
        return masks

    def _depth(self, name: str, visible: Tensor) -> Tensor | None:
        if self.root is None or not (self.root / "depth").is_dir():
            return None
        depth = read_depth(self.root / "depth", name)
        if depth is not None and depth.shape[1:] != visible.shape[1:]:
            raise BadRequest(
                f"the depth of pair {name!r} is {_size(depth)}, the pair {_size(visible)} "
                "(width x height)."
            )
        return depth


def read_depth(folder: str | os.PathLike, name: str) -> Tensor | None:
    """Depth of a pair, ``(1, H, W)`` metres, from ``<name>.npy`` or a picture; None: not there.

    An array holds metres. In a picture white is a kilometre, so 16 bits count 1.5 centimetres.
    """
    array = Path(folder) / f"{name}.npy"
    if array.is_file():
        try:
            values = np.load(array, allow_pickle=False).astype(np.float32).squeeze()
        except (ValueError, OSError, EOFError) as error:
            raise BadRequest(f"{array} is no array of numbers ({error}).") from error
        if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0:
            raise BadRequest(f"{array} must hold (H, W) finite metres, 0 or more.")
        return torch.from_numpy(values)[None]
    files = (Path(folder) / f"{name}{suffix}" for suffix in SUFFIXES)
    file = next(filter(Path.is_file, files), None)
    return None if file is None else 1000 * read_image(file, 1)


def _take_split(paths: list[PairPaths], root: Path | None, split: str | None) -> list[PairPaths]:
    if split is None or split == "all":
        return paths
    if split not in SPLITS:
        raise BadRequest(
            f"no split is called {split!r}.{did_you_mean(split, [*SPLITS, 'all'])} "
            f"There are {', '.join(SPLITS)} and all.",
            asked=split,
            known=[*SPLITS, "all"],
        )
    known = {}
    for name, aliases in SPLITS.items():
        files = [] if root is None else [root / f"{alias}.txt" for alias in aliases]
        inside = [p for p in paths if _has_folder(p.ir, root, aliases)]
        listed = next(filter(Path.is_file, files), None)
        if listed or inside:
            known[name] = (listed, inside)
    if split in known:
        listed, inside = known[split]
        return inside if listed is None else _listed(paths, listed)
    if known or split == "validation":
        raise BadRequest(
            f"{root or paths[0].ir.parent} has no split {split!r}: it has "
            f"{', '.join([*known, 'all'] if known else ['train', 'test', 'all'])}. "
            f"List its pairs in {split}.txt."
        )
    if len(paths) == 1:
        return paths
    return [
        p for i, p in enumerate(paths) if (i % 5 == min(4, len(paths) - 1)) == (split == "test")
    ]


def _has_folder(path: Path, root: Path | None, names: Iterable[str]) -> bool:
    if root is None or not path.is_relative_to(root):
        return False
    return any(part.lower() in names for part in path.relative_to(root).parent.parts)


def _listed(paths: list[PairPaths], file: Path) -> list[PairPaths]:
    """Pairs named in a split file, in its order."""
    by_name = {path.name: path for path in paths}
    by_name |= {path.name.rsplit("/", 1)[-1]: path for path in paths if path.name not in by_name}
    lines = [line.strip() for line in _read_text(file).splitlines()]
    wanted = dict.fromkeys(line for line in lines if line and not line.startswith("#"))
    found = {}
    missing = []
    for name in wanted:
        stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
        path = by_name.get(name) or by_name.get(stem)
        if path is None:
            missing.append(name)
        else:
            found[path.name] = path
    if not found:
        raise BadRequest(
            f"{file} names {len(wanted)} pairs, and none of them is in the folder"
            + (f" (the first is {missing[0]!r})." if missing else ": it is empty.")
        )
    if missing:
        warnings.warn(
            f"{file} names {len(missing)} pairs that are not in the folder: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}",
            stacklevel=4,
        )
    return list(found.values())


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is not UTF-8 text: save it as UTF-8.") from error


def read_boxes(path: str | os.PathLike, section: str = "pairs") -> dict[str, tuple[Thing, ...]]:
    """Objects by pair name, from a JSON file.

    The file is ``{"pairs": {name: {label: [[x0, y0, x1, y1], ...]}}}`` in pixels of the stored
    pictures, end exclusive; other top-level keys are notes. A label with an empty list says that
    someone looked and found none; a pair that is not listed was not looked at. ``section`` names
    another top-level key than ``pairs``, for a file that describes several sets.
    """
    try:
        content = json.loads(_read_text(Path(path)))
        return {
            name: tuple(
                Thing(label, tuple(float(value) for value in box), f"the {label}")
                for label, boxes in labels.items()
                for box in boxes
                if _is_box(box)
            )
            for name, labels in content[section].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadRequest(
            f"{path} is not a list of boxes ({error!r}): it must hold "
            f'{{"{section}": {{name: {{label: [[x0, y0, x1, y1], ...]}}}}}}.'
        ) from error


def _is_box(box: Any) -> bool:
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"{box} is not x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    return True


def find_data(name: str) -> Path | None:
    """The folder of a known data set: ``$FUSIONKIT_DATA/<name>``, then ``../shared/data/<name>``.

    The latter is looked for beside the working folder and beside the project. None: not there.
    """
    places = []
    if os.environ.get("FUSIONKIT_DATA"):
        places.append(Path(os.environ["FUSIONKIT_DATA"]))
    project = Path(__file__).resolve().parents[1]
    places += [base.parent / "shared" / "data" for base in (Path.cwd(), Path.cwd().parent, project)]
    return next((place / name for place in places if (place / name).is_dir()), None)


# ---------------------------------------------------------------------------- pairs to batches


def collate(pairs: Sequence[Pair]) -> Batch:
    """Pairs of one size as a :class:`~fusionkit.batch.Batch`, without text features.

    ``guides`` receives ``depth`` and ``mask:<label>`` where every pair has them; ``labels``
    receives ``texts`` and ``things``, one entry per pair.

    Raises:
        BadRequest: no pairs, or unequal sizes; the message names two pairs that differ.
    """
    if not pairs:
        raise BadRequest("a batch needs at least one pair.")
    first = pairs[0]
    for pair in pairs:
        for other in (pair.infrared, *pair.masks.values()):
            if other.shape[1:] != pair.visible.shape[1:]:
                raise BadRequest(
                    f"pair {pair.name!r}: visible is {_size(pair.visible)}, but another of its "
                    f"pictures is {_size(other)} (width x height)."
                )
        if pair.visible.shape[1:] != first.visible.shape[1:]:
            raise BadRequest(
                f"pairs of unequal size cannot stand in one batch: {first.name!r} is "
                f"{_size(first.visible)}, {pair.name!r} is {_size(pair.visible)} (width x height). "
                "Take one at a time, crop them, or read them with size=(height, width)."
            )
    guides = {
        f"mask:{label}": torch.stack([pair.masks[label] for pair in pairs])
        for label in first.masks
        if all(label in pair.masks for pair in pairs)
    }
    if all(pair.depth is not None for pair in pairs):
        guides["depth"] = torch.stack([pair.depth for pair in pairs])
    return Batch(
        visible=torch.stack([pair.visible for pair in pairs]),
        infrared=torch.stack([pair.infrared for pair in pairs]),
        guides=guides,
        labels={
            "texts": tuple(pair.texts for pair in pairs),
            "things": tuple(pair.things for pair in pairs),
        },
        names=tuple(pair.name for pair in pairs),
    )


def crop(pair: Pair, top: int, left: int, height: int, width: int) -> Pair:
    """A window of a pair: pictures, masks, depth and boxes.

    Boxes are clipped; those of which nothing is left are dropped. What is said about places no
    longer holds, so the phrases become ``the <label>`` and the ``dense`` text is dropped.
    """
    full_height, full_width = pair.visible.shape[1:]
    inside = min(top, left) >= 0 and top + height <= full_height and left + width <= full_width
    if not inside or height < 1 or width < 1:
        raise BadRequest(
            f"pair {pair.name!r}: a window of {width}x{height} at ({left}, {top}) does not lie "
            f"inside {_size(pair.visible)} (width x height)."
        )
    things = []
    for thing in pair.things:
        x0, y0, x1, y1 = thing.box
        x0, x1 = (min(max(x - left, 0), width) for x in (x0, x1))
        y0, y1 = (min(max(y - top, 0), height) for y in (y0, y1))
        if x0 < x1 and y0 < y1:
            things.append(replace(thing, box=(x0, y0, x1, y1), phrase=f"the {thing.label}"))
    window = (..., slice(top, top + height), slice(left, left + width))
    pair = _each_map(pair, lambda x: x[window], lambda x: x[window])
    return replace(pair, things=tuple(things), texts=_without_dense(pair.texts))


def resize(pair: Pair, height: int, width: int) -> Pair:
    """A pair at another size: antialiased bilinear, depth by nearest neighbour, boxes scaled."""
    old_height, old_width = pair.visible.shape[1:]
    if (old_height, old_width) == (height, width):
        return pair
    if height < 1 or width < 1:
        raise BadRequest(f"pair {pair.name!r}: cannot resize to {width}x{height} (width x height).")

    def smooth(x: Tensor) -> Tensor:
        y = functional.interpolate(x[None], (height, width), mode="bilinear", antialias=True)
        return y[0].clamp(0, 1)

    def nearest(x: Tensor) -> Tensor:
        return functional.interpolate(x[None], (height, width), mode="nearest-exact")[0]

    across, down = width / old_width, height / old_height
    things = tuple(
        replace(t, box=(t.box[0] * across, t.box[1] * down, t.box[2] * across, t.box[3] * down))
        for t in pair.things
    )
    pair = _each_map(pair, smooth, nearest)
    return replace(pair, things=things, texts=_without_dense(pair.texts))


def resize_shorter(pair: Pair, size: int) -> Pair:
    """A pair with its shorter side at ``size`` pixels, shape kept."""
    height, width = pair.visible.shape[1:]
    factor = size / min(height, width)
    return resize(pair, max(1, round(height * factor)), max(1, round(width * factor)))


def flip(pair: Pair, *, horizontal: bool = False, vertical: bool = False) -> Pair:
    """A pair mirrored left to right, upside down, or both.

    A horizontal flip also swaps the words ``left`` and ``right`` in texts and phrases.
    """
    dims = [dim for dim, wanted in ((2, horizontal), (1, vertical)) if wanted]
    if not dims:
        return pair
    height, width = pair.visible.shape[1:]
    things, texts = [], _without_dense(pair.texts)
    for thing in pair.things:
        x0, y0, x1, y1 = thing.box
        if horizontal:
            x0, x1 = width - x1, width - x0
        if vertical:
            y0, y1 = height - y1, height - y0
        phrase = _swap_sides(thing.phrase) if horizontal else thing.phrase
        things.append(replace(thing, box=(x0, y0, x1, y1), phrase=phrase))
    if horizontal:
        texts = {kind: _swap_sides(text) for kind, text in texts.items()}
    pair = _each_map(pair, lambda x: x.flip(dims), lambda x: x.flip(dims))
    return replace(pair, things=tuple(things), texts=texts)


def _each_map(pair: Pair, change: Any, change_depth: Any) -> Pair:
    return replace(
        pair,
        visible=change(pair.visible),
        infrared=change(pair.infrared),
        masks={label: change(mask) for label, mask in pair.masks.items()},
        depth=None if pair.depth is None else change_depth(pair.depth),
    )


def _without_dense(texts: Mapping[str, str]) -> dict[str, str]:
    """The dense text carries pixel coordinates, which a geometric change makes wrong."""
    return {kind: text for kind, text in texts.items() if kind != "dense"}


_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def _swap_sides(text: str) -> str:
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda match: _SIDES[match[0]], text)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Grow ``(..., C, H, W)`` at the bottom and right until both sides divide by ``multiple``.

    Mirrored without repeating the edge; where a side is too short for that, the edge is repeated.

    Returns:
        The padded tensor and the old ``(height, width)``; ``padded[..., :height, :width]`` undoes
        it.
    """
    if multiple < 1:
        raise BadRequest(f"multiple={multiple}: at least 1.")
    height, width = x.shape[-2:]
    for dim, length in ((-1, width), (-2, height)):
        extra = -length % multiple
        if not extra:
            continue
        steps = torch.arange(length + extra, device=x.device)
        mirrored = extra < length
        index = torch.where(
            steps < length,
            steps,
            2 * (length - 1) - steps if mirrored else torch.full_like(steps, length - 1),
        )
        x = x.index_select(dim, index)
    return x, (height, width)


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"


# ---------------------------------------------------------------------------- report


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a folder of pairs worth knowing before training on it."""

    kind: str
    """``unmatched``, ``unreadable``, ``size``, ``depth``, ``range``, ``constant``, ``same`` or
    ``colour``."""
    name: str
    """The pair, or the file."""
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.message}"


def glance(paths: Iterable[PairPaths]) -> list[Problem]:
    """What the heads and ends of the files of some pairs tell; their pixels are not decoded.

    Finds what is no picture, was cut short, or differs in size, at some ten thousand files in a few
    seconds. :func:`check_pairs` finds more and reads everything.
    """
    problems = []
    for name, ir, vi in paths:
        sizes = {}
        for file in dict.fromkeys((ir, vi)):
            try:
                sizes[file] = _head(file)
            except (BadRequest, OSError) as error:
                problems.append(Problem("unreadable", name, str(error)))
        if len(set(sizes.values())) > 1:
            shapes = [f"{file} is {w}x{h}" for file, (w, h) in sizes.items()]
            problems.append(Problem("size", name, ", ".join(shapes)))
    return problems


def _head(file: Path) -> tuple[int, int]:
    """Width and height as seen, of a picture whose end is where it should be."""
    if not file.exists():
        raise MissingFile(f"{file}: no such file.")
    if file.stat().st_size == 0:
        raise BadRequest(f"{file} is empty (0 bytes).")
    try:
        with Image.open(file) as picture:
            kind, size = picture.format, picture.size
            turned = "exif" in picture.info and picture.getexif().get(0x0112, 1) >= 5
    except UnidentifiedImageError as error:
        raise BadRequest(f"{file} is not a picture{_what_is(file)}") from error
    except Exception as error:  # Pillow raises many types on damaged heads
        raise BadRequest(f"{file} is damaged ({error})") from error
    mark = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}.get(kind)
    if mark is not None:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 4096))
            if mark not in stream.read():
                raise BadRequest(f"{file} was cut short: its end is missing")
    return size[::-1] if turned else size


def _without_faults(paths: list[PairPaths], faulty: str) -> list[PairPaths]:
    """The pairs in which a glance finds no fault; a report where there are others."""
    if faulty not in ("refuse", "skip", "keep"):
        raise BadRequest(f"faulty={faulty!r}: use refuse, skip or keep.")
    problems = [] if faulty == "keep" else glance(paths)
    if not problems:
        return paths
    shown = "".join(f"\n  {problem}" for problem in problems[:10])
    more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
    bad = {problem.name for problem in problems}
    if faulty == "skip" and len(bad) < len(paths):
        warnings.warn(f"{len(bad)} of {len(paths)} pairs are left out:{shown}{more}", stacklevel=4)
        return [pair for pair in paths if pair.name not in bad]
    raise FaultyPairs(
        f"{len(bad)} of {len(paths)} pairs cannot be used:{shown}{more}\nMend or remove these "
        "files, list the other pairs in train.txt and test.txt, or pass faulty='skip'.",
        problems,
    )


def check_pairs(pairs: FolderPairs | str | os.PathLike) -> list[Problem]:
    """Read every file of a folder of pairs and list what is wrong; empty when nothing is.

    Looks at partners, readability, sizes, bit depth (mixed, or 16 bits of which less than a
    quarter is used), pictures of one value, infrared that equals visible, and infrared in false
    colours.
    """
    if not isinstance(pairs, FolderPairs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # partners are reported below
            pairs = FolderPairs(pairs, faulty="keep")
    problems = []
    if pairs.root is not None:
        try:
            lonely = match_all(pairs.root)
        except ValueError:  # the root was given for its texts, the pictures lie elsewhere
            lonely = Matching([], [], [])
        for files, other in ((lonely.only_ir, "visible"), (lonely.only_vi, "infrared")):
            problems += [Problem("unmatched", str(f), f"has no {other} partner") for f in files]
    depths: dict[str, dict[str, str]] = {"infrared": {}, "visible": {}}
    for name, ir, vi in pairs.paths:
        pixels = {}
        for side, file in (("infrared", ir), ("visible", vi)):
            try:
                values, white = _decode(file)
                _to_unit_range(values, white, "minmax", file)  # refuses what is not finite
            except (ValueError, OSError) as error:
                problems.append(Problem("unreadable", name, str(error)))
                continue
            pixels[side] = values
            depths[side][name] = _depth(values, white)
            if values.min() == values.max():
                problems.append(Problem("constant", name, f"{file} has one value everywhere"))
            elif white == 65535 and values.max() < white / 4:
                problems.append(
                    Problem(
                        "range",
                        name,
                        f"{file} has 16 bits but no value above {values.max()}: "
                        'read it with scale="minmax" or scale=<the value that is white>',
                    )
                )
        if len(pixels) == 2 and ir != vi:  # a set may keep both in one file
            problems += _compare(name, ir, vi, pixels["infrared"], pixels["visible"])
    for side, by_name in depths.items():
        counts = Counter(by_name.values())
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            problems += [
                Problem("depth", name, f"{side} has {depth}, most of the others {usual}")
                for name, depth in by_name.items()
                if depth != usual
            ]
    return problems


def _depth(values: np.ndarray, white: float | None) -> str:
    if white == 1.0:
        return "floating point"
    return {255.0: "8 bits", 65535.0: "16 bits"}.get(white or 0, f"{8 * values.itemsize} bits")


def _compare(name: str, ir: Path, vi: Path, infrared: np.ndarray, visible: np.ndarray) -> list:
    problems = []
    if infrared.shape[:2] != visible.shape[:2]:
        sizes = [f"{values.shape[1]}x{values.shape[0]}" for values in (infrared, visible)]
        problems.append(Problem("size", name, f"{ir} is {sizes[0]}, {vi} is {sizes[1]}"))
    elif infrared.shape == visible.shape and np.array_equal(infrared, visible):
        problems.append(Problem("same", name, f"{ir} and {vi} hold the same picture"))
    if infrared.shape[2] == 3:
        spread = np.ptp(infrared.astype(np.float32), axis=2).mean()
        if spread > 8:  # chroma noise of JPEG stays below
            problems.append(Problem("colour", name, f"{ir} is in false colours: export it in grey"))
    return problems
