"""The task of the default recipe: obey a request to highlight a thing, or to repair a picture.

A *mixture* is 0.65 visible + 0.35 infrared. Two kinds of request:

* **highlight**: two things that are both in the scene, two prompts. What is asked for is the
  mixture, with the named thing replaced by 1.1 max(visible, infrared) + 0.08.
* **repair**: one of the two pictures is degraded. The prompt that asks for this repair wants the
  mixture of the clean pictures; any other prompt wants the mixture as degraded as it came.

Both prompts of a scene stand in the same batch, so no statistic of a scene tells which was asked:
only the words do.

On rendered scenes the masks are true. On photographs there are none: for training, a thing is
where the encoder's heat map says it is (so the task inherits its errors); for measuring, where
boxes drawn by hand say it is. A photograph with a description is also asked by it: everything the
description mentions is to be highlighted, against plain fusion.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fusionkit.batch import Batch
from fusionkit.control import Question
from fusionkit.errors import BadRequest
from fusionkit.guides import GuideCache, enlarge
from fusionkit.methods import create
from fusionkit.pointing import boxed
from fusionkit.protocols import Guide, JointEncoder, Pair
from fusionkit.registry import Registry
from fusionkit_standard.photographs import on_pairs
from fusionkit_standard.scenes.texts import PLAIN, SYNONYMS, highlight_prompts, repair_prompts

NAMES = ("person", "car", "truck", "bus", "bicycle", "building", "tree")
"""What may be asked for. Poles are left out: thinner than a patch of the small encoder."""
REPAIRS = (
    "low-light",
    "over-exposure",
    "noise",
    "haze",
    "ir-stripes",
    "ir-low-contrast",
    "ir-noise",
)
"""Degradations of the default. Blur is left out: it is not repaired within the default's budget."""
DESCRIPTIONS = ("fused", "common", "vi")
"""Kinds of description that come with real pairs, the most useful one first."""
SMALLEST = 0.0011
"""Share of the picture below which a thing is not asked for."""


@dataclass(frozen=True, slots=True)
class Example:
    """A pair with the masks of the things that may be asked for."""

    index: int
    pair: Pair
    masks: Mapping[str, Tensor]
    """``(1, H, W)`` bool by name."""
    description: str
    """What comes with a photograph; empty where nothing does."""
    described: tuple[str, ...]
    """The things of the picture that the description mentions."""


