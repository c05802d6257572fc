"""How the weights of tiny-clip come about: a pool of scenes, views of it, texts about them, losses.

Six losses, all in the joint space. *classes*: each place against one text per class, weighted
against their frequency. *phrases*: each place against a few texts about the picture, binary, so
that scores are absolute: names, positions, whole instructions, things that are not there, and
requests that name nothing visible, whose right answer is an empty map. *captions*: picture against
caption, contrast with the batch and further captions, all read anew (a queue of features read
earlier gives itself away by its age and teaches nothing). *degradations*: picture against the texts
of eight degradations, as statement or as request. *agreement*: each batch shows every scene twice,
once mainly in the visible and once mainly in the infrared; places and pictures of the two agree.
*wishes*: two phrasings of one wish are nearer to each other than to those of other wishes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionkit_standard import scenes
from fusionkit_standard.degradations import BASIC
from fusionkit_standard.scenes import texts
from fusionkit_standard.tiny_clip.looks import restyle
from fusionkit_standard.tiny_clip.tokenizer import Tokenizer
from fusionkit_standard.tiny_clip.towers import CONFIG, ImageTower, Towers

TRAINING_SEEDS = 1_000_000
"""First seed of the scenes shown in training; the runs of the default use seeds below 500,000."""
MEASURE_SEEDS = range(900_000, 900_300)
CALIBRATION_SEEDS = range(910_000, 910_200)
LARGE_SEEDS = range(920_000, 920_040)
"""Scenes as large as photographs, LARGE, to choose the reading size on."""
LARGE = (300, 480)

CLASSES = tuple(scenes.CLASSES)
THINGS = tuple(texts.PLURALS)
FINE = 4  # pixels per place in the dense features
WEIGHTS = {
    "classes": 1.0,
    "phrases": 1.0,
    "captions": 0.5,
    "degradations": 0.7,
    "agreement": 0.5,
    "wishes": 0.3,
}
PARTS = ("looks", "scales", "agreement", "contrast")
"""What can be left out to see what it brings: random looks, random scales, the two modalities of a
scene side by side and in agreement, the further captions of a large contrast."""
BATCH = 32
POOL_SIZE = (192, 256)
"""Height and width at which scenes are rendered; views are windows of these, shrunk or not."""
PEAK_RATE = 1.5e-3
OTHERS = 160
"""Captions of other scenes that join the contrast of a batch."""
FEW_OTHERS = 64
"""The same without the part ``contrast``."""
SHAPES = ((128, 128), (128, 128), (96, 128), (128, 96), (112, 160), (96, 176))
"""Sizes of views, (height, width), before they are cut to what the window holds."""
SCALES = (0.45, 1.25)
"""Pixels of a view per pixel of the scene, from small persons of whole scenes to large ones."""


class Pool:
    """Scenes in memory as bytes: ``visible (N, H, W, 3)``, ``infrared``, ``classes``,
    ``instances`` ``(N, H, W)`` uint8, ``depth (N, H, W)`` float16, and their texts.

    Args:
        seeds: which scenes.
        workers: processes that render.
        folder: keeps the arrays for the next run, where given; they are then read from there.
        size: height and width in pixels.
    """

    ARRAYS = ("visible", "infrared", "classes", "instances", "depth")

    def __init__(
        self,
        seeds: range,
        workers: int = 1,
        folder: Path | None = None,
        size: tuple[int, int] = (CONFIG["image"]["size"],) * 2,
    ) -> None:
        self.seeds, self.size = seeds, size
        home = folder and folder / f"{seeds.start}-{len(seeds)}-{size[0]}x{size[1]}"
        if home and (home / "facts.json").exists():
            for name in self.ARRAYS:
                setattr(self, name, np.load(home / f"{name}.npy", mmap_mode="r"))
            self.facts = json.loads((home / "facts.json").read_text())
        else:
            self._render(workers)
            if home:
                home.mkdir(parents=True, exist_ok=True)
                for name in self.ARRAYS:
                    np.save(home / f"{name}.npy", getattr(self, name))
                (home / "facts.json").write_text(json.dumps(self.facts))

    def _render(self, workers: int, chunk: int = 500) -> None:
        count = len(self.seeds)
        self.visible = np.empty((count, *self.size, 3), np.uint8)
        self.infrared = np.empty((count, *self.size), np.uint8)
        self.classes = np.empty((count, *self.size), np.uint8)
        self.instances = np.empty((count, *self.size), np.uint8)
        self.depth = np.empty((count, *self.size), np.float16)
        self.facts: list[dict] = []
        for start in range(0, count, chunk):
            some = scenes.render_many(self.seeds[start : start + chunk], self.size, workers)
            for row, scene in enumerate(some, start=start):
                for name in self.ARRAYS:
                    getattr(self, name)[row] = getattr(scene, name)
                self.facts.append(
                    {
                        "things": [[t.label, t.place, t.instance] for t in scene.things],
                        "captions": [*scene.captions, scene.dense],
                    }
                )

    def __len__(self) -> int:
        return len(self.seeds)

    def frequencies(self) -> Tensor:
        """Share of all pixels per class, ``(12,)``."""
        counts = np.bincount(self.classes[::4, ::2, ::2].ravel(), minlength=len(CLASSES))
        return torch.tensor(counts / counts.sum(), dtype=torch.float32)

    def odds(self) -> np.ndarray:
        """How often to show each scene, ``(N,)``, summing to 1: rare things more often."""
        present = np.array(
            [[any(t[0] == label for t in f["things"]) for label in THINGS] for f in self.facts]
        )
        rarity = 1 / np.sqrt(present.mean(0).clip(0.01))
        weight = 1 + (present * rarity).max(1)
        return weight / weight.sum()

    def pictures(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Visible ``(B, 3, H, W)``, infrared and depth ``(B, 1, H, W)``, floats."""
        visible = torch.from_numpy(self.visible[rows]).permute(0, 3, 1, 2).float() / 255
        infrared = torch.from_numpy(self.infrared[rows])[:, None].float() / 255
        return visible, infrared, torch.from_numpy(self.depth[rows])[:, None].float()


