"""How unlike two feature maps are in what they contain, wherever it lies.

Sources: R. Mechrez et al., "The Contextual Loss for Image Transformation with Non-Aligned Data",
ECCV 2018; X. Zhang et al., "Zoom to Learn, Learn to Zoom", CVPR 2019 (the bilateral form); the
released code of OCCO, whose bilateral form differs from both and is the default here.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fusionkit.errors import BadRequest

EPSILON = 1e-5
SPATIAL = ("feature", "grid")


def contextual(x: Tensor, y: Tensor, *, bandwidth: float = 0.5) -> Tensor:
    """Contextual loss of maps ``(N, C, h, w)``, a scalar: is each place of y found in x?"""
    found = _affinity(_cosine_distance(x, y), bandwidth).amax(1).mean(1)
    return -(found + EPSILON).log().mean()


def contextual_bilateral(
    x: Tensor,
    y: Tensor,
    *,
    weight: float = 0.5,
    bandwidth: float = 1.0,
    spatial: str = "feature",
) -> Tensor:
    r"""Contextual bilateral loss of maps ``(N, C, h, w)``; a scalar, not symmetric.

    :math:`-\log(\overline{\max_j A_{ij}} + \epsilon)`, A mixed from two affinities: by the angle
    between features, and by

    * ``spatial="feature"``: their squared distance, transposed, as in the released code;
    * ``spatial="grid"``: the squared distance of the places, as the loss is defined.

    Args:
        x, y: feature maps of one shape.
        weight: share of the second affinity.
        bandwidth: h; a smaller one makes each place choose more sharply.
        spatial: which second affinity.
    """
    if spatial == "feature":
        second = _squared_distance(y, x)
    elif spatial == "grid":
        second = _grid_distance(x)
    else:
        raise BadRequest(f"spatial is {' or '.join(SPATIAL)}, not {spatial!r}.")
    mixed = (1 - weight) * _affinity(_cosine_distance(x, y), bandwidth) + weight * _affinity(
        second, bandwidth
    )
    return -(mixed.amax(2).mean(1) + EPSILON).log().mean()


def _affinity(distance: Tensor, bandwidth: float) -> Tensor:
    """Of each row, shares of its columns by nearness, relative to the nearest one."""
    relative = distance / (distance.amin(2, keepdim=True) + EPSILON)
    return ((1 - relative) / bandwidth).softmax(2)


def _cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """``(N, P, P)``, row a place of x, column one of y; both less the mean feature of y."""
    centre = y.mean((0, 2, 3), keepdim=True)
    x, y = (normalize(z - centre, dim=1, eps=1e-12).flatten(2) for z in (x, y))
    return 1 - x.mT @ y


def _squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """``(N, P, P)``, row a place of x, column one of y."""
    x, y = x.flatten(2), y.flatten(2)
    squares = x.square().sum(1)[:, :, None] + y.square().sum(1)[:, None]
    return (squares - 2 * x.mT @ y).clamp(min=0)


def _grid_distance(x: Tensor) -> Tensor:
    """``(1, P, P)``: squared distances of the places, rows and columns counted in shares."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=x.dtype) / (height + 1)
    columns = torch.arange(width, device=x.device, dtype=x.dtype) / (width + 1)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    return _squared_distance(places, places)
