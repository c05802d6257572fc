r"""Did the words matter? Measures of text control, for two prompts put to one scene.

For prompts a and b let F be the outputs and T the pictures that the prompts ask for;
:math:`d_F = F_a - F_b` is what changing the words changed, :math:`d_T = T_a - T_b` what it should
have. All measures are per scene. A network that does not read its text scores gain 0, cosine 0,
named_right 0.5, selectivity 1 and 0 dB, by construction: that is the check on the measures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusionkit.batch import Batch, Fused

MEASURES = ("gain", "cosine", "named_right", "selectivity", "repair_gain_db", "repair_net_db")
CHANCE = {
    "gain": 0.0,
    "cosine": 0.0,
    "named_right": 0.5,
    "selectivity": 1.0,
    "repair_gain_db": 0.0,
    "raised": 0.5,
}
"""What a network that ignores the text reaches."""


@dataclass(frozen=True, slots=True)
class Question:
    """B scenes, each asked twice; everything but the prompts (and guides) is equal."""

    kind: Literal["highlight", "repair"]
    first: Batch
    """With ``targets``: ``fused`` and ``mask`` (highlight), ``fused`` (repair: the clean mixture).
    In a repair question this prompt asks for the repair that is needed."""
    second: Batch
    """The same scenes under the other prompt. In a repair question it asks for something else."""
    unrepaired: Tensor | None = None
    """Repair: the mixture of the degraded pictures, ``(B, 3, H, W)``."""
    boxes: bool = False
    """Whether the masks come from boxes: then ``raised`` is measured as well."""


def highlight_measures(
    first: Tensor, second: Tensor, first_target: Tensor, second_target: Tensor
) -> dict[str, Tensor]:
    r"""How much of the requested change happened, where, and for which name.

    * ``gain`` :math:`= \langle d_F, d_T\rangle / \langle d_T, d_T\rangle`: 1 when all of the
      requested change happened, 0 when none.
    * ``cosine`` :math:`= \langle d_F, d_T\rangle / (\lVert d_F\rVert \lVert d_T\rVert)` in [-1, 1];
      0 when the words changed nothing.
    * ``named_right``: share of the two outputs that are nearer (squared distance) to their own
      target than to the other one; a tie counts a half.

    Args:
        first, second: outputs ``(B, 3, H, W)``.
        first_target, second_target: what each prompt asks for, likewise.

    Returns:
        ``(B,)`` each.
    """
    d_f = (first - second).flatten(1).double()
    d_t = (first_target - second_target).flatten(1).double()
    dot, norm_t = (d_f * d_t).sum(1), d_t.square().sum(1)
    if (norm_t == 0).any():
        raise ValueError("the two prompts of a scene ask for the same picture: nothing to measure.")
    norm = (d_f.square().sum(1) * norm_t).sqrt()
    cosine = torch.where(norm > 0, dot / norm.clamp(min=1e-30), torch.zeros_like(dot))
    right = torch.zeros_like(dot)
    for output, own, other in (
        (first, first_target, second_target),
        (second, second_target, first_target),
    ):
        margin = _distance(output, other) - _distance(output, own)
        right += ((margin.sign() + 1) / 2) / 2
    return {"gain": dot / norm_t, "cosine": cosine, "named_right": right}


def selectivity(first: Tensor, second: Tensor, named: Tensor) -> Tensor:
    """Mean change inside the named masks over mean change elsewhere, ``(B,)``.

    1 when the words changed nothing. No score alone: a faint but well-placed change wins it.

    Args:
        first, second: outputs ``(B, 3, H, W)``.
        named: union of both named masks, ``(B, 1, H, W)`` in [0, 1].
    """
    change = (first - second).abs().mean(1, keepdim=True).double()
    named = named.double()
    inside = (change * named).sum((1, 2, 3)) / named.sum((1, 2, 3)).clamp(min=1e-9)
    outside = (change * (1 - named)).sum((1, 2, 3)) / (1 - named).sum((1, 2, 3)).clamp(min=1e-9)
    ratio = inside / outside.clamp(min=1e-9)
    return torch.where((inside == 0) & (outside == 0), torch.ones_like(ratio), ratio)


def repair_measures(
    asked: Tensor, not_asked: Tensor, clean: Tensor, unrepaired: Tensor
) -> dict[str, Tensor]:
    """What asking for the needed repair brings, in dB of PSNR against the clean mixture, ``(B,)``.

    ``repair_gain_db`` is asked minus not asked; ``repair_net_db`` is asked minus the degraded
    mixture as it came, so that a network that only undoes its own harm does not pass for a
    repairer.

    Args:
        asked, not_asked: outputs ``(B, 3, H, W)`` under the two prompts.
        clean, unrepaired: mixture of the clean and of the degraded pictures, likewise.
    """
    reached = psnr(asked, clean)
    return {
        "repair_gain_db": reached - psnr(not_asked, clean),
        "repair_net_db": reached - psnr(unrepaired, clean),
    }


def raised(first: Tensor, second: Tensor, mask: Tensor, *, margin: float = 0.5) -> Tensor:
    """Whether naming a thing brightened it more than its surroundings: 1, 0, or 0.5 for a tie.

    The surroundings are a frame around the mask's bounding box, ``margin`` times its height and
    width wide on each side. Measured on the mean over channels of ``first - second``.

    Args:
        first: outputs ``(B, 3, H, W)`` under the prompt that names the thing.
        second: outputs under the other prompt.
        mask: the thing, ``(B, 1, H, W)`` in [0, 1].
    """
    change = (first - second).mean(1, keepdim=True).double()
    results = []
    for row, area in zip(change, mask > 0.5, strict=True):
        ys, xs = area[0].any(1).nonzero()[:, 0], area[0].any(0).nonzero()[:, 0]
        if not len(ys):
            results.append(torch.tensor(torch.nan, dtype=torch.double))
            continue
        height, width = int(ys[-1] - ys[0]) + 1, int(xs[-1] - xs[0]) + 1
        dy, dx = max(1, round(margin * height)), max(1, round(margin * width))
        frame = torch.zeros_like(area)
        frame[
            :,
            max(0, int(ys[0]) - dy) : int(ys[-1]) + dy + 1,
            max(0, int(xs[0]) - dx) : int(xs[-1]) + dx + 1,
        ] = True
        frame &= ~area
        if not frame.any():
            results.append(torch.tensor(torch.nan, dtype=torch.double))
            continue
        results.append(((row[area].mean() - row[frame].mean()).sign().cpu() + 1) / 2)
    return torch.stack(results)


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a range of 1, ``(B,)``; at most 100."""
    return -10 * _distance(image, reference).clamp(min=1e-10).log10()


