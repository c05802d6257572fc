"""Adapting tiny-clip to a camera: pairs without labels, the encoder as its own teacher.

What one picture of a pair hides, the other often shows. Before anything is learned the encoder
reads both pictures of each pair, at two sizes and mirrored, and the readings become one map for
each class. Then a copy of it learns to give that map from either picture alone: cropped, scaled,
darker or brighter, noisy, degraded. Three things keep it what it was: text tower and calibration
stay as they are; scenes with true masks are shown in between; and the pooled features of every
view are held to those that the encoder gave before.

How far either picture is to be believed about a class is learned where the truth is known, on
scenes: one logistic regression for each class on the two readings. Nothing else is fitted to
anything but the pairs.

Sources: ours, after S. Gupta, J. Hoffman and J. Malik, "Cross Modal Distillation for Supervision
Transfer", CVPR 2016, and I. Radosavovic et al., "Data Distillation: Towards Omni-Supervised
Learning", CVPR 2018.
"""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fusionkit.devices import autocast, pick_precision
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair
from fusionkit_standard.datasets import Scenes
from fusionkit_standard.degradations import BASIC
from fusionkit_standard.scenes import texts
from fusionkit_standard.tiny_clip.encoder import TinyClip, reading_size
from fusionkit_standard.tiny_clip.measures import mean_text
from fusionkit_standard.tiny_clip.towers import ImageTower
from fusionkit_standard.tiny_clip.training import CLASSES, FINE

BATCH = 16
REPLAY = 4
"""Scenes among the pictures of a step."""
RATE = 3e-4
SCENES, BELIEF = 120, 40
"""Scenes that are shown again, and those of them that tell which picture to believe."""
SCALES = (0.75, 1.25)
"""Sizes at which the teacher reads, in units of the encoder's own reading size."""
EMPTY = 4
"""Texts of a step that name nothing and want an empty map."""
DAMAGES = tuple(name for name in BASIC if name != "haze")  # haze is a matter of distance


@dataclass(frozen=True, slots=True)
class Lesson:
    """One pair and what a map of each class should be."""

    visible: Tensor
    """``(3, H, W)``."""
    infrared: Tensor
    """``(1, H, W)``."""
    target: Tensor
    """``(12, h, w)`` in [0, 1]."""


