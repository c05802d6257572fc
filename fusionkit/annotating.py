"""Texts for pairs that have none: one call describes a data set and keeps what was said as files.

A layout says where the files lie, so that data sets ``folder``, ``ivt`` and ``vlf`` read them.
What is there is not asked for again; a stopped run goes on with the same call. :func:`check` says
what of a layout is missing or belongs to no pair.
"""

import inspect
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionkit.data import SUFFIXES, Problem, write_image
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.protocols import Captioner, Pair

LAYOUTS = {
    "folder": {
        "ir": "ir/{name}.png",
        "vi": "vi/{name}.png",
        "texts": {"ir": "text/ir/{name}.txt", "vi": "text/vi/{name}.txt"},
    },
    "ivt": {
        "ir": "ir/{name}.png",
        "vi": "vis/{name}.png",
        "texts": {str(k): f"text/{{name}}_{k}.txt" for k in range(1, 6)},
    },
    "vlf": {
        "ir": "Image/IVF/{set}/IR/{name}.png",
        "vi": "Image/IVF/{set}/VI/{name}.png",
        "texts": {
            "ir": "Text/IVF/{set}/IR/{name}.txt",
            "vi": "Text/IVF/{set}/VI/{name}.txt",
        },
        "list": "Image/IVF/{set}/{split}.txt",
    },
}
"""Where pictures and texts of a pair lie, by layout. The VLF release keeps features of its texts;
the texts themselves lie here as its reader looks for them."""


