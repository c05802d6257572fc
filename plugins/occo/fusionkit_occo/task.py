"""OCCO's samples: crops with masks of what each picture shows, in the order the contrast needs."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from fusionkit.batch import Batch
from fusionkit.color import luma
from fusionkit.data import crop as cut
from fusionkit.data import resize_shorter
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.methods import create
from fusionkit.protocols import Guide, Pair
from fusionkit.registry import Registry

PROMPT = "person . car . truck . bus . motorcycle . bicycle . traffic light . sign ."
"""What counts as an object; ours, as the release states no prompt."""
OBJECTS = ("person", "car", "truck", "bus", "motorcycle", "bicycle", "traffic light", "sign")
DRAWS, CROPS = 20, 2
"""Attempts at a crop with an object in it, and crops of a scene in a row; as released."""
MASKS = ("mask_visible", "mask_infrared")


class ObjectTask:
    """Batches in which neighbours are crops of one scene and the first quarter is the anchor.

    Every picture is stretched to its own least and largest value. Scenes come in random order,
    each gives two crops that hold a piece of an object; a scene where no mask has one is passed
    over. As released, but for the epoch: each batch shuffles anew, so that it depends on its seed
    alone.

    Masks, one per picture, come from the first of these that applies:

    1. true masks of a pair (rendered scenes, ``mask/<label>/`` folders): an object belongs to the
       mask of a picture when that picture shows it, that is, when its mean brightness is
       ``visible_at`` away from its surroundings;
    2. ``guide``, a guide that gives ``mask_visible`` and ``mask_infrared`` for a prompt;
    3. ``offline_guide``, with a warning, where the weights of that one cannot be had.

    Args:
        pairs: aligned pairs.
        registry: where the guide comes from.
        encoder: for a guide that is drawn by one.
        guides: the recipe's; not asked, as the network reads no map.
        crop: height and width of a sample in pixels; None takes pictures whole.
        guide, guide_options: the guide and its options.
        offline_guide: takes its place; None makes missing weights an error.
        prompt: what the guide looks for, where it takes a prompt.
        true_masks: whether masks that come with the pairs are used.
        objects: labels of true masks that are objects.
        visible_at: difference in brightness at which an object counts as shown.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: Any = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = 256,
        guide: str = "grounding-dino-sam",
        guide_options: Mapping[str, Any] | None = None,
        offline_guide: str | None = "saliency",
        prompt: str = PROMPT,
        true_masks: bool = True,
        objects: Sequence[str] = OBJECTS,
        visible_at: float = 0.08,
    ) -> None:
        self.prompts: tuple[str, ...] = ()
        self.pairs, self.crop, self.registry, self.encoder = pairs, crop, registry, encoder
        self.guide, self.guide_options = guide, dict(guide_options or {})
        self.offline_guide, self.prompt = offline_guide, prompt
        self.true_masks, self.objects, self.visible_at = true_masks, tuple(objects), visible_at
        self._built: Guide | None = None
        self._kept: dict[int, Tensor] = {}

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` crops; guides ``mask_visible`` and ``mask_infrared``, ``(B, 1, H, W)``."""
        if count < 4:
            raise BadRequest(
                f"this task cuts a batch into quarters, so {count} samples are too few."
            )
        samples: list[tuple[Pair, Tensor]] = []
        while len(samples) < count:
            before = len(samples)
            for index in torch.randperm(len(self.pairs), generator=generator).tolist():
                samples += self._crops(index, generator)
                if len(samples) >= count:
                    break
            if len(samples) == before:
                raise BadRequest(
                    f"none of the {len(self.pairs)} pairs shows an object where the masks say one "
                    "may be: look at the masks, or name another guide, prompt or objects."
                )
        samples = samples[:count]
        shapes = {pair.visible.shape for pair, _ in samples}
        if len(shapes) > 1:
            raise BadRequest(
                "whole pictures of several sizes cannot stand in one batch: set a crop."
            )
        masks = torch.stack([mask for _, mask in samples])
        return Batch(
            visible=torch.stack([pair.visible for pair, _ in samples]),
            infrared=torch.stack([pair.infrared for pair, _ in samples]),
            guides=dict(zip(MASKS, masks.split(1, dim=1), strict=True)),
            names=tuple(pair.name for pair, _ in samples),
        )

    def masks(self, index: int) -> Tensor:
        """Objects of a pair, visible and infrared picture: ``(2, H, W)``, 0 or 1; found once."""
        if index not in self._kept:
            self._kept[index] = self._find(self.pairs[index]) > 0.5
        return self._kept[index].float()

    def _crops(self, index: int, generator: torch.Generator) -> list[tuple[Pair, Tensor]]:
        pair, masks = self.pairs[index], self.masks(index)
        if not masks.any():
            return []
        pair = Pair(
            name=pair.name,
            visible=_stretched(pair.visible),
            infrared=_stretched(pair.infrared),
            masks={"objects": masks},
        )
        if self.crop is None:
            return [(pair, masks)]
        if min(masks.shape[1:]) < self.crop:
            pair = resize_shorter(pair, self.crop)
        height, width = pair.visible.shape[1:]
        found = []
        for _ in range(DRAWS):
            top, left = (
                int(torch.randint(extent - self.crop + 1, (), generator=generator))
                for extent in (height, width)
            )
            window = cut(pair, top, left, self.crop, self.crop)
            inside = (window.masks["objects"] > 0.5).float()
            if inside.any():
                found.append((window, inside))
            if len(found) == CROPS:
                break
        return found

    def _find(self, pair: Pair) -> Tensor:
        if self.true_masks and pair.masks:
            return self._shown(pair)
        if self._built is None:
            self._built = self._build()
        batch = Batch(
            visible=pair.visible[None],
            infrared=pair.infrared[None],
            prompts=(self.prompt,),
            names=(pair.name,),
        )
        maps = self._built(batch)
        if missing := [name for name in MASKS if name not in maps]:
            raise BadRequest(
                f"guide {self.guide!r} gives {', '.join(maps)}, and this task needs "
                f"{', '.join(missing)}."
            )
        return torch.cat([maps[name][0] for name in MASKS]).cpu()

    def _build(self) -> Guide:
        try:
            return create(
                self.registry, "guide", self.guide, self.guide_options, encoder=self.encoder
            )
        except MissingWeights as error:
            if self.offline_guide is None:
                raise
            warnings.warn(
                f"{error} Until then objects are where guide {self.offline_guide!r} sees them, "
                "which reads no prompt: compare with no published figure.",
                stacklevel=2,
            )
            return create(self.registry, "guide", self.offline_guide, {}, encoder=self.encoder)

    def _shown(self, pair: Pair) -> Tensor:
        """True masks, each in the pictures that show its object against its surroundings."""
        shown = torch.zeros(2, *pair.visible.shape[1:])
        pictures = luma(pair.visible[None])[0, 0], pair.infrared[0]
        for label in self.objects:
            if label not in pair.masks:
                continue
            mask = pair.masks[label]
            for piece in self._pieces(pair, label, mask[0] > 0.5):
                ring = max_pool2d(piece[None, None].float(), 7, 1, 3)[0, 0].bool()
                ring &= mask[0] <= 0.5
                if not piece.any() or not ring.any():
                    continue
                for target, picture in zip(shown, pictures, strict=True):
                    if (picture[piece].mean() - picture[ring].mean()).abs() > self.visible_at:
                        target[piece] = 1
        return shown

    @staticmethod
    def _pieces(pair: Pair, label: str, mask: Tensor) -> list[Tensor]:
        """The objects of a label one by one, where their boxes are known."""
        boxes = [thing.box for thing in pair.things if thing.label == label]
        pieces = []
        for x0, y0, x1, y1 in boxes:
            inside = torch.zeros_like(mask)
            inside[max(round(y0), 0) : round(y1), max(round(x0), 0) : round(x1)] = True
            pieces.append(mask & inside)
        return pieces or [mask]


def _stretched(picture: Tensor) -> Tensor:
    """From the picture's least to its largest value; one of a single value stays as it is."""
    low, high = picture.aminmax()
    return (picture - low) / (high - low) if high > low else picture
