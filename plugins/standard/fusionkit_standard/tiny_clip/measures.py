"""What tiny-clip can do, in numbers, on scenes it has never seen.

Each function takes an encoder and a pool and returns plain numbers. Shares lie in [0, 1].
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionkit.pointing import area as area_inside
from fusionkit.pointing import boxed
from fusionkit.protocols import Pair
from fusionkit_standard.degradations import BASIC
from fusionkit_standard.depth import guess
from fusionkit_standard.scenes import texts
from fusionkit_standard.tiny_clip.encoder import TinyClip
from fusionkit_standard.tiny_clip.training import CLASSES, FINE, THINGS, Pool

MODALITIES = ("visible", "infrared")
SMALLEST = 18  # pixels of 128 x 128; smaller masks are not asked for, as in the list of things
LEAST = 0.001  # share of a large picture below which a thing is not asked for
VISIBLE_SHARE = 0.65  # of the plain mixture
FEWEST = 5  # photographs of a label below which no number is given


def measure(encoder: TinyClip, pool: Pool) -> dict[str, Any]:
    """Every measure; ``{measure: {visible or infrared: {class: number} or number}}``."""
    found: dict[str, Any] = {}
    for name in MODALITIES:
        for key, value in {
            **segmentation(encoder, pool, name),
            **pointing(encoder, pool, name),
            "retrieval": retrieval(encoder, pool, name),
        }.items():
            found.setdefault(key, {})[name] = value
    found["degradation named"] = degradations_named(encoder, pool)
    found["held-out wishes"] = wishes_understood(encoder)
    return found


def segmentation(encoder: TinyClip, pool: Pool, modality: str) -> dict[str, Any]:
    """Each pixel given to the class whose mean text is nearest: pixel accuracy and IoU."""
    text = torch.stack([mean_text(encoder, texts.highlight_prompts(label)) for label in CLASSES])
    confusion = np.zeros((len(CLASSES), len(CLASSES)))
    for rows, image in _pictures(pool, modality):
        logits = encoder.towers.logits(text, encoder._see(image, encoder.longest_side)[1])
        chosen = F.interpolate(logits, image.shape[-2:], mode="bilinear").argmax(1).numpy()
        np.add.at(confusion, (pool.classes[rows].ravel(), chosen.ravel()), 1)
    hit = confusion.diagonal()
    union = (confusion.sum(0) + confusion.sum(1) - hit).clip(1)
    return {
        "pixel accuracy": float(hit.sum() / confusion.sum()),
        "IoU": dict(zip(CLASSES, (hit / union).tolist(), strict=True)),
    }


def pointing(encoder: TinyClip, pool: Pool, modality: str) -> dict[str, Any]:
    """Does the peak of the heat map lie on what was named, and how do scores rank.

    For a name (``the car``), an instruction (``highlight the car``) and a name with a place where
    the class stands at two or more; the area under the ROC curve inside masks; how high a map
    peaks for what is there, for what is not, and for requests that name nothing; and the expected
    calibration error over all names and places.
    """
    kinds = {"name": "the {}", "instruction": "highlight the {}"}
    nothing = [p for d in BASIC for p in texts.repair_prompts(d)] + list(texts.PLAIN)
    placed = [texts.phrase(label, place) for label in THINGS for place in texts.PLACES]
    prompts = [form.format(label) for form in kinds.values() for label in CLASSES]
    hits = {kind: {label: [] for label in CLASSES} for kind in kinds}
    area = {kind: {label: [] for label in CLASSES} for kind in kinds}
    inside, outside, peak = [], [], {"present": [], "absent": [], "nothing": []}
    at_place: list[bool] = []
    scores, truths = [], []
    for rows, image in _pictures(pool, modality):
        grid = encoder.heatmap_grid([*prompts, *placed, *nothing], image)
        maps = F.interpolate(grid, image.shape[-2:], mode="bilinear").numpy()
        masks = pool.classes[rows][:, None] == np.arange(len(CLASSES))[:, None, None]
        scores.append(grid[:, : len(CLASSES)].numpy().ravel())
        truths.append(F.avg_pool2d(torch.from_numpy(masks).float(), FINE).numpy().ravel())
        peak["nothing"].append(maps[:, len(prompts) + len(placed) :].max((2, 3)).ravel())
        for i, row in enumerate(rows):
            for column, (kind, label) in enumerate((k, c) for k in kinds for c in CLASSES):
                mask, heat = masks[i, column % len(CLASSES)], maps[i, column]
                size = mask.sum()
                if kind == "name":
                    if size == 0:
                        peak["absent"].append([heat.max()])
                    elif size >= SMALLEST:
                        peak["present"].append([heat.max()])
                        inside.append(heat[mask].mean())
                        outside.append(heat[~mask].mean() if size < mask.size else 0)
                if size >= SMALLEST:
                    hits[kind][label].append(mask.flat[heat.argmax()])
                    area[kind][label].append(area_under_curve(heat, mask))
            at_place += _at_places(pool, row, maps[i, len(prompts) : len(prompts) + len(placed)])
    means = {
        f"pointing, {kind}": {c: float(np.mean(v)) for c, v in hits[kind].items() if v}
        for kind in kinds
    } | {
        f"area under curve, {kind}": {c: float(np.nanmean(v)) for c, v in area[kind].items() if v}
        for kind in kinds
    }
    return {
        **means,
        "pointing, place": float(np.mean(at_place)),
        "mean score": {"inside": float(np.mean(inside)), "outside": float(np.mean(outside))},
        "peak score": {k: float(np.mean(np.concatenate(v))) for k, v in peak.items()},
        "calibration error": calibration_error(np.concatenate(scores), np.concatenate(truths)),
        "asked": {c: len(v) for c, v in hits["name"].items()},
    }


def _at_places(pool: Pool, row: int, maps: np.ndarray) -> Iterator[bool]:
    """Hits of ``the person on the left`` and the like, for labels that stand at two places."""
    things = pool.facts[row]["things"]
    for i, label in enumerate(THINGS):
        places = {place for name, place, _ in things if name == label}
        if len(places) < 2:
            continue
        for j, place in enumerate(texts.PLACES):
            if place in places:
                own = [n for name, where, n in things if (name, where) == (label, place)]
                mask = np.isin(pool.instances[row], own)
                yield bool(mask.flat[maps[i * len(texts.PLACES) + j].argmax()])


def retrieval(encoder: TinyClip, pool: Pool, modality: str) -> dict[str, float]:
    """Share of pictures whose own first caption is among the nearest 1, 5, 10 of all captions."""
    text = encoder.encode_text([facts["captions"][0] for facts in pool.facts]).pooled
    pooled = torch.cat(
        [encoder.encode_image(image).pooled for _, image in _pictures(pool, modality)]
    )
    similar = pooled @ text.T
    rank = (similar > similar.diagonal()[:, None]).sum(1)
    return {f"R@{k}": float((rank < k).float().mean()) for k in (1, 5, 10)}


def degradations_named(encoder: TinyClip, pool: Pool, seed: int = 0) -> dict[str, float]:
    """Share of degraded pictures whose nearest mean statement is the right one of eight.

    Severity is drawn between 0.5 and 1.
    """
    batches = (pool.pictures(rows) for rows in _chunks(len(pool)))
    return _named(encoder, batches, seed)


def degradations_on_photographs(
    encoder: TinyClip, pairs: Sequence[Pair], seed: int = 0
) -> dict[str, float]:
    """As :func:`degradations_named` for real pictures, degraded in full size; haze by a guess of
    the depth. What was wrong with a picture before stays in it."""
    batches = (
        (pair.visible[None], pair.infrared[None], guess(pair.visible)[None]) for pair in pairs
    )
    return _named(encoder, batches, seed)


def _named(
    encoder: TinyClip, batches: Iterable[tuple[Tensor, Tensor, Tensor]], seed: int
) -> dict[str, float]:
    text = torch.stack([mean_text(encoder, texts.statement(name)) for name in BASIC])
    generator = torch.Generator().manual_seed(seed)
    right: dict[str, list[Tensor]] = {name: [] for name in BASIC}
    for visible, infrared, depth in batches:
        for index, (name, build) in enumerate(BASIC.items()):
            source = visible if build.modality == "visible" else infrared
            severity = 0.5 + 0.5 * torch.rand(len(source), generator=generator)
            damaged = build()(source, severity, generator, depth=depth)
            near = (encoder.encode_image(damaged).pooled @ text.T).argmax(1)
            right[name].append((near == index).float())
    found = {name: float(torch.cat(hits).mean()) for name, hits in right.items()}
    return {**found, "mean": float(np.mean(list(found.values())))}


def wishes_understood(encoder: TinyClip) -> dict[str, float]:
    """Share of held-out requests whose nearest wish is the right one.

    A wish stands for the mean of its training phrasings; wishes are the classes, groups of them,
    the repairs and the plain fusion. Beside the mean of all requests the shares by kind.
    """
    known = texts.wishes()
    means = torch.stack([mean_text(encoder, phrasings) for phrasings in known.values()])
    hits: dict[str, list[float]] = {}
    for index, wish in enumerate(known):
        asked = encoder.encode_text(list(texts.held_out_prompts(wish))).pooled
        kind = "repair" if wish in BASIC else "plain" if wish == "plain" else "highlight"
        hits.setdefault(kind, []).extend(((asked @ means.T).argmax(1) == index).float().tolist())
    shares = {kind: float(np.mean(values)) for kind, values in hits.items()}
    every = [hit for values in hits.values() for hit in values]
    return {**shares, "all": float(np.mean(every)), "chance": 1 / len(known)}


def on_photographs(encoder: TinyClip, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Pointing and mean area under the curve inside boxes drawn on real pictures.

    For each label that enough pairs show: from the visible picture, the infrared one, the mean of
    both maps, and the plain mixture of both pictures (VISIBLE_SHARE of the visible one), beside the
    brightness of the infrared picture and of the mixture, which need no model. A box is coarser
    than a mask, so both numbers are kinder than on scenes.
    """
    found: dict[str, Any] = {}
    for label in THINGS:
        shown = [pair for pair in pairs if any(t.label == label for t in pair.things)]
        if len(shown) < FEWEST:
            continue
        scores: dict[str, list[tuple[float, float]]] = {}
        for pair in shown:
            fused = torch.lerp(pair.infrared.expand(3, -1, -1), pair.visible, VISIBLE_SHARE)
            pictures = torch.stack([pair.visible, pair.infrared.expand_as(fused), fused])
            maps = encoder.heatmap([f"the {label}"], pictures)[:, 0]
            inside = boxed([t.box for t in pair.things if t.label == label], maps.shape[-2:])
            for source, heat in {
                **dict(zip(("visible", "infrared", "fused"), maps, strict=True)),
                "both": maps[:2].mean(0),
                "infrared brightness": pair.infrared[0],
                "fused brightness": fused.mean(0),
            }.items():
                hit = float(inside.flatten()[heat.argmax()])
                coarse, mask = heat[::2, ::2].numpy(), inside[::2, ::2].numpy()
                scores.setdefault(source, []).append((hit, area_under_curve(coarse, mask)))
        for source, values in scores.items():
            hit, area = np.nanmean(values, 0)
            entry = {"pointing": float(hit), "area under curve": float(area)}
            found.setdefault(label, {"pairs": len(shown)})[source] = entry
    return found


