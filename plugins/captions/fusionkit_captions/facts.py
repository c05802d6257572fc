"""What is known about a picture, how it is written in a paragraph, and how it is read back.

Boxes are ``[x0, y0, x1, y1]`` in whole pixels, end exclusive; a resolution is ``384X288``, width
first. Lists of things are written ``a car [25, 142, 109, 188]; a person [16, 139, 31, 182]``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fusionkit.protocols import Thing

Box = tuple[int, int, int, int]
_BOX = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")
_SIZE = re.compile(r"\b(\d+)\s?[Xx×]\s?(\d+)\b")


@dataclass(frozen=True, slots=True)
class Item:
    """Words and where they hold."""

    phrase: str
    box: Box


@dataclass(frozen=True, slots=True)
class Facts:
    """What captioners found in one picture."""

    caption: str
    items: tuple[Item, ...] = ()
    """Dense captions."""
    regions: tuple[Item, ...] = ()
    """Labels of segmented areas, the largest first."""
    modality: str = "visible"


def boxes(text: str) -> list[Box]:
    """Every box in a text, in order."""
    return [tuple(map(int, found)) for found in _BOX.findall(text)]


def resolution(text: str) -> tuple[int, int] | None:
    """The first resolution in a text as (width, height); None where there is none."""
    found = _SIZE.search(text)
    return (int(found[1]), int(found[2])) if found else None


def read_items(text: str) -> tuple[Item, ...]:
    """Things of a list ``phrase [x0, y0, x1, y1]; ...``; what has no box is left out."""
    items, start = [], 0
    for found in _BOX.finditer(text):
        phrase = text[start : found.start()].strip(" \t\n;,.")
        items.append(Item(phrase or "something", tuple(map(int, found.groups()))))
        start = found.end()
    return tuple(items)


def write_items(items: Iterable[Item]) -> str:
    """The list that :func:`read_items` reads."""
    return "; ".join(f"{item.phrase} {write_box(item.box)}" for item in items)


def write_box(box: Sequence[int]) -> str:
    """``[x0, y0, x1, y1]``."""
    return "[" + ", ".join(str(int(edge)) for edge in box) + "]"


def inside(items: Iterable[Item], width: int, height: int) -> tuple[Item, ...]:
    """Items with their boxes clipped to the picture; those of which nothing is left are dropped."""
    kept = []
    for item in items:
        x0, y0, x1, y1 = item.box
        x0, x1 = (min(max(x, 0), width) for x in (x0, x1))
        y0, y1 = (min(max(y, 0), height) for y in (y0, y1))
        if x0 < x1 and y0 < y1:
            kept.append(Item(item.phrase, (x0, y0, x1, y1)))
    return tuple(kept)


def items_of_things(things: Iterable[Thing]) -> tuple[Item, ...]:
    """Things of a pair as items."""
    return tuple(
        Item(thing.phrase or f"a {thing.label}", tuple(round(edge) for edge in thing.box))
        for thing in things
    )


def items_of_masks(masks: Mapping[str, Tensor], most: int = 3) -> tuple[Item, ...]:
    """The largest masks of a pair by label, with the boxes around them."""
    found = []
    for label, mask in masks.items():
        rows, columns = (mask[0] > 0.5).nonzero(as_tuple=True)
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            found.append((len(rows), Item(label, tuple(map(int, box)))))
    return tuple(item for _, item in sorted(found, key=lambda entry: -entry[0])[:most])


def known(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a data set knows (``caption``, ``things``, ``masks``) as fields of :class:`Facts`."""
    given = given or {}
    found: dict[str, Any] = {}
    if given.get("caption"):
        found["caption"] = given["caption"]
    if given.get("things"):
        found["items"] = items_of_things(given["things"])
    if given.get("masks"):
        found["regions"] = items_of_masks(given["masks"])
    return found