def adapt(
    encoder: TinyClip,
    pairs: Sequence[Pair],
    *,
    steps: int = 80,
    seconds: float | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> TinyClip:
    """A copy of the encoder, adapted to pairs of which only the two pictures are looked at.

    Args:
        encoder: the one to start from; it stays as it is.
        pairs: aligned pairs, of any sizes.
        steps: steps of 16 pictures.
        seconds: learning ends after so much time; the result is then a matter of speed.
        seed: of every random draw.
        say: told how it goes, in lines of text.

    Raises:
        BadRequest: no pairs.
    """
    if not len(pairs):
        raise BadRequest("there is no pair to adapt tiny-clip to.")
    scenes = Scenes(split="validation", count=min(SCENES, 4 * steps), size=(192, 256)).prepare()
    teacher = Teacher(encoder, scenes[:BELIEF])
    lessons = teacher.lessons(pairs)
    known = [Lesson(scene.visible, scene.infrared, truth(scene)) for scene in scenes]
    if say:
        say(f"has read {len(pairs)} pairs; learns from them and from {len(known)} scenes")
    student = copy.deepcopy(encoder)
    learning = student.towers.image.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=RATE, weight_decay=0.01)
    shares = torch.stack([lesson.target.mean((1, 2)) for lesson in (*lessons, *known)]).mean(0)
    objective = Objective(encoder, shares)
    start, sums = time.perf_counter(), np.zeros(2)
    for step in range(steps):
        progress = step / steps
        if seconds is not None:
            progress = max(progress, (time.perf_counter() - start) / seconds)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 20 * progress + 0.05) * _cosine(progress)
        rng = np.random.default_rng((seed, step))
        chosen = [*_some(lessons, BATCH - REPLAY, rng), *_some(known, REPLAY, rng)]
        image, target = views(chosen, encoder.longest_side, rng)
        losses = objective(student, image.to(encoder.device), target.to(encoder.device), rng)
        optimizer.zero_grad()
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        optimizer.step()
        sums += [loss.item() for loss in losses]
        if say and (step + 1) % max(1, steps // 4) == 0:
            maps, pooled = sums / max(1, steps // 4)
            say(f"step {step + 1} of {steps}: maps {maps:.4f}, pooled features {pooled:.4f}")
            sums[:] = 0
    student.requires_grad_(False)
    return student


def save(encoder: TinyClip, path: str | Path) -> None:
    """Weights in half precision, whole or not at all, with the vocabulary beside them."""
    path = Path(path)
    state = {
        name: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in encoder.towers.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    words = json.dumps(list(encoder.tokenizer.vocabulary), indent=0) + "\n"
    path.with_name("vocabulary.json").write_text(words, encoding="utf-8")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: value.contiguous() for name, value in state.items()}, beside)
    os.replace(beside, path)


class Objective:
    """The two losses of a step.

    The texts are few: what the teacher reads in words it hardly knows would be learned as well.

    Args:
        encoder: the one before adaptation.
        shares: of each class in all maps, ``(12,)``: rare classes count more, by the root.
    """

    def __init__(self, encoder: TinyClip, shares: Tensor) -> None:
        self.encoder = encoder
        names = [f"the {c}" for c in CLASSES], [f"highlight the {c}" for c in CLASSES]
        nothing = [texts.PLAIN[0], *(texts.repair_prompts(d)[0] for d in BASIC)]
        self.names = torch.stack([encoder.encode_text(n).pooled for n in names])
        self.nothing = encoder.encode_text(nothing).pooled
        self.weight = (shares.clamp_min(1e-3) ** -0.5).to(encoder.device)[:, None, None]

    def __call__(
        self, student: TinyClip, image: Tensor, target: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Maps against ``target (B, 12, h, w)``, pooled features against what they were."""
        empty = _some(self.nothing, EMPTY, rng)
        text = torch.cat([self.names[rng.integers(len(self.names))], torch.stack(empty)])
        target = torch.cat([target, target.new_zeros(len(target), EMPTY, *target.shape[-2:])], 1)
        with torch.no_grad():
            before, _ = seen(self.encoder, image, text)
        pooled, logits = seen(student, image, text)
        weight = torch.cat([self.weight, self.weight.new_ones(EMPTY, 1, 1)])
        maps = F.binary_cross_entropy_with_logits(logits, target, weight)
        return maps, (1 - (pooled * before).sum(1)).mean()


# --- the teacher -----------------------------------------------------------------------------


class Teacher:
    """The encoder as it was, reading both pictures of a pair.

    ``belief (12, 3)``, fitted on scenes: what the visible reading of each class counts, what the
    infrared one, and a constant.
    """

    def __init__(self, encoder: TinyClip, scenes: Sequence[Pair]) -> None:
        self.encoder = encoder
        self.text = torch.stack([mean_text(encoder, texts.highlight_prompts(c)) for c in CLASSES])
        found = [self.readings(scene) for scene in scenes]
        wanted = [
            F.adaptive_avg_pool2d(truth(s), r.shape[-2:])
            for s, r in zip(scenes, found, strict=True)
        ]
        self.belief = _fitted(
            torch.cat([r.flatten(2) for r in found], 2),
            torch.cat([w.flatten(1) for w in wanted], 1),
        )

    def lessons(self, pairs: Sequence[Pair]) -> list[Lesson]:
        """The pairs with the map of every class that both pictures together give.

        Each class keeps the share of all maps that it had in the mean of both readings: on another
        camera the fitted constant would make it fade or spread.
        """
        by_visible, by_infrared, constant = self.belief.T[..., None, None]
        logits, shares = [], []
        for pair in pairs:
            visible, infrared = self.readings(pair)
            logits.append(by_visible * visible + by_infrared * infrared + constant)
            shares.append((visible.sigmoid() + infrared.sigmoid()).mean((1, 2)) / 2)
        every = torch.cat([found.flatten(1) for found in logits], 1)
        shift = _shift(every, torch.stack(shares).mean(0))[:, None, None]
        return [
            Lesson(pair.visible, pair.infrared, (found + shift).sigmoid())
            for pair, found in zip(pairs, logits, strict=True)
        ]

    @torch.no_grad()
    def readings(self, pair: Pair) -> Tensor:
        """Logits of every class from either picture, visible first: ``(2, 12, h, w)``.

        Means over sizes and mirrorings, at a quarter of the size at which the encoder reads.
        """
        size = reading_size(*pair.visible.shape[-2:], self.encoder.longest_side)
        found = []
        for scale in SCALES:
            at = [max(16, ImageTower.stride * round(s * scale / ImageTower.stride)) for s in size]
            both = torch.stack([pair.visible, pair.infrared.expand(3, -1, -1)])
            both = _resized(both.to(self.encoder.device), at)
            logits = seen(self.encoder, torch.cat([both, both.flip(-1)]), self.text)[1]
            logits = (logits[:2] + logits[2:].flip(-1)) / 2
            found.append(_resized(logits, [side // FINE for side in size]))
        return torch.stack(found).mean(0).cpu()


def _shift(logits: Tensor, shares: Tensor) -> Tensor:
    """What to add to logits ``(C, N)`` so that the mean scores are ``shares (C,)``; by halving."""
    low, high = torch.full_like(shares, -10), torch.full_like(shares, 10)
    for _ in range(20):
        middle = (low + high) / 2
        above = (logits + middle[:, None]).sigmoid().mean(1) > shares
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _fitted(readings: Tensor, wanted: Tensor) -> Tensor:
    """Logistic regression of the shares ``(C, N)`` on two logits ``(2, C, N)``: ``(C, 3)``."""
    (visible, infrared), wanted = readings.double(), wanted.double()
    start = torch.tensor([0.5, 0.5, 0.0], dtype=torch.double)
    belief = start.repeat(len(wanted), 1).requires_grad_()
    optimizer = torch.optim.LBFGS([belief], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = belief[:, :1] * visible + belief[:, 1:2] * infrared + belief[:, 2:]
        value = F.binary_cross_entropy_with_logits(logits, wanted)
        value.backward()
        return value

    optimizer.step(loss)
    return belief.detach().float()


def truth(scene: Pair) -> Tensor:
    """Share of every class at each place of a scene with masks, ``(12, H/4, W/4)``."""
    nothing = torch.zeros(1, *scene.visible.shape[-2:])
    return F.avg_pool2d(torch.cat([scene.masks.get(c, nothing) for c in CLASSES]), FINE)


def seen(encoder: TinyClip, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features, and logits of texts ``(K, D)`` at every place, of pictures of one size."""
    image = image.contiguous(memory_format=torch.channels_last)
    with autocast(image.device, pick_precision(encoder.precision, image.device)):
        pooled, dense = encoder.towers.image(image)
    return pooled, encoder.towers.logits(text, dense.float())


# --- views -----------------------------------------------------------------------------------


def views(
    lessons: Sequence[Lesson], longest: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The lessons as a camera might show them: ``(B, 3, h, w)`` and targets ``(B, 12, h/4, w/4)``.

    Half of them whole, half a window of 50 to 100 %, mirrored or not, in the shape of the first
    and at 65 to 100 % of what the encoder reads; one picture of the pair, or in 15 % both mixed;
    another exposure; noise, or in 15 % a degradation.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    shape = lessons[0].visible.shape[-2:]
    scale = longest * rng.choice((0.65, 0.8, 1.0)) / max(shape)
    size = [max(32, ImageTower.stride * round(s * scale / ImageTower.stride)) for s in shape]
    pictures, targets = [], []
    for lesson in lessons:
        window = _window(lesson.visible.shape[-2:], size, rng)
        visible, infrared = (_cut(p, window, size) for p in (lesson.visible, lesson.infrared))
        picture = _shown(_exposed(visible, rng), _exposed(infrared, rng), rng, generator)
        target = _cut(lesson.target, window, [side // FINE for side in size])
        mirrored = [-1] if rng.random() < 0.5 else []
        pictures.append(picture.flip(mirrored))
        targets.append(target.flip(mirrored))
    return torch.stack(pictures), torch.stack(targets).clamp(0, 1)


def _shown(
    visible: Tensor, infrared: Tensor, rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """One picture of three channels from a pair, noisy or degraded."""
    kind = rng.choice(5, p=(0.3, 0.12, 0.43, 0.075, 0.075))
    picture = (
        visible,
        visible.mean(0, keepdim=True),
        infrared,
        (visible + infrared) / 2,
        torch.maximum(visible, infrared.expand_as(visible)),
    )[kind]
    if rng.random() < 0.15:
        modality = "infrared" if kind == 2 else "visible"
        (damage,) = _some([BASIC[d] for d in DAMAGES if BASIC[d].modality == modality], 1, rng)
        picture = damage()(picture[None], float(rng.uniform(0.3, 0.9)), generator)[0]
    elif rng.random() < 0.5:
        noise = torch.randn(picture.shape[-2:], generator=generator)
        picture = picture + rng.uniform(0, 0.05) * noise
    return picture.clamp(0, 1).expand(3, -1, -1)


def _exposed(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Another exposure: a random power and gain."""
    power, gain = math.exp(rng.normal(0, 0.3)), rng.uniform(0.8, 1.15)
    return (picture.clamp_min(1e-4) ** power * gain).clamp(0, 1)


def _window(
    full: Sequence[int], size: Sequence[int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Top, bottom, left, right of a window of the shape of ``size``, as shares of the pair."""
    share = rng.uniform(0.5, 1) if rng.random() < 0.5 else 1.0
    fit = share * min(whole / side for whole, side in zip(full, size, strict=True))
    edges: list[float] = []
    for whole, side in zip(full, size, strict=True):
        first = rng.uniform(0, max(0.0, whole - side * fit))  # a hair below 0 by rounding
        edges += [first / whole, (first + side * fit) / whole]
    return tuple(edges)


def _cut(picture: Tensor, window: Sequence[float], size: Sequence[int]) -> Tensor:
    """The window of ``(C, H, W)`` at a size."""
    height, width = picture.shape[-2:]
    top, bottom, left, right = (
        round(edge * side)
        for edge, side in zip(window, (height, height, width, width), strict=True)
    )
    part = picture[None, :, top : max(bottom, top + 1), left : max(right, left + 1)]
    return _resized(part, size)[0]


def _resized(picture: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _some(items: Sequence, count: int, rng: np.random.Generator) -> list:
    """``count`` of the items, none twice as long as there are others."""
    return [items[i] for i in rng.choice(len(items), count, replace=count > len(items))]
