"""What is warmer than its surroundings.

Source: write here whose idea it is: authors, title, venue, equation; or "ours".
"""

from torch import Tensor
from torch.nn.functional import avg_pool2d

from fusionkit.batch import Batch


class Component:
    """A map that is 1 where the infrared picture is brightest against its surroundings.

    Args:
        radius: half the side of the surroundings in pixels.
    """

    maps = ("component-name",)

    def __init__(self, *, radius: int = 15) -> None:
        self.radius = radius

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``{"component-name": (B, 1, H, W) in [0, 1]}``; 0 everywhere for a constant picture."""
        side = 2 * self.radius + 1
        around = avg_pool2d(
            batch.infrared, side, stride=1, padding=self.radius, count_include_pad=False
        )
        above = (batch.infrared - around).clamp(min=0)
        return {"component-name": above / above.amax((1, 2, 3), keepdim=True).clamp(min=1e-3)}
