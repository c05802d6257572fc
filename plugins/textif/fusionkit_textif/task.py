"""Training samples: a degraded pair, a sentence that names the degradation, the clean pair."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair
from fusionkit.registry import Registry
from fusionkit_textif.dataset import DegradedPair
from fusionkit_textif.prompts import PLAIN, sentences

TASKS = ("low-light", "over-exposure", "ir-low-contrast", "ir-noise")
"""The four degradations of the published training, as the bench's degradations are called."""


class DegradedPairs:
    """The released sampling: a degradation uniformly, then a pair uniformly, then a window.

    Pairs of ``ems`` are degraded already and bring clean pictures and sentences. Any other pair
    (rendered scenes, photographs) is taken as clean and damaged by a registered degradation, here
    with a severity drawn uniformly: a stand-in, because the data of the paper are real photographs
    with restored targets.

    Args:
        pairs: aligned pairs of any sizes.
        registry: where the degradations are.
        encoder, guides: offered to every task, not needed here.
        crop: height and width of a sample; smaller pictures are padded by zeros at the right and
            bottom. None takes whole pictures, which then need one size.
        tasks: degradations to draw from, for pairs that are not degraded themselves; ``plain`` is
            none.
        severity: range of severities.
        flips: mirror samples left to right and upside down, each in half of the cases.
        prompts: sentences by degradation, in place of the built-in ones.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: Any = None,
        guides: Any = None,
        crop: int | None = 96,
        tasks: Sequence[str] = TASKS,
        severity: tuple[float, float] = (0.5, 1.0),
        flips: bool = True,
        prompts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.crop, self.severity, self.flips = crop, tuple(severity), flips
        self.pairs = list(pairs)
        self.groups: dict[str, list[Pair]] = {}
        clean = []
        for pair in self.pairs:
            if isinstance(pair, DegradedPair):
                self.groups.setdefault(pair.task, []).append(pair)
            else:
                clean.append(pair)
        self.damages = {}
        for task in tasks if clean else ():
            self.groups[task] = self.groups.get(task, []) + clean
            if task != "plain":
                self.damages[task] = registry.create("degradation", task)
        if self.pairs and not self.groups:
            raise BadRequest(f"no degradation to draw from: tasks is {list(tasks)}.")
        self.sentences = {
            task: tuple((prompts or {}).get(task) or group[0].prompts or sentences(task))
            if isinstance(group[0], DegradedPair)
            else tuple((prompts or {}).get(task) or sentences(task))
            for task, group in self.groups.items()
        }
        said = [text for group in self.sentences.values() for text in group]
        self.prompts = tuple(dict.fromkeys([PLAIN, *said]))

    def prompts_for(self, index: int) -> list[str]:
        """Two sentences worth showing for a pair: its own degradation, or the first, and none."""
        pair = self.pairs[index]
        task = getattr(pair, "task", "") or next(t for t in self.groups if t != "plain")
        return [self.sentences[task][0], PLAIN]

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` samples with targets ``visible`` and ``infrared`` and the label ``task``."""
        names = list(self.groups)
        rows = [self._draw(names[_integer(len(names), generator)], generator) for _ in range(count)]
        sizes = {tuple(row["visible"].shape[-2:]) for row in rows}
        if len(sizes) > 1:
            raise BadRequest(
                f"whole pictures of several sizes, {sorted(sizes)}, cannot stand in one batch: "
                "set the recipe's crop."
            )
        stacked = {
            side: torch.stack([row[side] for row in rows])
            for side in ("visible", "infrared", "clean_visible", "clean_infrared")
        }
        return Batch(
            visible=stacked["visible"],
            infrared=stacked["infrared"],
            prompts=tuple(row["prompt"] for row in rows),
            targets={
                "visible": stacked["clean_visible"],
                "infrared": stacked["clean_infrared"],
            },
            labels={"task": tuple(row["task"] for row in rows)},
            names=tuple(row["name"] for row in rows),
        )

    def _draw(self, task: str, generator: torch.Generator) -> dict[str, Any]:
        group = self.groups[task]
        pair = group[_integer(len(group), generator)]
        said = self.sentences[task]
        prompt = said[_integer(len(said), generator)]
        cut = self._window(pair, generator)
        given = {"visible": cut(pair.visible), "infrared": cut(pair.infrared)}
        if isinstance(pair, DegradedPair):
            # Without clean pictures the inputs are the targets, as in the released validation.
            has = pair.clean_visible is not None
            clean_visible = cut(pair.clean_visible) if has else given["visible"]
            clean_infrared = cut(pair.clean_infrared) if has else given["infrared"]
        else:
            clean_visible, clean_infrared = given["visible"], given["infrared"]
            if (damage := self.damages.get(task)) is not None:
                low, high = self.severity
                severity = low + (high - low) * float(torch.rand((), generator=generator))
                context = {} if pair.depth is None else {"depth": cut(pair.depth)[None]}
                side = damage.modality
                given[side] = damage(given[side][None], severity, generator, **context)[0]
        return {
            **given,
            "clean_visible": clean_visible,
            "clean_infrared": clean_infrared,
            "prompt": prompt,
            "task": task,
            "name": pair.name,
        }

    def _window(self, pair: Pair, generator: torch.Generator) -> Any:
        """What cuts the same window out of every picture of a pair, mirrored alike."""
        height, width = pair.visible.shape[-2:]
        side = self.crop
        top = left = 0
        if side is not None:
            top = _integer(max(1, height - side + 1), generator)
            left = _integer(max(1, width - side + 1), generator)
        mirrored = torch.rand(2, generator=generator) < 0.5
        turned = [dim for dim, wanted in ((-1, mirrored[0]), (-2, mirrored[1])) if wanted]

        def cut(picture: Tensor) -> Tensor:
            if side is not None:
                picture = pad(picture, (0, max(0, side - width), 0, max(0, side - height)))
                picture = picture[..., top : top + side, left : left + side]
            return picture.flip(turned) if self.flips and turned else picture

        return cut


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))
