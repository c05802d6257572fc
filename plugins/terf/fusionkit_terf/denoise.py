"""Removing noise with nothing but the noisy picture: a small network learns on its two halves.

Source: effect 1 of the released TeRF, which takes over Y. Mansour, R. Heckel, "Zero-Shot
Noise2Noise", CVPR 2023.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pad

SLOPE = 0.2


class NoiseNet(nn.Module):
    """The noise in a picture, ``(B, 3, H, W)`` -> the same; 44,550 parameters.

    Two stages of 3x3, 3x3, 1x1; as released, nothing stands between the first 1x1 and the second
    stage.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 3, 1)
        self.conv4 = nn.Conv2d(3, width, 3, padding=1)
        self.conv5 = nn.Conv2d(width, width, 3, padding=1)
        self.conv6 = nn.Conv2d(width, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for first, second, last in (
            (self.conv1, self.conv2, self.conv3),
            (self.conv4, self.conv5, self.conv6),
        ):
            x = last(leaky_relu(second(leaky_relu(first(x), SLOPE)), SLOPE))
        return x


def halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """Two pictures of half the size with independent noise: the means of the diagonals of 2x2.

    ``(B, C, H, W)`` -> the rising diagonal's and the falling one's, ``(B, C, H // 2, W // 2)``.
    """
    height, width = (side // 2 * 2 for side in image.shape[-2:])
    image = image[..., :height, :width]
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    return (b + c) / 2, (a + d) / 2


def noise_to_noise(image: Tensor, network: nn.Module) -> Tensor:
    """What the network learns by: halves cleaned predict each other, and cleaning commutes.

    A scalar; gradients flow through every part of it.
    """
    first, second = halves(image)
    cleaned = first - network(first), second - network(second)
    predicted = _squared(first, cleaned[1]) + _squared(second, cleaned[0])
    before = halves(image - network(image))
    agreed = _squared(cleaned[0], before[0]) + _squared(cleaned[1], before[1])
    return (predicted + agreed) / 2


def _squared(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean()


def box_blur(image: Tensor, *, side: int = 7, passes: int = 3, dark_edges: bool = False) -> Tensor:
    """Effect 3: mean over a square, several times; ``(B, C, H, W)`` -> the same.

    Args:
        dark_edges: count what lies beyond the edge as black, as released.
    """
    for _ in range(passes):
        image = avg_pool2d(
            image, side, stride=1, padding=side // 2, count_include_pad=dark_edges
        ).relu()
    return image


def deblur(image: Tensor, *, deviation: float = 1.2, passes: int = 12) -> Tensor:
    """Richardson-Lucy deconvolution with a Gaussian, ``(B, C, H, W)`` in [0, 1] -> the same.

    Ours, not TeRF's. Source: L. B. Lucy, "An iterative technique for the rectification of observed
    distributions", Astronomical Journal 79 (1974).
    """
    radius = max(1, round(3 * deviation))
    steps = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-steps.square() / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)

    def blurred(x: Tensor) -> Tensor:
        x = pad(x, (radius,) * 4, mode="replicate")
        x = torch.conv2d(x, kernel, groups=len(kernel))
        return torch.conv2d(x, kernel.mT, groups=len(kernel))

    seen = image.clamp(min=1e-3)
    found = seen
    for _ in range(passes):
        found = found * blurred(seen / blurred(found).clamp(min=1e-3))
    return found.clamp(0, 1)