def by_reading_size(
    encoder: TinyClip, pool: Pool, sides: Sequence[int]
) -> dict[str, dict[str, float]]:
    """What the side to which large pictures are shrunk does: ``{side: {measure: mean}}``.

    Pointing and area under the curve for every thing in the scenes of ``pool``, which should be as
    large as photographs, over both modalities. This is how LONGEST_SIDE is chosen, photographs
    unseen.
    """
    before, found = encoder.longest_side, {}
    for side in sides:
        encoder.longest_side = side
        values = [
            (mask.flat[heat.argmax()], area_under_curve(heat[::2, ::2], mask[::2, ::2]))
            for modality in MODALITIES
            for rows, image in _pictures(pool, modality)
            for label, maps in zip(
                THINGS, _things_in(encoder, image).numpy().swapaxes(0, 1), strict=True
            )
            for heat, mask in zip(maps, pool.classes[rows] == CLASSES.index(label), strict=True)
            if mask.mean() > LEAST
        ]
        hit, area = np.nanmean(np.array(values, float), 0)
        found[str(side)] = {"pointing": float(hit), "area under curve": float(area)}
    encoder.longest_side = before
    return found


def _things_in(encoder: TinyClip, image: Tensor) -> Tensor:
    grid = encoder.heatmap_grid([f"the {label}" for label in THINGS], image)
    return F.interpolate(grid, image.shape[-2:], mode="bilinear")


