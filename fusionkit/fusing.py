"""Files in, files out: what ``fusionkit fuse`` does."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fusionkit.batch import TextFeatures
from fusionkit.color import luma, recolor
from fusionkit.data import match_pairs, read_image, write_image
from fusionkit.errors import BadRequest
from fusionkit.methods import Method, load_checkpoint, load_method, read_weights
from fusionkit.registry import Registry

SUFFIX = ".png"
DEFAULT = "words"
"""The recipe when none is named: one that brings its weights."""


def _sharper(infrared: Tensor, visible: Tensor) -> Tensor:
    """Of each neighbourhood the source with more local contrast."""
    both = torch.cat([infrared, visible])
    detail = (both - functional.avg_pool2d(both, 7, 1, 3, count_include_pad=False)).abs()
    busy = functional.avg_pool2d(detail, 7, 1, 3, count_include_pad=False)
    weight = torch.softmax(busy * 50, dim=0)
    return (weight * both).sum(0, keepdim=True)


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "average": lambda infrared, visible: (infrared + visible) / 2,
    "maximum": torch.maximum,
    "contrast": _sharper,
}
"""Ways to fuse two grey pictures ``(1, 1, H, W)`` without a network, to have something to score."""


def write_example(
    folder: str | os.PathLike[str],
    *,
    dataset: str = "scenes",
    count: int = 12,
    size: int = 128,
    registry: Registry | None = None,
) -> dict[str, Path]:
    """Held-out pairs of a data set and what each of :data:`RULES` makes of them, as PNG files.

    Returns:
        The folders by name: ``ir``, ``vi`` and the rules. Colour is that of the visible picture.
    """
    registry = registry or Registry.from_environment()
    pairs = registry.create("dataset", dataset, split="test", count=count, size=size)
    folders = {name: Path(folder) / name for name in ("ir", "vi", *RULES)}
    for pair in (pairs[k] for k in range(len(pairs))):
        write_image(folders["ir"] / f"{pair.name}{SUFFIX}", pair.infrared)
        write_image(folders["vi"] / f"{pair.name}{SUFFIX}", pair.visible)
        visible = pair.visible[None]
        for name, rule in RULES.items():
            fused = recolor(rule(pair.infrared[None], luma(visible)), visible)
            write_image(folders[name] / f"{pair.name}{SUFFIX}", fused)
    return folders


def fuse_files(
    ir: str | os.PathLike[str],
    vi: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    text: str | None = None,
    text_features: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = print,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Fuse one pair of files, or every pair of two folders.

    Args:
        ir, vi: two files, or two folders whose files are matched by name.
        output: a file for files (its suffix decides the format), a folder for folders.
        recipe, checkpoint: the method and its weights, see :func:`fusionkit.methods.load_method`;
            without a recipe, the one that the checkpoint names, or the default one.
        text: the prompt for every pair; None says the recipe's default, or, for a method that reads
            descriptions, those that lie beside the pictures, see :func:`texts_beside`.
        text_features: features of the prompt made elsewhere, in its place; see
            :func:`read_text_features`.
        device: where to compute.
        overrides: values of the recipe by dotted path.
        progress: is told each file written.
        say: is told what fuses, in one line, where that was not named.

    Returns:
        The files written. A pair that fails stops the rest; what was written stays.

    Raises:
        BadRequest: folders against files, no match, sizes that differ (with the file names).
    """
    ir, vi, output = Path(ir), Path(vi), Path(output)
    if text is not None and text_features is not None:
        raise BadRequest("give the text in words or as features, not both.")
    said = text if text_features is None else read_text_features(text_features)
    if ir.is_dir() != vi.is_dir() and ir.exists() and vi.exists():
        raise BadRequest(f"{ir} and {vi}: give two files or two folders.")
    pairs = match_pairs(ir, vi)
    if ir.is_dir():
        if output.is_file():
            raise BadRequest(f"{output} is a file; two folders are fused into a folder.")
        targets = [output / f"{pair.name}{SUFFIX}" for pair in pairs]
    else:
        targets = [output / f"{pairs[0].vi.stem}{SUFFIX}" if output.is_dir() else output]
    named = recipe is not None or checkpoint is not None
    if recipe is None:
        recipe = DEFAULT if checkpoint is None else load_checkpoint(checkpoint)["recipe"]
    method = load_method(recipe, checkpoint, device=device, overrides=overrides)
    for pair, target in zip(pairs, targets, strict=True):
        written = None if said is not None else texts_beside(pair.ir, method.recipe.texts)
        fuse_file(method, pair.ir, pair.vi, target, written or said)
        progress(str(target))
    if not named:
        say(f"fused by {recipe!r} with the weights it brings. {method.recipe.remark}".strip())
    return targets


def texts_beside(picture: Path, kinds: Sequence[str]) -> dict[str, str]:
    """Descriptions of a picture laid out as data sets have them: ``../text/<kind>/<name>.txt``."""
    files = {kind: picture.parent.parent / "text" / kind / f"{picture.stem}.txt" for kind in kinds}
    return {
        kind: file.read_text(encoding="utf-8-sig").strip()
        for kind, file in files.items()
        if file.is_file()
    }


def read_text_features(path: str | os.PathLike[str]) -> TextFeatures:
    """Features of one prompt from a file: ``pooled`` ``(1, D)``, and ``tokens`` ``(1, L, D)`` and
    ``mask`` ``(1, L)`` where a method reads them; a single array counts as ``pooled``.

    Raises:
        BadRequest: no such arrays, or of other shapes.
    """
    path = Path(path)
    try:
        if path.suffix in (".npz", ".npy"):
            kept = np.load(path, allow_pickle=False)
            kept = dict(kept) if path.suffix == ".npz" else {"pooled": kept}
        else:
            kept = read_weights(path)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} cannot be read as text features: {error}.") from error
    kept = kept if isinstance(kept, Mapping) else {"pooled": kept}
    if "pooled" not in kept and len(kept) == 1:
        kept = {"pooled": next(iter(kept.values()))}
    parts = {name: torch.as_tensor(kept[name]) for name in ("pooled", "tokens") if name in kept}
    parts = {name: values.float() for name, values in parts.items()}
    if "mask" in kept:
        parts["mask"] = torch.as_tensor(kept["mask"]).bool()
    shapes = {name: tuple(values.shape) for name, values in parts.items()}
    ranks = {"pooled": 2, "tokens": 3, "mask": 2}
    if "pooled" not in parts or any(
        len(shape) != ranks[name] or shape[0] != 1 for name, shape in shapes.items()
    ):
        raise BadRequest(
            f"{path} holds {shapes or sorted(kept)}; text features of one prompt are `pooled` "
            "(1, D), optionally with `tokens` (1, L, D) and `mask` (1, L)."
        )
    return TextFeatures(**parts)


def fuse_file(
    method: Method,
    ir: Path,
    vi: Path,
    target: Path,
    text: str | TextFeatures | Mapping[str, str] | None = None,
) -> Path:
    """Fuse one pair of files under a prompt, features of one, or descriptions by kind."""
    infrared, visible = read_image(ir, 1), read_image(vi, 3)
    if infrared.shape[-2:] != visible.shape[-2:]:
        sizes = (f"{p}: {tuple(x.shape[-2:])}" for p, x in ((ir, infrared), (vi, visible)))
        raise BadRequest(
            f"the pictures of a pair have one size and are aligned to the pixel, but "
            f"{'; '.join(sizes)}. Register and crop them first."
        )
    fused = method.fuse(infrared[None], visible[None], text, names=(vi.stem,))
    return write_image(target, fused[0])
