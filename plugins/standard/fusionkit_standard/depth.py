"""``depth``: how far everything is, for haze and whatever else is a matter of distance.

Source: the model is one of transformers, by default L. Yang et al., "Depth Anything V2", NeurIPS
2024, fine-tuned for metres outdoors; without a model, the rule is ours after that of MMAIF-like
training sets (rows near the top are far, bright rows farther).
"""

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from fusionkit import hub
from fusionkit.batch import Batch
from fusionkit.color import to_uint8
from fusionkit.data import read_depth
from fusionkit.devices import pick_device
from fusionkit.errors import BadRequest

NEAR, FAR = 2.0, 200.0
"""Metres between which a guess lies, and what a model without a scale is brought to."""


class Depth:
    """Depth in metres: of the scene, from a file, by a model, or as a guess.

    In this order: a map ``depth`` that the batch already has; ``<folder>/<name>.png`` or ``.npy``,
    see :func:`fusionkit.data.read_depth`; the model; without one, a guess from height in the
    picture and brightness, which is no measurement.

    Args:
        folder: where depth files lie, named like the pairs.
        model: ``OWNER/NAME`` on the hub, or a folder, of any depth estimation model; None guesses.
        metric: whether the model's numbers are metres. None asks its configuration
            (``depth_estimation_type``); numbers of other models are inverse distances without a
            scale, and each picture is stretched to between 2 and 200 metres.
        device: where the model computes; maps lie where the pictures came from.

    Raises:
        MissingWeights: the model is not on this machine and cannot be fetched.
    """

    name = "depth"
    maps = ("depth",)

    def __init__(
        self,
        *,
        folder: str | os.PathLike | None = None,
        model: str | None = "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        metric: bool | None = None,
        device: str = "auto",
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and not self.folder.is_dir():
            raise BadRequest(f"guide 'depth': {folder} is no folder.")
        self.model = None
        if model is not None:
            self.model, self.processor = hub.load(
                model,
                "AutoModelForDepthEstimation",
                pick_device(device),
                "guide 'depth' with model=None guesses, and generated scenes have their depth",
                processor="AutoImageProcessor",
            )
            kind = getattr(self.model.config, "depth_estimation_type", "relative")
            self.metric = kind == "metric" if metric is None else metric

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``{"depth": (B, 1, H, W)}`` in metres."""
        if "depth" in batch.guides:
            return {"depth": batch.guides["depth"]}
        return {"depth": torch.stack([self._one(batch, row) for row in range(len(batch))])}

    def _one(self, batch: Batch, row: int) -> Tensor:
        picture = batch.visible[row]
        size = tuple(picture.shape[1:])
        if self.folder is not None and batch.names:
            found = read_depth(self.folder, batch.names[row])
            if found is not None:
                if tuple(found.shape[1:]) != size:
                    found = interpolate(found[None], size, mode="nearest-exact")[0]
                return found.to(picture)
        if self.model is None:
            return guess(picture)
        inputs = self.processor(images=to_uint8(picture).cpu(), return_tensors="pt")
        found = self.model(**inputs.to(self.model.device)).predicted_depth.float()
        found = interpolate(found[:, None], size, mode="bilinear", align_corners=False)[0]
        return (found.clamp_min(0) if self.metric else metres(found)).to(picture)


def metres(inverse: Tensor) -> Tensor:
    """Inverse distances of unknown scale, each map stretched to between 2 and 200 metres."""
    low, high = inverse.amin(), inverse.amax()
    share = (inverse - low) / (high - low).clamp_min(1e-12)
    return 1 / (1 / FAR + share * (1 / NEAR - 1 / FAR))


def guess(picture: Tensor) -> Tensor:
    """Depth ``(1, H, W)`` of ``(3, H, W)``: 3/4 height in the picture, 1/4 brightness, smoothed.

    Between 2 and 200 metres on a logarithmic scale. It takes every picture for an outdoor scene
    with the sky above.
    """
    height, width = picture.shape[1:]
    up = torch.linspace(1, 0, height, device=picture.device, dtype=picture.dtype)
    share = 0.75 * up[:, None].expand(height, width) + 0.25 * picture.amin(0)
    share = avg_pool2d(pad(share[None, None], (11, 10, 11, 10), mode="replicate"), 22, stride=1)
    return NEAR * (FAR / NEAR) ** share[0]
