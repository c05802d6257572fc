"""How bright a picture is, in words.

Source: write here which model writes, and where its weights come from.
"""

from typing import Any

from torch import Tensor

from fusionkit.color import luma


class Component:
    """``a dark picture``, ``a bright picture`` or ``a picture of medium brightness``.

    Args:
        dark, bright: mean grey levels below and above which a picture is called so.
    """

    def __init__(self, *, dark: float = 0.3, bright: float = 0.7) -> None:
        self.dark, self.bright = dark, bright

    def __call__(self, image: Tensor, **context: Any) -> list[str]:
        """``(B, 1 or 3, H, W)`` in [0, 1] -> one text per picture."""
        return [self._say(level) for level in luma(image).mean((1, 2, 3)).tolist()]

    def _say(self, level: float) -> str:
        if level < self.dark:
            return "a dark picture"
        return "a bright picture" if level > self.bright else "a picture of medium brightness"
