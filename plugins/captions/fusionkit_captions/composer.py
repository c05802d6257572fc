"""The writer without a model: facts of a picture as one paragraph, always the same words.

Source: ours, in the form of the paragraphs of IF-FILM's VLF data set (Z. Zhao et al., ICML 2024).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fusionkit_captions.facts import Facts, Item, inside, known, write_box
from fusionkit_captions.measured import measure

OPENINGS = ("Also", "Further", "Nearby")


class Composer:
    """A paragraph with resolution and boxes from what is known about a picture.

    Called ``(image, modality="visible", facts=None)`` with one entry of facts per picture: a
    :class:`~fusionkit_captions.facts.Facts`, or what a data set knows (``caption``, ``things``,
    ``masks``). What is not known is measured: tone, contrast, spots that stand out.

    The form follows the paragraphs of the VLF data set (Z. Zhao et al., ICML 2024), so that
    resolution and boxes can be read back by :mod:`fusionkit_captions.facts`.
    """

    def __call__(
        self,
        image: Tensor,
        *,
        modality: str = "visible",
        facts: Sequence[Facts | Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        height, width = image.shape[-2:]
        return [compose(found, width, height) for found in facts_of(image, modality, facts)]


def facts_of(
    image: Tensor,
    modality: str,
    given: Sequence[Facts | Mapping[str, Any] | None] | None,
) -> list[Facts]:
    """Facts of every picture of ``(B, C, H, W)``: those given, and measured where none are."""
    entries = [None] * len(image) if given is None else given
    found = []
    for picture, entry in zip(image, entries, strict=True):
        if isinstance(entry, Facts):
            found.append(entry)
            continue
        told = known(entry)
        if "caption" in told and "items" in told:
            found.append(Facts(modality=modality, **told))
        else:
            found.append(replace(measure(picture, modality), **told))
    return found


def compose(facts: Facts, width: int, height: int) -> str:
    """The paragraph of one picture."""
    caption = facts.caption.strip().rstrip(".")
    items, regions = (inside(part, width, height) for part in (facts.items, facts.regions))
    said = [f"In this {_noun(caption)}, the resolution is {width}X{height}."]
    count = f"{len(items)} annotated item{'s' * (len(items) != 1)}"
    said.append(f"The frame holds {count if items else 'no annotated item'}.")
    for place, item in enumerate(items):
        opening = "There is" if not place else f"{OPENINGS[(place - 1) % 3]} one finds"
        said.append(f"{opening} {_at(item)}.")
    if regions:
        said.append(f"Larger areas show {_listed([_at(region) for region in regions])}.")
    said.append(f"Taken together, the picture presents {_lower(caption)}.")
    return " ".join(said)


def _at(item: Item) -> str:
    return f"{item.phrase} at {write_box(item.box)}"


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _noun(caption: str) -> str:
    """A caption as the middle of a sentence: no article in front, no full stop behind."""
    return _lower(re.sub(r"^(an?|the)\s+", "", caption, flags=re.IGNORECASE))


def _lower(words: str) -> str:
    """A small first letter, but for abbreviations."""
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]