class ControlTask:
    """Samples and questions for text control.

    Args:
        pairs: rendered scenes with masks, or photographs.
        registry: for degradations, and for the heat maps where masks are missing.
        encoder: the joint encoder; needed where masks are missing.
        guides: guides of the recipe; their maps come with every sample, computed once.
        crop: height and width of a training sample, pixels; None takes whole pictures.
        repair_share: share of repair samples.
        degradations: which damages may be repaired.
        severity: range of severities, drawn uniformly.
        visible_share: weight of the visible picture in the mixture.
    """

    named: Sequence[str] = NAMES
    """What has requests of its own."""
    on_pairs = staticmethod(on_pairs)

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: JointEncoder | None = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = 64,
        repair_share: float = 0.4,
        degradations: Sequence[str] = REPAIRS,
        severity: tuple[float, float] = (0.5, 1.0),
        visible_share: float = 0.65,
    ) -> None:
        if not 0 <= repair_share <= 1:
            raise BadRequest(f"repair_share is a share in [0, 1], not {repair_share}.")
        self.crop, self.repair_share, self.severity = crop, repair_share, severity
        self.visible_share = visible_share
        self.encoder, self.registry, self.guides = encoder, registry, guides or {}
        pairs = [_at_least(pair, crop or 1) for pair in pairs]
        has_depth = all(pair.depth is not None for pair in pairs)
        self.damages = {
            name: registry.create("degradation", name)
            for name in degradations
            if has_depth or name != "haze"  # haze is a matter of distance
        }
        self.requests = {name: highlight_prompts(name) for name in self.named}
        self.repairs = {name: repair_prompts(name) for name in self.damages}
        self.prompts = tuple(
            dict.fromkeys(
                [*PLAIN]
                + [p for group in self.requests.values() for p in group]
                + [p for group in self.repairs.values() for p in group]
                + [text for text in map(_description, pairs) if text]
            )
        )
        masks = self._masks(pairs)
        self.examples = [
            _example(i, pair, found)
            for i, (pair, found) in enumerate(zip(pairs, masks, strict=True))
        ]
        self.askable = [e for e in self.examples if len(e.masks) >= 2]
        self.maps = self._maps(pairs)

    def _maps(self, pairs: Sequence[Pair]) -> Callable[[int, Sequence[str]], dict[str, Tensor]]:
        """Maps of the guides for a pair under prompts; empty where a prompt is not among ours."""
        cache = GuideCache(self.guides, pairs, self.prompts)

        def maps(index: int, prompts: Sequence[str]) -> dict[str, Tensor]:
            return cache(index, prompts) if cache and set(prompts) <= set(cache.column) else {}

        return maps

    def _masks(self, pairs: Sequence[Pair]) -> list[dict[str, Tensor]]:
        """True masks where a pair has them, thresholded heat maps elsewhere."""
        found = [{n: pair.masks[n] > 0.5 for n in NAMES if n in pair.masks} for pair in pairs]
        blind = [i for i, pair in enumerate(pairs) if not pair.masks]
        if blind:
            if not hasattr(self.encoder, "heatmap"):
                raise BadRequest(
                    "these pairs have no masks, so things are found by the encoder's heat maps, "
                    "but this encoder reads no pictures; use a joint one (tiny-clip, openclip)."
                )
            guide = create(self.registry, "guide", "heatmap", {}, encoder=self.encoder)
            prompts = [f"the {name}" for name in NAMES]
            cache = GuideCache({"heatmap": guide}, [pairs[i] for i in blind], prompts)
            for row, i in enumerate(blind):
                (heat,) = cache(row, prompts).values()
                heat = enlarge(heat, tuple(pairs[i].visible.shape[-2:]))
                found[i] = {n: h > 0.5 for n, h in zip(NAMES, heat, strict=True)}
        return [
            {n: m for n, m in masks.items() if SMALLEST <= float(m.float().mean()) <= 0.7}
            for masks in found
        ]

    # -- training ---------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` samples: half as many scenes, each under two prompts."""
        if count % 2:
            raise BadRequest(f"this task needs an even batch size, not {count}.")
        if not self.askable and self.repair_share < 1:
            raise BadRequest(
                "no pair shows two things that could be asked for, so nothing can be highlighted; "
                "give more pairs, or set task_options.repair_share to 1."
            )
        parts = []
        for _ in range(count // 2):
            repair = self.damages and _uniform(generator) < self.repair_share
            if repair or not self.askable:
                parts.append(self._repair(_pick(self.examples, generator), generator))
                continue
            example = _pick(self.askable, generator)
            by_description = example.described and _uniform(generator) < 0.5
            ask = self._describe if by_description else self._highlight
            parts.append(ask(example, generator))
        return self._assemble(parts, generator)

    def _describe(self, example: Example, generator: torch.Generator) -> dict:
        named = torch.stack([example.masks[name] for name in example.described]).any(0)
        window = self._window(example, named, generator)
        mask = _cut(named, window)
        return {
            "example": example, "window": window,
            "prompts": [example.description, self._say(PLAIN, example, generator)],
            "masks": [mask, torch.zeros_like(mask)],
        }  # fmt: skip

    def _highlight(self, example: Example, generator: torch.Generator) -> dict:
        names = list(example.masks)
        first, second = (names[i] for i in torch.randperm(len(names), generator=generator)[:2])
        window = self._window(example, example.masks[_pick((first, second), generator)], generator)
        prompts = [self._say(self.requests[n], example, generator) for n in (first, second)]
        masks = [_cut(example.masks[n], window) for n in (first, second)]
        return {"example": example, "window": window, "prompts": prompts, "masks": masks}

    def _repair(self, example: Example, generator: torch.Generator) -> dict:
        window = self._window(example, None, generator)
        names = list(self.damages)
        damage = _pick(names, generator)
        asked = self._say(self.repairs[damage], example, generator)
        if _uniform(generator) < 0.6 or len(names) == 1:
            other = self._say(PLAIN, example, generator)
        else:
            wrong = _pick([n for n in names if n != damage], generator)
            other = self._say([p for p in self.repairs[wrong] if p != asked], example, generator)
        empty = torch.zeros(1, *_size(window), dtype=torch.bool)
        return {
            "example": example, "window": window, "prompts": [asked, other],
            "masks": [empty, empty], "damage": damage,
        }  # fmt: skip

    def _say(self, group: Sequence[str], example: Example, generator: torch.Generator) -> str:
        """One of the requests of a group, for this pair."""
        return _pick(group, generator)

    def _window(
        self, example: Example, mask: Tensor | None, generator: torch.Generator
    ) -> tuple[slice, slice]:
        """A crop, somewhere, or with a random point of the mask somewhere in its middle half."""
        height, width = example.pair.visible.shape[-2:]
        if self.crop is None:
            return slice(0, height), slice(0, width)
        corner = [0, 0]
        if mask is None:
            for axis, extent in enumerate((height, width)):
                corner[axis] = _integer(extent - self.crop + 1, generator)
        else:
            points = mask[0].nonzero()
            point = points[_integer(len(points), generator)].tolist()
            for axis, extent in enumerate((height, width)):
                shift = self.crop // 4 + _integer(self.crop // 2, generator)
                corner[axis] = min(max(point[axis] - shift, 0), extent - self.crop)
        top, left = corner
        return slice(top, top + self.crop), slice(left, left + self.crop)

    # -- measuring --------------------------------------------------------------------------------

    def questions(
        self, count: int, generator: torch.Generator, *, chunk: int = 25
    ) -> Iterator[Question]:
        """``count`` highlight and ``count`` repair questions at most, on whole pictures.

        A pair is asked one question of each kind: what is known of several questions about one
        pair is little more than of one, and an interval over them would look too certain. On
        photographs the highlight questions are those that the boxes allow: each boxed thing
        against another boxed one, or against the buildings.
        """
        crop, self.crop = self.crop, None
        try:
            boxed = [e for e in self.examples if e.pair.things and not e.pair.masks]
            highlight = (
                [part for e in boxed for part in self._boxed(e)][:count]
                if boxed
                else [self._highlight(e, generator) for e in _some(self.askable, count, generator)]
            )
            repair = [
                self._repair(e, generator)
                for e in _some(self.examples if self.damages else (), count, generator)
            ]
            for kind, parts in (("highlight", highlight), ("repair", repair)):
                for group in _alike(parts, chunk):
                    batch = self._assemble(group, generator)
                    yield self._question(kind, batch, boxes=bool(boxed))
        finally:
            self.crop = crop

    def prompts_for(self, index: int) -> list[str]:
        """Two prompts worth showing for a pair: its own description first where it has one."""
        example = self.examples[index]
        described = [example.description] if example.description else []
        boxed = {t.label for t in example.pair.things} if not example.pair.masks else set()
        names = [n for n in NAMES if n in boxed] + [n for n in example.masks if n not in boxed]
        if described:
            names = list(dict.fromkeys([*mentioned(example.description), *names]))
        asked = [f"highlight the {name}" for name in names]
        return [*described, *asked, PLAIN[0], PLAIN[1]][:2]

    def _boxed(self, example: Example) -> Iterator[dict]:
        height, width = example.pair.visible.shape[-2:]
        boxes: dict[str, list] = {}
        for thing in example.pair.things:
            if thing.label in NAMES:
                boxes.setdefault(thing.label, []).append(thing.box)
        masks = {name: boxed(found, (height, width))[None] for name, found in boxes.items()}
        empty = torch.zeros(1, height, width, dtype=torch.bool)
        window = (slice(0, height), slice(0, width))
        masks = {name: mask for name, mask in masks.items() if mask.any()}  # shrunk to nothing
        asked = set()
        for name, mask in masks.items():
            others = [n for n in masks if n != name]
            other = others[0] if others else "building"
            if (other, name) in asked:  # the same two prompts in the other order
                continue
            asked.add((name, other))
            against = masks.get(other, example.masks.get(other, empty)) & ~mask
            prompts = [f"highlight the {name}", f"highlight the {other}"]
            yield {
                "example": example, "window": window, "prompts": prompts,
                "masks": [mask, against],
            }  # fmt: skip

    def _question(self, kind: str, batch: Batch, *, boxes: bool) -> Question:
        first, second = (batch.rows(slice(k, None, 2)) for k in (0, 1))
        if kind == "highlight":
            return Question("highlight", first, second, boxes=boxes)
        mixture = self.mixture(first.visible, first.infrared)
        return Question("repair", first, second, unrepaired=mixture)

    # -- shared -----------------------------------------------------------------------------------

    def mixture(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Plain fusion, ``(B, 3, H, W)``."""
        return self.visible_share * visible + (1 - self.visible_share) * infrared

    def highlighted(self, visible: Tensor, infrared: Tensor, mask: Tensor) -> Tensor:
        """The mixture with the masked thing brought out, ``(B, 3, H, W)`` in [0, 1]."""
        bright = (1.1 * torch.maximum(visible, infrared) + 0.08).clamp(0, 1)
        return torch.lerp(self.mixture(visible, infrared), bright, mask)

    def _assemble(self, parts: Sequence[dict], generator: torch.Generator) -> Batch:
        """Scenes with two prompts each -> a batch whose rows 2k, 2k+1 are scene k."""
        pairs = [(p["example"].pair, p["window"]) for p in parts]
        visible = torch.stack([_cut(pair.visible, w) for pair, w in pairs])
        infrared = torch.stack([_cut(pair.infrared, w) for pair, w in pairs])
        damaged_visible, damaged_infrared = visible.clone(), infrared.clone()
        for name, damage in self.damages.items():
            rows = [i for i, p in enumerate(parts) if p.get("damage") == name]
            if not rows:
                continue
            low, high = self.severity
            severity = low + (high - low) * torch.rand(len(rows), generator=generator)
            context = {}
            if all(parts[i]["example"].pair.depth is not None for i in rows):
                context["depth"] = torch.stack([_cut(pairs[i][0].depth, pairs[i][1]) for i in rows])
            target = damaged_visible if damage.modality == "visible" else damaged_infrared
            target[rows] = damage(target[rows], severity, generator, **context)

        masks = torch.stack([m for p in parts for m in p["masks"]]).float()
        masks = avg_pool2d(masks, 3, stride=1, padding=1, count_include_pad=False)
        clean = visible.repeat_interleave(2, 0), infrared.repeat_interleave(2, 0)
        given = damaged_visible.repeat_interleave(2, 0), damaged_infrared.repeat_interleave(2, 0)
        asked = torch.tensor([k == 0 and "damage" in p for p in parts for k in (0, 1)])
        asked = asked[:, None, None, None]
        target = torch.where(
            asked, self.highlighted(*clean, masks), self.highlighted(*given, masks)
        )
        return Batch(
            visible=given[0],
            infrared=given[1],
            prompts=tuple(prompt for p in parts for prompt in p["prompts"]),
            guides=self._guide_maps(parts),
            targets={"fused": target, "mask": masks, "other": _swapped(masks)},
            labels={"damage": tuple(p.get("damage", "") for p in parts for _ in (0, 1))},
            names=tuple(p["example"].pair.name for p in parts for _ in (0, 1)),
        )

    def _guide_maps(self, parts: Sequence[dict]) -> dict[str, Tensor]:
        rows: dict[str, list[Tensor]] = {}
        for part in parts:
            example = part["example"]
            size = tuple(example.pair.visible.shape[-2:])
            found = self.maps(example.index, part["prompts"])
            if not found:
                return {}
            for name, maps in found.items():
                rows.setdefault(name, []).append(_cut(enlarge(maps, size), part["window"]))
        return {name: torch.cat(maps) for name, maps in rows.items()}


def mentioned(text: str) -> list[str]:
    """The names a description mentions, by any of their synonyms."""
    words = f" {''.join(c if c.isalpha() else ' ' for c in text.lower())} "
    return [
        name
        for name in NAMES
        if any(f" {form}{end} " in words for form in SYNONYMS[name] for end in ("", "s", "es"))
    ]


def _description(pair: Pair) -> str:
    return next((pair.texts[kind] for kind in DESCRIPTIONS if kind in pair.texts), "")


def _example(index: int, pair: Pair, masks: Mapping[str, Tensor]) -> Example:
    text = _description(pair)
    return Example(index, pair, masks, text, tuple(n for n in mentioned(text) if n in masks))


def _at_least(pair: Pair, side: int) -> Pair:
    """The pair, if it is no smaller than ``side``."""
    height, width = pair.visible.shape[-2:]
    if min(height, width) >= side:
        return pair
    raise BadRequest(
        f"pair {pair.name!r} is {height}x{width}, smaller than the crop of {side}: "
        "lower the crop (image_size, stages.0.crop) or leave the pair out."
    )


def _alike(parts: Sequence[dict], chunk: int) -> Iterator[list[dict]]:
    """Runs of parts of one picture size, ``chunk`` at most."""
    group: list[dict] = []
    for part in parts:
        if group and (len(group) == chunk or _size(part["window"]) != _size(group[0]["window"])):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _swapped(rows: Tensor) -> Tensor:
    """What the scene's other prompt has: rows 2k and 2k+1 exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _cut(picture: Tensor, window: tuple[slice, slice]) -> Tensor:
    return picture[..., window[0], window[1]]


def _size(window: tuple[slice, slice]) -> tuple[int, int]:
    return window[0].stop - window[0].start, window[1].stop - window[1].start


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(high, 1), (), generator=generator))


def _some(items: Sequence, count: int, generator: torch.Generator) -> list:
    """``count`` of the items at most, each once, in random order."""
    return [items[i] for i in torch.randperm(len(items), generator=generator)[:count].tolist()]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _pick(items: Sequence, generator: torch.Generator):
    return items[_integer(len(items), generator)]


__all__ = ["NAMES", "REPAIRS", "ControlTask", "mentioned"]