@torch.no_grad()
def measure(fuse: Callable[[Batch], Fused], questions: Iterable[Question]) -> dict[str, Tensor]:
    """All measures over the questions.

    Args:
        fuse: the network with its text, ``Batch -> Fused``.
        questions: scenes with two prompts each.

    Returns:
        Per-scene values ``(scenes,)`` by measure; only the measures the questions allow.
    """
    found: dict[str, list[Tensor]] = {}
    for question in questions:
        first, second = fuse(question.first).image.float(), fuse(question.second).image.float()
        a, b = question.first.targets, question.second.targets
        if question.kind == "repair":
            values = repair_measures(first, second, a["fused"], question.unrepaired)
        else:
            values = highlight_measures(first, second, a["fused"], b["fused"])
            values["selectivity"] = selectivity(first, second, torch.maximum(a["mask"], b["mask"]))
            if question.boxes:
                values["raised"] = raised(first, second, a["mask"])
        for name, value in values.items():
            found.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values) for name, values in found.items()}


def scenes(questions: Iterable[Question]) -> dict[str, list[str]]:
    """Names of the scenes behind the values of :func:`measure`, by measure.

    A scene is called as its pair; asked a second time about another thing, ``<pair>#2``. Questions
    without names are numbered.
    """
    kinds: dict[str, list[str]] = {"highlight": [], "repair": []}
    for question in questions:
        names = question.first.names
        here = kinds[question.kind]
        here += names or map(str, range(len(here), len(here) + len(question.first)))
    for names in kinds.values():
        count: dict[str, int] = {}
        for i, name in enumerate(names):
            count[name] = count.get(name, 0) + 1
            names[i] = name if count[name] == 1 else f"{name}#{count[name]}"
    repair = ("repair_gain_db", "repair_net_db")
    return {
        name: kinds["repair" if name in repair else "highlight"] for name in [*MEASURES, "raised"]
    }


def order(names: Sequence[str]) -> list[str]:
    """Measure names in the order of the table."""
    known = [*MEASURES, "raised"]
    return sorted(names, key=lambda n: known.index(n) if n in known else len(known))


def _distance(image: Tensor, other: Tensor) -> Tensor:
    return (image - other).double().square().flatten(1).mean(1)
