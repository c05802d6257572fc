"""``grounding-dino-sam`` and ``owlv2``: a prompt becomes boxes, boxes become masks.

An open-vocabulary detector draws a box around everything a phrase names; a segmenter draws the
outline of what fills each box; the mask is the union. Both are models of transformers.

Sources: S. Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set
Object Detection", ECCV 2024; M. Minderer et al., "Scaling Open-Vocabulary Object Detection",
NeurIPS 2023; A. Kirillov et al., "Segment Anything", ICCV 2023.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusionkit import hub
from fusionkit.color import to_uint8
from fusionkit.devices import pick_device
from fusionkit_grounding.masks import SOURCES, PromptGuide

OFFLINE = "guide 'folder-masks' reads ready masks, guide 'saliency' needs no weights"
CHUNK = 32
"""Boxes that are segmented at once."""


class GroundingDino:
    """Boxes by Grounding DINO.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder.
        box_threshold: least score of a box.
        text_threshold: least score of a word for it to count as named in the box.
        device: where it computes.
    """

    def __init__(
        self, model: str, box_threshold: float, text_threshold: float, device: torch.device
    ) -> None:
        self.model, self.processor = hub.load(
            model, "AutoModelForZeroShotObjectDetection", device, OFFLINE
        )
        self.box_threshold, self.text_threshold = box_threshold, text_threshold

    def __call__(self, picture: Tensor, wanted: list[str]) -> tuple[Tensor, Tensor]:
        """Picture uint8 ``(3, H, W)`` -> boxes ``(N, 4)`` as x0, y0, x1, y1 in pixels, scores."""
        inputs = self.processor(images=picture, text=[wanted], return_tensors="pt")
        inputs = inputs.to(self.model.device)
        outputs = self.model(**inputs)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs.input_ids,
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[tuple(picture.shape[1:])],
        )
        labels = found["text_labels"][: len(found["boxes"])]  # of no box, one empty label comes
        named = [i for i, label in enumerate(labels) if label]
        return found["boxes"][named], found["scores"][named]


class Owlv2:
    """Boxes by OWLv2.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder.
        box_threshold: least score of a box.
        device: where it computes.
    """

    def __init__(self, model: str, box_threshold: float, device: torch.device) -> None:
        self.model, self.processor = hub.load(
            model, "AutoModelForZeroShotObjectDetection", device, OFFLINE
        )
        self.box_threshold = box_threshold

    def __call__(self, picture: Tensor, wanted: list[str]) -> tuple[Tensor, Tensor]:
        """Picture uint8 ``(3, H, W)`` -> boxes ``(N, 4)`` as x0, y0, x1, y1 in pixels, scores."""
        inputs = self.processor(images=picture, text=[wanted], return_tensors="pt")
        outputs = self.model(**inputs.to(self.model.device))
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.box_threshold, target_sizes=[tuple(picture.shape[1:])]
        )
        return found["boxes"], found["scores"]


class Sam:
    """Outlines of what fills boxes, by SAM.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder.
        multimask: let it offer three outlines for each box and take the one that it scores
            highest; False asks for one.
        device: where it computes.
    """

    def __init__(self, model: str, multimask: bool, device: torch.device) -> None:
        self.model, self.processor = hub.load(model, "AutoModelForMaskGeneration", device, OFFLINE)
        self.multimask = multimask

    def __call__(self, picture: Tensor, boxes: Tensor) -> Tensor:
        """Picture uint8 ``(3, H, W)``, boxes ``(N, 4)`` in pixels -> bool ``(N, H, W)``."""
        boxes = boxes.cpu()
        inputs = self.processor(picture, return_tensors="pt").to(self.model.device)
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        embedded = self.model.get_image_embeddings(inputs["pixel_values"])
        masks = []
        for part in boxes.split(CHUNK):
            asked = self.processor(picture, input_boxes=[part.tolist()], return_tensors="pt")
            outputs = self.model(
                image_embeddings=embedded,
                input_boxes=asked["input_boxes"].to(self.model.device, embedded.dtype),
                multimask_output=self.multimask,
            )
            (drawn,) = self.processor.image_processor.post_process_masks(
                outputs.pred_masks.cpu(), *(size.cpu() for size in sizes)
            )
            best = outputs.iou_scores[0].argmax(-1).cpu()
            masks.append(drawn[torch.arange(len(drawn)), best])
        return torch.cat(masks)


class _Grounded(PromptGuide):
    """Boxes of a detector, outlines of a segmenter, their union."""

    detector: GroundingDino | Owlv2
    segmenter: Sam | None
    nms: float | None

    def find(self, picture: Tensor, wanted: list[str]) -> Tensor:
        pixels = to_uint8(picture).cpu()
        height, width = pixels.shape[1:]
        boxes, scores = self.detector(pixels, wanted)
        limits = boxes.new_tensor([width, height, width, height])
        boxes = boxes.clamp(min=0).minimum(limits)
        real = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        boxes, scores = boxes[real].cpu(), scores[real].cpu()
        if self.nms is not None and len(boxes):
            from torchvision.ops import nms

            boxes = boxes[nms(boxes, scores, self.nms)]
        if not len(boxes):
            return torch.zeros(height, width)
        masks = (
            fill(boxes, (height, width))
            if self.segmenter is None
            else self.segmenter(pixels, boxes)
        )
        return masks.any(0).float()


def fill(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes themselves as masks: bool ``(N, H, W)``, pixels whose centre lies inside."""
    y = torch.arange(size[0])[:, None] + 0.5
    x = torch.arange(size[1])[None] + 0.5
    x0, y0, x1, y1 = boxes.cpu()[:, :, None, None].unbind(1)
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


