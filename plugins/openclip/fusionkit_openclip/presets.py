"""Ready names: the three CLIP models of OpenAI that the fusion literature uses.

Each is :class:`~fusionkit_openclip.encoder.OpenClip` with the architecture filled in; every other
option stays open.
"""

import inspect
from collections.abc import Callable
from typing import Any

from fusionkit_openclip.encoder import OpenClip


def _preset(name: str, model: str, summary: str) -> Callable[..., OpenClip]:
    def build(**options: Any) -> OpenClip:
        return OpenClip(model=model, **options)

    signature = inspect.signature(OpenClip)
    build.__name__ = build.__qualname__ = name
    build.__doc__ = summary
    # The registry reads the signature to check options, so it must spell them out.
    build.__signature__ = signature.replace(
        parameters=[p for p in signature.parameters.values() if p.name not in ("model", "config")]
    )
    build.paper = OpenClip.paper
    build.needs = OpenClip.needs
    return build


clip_vit_b_32 = _preset(
    "clip_vit_b_32",
    "ViT-B-32-quickgelu",
    "CLIP ViT-B/32 of OpenAI, text width 512: what TextFusion, Text-IF and LDFusion expect.",
)
clip_vit_b_16 = _preset(
    "clip_vit_b_16",
    "ViT-B-16-quickgelu",
    "CLIP ViT-B/16 of OpenAI, text width 512: what RFC expects; twice as fine a grid of patches.",
)
clip_vit_l_14 = _preset(
    "clip_vit_l_14",
    "ViT-L-14-quickgelu",
    "CLIP ViT-L/14 of OpenAI, text width 768: larger, slower, the finest grid of the three.",
)