def calibrate(encoder: TinyClip, pool: Pool) -> None:
    """Set scale and bias so that scores are frequencies: names, instructions, empty requests.

    Two numbers, fitted by Newton's method (L-BFGS) to the binary loss (Platt scaling) on scenes
    used for nothing else.
    """
    nothing = [p for d in BASIC for p in texts.repair_prompts(d)[:1]]
    prompts = [f"highlight the {label}" for label in CLASSES]
    prompts += [f"the {label}" for label in CLASSES] + nothing
    towers, cosines, truths = encoder.towers, [], []
    for modality in MODALITIES:
        for rows, image in _pictures(pool, modality):
            logits = torch.logit(encoder.heatmap_grid(prompts, image).double(), 1e-9)
            cosines.append(((logits - towers.bias) / towers.scale.exp()).flatten(2))
            hot = F.one_hot(torch.from_numpy(pool.classes[rows]).long(), len(CLASSES))
            share = F.avg_pool2d(hot.permute(0, 3, 1, 2).float(), FINE).flatten(2)
            truths.append(
                torch.cat(
                    [share, share, share.new_zeros(len(rows), len(nothing), share.shape[-1])], 1
                )
            )
    cosine, truth = torch.cat(cosines), torch.cat(truths).double()
    scale = towers.scale.detach().double().clone().requires_grad_()
    bias = towers.bias.detach().double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([scale, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(scale.exp() * cosine + bias, truth)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        towers.scale.copy_(scale)
        towers.bias.copy_(bias)


def mean_text(encoder: TinyClip, prompts: Sequence[str]) -> Tensor:
    """The mean direction of several texts for one thing, ``(D,)`` of unit length."""
    return F.normalize(encoder.encode_text(list(prompts)).pooled.mean(0), dim=0)


def area_under_curve(heat: np.ndarray, mask: np.ndarray) -> float:
    """Probability that a pixel inside outranks one outside; NaN when one of the two is empty."""
    if mask.all() or not mask.any():
        return float("nan")
    return area_inside(torch.from_numpy(heat), torch.from_numpy(mask))


def calibration_error(score: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., ICML 2017): mean gap of score and frequency."""
    place = np.minimum((score * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins).clip(1)
    gap = np.bincount(place, score - truth, minlength=bins) / count
    return float((np.abs(gap) * count).sum() / len(score))


def table(found: dict[str, Any]) -> str:
    """The measures as lines of text, shares with two decimals."""
    lines = []
    for measure_name, by_modality in found.items():
        for modality, value in by_modality.items() if isinstance(by_modality, dict) else []:
            if isinstance(value, dict):
                value = "  ".join(
                    f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
                )
            else:
                value = f"{value:.3f}"
            lines.append(f"{measure_name:30} {modality:15} {value}")
    return "\n".join(lines)


def _chunks(count: int, size: int = 25) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))


def _pictures(pool: Pool, modality: str) -> Iterator[tuple[list[int], Tensor]]:
    with torch.no_grad():
        for rows in _chunks(len(pool)):
            visible, infrared, _ = pool.pictures(rows)
            yield rows, visible if modality == "visible" else infrared
