r"""``relevance``: which pixels make a picture fit a prompt, by a joint encoder's gradients.

Source: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017,
eq. 1 (integrated gradients), on cosines of patches and prompt; score, smoothing and range are ours.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, pad

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.protocols import JointEncoder
from fusionkit_grounding.masks import SOURCES, check_sources

SOFTNESS = 0.05
"""Of the largest cosine over the patches: how far below it a patch still counts."""


class Relevance:
    r"""Integrated gradients of how well a picture fits its prompt.

    .. math:: R(x) = \sum_c (x - x_0) \odot \frac1n \sum_{k=1}^{n}
              \nabla s\!\left(x_0 + \tfrac{k - 1/2}{n} (x - x_0)\right), \qquad
              s(x) = \tau \log \frac1P \sum_p e^{\cos(E_p(x), T(t)) / \tau}

    from the picture's mean colour :math:`x_0`, with P patches: a soft largest cosine. Over all
    pixels R sums to :math:`s(x) - s(x_0)`. What speaks for the prompt is kept, smoothed, and
    divided by its largest value; of the two pictures the larger map counts. It is relative: the
    brightest place is 1 even where nothing is shown.

    Args:
        encoder: a joint encoder.
        sources: the pictures to look at: ``visible``, ``infrared`` or both.
        steps: n, the points of the path.
        of: ``patches`` as above, or ``pooled``, the one vector of the picture as the only patch,
            for encoders whose patches lie in no space of words.
        against: a neutral prompt whose cosine is taken off, ``a picture`` say.
        smooth: deviation of the Gaussian as a share of the longer side; 0 for none.

    Raises:
        BadRequest: an encoder that reads no pictures.
    """

    maps = ("relevance",)

    def __init__(
        self,
        *,
        encoder: JointEncoder,
        sources: Sequence[str] = SOURCES,
        steps: int = 8,
        of: Literal["patches", "pooled"] = "patches",
        against: str | None = None,
        smooth: float = 0.03,
    ) -> None:
        if not hasattr(encoder, "encode_image"):
            raise BadRequest(
                "guide 'relevance' needs an encoder that reads pictures too (tiny-clip, openclip)."
            )
        if steps < 1 or smooth < 0:
            raise BadRequest(f"guide 'relevance': steps={steps} is 1 at least, smooth={smooth} 0.")
        self.encoder, self.sources = encoder, check_sources("relevance", sources)
        if of not in ("patches", "pooled"):
            raise BadRequest(f"guide 'relevance': of={of!r} is 'patches' or 'pooled'.")
        self.of, self.steps, self.against, self.smooth = of, steps, against, smooth

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``{"relevance": (B, 1, H, W)}`` in [0, 1] for the prompt of each pair."""
        if len(batch.prompts) != len(batch):
            raise BadRequest("guide 'relevance' needs a prompt in words for each pair.")
        drawn = []
        for source in self.sources:
            found = self.attribution(getattr(batch, source).float(), batch.prompts).clamp(min=0)
            found = _smoothed(found, self.smooth * max(found.shape[-2:]))
            drawn.append(found / found.amax((1, 2, 3), keepdim=True).clamp(min=1e-12))
        return {"relevance": torch.stack(drawn).amax(0).clamp(0, 1)}

    def attribution(self, picture: Tensor, prompts: Sequence[str]) -> Tensor:
        """R of pictures ``(B, C, H, W)``, signed, neither smoothed nor scaled: ``(B, 1, H, W)``."""
        with torch.no_grad():
            told = self.encoder.encode_text(list(prompts)).pooled.float()
            neutral = None
            if self.against is not None:
                neutral = self.encoder.encode_text([self.against]).pooled.float()
        start = picture.mean((2, 3), keepdim=True).expand_as(picture)
        slope = torch.zeros_like(picture)
        for k in range(self.steps):
            with torch.enable_grad():
                at = torch.lerp(start, picture, (k + 0.5) / self.steps).detach().requires_grad_()
                score = self.score(at, told, neutral).sum()
            slope += torch.autograd.grad(score, at)[0] / self.steps
        return ((picture - start) * slope).sum(1, keepdim=True)

    def score(self, picture: Tensor, told: Tensor, neutral: Tensor | None) -> Tensor:
        """s of each picture, ``(B,)``."""
        seen = self.encoder.encode_image(picture)
        seen = (seen.pooled[..., None] if self.of == "pooled" else seen.patches.flatten(2)).float()
        fits = cosine_similarity(seen, told.to(seen)[..., None])  # B places
        if neutral is not None:
            fits = fits - cosine_similarity(seen, neutral.to(seen)[..., None])
        return SOFTNESS * ((fits / SOFTNESS).logsumexp(1) - math.log(fits.shape[1]))


def _smoothed(x: Tensor, deviation: float) -> Tensor:
    radius = int(2 * deviation + 0.5)
    if not radius:
        return x
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-offsets.square() / (2 * deviation**2))
    weights = weights / weights.sum()
    x = pad(x, (radius,) * 4, mode="replicate")
    return conv2d(conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
