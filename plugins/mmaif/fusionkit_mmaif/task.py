"""Training samples: a pair damaged in one to three ways, a request, and the fused clean pair."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair
from fusionkit.registry import Registry
from fusionkit_mmaif.datasets import FusedPair
from fusionkit_mmaif.degradations import VISIBLE_INFRARED, stage
from fusionkit_mmaif.prompts import clauses, sentence
from fusionkit_mmaif.targets import target_provider


class DegradedFusion:
    """Composite degradations in their physical order, one sentence that asks to undo them all.

    The composites and their sentences are drawn once, from ``variety_seed``, so that a text encoder
    has so many sentences to read and no more; severities are drawn for every sample.

    Pairs of data set ``mmaif`` bring their own fused pictures, and where they are damaged already,
    their own sentences. Of any other pair, taken as clean, the target provider makes the fused
    picture, whole and once, before the crop.

    Args:
        pairs: aligned pairs of any sizes.
        registry: where the degradations are.
        encoder, guides: offered to every task, not needed here.
        crop: side of a sample in pixels; None takes whole pictures, which then need one size.
        degradations: names to draw from, of any plugin; each brings its requests.
        most: degradations of a sample are 1 to so many.
        clean_share: share of samples without any.
        empty_share: share of samples without a sentence.
        severity: range of severities.
        ratios: the side of a window as shares of the picture's shorter side, one drawn per sample;
            the window is resized to ``crop``.
        flips: mirror half of the samples left to right.
        variety, variety_seed: how many composites, and which.
        target, target_checkpoint: see :func:`~fusionkit_mmaif.targets.target_provider`.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: Any = None,
        guides: Any = None,
        crop: int | None = 256,
        degradations: Sequence[str] = VISIBLE_INFRARED,
        most: int = 3,
        clean_share: float = 0.1,
        empty_share: float = 0.1,
        severity: tuple[float, float] = (0.25, 1.0),
        ratios: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        flips: bool = True,
        variety: int = 256,
        variety_seed: int = 0,
        target: str = "rule",
        target_checkpoint: str | None = None,
    ) -> None:
        if not degradations or most < 1:
            raise BadRequest("mmaif: name at least one degradation, and most of at least 1.")
        if not all(0 < ratio <= 1 for ratio in ratios) or not ratios:
            raise BadRequest(f"mmaif: ratios lie in (0, 1], but they are {list(ratios)}.")
        self.pairs = list(pairs)
        self.crop, self.severity, self.flips = crop, tuple(severity), flips
        self.clean_share, self.empty_share = clean_share, empty_share
        self.ratios = tuple(ratios)
        self.damages = {name: registry.create("degradation", name) for name in degradations}
        generator = torch.Generator().manual_seed(variety_seed)
        self.composites = [self._compose(most, generator) for _ in range(variety)]
        self.plain = [((), sentence([clause])) for clause in clauses("none")]
        self.provide = target_provider(target, target_checkpoint, registry)
        self._targets: dict[int, Tensor] = {}
        own = [pair.prompt for pair in self.pairs if isinstance(pair, FusedPair) and pair.prompt]
        said = [prompt for _, prompt in self.composites + self.plain]
        self.prompts = tuple(dict.fromkeys(["", *said, *own]))

    def prompts_for(self, index: int) -> list[str]:
        """Two sentences worth showing for a pair: its own, or one to mend damage, and plain."""
        own = getattr(self.pairs[index], "prompt", "")
        first = self.damages[next(iter(self.damages))].prompts[0]
        return [own or first, "Fuse the two images"]

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` samples with the targets ``fused``, ``visible`` and ``infrared`` (clean).

        Label ``degradations``: names and severities of each sample.
        """
        rows = [self._draw(generator) for _ in range(count)]
        sizes = {tuple(row["visible"].shape[-2:]) for row in rows}
        if len(sizes) > 1:
            raise BadRequest(
                f"whole pictures of several sizes, {sorted(sizes)}, cannot stand in one batch: "
                "set the recipe's crop."
            )
        stacked = {
            key: torch.stack([row[key] for row in rows])
            for key in ("visible", "infrared", "fused", "clean_visible", "clean_infrared")
        }
        return Batch(
            visible=stacked["visible"],
            infrared=stacked["infrared"],
            prompts=tuple(row["prompt"] for row in rows),
            targets={
                "fused": stacked["fused"],
                "visible": stacked["clean_visible"],
                "infrared": stacked["clean_infrared"],
            },
            labels={"degradations": tuple(row["degradations"] for row in rows)},
            names=tuple(row["name"] for row in rows),
        )

    def _compose(self, most: int, generator: torch.Generator) -> tuple[tuple[str, ...], str]:
        """1 to ``most`` degradations, no two of one stage in one picture, and their sentence."""
        count = 1 + _below(most, generator)
        names = list(self.damages)
        drawn: dict[tuple, str] = {}
        for place in torch.randperm(len(names), generator=generator).tolist():
            key = stage(names[place]), self.damages[names[place]].modality
            if key not in drawn and len(drawn) < count:
                drawn[key] = names[place]
        found = tuple(sorted(drawn.values(), key=stage))
        requests = (self.damages[name].prompts for name in found)
        return found, sentence([said[_below(len(said), generator)] for said in requests])

    def _draw(self, generator: torch.Generator) -> dict[str, Any]:
        index = _below(len(self.pairs), generator)
        pair = self.pairs[index]
        cut = self._window(pair, generator)
        clean = {"visible": cut(pair.visible), "infrared": cut(pair.infrared)}
        given, applied = dict(clean), []
        of = self.plain if _unit(generator) < self.clean_share else self.composites
        names, prompt = of[_below(len(of), generator)]
        if getattr(pair, "prompt", ""):  # damaged already
            names, prompt, applied = (), pair.prompt, list(pair.degradations)
        context = {} if pair.depth is None else {"depth": cut(pair.depth)[None]}
        for name in names:
            low, high = self.severity
            severity = low + (high - low) * _unit(generator)
            damage = self.damages[name]
            side = damage.modality
            given[side] = damage(given[side][None], severity, generator, **context)[0]
            applied.append((name, severity))
        empty = _unit(generator) < self.empty_share
        return {
            **given,
            "clean_visible": clean["visible"],
            "clean_infrared": clean["infrared"],
            "fused": cut(self._target(index)),
            "prompt": "" if empty else prompt,
            "degradations": tuple(applied),
            "name": pair.name,
        }

    def _target(self, index: int) -> Tensor:
        pair = self.pairs[index]
        own = getattr(pair, "fused", None)
        if own is not None:
            return own
        if index not in self._targets:
            self._targets[index] = (self.provide(pair) * 255).round().to(torch.uint8)
        return self._targets[index].float() / 255

    def _window(self, pair: Pair, generator: torch.Generator) -> Any:
        """What cuts one window, resized and mirrored alike, out of every picture of a pair."""
        height, width = pair.visible.shape[-2:]
        ratio = self.ratios[_below(len(self.ratios), generator)]
        mirrored = self.flips and _unit(generator) < 0.5
        if self.crop is None:
            return lambda x: x.flip(-1) if mirrored else x
        side = max(8, round(ratio * min(height, width)))
        side = min(side, height, width)
        top, left = _below(height - side + 1, generator), _below(width - side + 1, generator)

        def cut(picture: Tensor) -> Tensor:
            x = picture[None, :, top : top + side, left : left + side]
            if side != self.crop:
                size = (self.crop, self.crop)
                x = interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
            return (x.flip(-1) if mirrored else x)[0]

        return cut


def _below(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def _unit(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
