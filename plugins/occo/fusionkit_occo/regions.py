"""What two masks say of a scene: seen by one picture alone, by both, by none."""

from torch import Tensor


def regions(mask_visible: Tensor, mask_infrared: Tensor) -> dict[str, Tensor]:
    """Four masks that add up to one, ``(B, 1, H, W)`` each, from two.

    ``visible`` and ``infrared``: objects that this picture alone shows; ``shared``: objects in
    both; ``background``: everything else.

    Source: OCCO, IJCV 2025 (arXiv 2503.18635), released code.
    """
    shared = mask_visible * mask_infrared
    visible, infrared = mask_visible - shared, mask_infrared - shared
    return {
        "visible": visible,
        "infrared": infrared,
        "shared": shared,
        "background": 1 - visible - infrared - shared,
    }
