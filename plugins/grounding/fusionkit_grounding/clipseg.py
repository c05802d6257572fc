"""``clipseg``: a prompt becomes a heat map, straight from CLIP's own features.

Source: T. Lüddecke and A. Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022;
the model is that of transformers.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit import hub
from fusionkit.color import to_uint8
from fusionkit.devices import pick_device
from fusionkit_grounding.masks import SOURCES, PromptGuide


class ClipSeg(PromptGuide):
    """CLIPSeg's answer to each phrase of a prompt; of several phrases the largest counts.

    Args:
        prompt: what to look for in every pair; None reads the prompt of each pair.
        sources: the pictures to look at: ``visible``, ``infrared`` or both.
        model: ``OWNER/NAME`` on the hub, or a folder.
        threshold: probability above which a pixel is inside; None leaves the probabilities.
        device: where the model computes; masks lie where the pictures came from.

    Raises:
        MissingWeights: the model is not on this machine and cannot be fetched.
    """

    name = "clipseg"

    def __init__(
        self,
        *,
        prompt: str | None = None,
        sources: Sequence[str] = SOURCES,
        model: str = "CIDAS/clipseg-rd64-refined",
        threshold: float | None = 0.5,
        device: str = "auto",
    ) -> None:
        super().__init__(prompt=prompt, sources=sources)
        self.threshold = threshold
        self.model, self.processor = hub.load(
            model,
            "CLIPSegForImageSegmentation",
            pick_device(device),
            "guide 'heatmap' draws a map with any joint encoder, guide 'saliency' needs no weights",
        )

    def find(self, picture: Tensor, wanted: list[str]) -> Tensor:
        pixels = to_uint8(picture).cpu()
        inputs = self.processor(
            text=wanted, images=[pixels] * len(wanted), padding=True, return_tensors="pt"
        )
        logits = self.model(**inputs.to(self.model.device)).logits
        logits = logits.reshape(len(wanted), 1, *logits.shape[-2:])
        heat = interpolate(logits.sigmoid(), tuple(picture.shape[1:]), mode="bilinear")
        heat = heat.amax((0, 1))
        return heat if self.threshold is None else (heat > self.threshold).float()
