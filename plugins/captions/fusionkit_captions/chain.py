"""From a picture to a paragraph: caption, things with boxes, regions, and a writer for them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.registry import Registry
from fusionkit_captions.composer import facts_of
from fusionkit_captions.facts import Facts, read_items

STEPS = ("caption", "dense", "regions", "writer")


class Paragraph:
    """One paragraph per picture, by captioners named for each step.

    Without any name nothing is loaded: what the data set knows of a picture is told, and what it
    does not know is measured. The published chain of IF-FILM is ``caption="blip2", dense="dense",
    regions="regions", writer="chat"``.

    Args:
        caption: captioner of the whole picture.
        dense: captioner whose text is a list ``phrase [x0, y0, x1, y1]; ...``.
        regions: captioner whose text is such a list of segmented areas.
        writer: makes the paragraph of facts: ``composer`` or ``chat``.
        options: of the captioners, by step: ``{"writer": {"endpoint": ...}}``.
        registry: where the captioners come from; None discovers the installed plugins.

    Source: Z. Zhao et al., "Image Fusion via Vision-Language Model", ICML 2024, section 3.2.
    """

    def __init__(
        self,
        *,
        caption: str | None = None,
        dense: str | None = None,
        regions: str | None = None,
        writer: str = "composer",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        registry: Registry | None = None,
    ) -> None:
        options = options or {}
        if unknown := [step for step in options if step not in STEPS]:
            raise BadRequest(
                f"captioner 'paragraph' has no step {unknown[0]!r}."
                f"{did_you_mean(unknown[0], STEPS)} Its steps are {', '.join(STEPS)}."
            )
        registry = registry or Registry.from_environment()
        names = {"caption": caption, "dense": dense, "regions": regions, "writer": writer}
        self.steps = {
            step: registry.create("captioner", name, **options.get(step, {}))
            for step, name in names.items()
            if name is not None
        }

    def __call__(
        self,
        image: Tensor,
        *,
        modality: str = "visible",
        facts: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        found = self.facts(image, modality=modality, facts=facts)
        return self.steps["writer"](image, modality=modality, facts=found)

    def facts(
        self,
        image: Tensor,
        *,
        modality: str = "visible",
        facts: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[Facts]:
        """What the captioners found in each picture, with what was known before."""
        found = facts_of(image, modality, facts)
        for step, field in (("caption", "caption"), ("dense", "items"), ("regions", "regions")):
            if step not in self.steps:
                continue
            said = self.steps[step](image, modality=modality)
            values = said if field == "caption" else [read_items(text) for text in said]
            found = [replace(f, **{field: v}) for f, v in zip(found, values, strict=True)]
        return found
