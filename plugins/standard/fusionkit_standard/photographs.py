"""What words do to photographs: boxes drawn by hand, and damage done on purpose, as truth.

Of a thing, on every pair with boxes of it, when it is asked for in place of the buildings:

* ``raised``: 1 where the boxes became brighter by more than their surroundings did, 0 elsewhere;
  surroundings are a frame around each box, as wide as the box on all four sides, without the boxes.
* ``raised over the rest``: likewise with all that lies outside the boxes.
* ``brighter by``: change of luma in the boxes less that in the frames, in [-1, 1], so that a hair's
  breadth does not pass for a highlight.

Of a damage, at severity 0.75, on some pairs: ``gain dB`` is the PSNR when the repair is asked for
less that under a plain request, ``net dB`` less that of the unrepaired mixture, all against the
mixture of the pictures as they were.

Of requests that nothing was trained on: ``new words, share`` and ``new words, cosine`` of the
change that the usual request for a thing brings, and the ``new words, gain dB`` of a repair.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fusionkit.color import luma
from fusionkit.control import psnr
from fusionkit.guides import GuideCache, enlarge
from fusionkit.methods import Method
from fusionkit.pointing import boxed
from fusionkit.protocols import Pair
from fusionkit.training import build_task
from fusionkit_standard.degradations import BASIC
from fusionkit_standard.depth import guess
from fusionkit_standard.scenes.texts import (
    PLAIN,
    held_out_prompts,
    highlight_prompts,
    repair_prompts,
)

LABELS = ("person", "car")
AGAINST = "highlight the building"
SEVERITY = 0.75

Row = dict[str, float]


def on_pairs(
    method: Method,
    pairs: Sequence[Pair],
    *,
    damages: Sequence[str] | None = None,
    damaged: int = 4,
    new_words: int = 2,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """All measures of a method, by measure and pair.

    Args:
        method: its task is a :class:`~fusionkit_standard.control.ControlTask`.
        pairs: photographs, with boxes where things are measured.
        damages: what is done to them; by default all that the task of the method repairs.
        damaged: how many pairs are damaged, spread over all.
        new_words: how many unseen requests for each thing and repair.
        seed: of the damage.

    Returns:
        ``{"person: raised": {pair name: value}, "haze: gain dB": ...}``.
    """

    def unseen(wish: str) -> list[str]:
        every = held_out_prompts(wish)
        return [every[k * len(every) // new_words] for k in range(new_words)]

    found: dict[str, dict[str, float]] = {}

    def keep(wish: str, pair: Pair, row: Row) -> None:
        for name, value in row.items():
            found.setdefault(f"{wish}: {name}", {})[pair.name] = value

    for label in LABELS:
        for pair in pairs:
            keep(label, pair, _thing(method, pair, label, unseen(label)))
    if damaged:
        task = build_task(method, [])
        chosen = pairs[:: max(1, len(pairs) // damaged)][:damaged]
        repair = partial(_repair, method, task.mixture)
        for name in task.damages if damages is None else damages:
            for k, pair in enumerate(chosen):
                keep(name, pair, repair(pair, name, unseen(name), seed + k))
    return found


def means(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Means over pairs as a table: a row for each thing and damage, and the mean over damages."""
    rows: dict[str, dict[str, float]] = {}
    for name, values in found.items():
        wish, _, measure = name.partition(": ")
        rows.setdefault(wish, {"pairs": len(values)})[measure] = float(np.mean([*values.values()]))
    repaired = [row for wish, row in rows.items() if wish in BASIC]
    if repaired:
        rows["all damages"] = {m: float(np.mean([r[m] for r in repaired])) for m in repaired[0]}
    return rows


def _thing(method: Method, pair: Pair, label: str, new_words: Sequence[str]) -> Row:
    """What asking for a label does to one pair; empty where no box of it is."""
    inside, ring = frames([t.box for t in pair.things if t.label == label], pair)
    if not inside.any() or not ring.any():
        return {}
    usual = highlight_prompts(label)[0]
    answers = _answers(method, pair.infrared, pair.visible, [AGAINST, usual, *new_words])
    changes = luma(answers[1:] - answers[:1])[:, 0].double().numpy()
    change = changes[0]
    by = change[inside].mean() - change[ring].mean()
    row = {
        "raised": float(by > 0),
        "raised over the rest": float(change[inside].mean() > change[~inside].mean()),
        "brighter by": by,
    }
    if new_words and (own := (change**2).sum()) > 0:
        dots = (changes[1:] * change).sum((1, 2))
        norms = np.sqrt((changes[1:] ** 2).sum((1, 2)) * own)
        row["new words, share"] = (dots / own).mean()
        row["new words, cosine"] = (dots / norms.clip(1e-12)).mean()
    return row


def frames(boxes: Sequence[Sequence[float]], pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Inside of boxes, and the frames around them as wide as each box: ``(H, W)`` bool each."""
    grown = []
    for box in boxes:
        x0, y0, x1, y1 = (round(side) for side in box)
        wide = x1 - x0
        grown.append((x0 - wide, y0 - wide, x1 + wide, y1 + wide))
    size = pair.visible.shape[-2:]
    inside, around = boxed(boxes, size).numpy(), boxed(grown, size).numpy()
    return inside, around & ~inside


def _repair(
    method: Method,
    mixture: Callable[..., Tensor],
    pair: Pair,
    name: str,
    new_words: Sequence[str],
    seed: int,
) -> Row:
    """What asking for a repair does to one pair that was damaged in this way."""
    damage = BASIC[name]()
    given = {"visible": pair.visible[None], "infrared": pair.infrared[None]}
    clean = mixture(**given)
    context = {"depth": guess(pair.visible)[None]} if name == "haze" else {}
    generator = torch.Generator().manual_seed(seed)
    given[damage.modality] = damage(given[damage.modality], SEVERITY, generator, **context)
    prompts = [PLAIN[0], repair_prompts(name)[0], *new_words]
    answers = _answers(method, given["infrared"][0], given["visible"][0], prompts)
    plain, asked, *new = psnr(answers, clean.expand(len(answers), -1, -1, -1)).tolist()
    row = {"gain dB": asked - plain, "net dB": asked - float(psnr(mixture(**given), clean))}
    return {**row, "new words, gain dB": float(np.mean(new)) - plain} if new else row


def _answers(method: Method, infrared: Tensor, visible: Tensor, prompts: Sequence[str]) -> Tensor:
    """The pair under every prompt, ``(len(prompts), 3, H, W)``; guides look at it once."""
    count, size = len(prompts), tuple(visible.shape[-2:])
    cache = GuideCache(method.guides, [Pair("", visible, infrared)], prompts)
    maps = cache(0, prompts) if cache else {}
    guides = {name: enlarge(values, size) for name, values in maps.items()}
    pictures = (picture.expand(count, -1, -1, -1) for picture in (infrared, visible))
    return method.fuse(*pictures, list(prompts), guides=guides).cpu()
