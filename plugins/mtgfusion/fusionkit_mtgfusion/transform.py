r"""The text-guided recursive domain transform: an edge-aware filter that text steers.

One causal pass along the rows, one down the columns of its result, each

.. math:: J_0 = V_0, \qquad J_n = (1 - k_n) V_n + k_n J_{n-1}

In the released program :math:`k_n = e^{-D(V_n, T'_{n-1})}` with the cosine distance D between a
pixel's features and the text vector one pixel before; as described in words,
:math:`k_n = a^{|T'_n - T'_{n-1}|}`, the distance between neighbouring text vectors. Within a pass k
depends on that pass's input alone, so the recursion is linear and :func:`scan` does it in parallel.

Source: MTG-Fusion; the filter is E. Gastal, M. Oliveira, "Domain Transform for Edge-Aware Image
and Video Processing", SIGGRAPH 2011, section 4, with text in the place of colour distance.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16
"""Pixels that one matrix product carries through the recursion."""
PIECE = 1 << 19
"""Numbers that distances are computed of at once."""
NEVER = -20.0
"""A feedback of e^-20 is below the resolution of single precision: nothing is handed on."""
DISTANCES = ("vision-text", "text-text")


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """``1 - cos(x, y)`` over the last axis, 0 to 2; 1 where a vector is zero.

    Of ``(B, n, ..., C)`` in pieces of n that fit into a cache: what is computed in between is four
    times as large as the vectors themselves.
    """
    if x.ndim < 3 or x.numel() < PIECE:
        return 1 - F.cosine_similarity(x, y, dim=-1, eps=1e-8)
    step = max(1, PIECE * x.shape[1] // x.numel())
    pieces = zip(x.split(step, 1), y.split(step, 1), strict=True)
    return torch.cat([1 - F.cosine_similarity(*both, dim=-1, eps=1e-8) for both in pieces], 1)


def scan(x: Tensor, log_k: Tensor) -> Tensor:
    r"""The recursion :math:`J_n = (1-k_n) x_n + k_n J_{n-1}`, :math:`J_0 = x_0`, in parallel.

    Sixteen pixels at a time are one product with a triangular matrix of decays, and what each such
    block hands on obeys the same recursion, sixteen times shorter. Decays are exponentials of
    differences of running sums, never quotients of products, which would underflow.

    On a processor without gradients :func:`scan_stepwise` takes half the time and is taken.

    Args:
        x: ``(..., n, C)``.
        log_k: logarithm of the feedback, ``(..., n)``, at most 0; the first one is not used.

    Returns:
        J, ``(..., n, C)``.
    """
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return scan_stepwise(x, log_k)
    return scan_parallel(x, log_k)


def scan_stepwise(x: Tensor, log_k: Tensor) -> Tensor:
    """:func:`scan` one position after the other, all lines at once."""
    k = log_k.exp()[..., None]
    steps = [x[..., 0, :]]
    for n in range(1, x.shape[-2]):
        steps.append(torch.lerp(x[..., n, :], steps[-1], k[..., n, :]))
    return torch.stack(steps, -2)


def scan_parallel(x: Tensor, log_k: Tensor) -> Tensor:
    """:func:`scan` in a number of steps that grows with the logarithm of n."""
    log_k = log_k.clamp(min=NEVER)
    first = torch.arange(log_k.shape[-1], device=x.device) == 0
    keep = -torch.expm1(log_k)  # 1 - k without cancellation
    keep = keep.masked_fill(first, 1.0)
    return _recur(keep[..., None] * x, log_k.masked_fill(first, 0.0))


def _recur(added: Tensor, log_k: Tensor) -> Tensor:
    """J_n = added_n + k_n J_{n-1}, from nothing; the first k has no effect."""
    length = added.shape[-2]
    size = min(BLOCK, length)
    missing = -length % size
    if missing:
        added = F.pad(added, (0, 0, 0, missing))
        log_k = F.pad(log_k, (0, missing))
    added, log_k = added.unflatten(-2, (-1, size)), log_k.unflatten(-1, (-1, size))
    fall = log_k.cumsum(-1)
    later = torch.ones(size, size, dtype=torch.bool, device=added.device).tril()
    decay = (fall[..., :, None] - fall[..., None, :]).masked_fill(~later, -torch.inf).exp()
    inside = decay @ added  # ... m S C
    if inside.shape[-3] > 1:
        ends = _recur(inside[..., -1, :], fall[..., -1])[..., :-1, None, :]
        handed = fall[..., 1:, :, None].exp() * ends
        inside = torch.cat([inside[..., :1, :, :], inside[..., 1:, :, :] + handed], -3)
    return inside.flatten(-3, -2)[..., :length, :]


def domain_transform(
    visual: Tensor,
    guide: Tensor,
    *,
    distance: str = "vision-text",
    feedback: Tensor | float = -1.0,
    directions: str = "forward",
    iterations: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Filter features along rows, then columns, steered by the text vectors of a guide.

    Args:
        visual: ``(B, H, W, C)``.
        guide: reordered text ``(B, H, W, C)``; any guide of that shape makes an edge-aware filter.
        distance: ``vision-text`` (released program) or ``text-text`` (as described).
        feedback: natural logarithm of a in k = a^distance; -1 is the program's e^-d.
        directions: ``forward``, or ``both``: each axis once more from its far end.
        iterations: passes over both axes.

    Returns:
        The filtered features, and the parts worth looking at: ``rows``, the result of the first
        pass over rows, ``(B, H, W, C)``; ``k_rows``, ``k_columns``, ``(B, H, W)``, the feedback of
        the first passes, 0 at the first pixel of a line.
    """
    if distance not in DISTANCES or directions not in ("forward", "both"):
        raise ValueError(
            f"domain transform: distance {distance!r} of {DISTANCES}, directions {directions!r} of "
            "('forward', 'both')."
        )
    parts: dict[str, Tensor] = {}
    j = visual
    for _ in range(iterations):
        for name, axis in (("rows", 2), ("columns", 1)):
            line, text = (z.movedim(axis, 2) for z in (j, guide))  # B lines n C
            for backward in (False, True)[: 1 + (directions == "both")]:
                if backward:
                    line, text = line.flip(2), text.flip(2)
                log_k = feedback * _distances(line, text, distance)
                line = scan(line, log_k)
                if backward:
                    line, text = line.flip(2), text.flip(2)
                if f"k_{name}" not in parts:
                    first = F.pad(log_k.detach()[..., 1:].exp(), (1, 0))
                    parts[f"k_{name}"] = first.movedim(2, axis)
            j = line.movedim(2, axis)
            parts.setdefault(name, j)
    del parts["columns"]  # with one iteration it is the result
    return j, parts


def _distances(line: Tensor, text: Tensor, kind: str) -> Tensor:
    """Distance that decides how much is handed on to each position, ``(B, lines, n)``; first 0."""
    before, here = text[:, :, :-1], (line if kind == "vision-text" else text)[:, :, 1:]
    if kind == "vision-text":
        found = cosine_distance(here, before)
    else:
        # The tiny number keeps the gradient finite where two neighbours are the same.
        found = ((here - before).square().sum(-1) + 1e-16).sqrt()
    return F.pad(found, (1, 0))


def gate_distances(features: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """``d_tv``, features to text, and ``d_tt``, text to the next text in reading order.

    Shape:
        - ``(B, H, W, C)`` twice -> ``(B, H, W)`` twice; the last pixel's d_tt is 0, and the end of
          a row is compared with the start of the next.
    """
    d_tv = cosine_distance(features, guide)
    flat = guide.flatten(1, 2)
    d_tt = F.pad(cosine_distance(flat[:, :-1], flat[:, 1:]), (0, 1)).view(d_tv.shape)
    return d_tv, d_tt