class GroundingDinoSam(_Grounded):
    """Grounding DINO's boxes and SAM's outlines of what a prompt names.

    Args:
        prompt: what to look for in every pair; None reads the prompt of each pair.
        sources: the pictures to look at: ``visible``, ``infrared`` or both.
        detector: Grounding DINO: ``OWNER/NAME`` on the hub, or a folder.
        segmenter: SAM, likewise; None takes the boxes themselves as masks.
        box_threshold: least score of a box.
        text_threshold: least score of a word for it to count as named in the box.
        nms: boxes that overlap a better one by more than this share (intersection over union) are
            dropped; None keeps all.
        multimask: SAM's best outline of three for each box; False asks for one.
        device: where the models compute; masks lie where the pictures came from.

    Raises:
        MissingWeights: the models are not on this machine and cannot be fetched.
    """

    name = "grounding-dino-sam"

    def __init__(
        self,
        *,
        prompt: str | None = None,
        sources: Sequence[str] = SOURCES,
        detector: str = "IDEA-Research/grounding-dino-tiny",
        segmenter: str | None = "facebook/sam-vit-base",
        box_threshold: float = 0.30,
        text_threshold: float = 0.25,
        nms: float | None = None,
        multimask: bool = True,
        device: str = "auto",
    ) -> None:
        super().__init__(prompt=prompt, sources=sources)
        where = pick_device(device)
        self.detector = GroundingDino(detector, box_threshold, text_threshold, where)
        self.segmenter = None if segmenter is None else Sam(segmenter, multimask, where)
        self.nms = nms


class Owlv2Sam(_Grounded):
    """OWLv2's boxes and SAM's outlines of what a prompt names.

    Args:
        prompt, sources, segmenter, nms, multimask, device: as for ``grounding-dino-sam``.
        detector: OWLv2: ``OWNER/NAME`` on the hub, or a folder.
        box_threshold: least score of a box.

    Raises:
        MissingWeights: the models are not on this machine and cannot be fetched.
    """

    name = "owlv2"

    def __init__(
        self,
        *,
        prompt: str | None = None,
        sources: Sequence[str] = SOURCES,
        detector: str = "google/owlv2-base-patch16-ensemble",
        segmenter: str | None = "facebook/sam-vit-base",
        box_threshold: float = 0.2,
        nms: float | None = None,
        multimask: bool = True,
        device: str = "auto",
    ) -> None:
        super().__init__(prompt=prompt, sources=sources)
        where = pick_device(device)
        self.detector = Owlv2(detector, box_threshold, where)
        self.segmenter = None if segmenter is None else Sam(segmenter, multimask, where)
        self.nms = nms
