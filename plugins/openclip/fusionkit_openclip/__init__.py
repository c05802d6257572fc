"""CLIP and its relatives through open_clip: sentences and pictures in one space."""

from fusionkit.hookspecs import hookimpl
from fusionkit_openclip.encoder import OpenClip
from fusionkit_openclip.presets import clip_vit_b_16, clip_vit_b_32, clip_vit_l_14

__version__ = "0.1.0"


@hookimpl
def fusionkit_encoders():
    return {
        "openclip": OpenClip,
        "clip-vit-b-32": clip_vit_b_32,
        "clip-vit-b-16": clip_vit_b_16,
        "clip-vit-l-14": clip_vit_l_14,
    }