def annotate(
    captioner: Captioner,
    pairs: Sequence[Pair],
    output: str | os.PathLike,
    *,
    layout: str = "folder",
    pictures: bool = False,
    set: str = "own",
    split: str = "train",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Describe both pictures of every pair and keep the texts.

    Layouts ``folder`` and ``vlf`` keep one paragraph per picture. ``ivt`` keeps five sentences per
    pair: three about one thing each (the boxed things of the pair, then sentences of the
    paragraphs) and two that join neighbours.

    Args:
        captioner: called ``(image, modality=...)``, with ``facts`` (things, masks and caption of
            the pair) where it takes them.
        pairs: what is to be described.
        output: the folder of the layout.
        layout: one of :data:`LAYOUTS`.
        pictures: write the pictures too, so that the folder is a whole data set; without, they are
            expected to lie there.
        set, split: parts of the paths of ``vlf``.
        progress: told how many pairs are done, of how many.
    """
    places = _places(layout, set, split)
    output = Path(output)
    names = []
    for index in range(len(pairs)):
        pair = pairs[index]
        names.append(pair.name)
        files = {kind: output / place.format(name=pair.name) for kind, place in places[2].items()}
        missing = {kind: file for kind, file in files.items() if not file.is_file()}
        if missing:
            said = _say(captioner, pair)
            texts = sentences(pair, said) if layout == "ivt" else said
            for kind, file in missing.items():
                _keep(file, texts[kind])
        if pictures:
            for place, picture in zip(places[:2], (pair.infrared, pair.visible), strict=True):
                file = output / place.format(name=pair.name)
                if not file.is_file():
                    write_image(file, picture)
        if progress is not None:
            progress(index + 1, len(pairs))
    if pictures and places[3]:
        _keep(output / places[3], "\n".join(names))
    return output


def _say(captioner: Captioner, pair: Pair) -> dict[str, str]:
    """What the captioner says of either picture."""
    takes = inspect.signature(captioner.__call__).parameters
    context: dict[str, Any] = {}
    if "facts" in takes:
        facts = {"things": pair.things, "masks": pair.masks}
        facts |= {"caption": pair.texts["caption"]} if "caption" in pair.texts else {}
        context["facts"] = [facts]
    both = {"ir": ("infrared", pair.infrared), "vi": ("visible", pair.visible)}
    said = {}
    for kind, (modality, picture) in both.items():
        (text,) = captioner(picture[None], modality=modality, **context)
        if not text.strip():
            raise BadRequest(f"the captioner said nothing of the {modality} picture {pair.name!r}.")
        said[kind] = " ".join(text.split())
    return said


def sentences(pair: Pair, said: Mapping[str, str]) -> dict[str, str]:
    """Five short texts, ``"1"`` to ``"5"``: three things or sentences, then 1 with 2, 2 with 3."""
    found = [thing.phrase or f"the {thing.label}" for thing in pair.things]
    for text in (said["vi"], said["ir"]):
        parts = re.split(r"(?<=[.!?])\s+", text)
        found += [part.rstrip(".!? ") for part in parts if not re.search(r"\d", part)]
    found = list(dict.fromkeys(part for part in found if part)) or [said["vi"]]
    one, two, three = (found[k % len(found)] for k in range(3))
    return {"1": one, "2": two, "3": three, "4": f"{one} and {two}", "5": f"{two} and {three}"}


def check(
    root: str | os.PathLike, layout: str = "folder", *, set: str = "own", split: str = "train"
) -> list[Problem]:
    """What of a layout is missing, empty, unreadable, or belongs to no pair."""
    places = _places(layout, set, split)
    root = Path(root)
    pictures = {
        side: _named(root, place, SUFFIXES)
        for side, place in zip(("ir", "vi"), places[:2], strict=True)
    }
    problems = []
    for side, other in (("ir", "vi"), ("vi", "ir")):
        for name in sorted(pictures[side].keys() - pictures[other].keys()):
            file = pictures[side][name]
            problems.append(Problem("unmatched", name, f"{file} has no partner in {other}"))
    pairs = pictures["ir"].keys() & pictures["vi"].keys()
    if not pairs:
        where = " and ".join(str(Path(place).parent) for place in places[:2])
        problems.append(Problem("empty", str(root), f"no pairs in {where}"))
    texts: dict[str, dict[str, Path]] = {}
    for kind, place in places[2].items():
        texts[kind] = _named(root, place, (".txt",))
        for name in sorted(pairs - texts[kind].keys()):
            problems.append(Problem("missing", name, f"no text {place.format(name=name)}"))
    strays = defaultdict(list)
    for named in texts.values():
        for name, file in named.items():
            if name not in pairs:
                strays[name].append(file)
                continue
            problems += _read(name, file)
    for name, files in sorted(strays.items()):
        problems.append(Problem("unmatched", name, f"{files[0]} belongs to no pair"))
    if places[3] and (root / places[3]).is_file():
        listed = (root / places[3]).read_text(encoding="utf-8-sig").split()
        for name in sorted({line.split(".", 1)[0] for line in listed} - pairs):
            problems.append(Problem("missing", name, f"{places[3]} lists it; there is no pair"))
    return problems


def _read(name: str, file: Path) -> Iterable[Problem]:
    try:
        if not file.read_text(encoding="utf-8-sig").strip():
            yield Problem("empty", name, f"{file} says nothing")
    except UnicodeDecodeError:
        yield Problem("unreadable", name, f"{file} is not UTF-8 text")


def _named(root: Path, place: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a place by what stands for ``{name}``."""
    folder, _, ending = place.rpartition("{name}")
    base = root / folder
    tail = ending.rpartition(".")[0]  # "_1" of "{name}_1.txt"
    found = {}
    for file in sorted(base.rglob("*")) if base.is_dir() else ():
        if file.suffix.lower() in suffixes and file.stem.endswith(tail):
            stem = file.relative_to(base).with_suffix("").as_posix()
            found[stem[: len(stem) - len(tail)]] = file
    return found


def _places(layout: str, set: str, split: str) -> tuple[str, str, dict[str, str], str]:
    if layout not in LAYOUTS:
        raise BadRequest(
            f"no layout {layout!r}.{did_you_mean(layout, LAYOUTS)} There are {', '.join(LAYOUTS)}.",
            asked=layout,
            known=LAYOUTS,
        )

    def filled(place: str) -> str:
        return place.replace("{set}", set).replace("{split}", split)

    known = LAYOUTS[layout]
    texts = {kind: filled(place) for kind, place in known["texts"].items()}
    return filled(known["ir"]), filled(known["vi"]), texts, filled(known.get("list", ""))


def _keep(file: Path, text: str) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, file)
