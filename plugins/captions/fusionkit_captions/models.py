"""Captioners by models of transformers: the whole picture, things with boxes, segmented regions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusionkit.color import to_uint8
from fusionkit.devices import pick_device
from fusionkit.hub import load
from fusionkit.registry import Registry
from fusionkit_captions.facts import Item, inside, write_items

OFFLINE = "leave this step of the captioner 'paragraph' out, and pictures are described by measures"


class Blip2Caption:
    """One sentence about the whole picture, by BLIP-2.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder.
        device: where it computes.
        words: most tokens of a sentence.

    Source: J. Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image
    Encoders and Large Language Models", ICML 2023.
    """

    def __init__(
        self, *, model: str = "Salesforce/blip2-opt-2.7b", device: str = "auto", words: int = 30
    ) -> None:
        self.device, self.words = pick_device(device), words
        self.model, self.processor = load(
            model, "AutoModelForImageTextToText", self.device, OFFLINE
        )

    @torch.no_grad()
    def __call__(self, image: Tensor, **context: Any) -> list[str]:
        inputs = self.processor(images=pictures(image), return_tensors="pt").to(self.device)
        tokens = self.model.generate(**inputs, max_new_tokens=self.words, do_sample=False)
        said = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() or "image" for text in said]


class DenseCaptions:
    """Things of a picture with their boxes, ``phrase [x0, y0, x1, y1]; ...``, by Florence-2.

    IF-FILM used GRIT, whose code is no part of transformers; Florence-2 answers the same question
    (region phrases with boxes) and takes its place.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder.
        device: where it computes.
        task: ``<DENSE_REGION_CAPTION>`` or ``<OD>``, names of classes instead of phrases.
        tokens: most tokens of an answer.

    Source: B. Xiao et al., "Florence-2: Advancing a Unified Representation for a Variety of Vision
    Tasks", CVPR 2024.
    """

    def __init__(
        self,
        *,
        model: str = "florence-community/Florence-2-base",
        device: str = "auto",
        task: str = "<DENSE_REGION_CAPTION>",
        tokens: int = 1024,
    ) -> None:
        self.device, self.task, self.tokens = pick_device(device), task, tokens
        self.model, self.processor = load(
            model, "AutoModelForImageTextToText", self.device, OFFLINE
        )

    @torch.no_grad()
    def __call__(self, image: Tensor, **context: Any) -> list[str]:
        height, width = image.shape[-2:]
        said = []
        for picture in pictures(image):
            inputs = self.processor(text=self.task, images=picture, return_tensors="pt")
            tokens = self.model.generate(
                **inputs.to(self.device), max_new_tokens=self.tokens, do_sample=False
            )
            text = self.processor.batch_decode(tokens, skip_special_tokens=False)[0]
            found = self.processor.post_process_generation(
                text, task=self.task, image_size=(width, height)
            )[self.task]
            items = (
                Item(phrase.strip() or "something", tuple(round(edge) for edge in box))
                for phrase, box in zip(found["labels"], found["bboxes"], strict=True)
            )
            said.append(write_items(inside(items, width, height)) or "nothing")
        return said


class Regions:
    """The largest segmented areas with a short label each, ``label [x0, y0, x1, y1]; ...``.

    Masks by Segment Anything over a grid of points; of the three masks of a point the one it trusts
    most; masks of one area are counted once. The label is the one of ``labels`` that the joint
    encoder finds nearest to the cut-out.

    Args:
        model: of Segment Anything, ``OWNER/NAME`` on the hub, or a folder.
        device: where it computes.
        points: of the grid, on each side.
        most: areas that are told, the largest first.
        trust: least quality that the model itself expects of a mask, in [0, 1].
        overlap: intersection over union from which two masks are one.
        namer: a joint encoder by name, for the labels; None calls every area ``region``.
        labels: what an area can be called.
        registry: where the encoder comes from; None discovers the installed plugins.

    Source: A. Kirillov et al., "Segment Anything", ICCV 2023, automatic masks of section 4.
    """

    def __init__(
        self,
        *,
        model: str = "facebook/sam-vit-base",
        device: str = "auto",
        points: int = 12,
        most: int = 5,
        trust: float = 0.85,
        overlap: float = 0.7,
        namer: str | None = "clip-vit-b-32",
        labels: Sequence[str] = (
            "road", "sky", "building", "trees", "grass", "car", "person", "sidewalk", "wall",
            "water", "sign", "pole", "fence", "ground",
        ),
        registry: Registry | None = None,
    ) -> None:  # fmt: skip
        self.device, self.points, self.most = pick_device(device), points, most
        self.trust, self.overlap, self.labels = trust, overlap, tuple(labels)
        self.model, self.processor = load(model, "AutoModelForMaskGeneration", self.device, OFFLINE)
        self.namer = None
        if namer is not None:
            registry = registry or Registry.from_environment()
            self.namer = registry.create("encoder", namer)
            self.words = self.namer.encode_text([f"a photo of {w}" for w in labels]).pooled

    @torch.no_grad()
    def __call__(self, image: Tensor, **context: Any) -> list[str]:
        said = []
        for tensor, picture in zip(image, pictures(image), strict=True):
            masks = self.masks(picture, *tensor.shape[-2:])
            items = [Item(self._label(tensor, box), box) for box in map(_box, masks)]
            said.append(write_items(items) or "nothing")
        return said

    def masks(self, picture: Any, height: int, width: int) -> list[Tensor]:
        """The largest areas of one picture, ``(H, W)`` bool each."""
        down, across = (
            (torch.arange(self.points) + 0.5) / self.points * side for side in (height, width)
        )
        grid = torch.cartesian_prod(across, down)[None, :, None]  # 1 P 1 2, in pixels
        inputs = self.processor(picture, input_points=grid.tolist(), return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        found = self.model(**inputs.to(self.device))
        quality, best = found.iou_scores[0].max(-1)  # P
        rows = torch.arange(len(best), device=best.device)
        trusted = rows[quality >= self.trust]
        chosen = found.pred_masks[:, trusted, best[trusted]][:, :, None]  # 1 p 1 h w
        if not len(trusted):
            return []
        masks = self.processor.image_processor.post_process_masks(chosen.cpu(), *sizes)[0][:, 0]
        order = masks.flatten(1).sum(1).argsort(descending=True).tolist()
        kept: list[Tensor] = []
        for mask in (masks[i] for i in order):
            if mask.any() and all(_overlap(mask, other) < self.overlap for other in kept):
                kept.append(mask)
            if len(kept) == self.most:
                break
        return kept

    def _label(self, picture: Tensor, box: tuple[int, int, int, int]) -> str:
        if self.namer is None:
            return "region"
        x0, y0, x1, y1 = box
        seen = self.namer.encode_image(picture[None, :, y0:y1, x0:x1]).pooled
        return self.labels[int(torch.cosine_similarity(seen, self.words).argmax())]


def pictures(image: Tensor) -> list[Any]:
    """``(B, C, H, W)`` in [0, 1] as pictures of PIL, in colour."""
    from PIL import Image

    pixels = to_uint8(image.expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask.nonzero(as_tuple=True)
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return tuple(int(edge) for edge in edges)


def _overlap(first: Tensor, second: Tensor) -> float:
    return float((first & second).sum() / (first | second).sum().clamp_min(1))