@dataclass(frozen=True, slots=True)
class Views:
    """One batch of training pictures."""

    image: Tensor
    """``(B, 3, h, w)`` in [0, 1]."""
    classes: np.ndarray
    """``(B, h, w)`` uint8."""
    instances: np.ndarray
    """``(B, h, w)`` uint8."""
    shares: Tensor
    """Share of each class at each place, ``(B, 12, h/4, w/4)``."""
    degradation: Tensor
    """Index into BASIC, or -1, ``(B,)``."""


def views(
    pool: Pool, rows: Sequence[int], rng: np.random.Generator, parts: Sequence[str] = PARTS
) -> Views:
    """The scenes as cameras might deliver them: one modality or both, degraded or not, cropped.

    With the part ``agreement`` the second half of ``rows`` repeats the first: it sees the same
    windows, in the other modality.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    count, paired = len(rows), "agreement" in parts
    visible, infrared, depth, classes, instances = _windows(pool, rows, rng, parts)
    if "looks" in parts:
        visible, infrared = restyle(visible, True, rng), restyle(infrared, False, rng)
    visible, infrared = _jitter(visible, 0.2, rng), _jitter(infrared, 0.35, rng)
    kind = rng.choice(4, count, p=(0.45, 0.40, 0.075, 0.075))  # visible, infrared, mixture, maximum
    if paired:
        first, second = np.split(kind, 2)
        first[rng.random(len(first)) < 0.8] = 0
        second[rng.random(len(second)) < 0.7] = 1
    grey = rng.random(count) < 0.25
    degradation = np.full(count, -1)
    for row in np.flatnonzero(rng.random(count) < 0.4):
        wanted = {0: ("visible",), 1: ("infrared",)}.get(kind[row], ("visible", "infrared"))
        able = [i for i, d in enumerate(BASIC.values()) if d.modality in wanted]
        degradation[row] = rng.choice(able)
    for index, build in enumerate(BASIC.values()):
        hit = torch.from_numpy(np.flatnonzero(degradation == index))
        if len(hit):
            source = visible if build.modality == "visible" else infrared
            severity = torch.from_numpy(rng.uniform(0.25, 1.0, len(hit))).float()
            source[hit] = build()(source[hit], severity, generator, depth=depth[hit])
    visible[grey] = visible[grey].mean(1, keepdim=True)
    warm = infrared.expand_as(visible)
    share = torch.from_numpy(rng.uniform(0.3, 0.75, (count, 1, 1, 1))).float()
    both = torch.stack([visible, warm, torch.lerp(warm, visible, share), visible.maximum(warm)])
    every = torch.arange(len(CLASSES), dtype=torch.uint8)[:, None, None]
    hot = torch.from_numpy(classes)[:, None] == every
    image = both[torch.from_numpy(kind), torch.arange(count)].clamp(0, 1)
    return Views(
        image=image.contiguous(memory_format=torch.channels_last),
        classes=classes,
        instances=instances,
        shares=F.avg_pool2d(hot.float(), FINE),
        degradation=torch.from_numpy(degradation),
    )


def _jitter(image: Tensor, spread: float, rng: np.random.Generator) -> Tensor:
    """Another exposure: a random power and gain per picture."""
    power = torch.from_numpy(np.exp(rng.normal(0, spread, (len(image), 1, 1, 1)))).float()
    gain = torch.from_numpy(rng.uniform(0.8, 1.15, (len(image), 1, 1, 1))).float()
    return (image.clamp_min(1e-4) ** power * gain).clamp(0, 1)


def _windows(
    pool: Pool, rows: Sequence[int], rng: np.random.Generator, parts: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor, np.ndarray, np.ndarray]:
    """Visible, infrared, depth, classes, instances of one window per scene, all of one size.

    Without the part ``scales`` a window takes 55 to 100 % of the height.
    """
    shape = np.array(SHAPES[rng.integers(len(SHAPES))])
    full = np.array(pool.size)
    if "scales" in parts:
        scale = np.exp(rng.uniform(*np.log(SCALES)))
    else:
        scale = shape[0] / (full[0] * rng.uniform(0.55, 1))
    taken = np.minimum(full, (shape / scale).astype(int))
    grid = ImageTower.stride
    size = tuple(max(4 * grid, grid * round(side * scale / grid)) for side in taken)
    corners = rng.integers(0, full - taken + 1, (len(rows), 2))
    if "agreement" in parts:
        corners[len(rows) // 2 :] = corners[: len(rows) // 2]
    where = [
        (row, slice(top, top + taken[0]), slice(left, left + taken[1]))
        for row, (top, left) in zip(rows, corners, strict=True)
    ]
    nearest = [(np.arange(s) * 2 + 1) * t // (2 * s) for s, t in zip(size, taken, strict=True)]
    fixed = [
        np.stack([getattr(pool, name)[w] for w in where])[:, nearest[0][:, None], nearest[1]]
        for name in ("classes", "instances", "depth")
    ]
    visible = torch.from_numpy(np.stack([pool.visible[w] for w in where])).permute(0, 3, 1, 2)
    infrared = torch.from_numpy(np.stack([pool.infrared[w] for w in where]))[:, None]
    seen = torch.cat([visible, infrared], 1).float() / 255
    seen = F.interpolate(seen, size, mode="bilinear", align_corners=False, antialias=True)
    depth = torch.from_numpy(fixed[2])[:, None].float()
    return seen[:, :3], seen[:, 3:], depth, fixed[0], fixed[1]


class Phrases:
    """Texts about pictures and where they are true.

    ``about(...)`` draws four per picture: something present, something at a place, something
    absent, two things or a group at once, and a text that names nothing.
    """

    def __init__(self) -> None:
        self.wishes = list(texts.wishes().values())
        self.nothing = [
            *texts.PLAIN,
            *(p for d in BASIC for p in texts.repair_prompts(d)),
            *(p for d in BASIC for p in texts.statement(d)),
        ]

    def of_class(self, label: str, rng: np.random.Generator) -> str:
        """A name, a plural or an instruction for one class, at times with words around it."""
        chance = rng.random()
        if chance < 0.35:
            name = _pick(texts.SYNONYMS[label], rng)
            text = _pick(("{}", "the {}", "a {}", "the {}"), rng).format(name)
        elif chance < 0.45 and label in texts.PLURALS:
            text = _pick(("{}", "the {}", "highlight the {}"), rng).format(texts.PLURALS[label])
        else:
            text = _pick(texts.highlight_prompts(label), rng)
        return self.disturb(text, rng)

    def alike(self, rng: np.random.Generator) -> list[str]:
        """A phrasing of every wish, then another of each in the same order, some shortened."""
        pairs = [rng.choice(len(group), 2, replace=False) for group in self.wishes]
        return [
            self.disturb(_shortened(group[pair[turn]], rng), rng)
            for turn in (0, 1)
            for group, pair in zip(self.wishes, pairs, strict=True)
        ]

    def disturb(self, text: str, rng: np.random.Generator) -> str:
        """One text in six gets words nobody knows, at either end or before its last word."""
        if rng.random() > 0.16:
            return text
        parts = text.split()
        for _ in range(rng.integers(1, 3)):
            place = (0, len(parts), len(parts) - 1)[rng.integers(3)]
            parts.insert(max(place, 0), _unknown(rng))
        return " ".join(parts)

    def about(self, seen: Views, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        """4 B texts, picture by picture, and their truth ``(B, 4, h/4, w/4)`` in [0, 1]."""
        said: list[str] = []
        truth = torch.zeros(len(seen.classes), 4, *seen.shares.shape[-2:])
        share = seen.shares.mean((2, 3)).numpy()
        for row in range(len(share)):
            present = np.flatnonzero(share[row] > 0.001)
            absent = np.flatnonzero(share[row] == 0)
            rarity = share[row, present] ** -0.35
            first, second = rng.choice(present, 2, p=rarity / rarity.sum())
            said.append(self.of_class(CLASSES[first], rng))
            truth[row, 0] = seen.shares[row, first]
            text, mask = self._placed(seen, row, rng) or (
                self.of_class(CLASSES[second], rng),
                seen.shares[row, second],
            )
            said.append(text)
            truth[row, 1] = mask
            group = list(texts.GROUPS)[rng.integers(len(texts.GROUPS))]
            members = [CLASSES.index(label) for label in texts.GROUPS[group]]
            chance = rng.random()
            if chance < 0.15:
                said.append(self.disturb(_pick(texts.highlight_prompts(group), rng), rng))
                truth[row, 2] = seen.shares[row, members].sum(0)
            elif chance < 0.5:
                names = [_pick(texts.SYNONYMS[CLASSES[c]], rng) for c in (first, second)]
                form = _pick(("the {} and the {}", "highlight the {} and the {}"), rng)
                said.append(form.format(*names))
                truth[row, 2] = seen.shares[row, np.unique([first, second])].sum(0)
            else:
                said.append(self.of_class(CLASSES[rng.choice(absent)], rng) if len(absent) else "")
            said.append(self._empty(rng))
        return said, truth

    def _placed(self, seen: Views, row: int, rng: np.random.Generator) -> tuple[str, Tensor] | None:
        """A thing with its place in the view, all things it fits counted; None without things."""
        found: dict[tuple[str, str], np.ndarray] = {}
        instances, width = seen.instances[row], seen.instances.shape[-1]
        for number in np.unique(instances[instances > 0]):
            mask = instances == number
            if mask.sum() < 12:
                continue
            columns = np.flatnonzero(mask.any(0))
            centre = (columns[0] + columns[-1] + 1) / 2 / width
            place = "left" if centre < 0.36 else "right" if centre > 0.64 else "middle"
            label = CLASSES[np.bincount(seen.classes[row][mask]).argmax()]
            key = (label, place)
            found[key] = found.get(key, False) | mask
        found = {key: mask for key, mask in found.items() if key[0] in THINGS}
        if not found:
            return None
        label, place = list(found)[rng.integers(len(found))]
        name = label if rng.random() < 0.6 else _pick(texts.SYNONYMS[label], rng)
        text = f"the {name} {texts.PLACES[place]}"
        if rng.random() < 0.5:
            text = _pick(("highlight ", "focus on ", "emphasize ", "enhance "), rng) + text
        mask = torch.from_numpy(found[label, place]).float()[None, None]
        return text, F.avg_pool2d(mask, FINE)[0, 0]

    def _empty(self, rng: np.random.Generator) -> str:
        """A text whose right map is empty."""
        if rng.random() < 0.75:
            return _pick(self.nothing, rng)
        form = _pick(("{}", "the {}", "highlight the {}", "focus on the {}", "{} the {}"), rng)
        return form.format(_unknown(rng), _unknown(rng))


def rows_of_step(
    step: int, odds: np.ndarray, seed: int, parts: Sequence[str] = PARTS
) -> tuple[np.ndarray, np.random.Generator]:
    """The scenes of one step and the random numbers for everything else in it."""
    rng = np.random.default_rng((seed, step))
    if "agreement" in parts:
        return np.tile(rng.choice(len(odds), BATCH // 2, p=odds), 2), rng
    return rng.choice(len(odds), BATCH, p=odds), rng


def caption(facts: dict, rng: np.random.Generator) -> str:
    """One of the short captions of a scene, or in one case of ten the dense one."""
    return facts["captions"][rng.choice(4, p=(0.3, 0.3, 0.3, 0.1))]


class Objective:
    """The losses for one batch of views; ``captions`` are theirs, then those of other scenes."""

    def __init__(
        self, tokenizer: Tokenizer, frequencies: Tensor, parts: Sequence[str] = PARTS
    ) -> None:
        self.tokenizer, self.parts = tokenizer, parts
        self.class_weight = frequencies.clamp_min(1e-3).rsqrt()
        self.phrases = Phrases()
        self.ids = lru_cache(maxsize=50_000)(lambda text: tuple(tokenizer.encode(text)))

    def read(self, towers: Towers, said: Sequence[str]) -> Tensor:
        """Pooled features of texts, each read once, no longer than needed: ``(len(said), D)``."""
        unique = {text: row for row, text in enumerate(dict.fromkeys(said))}
        encoded = [self.ids(text) for text in unique]
        ids = torch.zeros(len(encoded), max(map(len, encoded)), dtype=torch.long)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return towers.text(ids)[0][[unique[text] for text in said]]

    def __call__(
        self, towers: Towers, seen: Views, captions: list[str], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Unweighted scalars by name."""
        named = [self.phrases.of_class(label, rng) for label in CLASSES]
        asked, truth = self.phrases.about(seen, rng)
        damaged = [_pick((*texts.statement(d), *texts.repair_prompts(d)), rng) for d in BASIC]
        alike = self.phrases.alike(rng)
        short = self.read(towers, [*named, *asked, *damaged, *alike])
        classes, phrases, damages, wishes = short.split(
            [len(named), len(asked), len(damaged), len(alike)]
        )
        pooled, dense = towers.image(seen.image)
        everywhere = classes.expand(len(dense), -1, -1)
        cosine = towers.cosine(torch.cat([everywhere, phrases.unflatten(0, (-1, 4))], 1), dense)
        agreement = {}
        if "agreement" in self.parts:
            agreement["agreement"] = self._agreement(pooled, dense, seen.degradation)
        return agreement | {
            "wishes": self._wishes(towers, wishes),
            "classes": self._classes(towers, cosine[:, : len(CLASSES)], seen.shares),
            "phrases": self._phrases(towers, cosine[:, len(CLASSES) :], truth),
            "captions": self._captions(towers, self.read(towers, captions), pooled, captions),
            "degradations": self._degradations(towers, damages, pooled, seen.degradation),
        }

    def _classes(self, towers: Towers, cosine: Tensor, shares: Tensor) -> Tensor:
        logs = (towers.scale_class.exp() * cosine).log_softmax(1)
        weighted = shares * self.class_weight[:, None, None]
        return -(weighted * logs).sum() / weighted.sum()

    def _phrases(self, towers: Towers, cosine: Tensor, truth: Tensor) -> Tensor:
        logits = towers.scale.exp() * cosine + towers.bias
        share = truth.mean((2, 3), keepdim=True)
        # Small things would drown in their surroundings; the root keeps scores near frequencies.
        gain = ((1 - share) / share.clamp_min(1e-4)).sqrt().clamp(1, 12)
        weight = 1 + (gain - 1) * truth
        losses = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="none")
        return (losses.mean((2, 3)) / weight.mean((2, 3))).mean() * 2

    def _captions(
        self, towers: Towers, text: Tensor, pooled: Tensor, captions: list[str]
    ) -> Tensor:
        count = len(pooled)
        # Equal captions are equally right.
        same = torch.tensor([[float(a == b) for b in captions] for a in captions[:count]])
        if "agreement" in self.parts:  # each scene is there twice
            twin = torch.arange(count).roll(count // 2)
            same[torch.arange(count), twin] = 1
        logits = towers.scale_pooled.exp().clamp(max=60) * pooled @ text.T
        to_text = -(_shares(same) * logits.log_softmax(1)).sum(1).mean()
        own, logits = same[:, :count], logits[:, :count]
        to_picture = -(_shares(own) * logits.T.log_softmax(1)).sum(1).mean()
        return (to_text + to_picture) / 2

    def _degradations(self, towers: Towers, text: Tensor, pooled: Tensor, wanted: Tensor) -> Tensor:
        logits = towers.scale_pooled.exp().clamp(max=60) * pooled @ text.T
        total = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="sum")
        return total / (wanted >= 0).sum().clamp_min(1)

    def _agreement(self, pooled: Tensor, dense: Tensor, degradation: Tensor) -> Tensor:
        """One minus cosine between the halves of the batch: places, and clean whole pictures."""
        first, second = dense.float().chunk(2)
        clean = (degradation < 0).view(2, -1).all(0)
        near = (pooled[: len(first)] * pooled[len(first) :]).sum(1)
        whole = ((1 - near) * clean).sum() / clean.sum().clamp_min(1)
        return (1 - F.cosine_similarity(first, second)).mean() + whole

    def _wishes(self, towers: Towers, text: Tensor) -> Tensor:
        first, second = text.chunk(2)
        logits = towers.scale_pooled.exp().clamp(max=60) * first @ second.T
        target = torch.arange(len(first))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _shares(positive: Tensor) -> Tensor:
    return positive / positive.sum(1, keepdim=True)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _shortened(text: str, rng: np.random.Generator) -> str:
    """Every other text loses a fifth of its words, so that no single word carries the meaning."""
    if rng.random() < 0.5:
        return text
    kept = [word for word in text.split() if rng.random() < 0.8]
    return " ".join(kept) or text


def _unknown(rng: np.random.Generator) -> str:
    """A word outside the vocabulary."""
    return f"word{rng.integers(100_000)}"
