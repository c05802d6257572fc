"""Training samples: a damaged pair, an instruction, and what is to come of it.

In the named region the reference is the pair with the named damage mended; outside, and where
another damage was not named, it is the pair as it came. So the instruction alone says what changes,
and where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.guides import add_guides
from fusionkit.protocols import Guide, Pair
from fusionkit.registry import Registry
from fusionkit_rfc.controller import MAPS, resized
from fusionkit_rfc.datasets import InstructedPair
from fusionkit_rfc.instructions import ACTIONS, DEGREES, IMAGE, MODALITIES, Instruction, compose

DAMAGES: dict[str, tuple[str, ...]] = {
    "low-light": ("low-light",),
    "over-exposure": ("over-exposure",),
    "noise": ("noise", "ir-noise"),
    "haze": ("haze",),
    "flare": ("flare",),
    "blur": ("blur",),
    "low-contrast": ("ir-low-contrast",),
    "stripes": ("ir-stripes",),
}
"""Action -> the bench's degradations that it mends; what no plugin offers is left out."""
COMPOSITE = "visibility"
"""The action that mends whatever there is: two damages."""
NAMES = ("person", "car", "truck", "bus", "bicycle", "building", "tree", "road")
"""Regions that may be named; several words of a class would not be found by every guide."""
KEPT = 128
"""Side at which found regions are kept."""


class Instructions:
    """Instructed pairs as they are; clean ones damaged here.

    Each clean sample draws an action, a wording, with ``degree_share`` a degree, with
    ``modality_share`` a modality, and a region or the whole image. Of two damages of one action
    (noise in either picture) both are applied when a modality is named, so that it matters. With
    ``other_share`` a damage of another action lies under the named one and is to stay.

    A region is a true mask of the pair where it has masks. Else the guide is asked: the tanh of the
    sum of its two maps, which is how the release makes soft masks (SegMix).

    Args:
        pairs: clean aligned pairs, or those of data set ``rfc``.
        registry: where the degradations are.
        encoder: offered to every task, not needed here.
        guides: the recipe's; drawn for every sample as it is. The first that gives ``rfc_maps``
            finds the regions of pairs without masks.
        crop: height and width of a sample, pixels; around the region where there is one. None takes
            whole pictures, which in a batch of several need one size.
        scales: factors of which one is drawn per batch for the size of its pictures.
        actions: what may be asked for; None takes all for which there is a degradation.
        severity: range of severities.
        region_share: share of samples whose instruction names a region (where one can be named).
        empty_share: share of samples without instruction, which are to stay as they came.
        degree_share, modality_share, other_share: see above.
        smallest: share of the picture below which a thing is not named.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: Any = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = None,
        scales: Sequence[float] = (1.0,),
        actions: Sequence[str] | None = None,
        severity: tuple[float, float] = (0.5, 1.0),
        region_share: float = 0.5,
        empty_share: float = 0.05,
        degree_share: float = 0.25,
        modality_share: float = 0.25,
        other_share: float = 0.3,
        smallest: float = 0.004,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise BadRequest(f"scales={list(scales)}: one positive factor at least.")
        for action in actions or ():
            if action not in ACTIONS:
                raise BadRequest(f"no action {action!r}: they are {', '.join(ACTIONS)}.")
        self.pairs, self.guides, self.crop = list(pairs), dict(guides or {}), crop
        self.scales, self.severity, self.smallest = tuple(scales), tuple(severity), smallest
        self.region_share, self.empty_share = region_share, empty_share
        self.degree_share, self.modality_share = degree_share, modality_share
        self.other_share = other_share
        clean = [pair for pair in self.pairs if not isinstance(pair, InstructedPair)]
        offered = registry.names("degradation")
        has_depth = bool(clean) and all(pair.depth is not None for pair in clean)
        self.damages = {
            action: found
            for action, names in DAMAGES.items()
            if (found := [registry.create("degradation", n) for n in names if n in offered])
            and (action != "haze" or has_depth)  # haze is a matter of distance
            and (actions is None or action in actions)
        }
        self.actions = list(self.damages)
        if len(self.actions) > 1 and (actions is None or COMPOSITE in actions):
            self.actions.append(COMPOSITE)
        if clean and not self.actions:
            raise BadRequest(f"no plugin offers a degradation for the actions {list(actions)}.")
        self._mends = bool(clean)
        self._found: dict[tuple[int, str], Tensor] = {}
        self.prompts = self._prompts()

    def _prompts(self) -> tuple[str, ...]:
        """An instruction for each process phrase, and all that are given."""
        said = [""]
        for action in self.actions if self._mends else ():
            for form in range(len(ACTIONS[action])):
                for degree in (None, *DEGREES):
                    for modality in (None, *MODALITIES):
                        for region in (IMAGE, NAMES[0]):
                            part = Instruction(action, region, modality, degree, form)
                            said.append(compose(part))
        said += [pair.texts.get("instruction", "") for pair in self.pairs]
        return tuple(dict.fromkeys(said))

    def prompts_for(self, index: int) -> list[str]:
        """Two instructions worth showing for a pair: for one of its things, and for all of it."""
        pair = self.pairs[index]
        given = pair.texts.get("instruction")
        named = next((t.label for t in pair.things if t.label in NAMES), None)
        named = named or next((name for name in NAMES if name in pair.masks), "car")
        light = compose(Instruction("low-light", named))
        return [given or light, compose(Instruction("visibility"))]

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` samples with targets ``visible``, ``infrared`` and ``mask``, guides drawn."""
        scale = self.scales[_below(len(self.scales), generator)]
        rows = [self._row(_below(len(self.pairs), generator), scale, generator)
                for _ in range(count)]  # fmt: skip
        if len(sizes := {tuple(row["visible"].shape[-2:]) for row in rows}) > 1:
            raise BadRequest(
                f"whole pictures of several sizes, {sorted(sizes)}, cannot stand in one batch: set "
                "the recipe's crop, or stages.0.accumulate to the batch size."
            )
        stacked = {
            side: torch.stack([row[side] for row in rows])
            for side in ("visible", "infrared", "goal_visible", "goal_infrared", "mask")
        }
        batch = Batch(
            visible=stacked["visible"],
            infrared=stacked["infrared"],
            prompts=tuple(row["said"] for row in rows),
            targets={
                "visible": stacked["goal_visible"],
                "infrared": stacked["goal_infrared"],
                "mask": stacked["mask"],
            },
            labels={"damage": tuple(row["damage"] for row in rows)},
            names=tuple(row["name"] for row in rows),
        )
        return add_guides(batch, self.guides)

    def _row(self, index: int, scale: float, generator: torch.Generator) -> dict[str, Any]:
        pair = self.pairs[index]
        if isinstance(pair, InstructedPair):
            if not pair.goals:
                raise BadRequest(f"pair {pair.name!r} has no ground truth to learn from.")
            clean = {}
            maps = {"visible": pair.visible, "infrared": pair.infrared, **{
                f"goal_{k}" if k != "mask" else k: v for k, v in pair.goals.items()}}  # fmt: skip
            said, damage, mask = pair.texts.get("instruction", ""), "", maps["mask"]
        else:
            asked, region, mask = self._ask(index, generator)
            clean = {"visible": pair.visible, "infrared": pair.infrared, "mask": mask}
            if pair.depth is not None:
                clean["depth"] = pair.depth
            maps = clean
        if scale != 1:
            maps = {name: _scaled(x, scale) for name, x in maps.items()}
        cut = self._window(maps["mask"], generator)
        maps = {name: cut(x) for name, x in maps.items()}
        if clean:
            said, damage, made = self._damaged(asked, region, maps, generator)
            maps |= made
        return {**maps, "said": said, "damage": damage, "name": pair.name}

    def _ask(
        self, index: int, generator: torch.Generator
    ) -> tuple[Instruction | None, str, Tensor]:
        """What is asked for a clean pair, of which region, and its mask."""
        pair = self.pairs[index]
        ones = torch.ones_like(pair.infrared)
        action = self.actions[_below(len(self.actions), generator)]
        if _unit(generator) < self.empty_share:
            return None, "", torch.zeros_like(ones)
        region, mask = IMAGE, ones
        if _unit(generator) < self.region_share:
            for place in torch.randperm(len(NAMES), generator=generator).tolist():
                found = self.region(index, NAMES[place])
                if found is not None:
                    region, mask = NAMES[place], found
                    break
        form = _below(len(ACTIONS[action]), generator)
        degree = modality = None
        if _unit(generator) < self.degree_share:
            degree = list(DEGREES)[_below(len(DEGREES), generator)]
        if action != COMPOSITE and _unit(generator) < self.modality_share:
            sides = [damage.modality for damage in self.damages[action]]
            modality = sides[_below(len(sides), generator)]
        return Instruction(action, region, modality, degree, form), region, mask

    def region(self, index: int, name: str) -> Tensor | None:
        """Soft mask ``(1, H, W)`` of a thing of a clean pair; None where it is not seen."""
        pair = self.pairs[index]
        mask = pair.masks.get(name) if pair.masks else self._seen(index, name)
        if mask is None or not self.smallest <= float((mask > 0.5).float().mean()) <= 0.7:
            return None
        return mask

    def _seen(self, index: int, name: str) -> Tensor | None:
        """SegMix of the guide's two maps, found once."""
        guide = next((g for g in self.guides.values() if MAPS in getattr(g, "maps", ())), None)
        if guide is None:
            return None
        pair, key = self.pairs[index], (index, name)
        if key not in self._found:
            said = compose(Instruction("visibility", name))
            batch = Batch(pair.visible[None], pair.infrared[None], prompts=(said,))
            mixed = guide(batch)[MAPS].float().cpu().sum(1, keepdim=True).tanh()
            self._found[key] = resized(mixed, (KEPT, KEPT)).half()
        return resized(self._found[key].float(), tuple(pair.visible.shape[-2:]))[0]

    def _damaged(
        self,
        asked: Instruction | None,
        region: str,
        maps: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> tuple[str, str, dict[str, Tensor]]:
        """The instruction in words, the damages by name, and the pictures."""
        pictures = {side: maps[side][None] for side in MODALITIES}
        depth = {"depth": maps["depth"][None]} if "depth" in maps else {}
        applied: list[str] = []

        def damage(which: Any) -> None:
            low, high = self.severity
            strength = low + (high - low) * _unit(generator)
            side = which.modality
            pictures[side] = which(pictures[side], strength, generator, **depth)
            applied.append(which.name)

        singles = list(self.damages)
        action = asked.action if asked else singles[_below(len(singles), generator)]
        if action == COMPOSITE:
            picked = torch.randperm(len(singles), generator=generator)[:2].tolist()
            named = [_any(self.damages[singles[i]], generator) for i in picked]
        elif asked is not None and asked.modality is not None:
            named = list(self.damages[action])
        else:
            named = [_any(self.damages[action], generator)]
        others = [name for name in singles if name != action]
        if action != COMPOSITE and others and _unit(generator) < self.other_share:
            damage(_any(self.damages[others[_below(len(others), generator)]], generator))
        goal = dict(pictures)
        for which in named:
            damage(which)
        given = dict(pictures)
        mask = maps["mask"][None]
        made = {}
        for side in MODALITIES:
            made[side] = given[side][0]
            share = 0.0 if asked is None else asked.share
            if asked is not None and asked.modality not in (None, side):
                share = 0.0
            made[f"goal_{side}"] = torch.lerp(given[side], goal[side], share * mask)[0]
        said = "" if asked is None else compose(replace(asked, region=region))
        return said, "+".join(applied), made

    def _window(self, mask: Tensor, generator: torch.Generator) -> Any:
        """What cuts the sample: anywhere, or with a point of a region in its middle half."""
        extents = tuple(mask.shape[-2:])
        side = self.crop
        if side is None:
            return lambda x: x
        if min(extents) < side:
            raise BadRequest(
                f"crop={side} is larger than a picture of {extents[1]}x{extents[0]}: crop less, or "
                "read the pairs larger."
            )
        inside = (mask[0] > 0.5).nonzero()
        corner = []
        if 0 < len(inside) < mask[0].numel():
            point = inside[_below(len(inside), generator)].tolist()
            for axis, extent in enumerate(extents):
                shift = side // 4 + _below(max(1, side // 2), generator)
                corner.append(min(max(point[axis] - shift, 0), extent - side))
        else:
            corner = [_below(extent - side + 1, generator) for extent in extents]
        top, left = corner
        return lambda x: x[..., top : top + side, left : left + side]


def _scaled(x: Tensor, scale: float) -> Tensor:
    size = tuple(max(1, round(side * scale)) for side in x.shape[-2:])
    x = interpolate(x[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return x.clamp_min(0)


def _any(of: Sequence[Any], generator: torch.Generator) -> Any:
    return of[_below(len(of), generator)]


def _below(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def _unit(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
