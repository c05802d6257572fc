"""One rendered scene and the function that renders it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from . import texts
from .layout import compose
from .noise import Grain, grain
from .painter import CLASS_INDEX, CLASSES, Fields
from .stage import Stage
from .thermal import render_thermal
from .visible import render_visible

SMALLEST_SHARE = 0.0011  # of the picture; smaller things are drawn but not listed
SMOKE_SHARE = 0.14
MISALIGNED = 0.3
FARTHEST_OFF = 0.016  # of the width: how far a misaligned visible picture is off at most
LEFT_BELOW, RIGHT_ABOVE = 0.36, 0.64
BACKGROUND = ("building", "tree", "hill", "pole", "sky", "ground")


@dataclass(frozen=True, slots=True)
class Thing:
    """A countable object of a scene.

    `box` is (x0, y0, x1, y1) in pixels with an exclusive end, around the visible pixels; `area`
    counts them; `instance` is its number in the instance map; `place` is "left", "right" or
    "middle"; `phrase` names it with its place.
    """

    label: str
    box: tuple[int, int, int, int]
    instance: int
    area: int
    place: str
    phrase: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A pair with everything that is known about it.

    In most scenes the two pictures are aligned to the pixel. In a share (MISALIGNED) the visible
    camera looks through a slightly longer lens and past the infrared one, so that the pictures
    differ by up to about two pixels of 128, as real registered pairs do; maps, masks and boxes
    follow the infrared picture.

    visible (H, W, 3) uint8; infrared (H, W) uint8, white hot; thermal (H, W) uint16, the
    temperature behind it in hundredths of a kelvin, before gain control and rounding; classes
    (H, W) uint8, an index into CLASSES; instances (H, W) int32, 0 where no thing is; depth (H, W)
    float32 in metres, 1000 in the sky; things, the largest first, each at least 0.11 % of the
    picture; daytime "day", "dusk" or "night"; smoke, whether a cloud hides something in the
    visible picture; three short captions and a dense one with the resolution and the boxes.
    """

    name: str
    seed: int
    visible: np.ndarray
    infrared: np.ndarray
    thermal: np.ndarray
    classes: np.ndarray
    instances: np.ndarray
    depth: np.ndarray
    things: tuple[Thing, ...]
    daytime: str
    smoke: bool
    captions: tuple[str, str, str]
    dense: str

    def mask(self, label: str) -> np.ndarray:
        """Where the class `label` is visible: (H, W) bool, the union of all its objects."""
        if label not in CLASS_INDEX:
            raise ValueError(f"No class is called {label!r}; the classes are {', '.join(CLASSES)}.")
        return self.classes == CLASS_INDEX[label]


def size_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one side or as (height, width); ValueError below 32."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 32:
        raise ValueError(f"A scene of {height}x{width} pixels is too small: use at least 32x32.")
    return int(height), int(width)


def render(seed: int, size: int | tuple[int, int] = 128) -> Scene:
    """Render the scene number `seed` (>= 0) at `size` (one side, or (height, width)).

    A pure function: the same seed and size give the same scene on each run, without any file.
    The layout depends on the seed alone, so the same seed at another size shows the same street.
    """
    if seed < 0:
        raise ValueError(f"A scene's seed counts from 0, not {seed}.")
    height, width = size_of(size)
    chance = Random(f"scene {seed}")
    rng = np.random.default_rng((2024, seed))
    stage, where = compose(chance, height, width)
    fields = stage.painter.fields(rng)
    things = _list_things(stage, fields)
    shared = Grain(rng, fields)
    smoke = None
    if chance.random() < SMOKE_SHARE and things:
        smoke = _smoke_over(chance.choice(things[:3]), fields, chance, rng)
    visible = render_visible(stage, fields, shared, smoke, rng)
    infrared, thermal = render_thermal(stage, fields, shared, smoke, rng)
    if chance.random() < MISALIGNED:
        visible = _look_past(visible, chance)
    share = np.bincount(fields.classes.ravel(), minlength=len(CLASSES)) / fields.classes.size
    background = [label for label in BACKGROUND if share[CLASS_INDEX[label]] > 0.03]
    daytime = stage.weather.daytime
    hidden = smoke is not None
    named = [(thing.label, thing.place) for thing in things]
    boxed = [(thing.label, thing.place, thing.box) for thing in things]
    return Scene(
        name=f"scene-{seed:06d}",
        seed=seed,
        visible=visible,
        infrared=infrared,
        thermal=thermal,
        classes=fields.classes,
        instances=fields.instances,
        depth=fields.depth,
        things=things,
        daytime=daytime,
        smoke=hidden,
        captions=texts.captions(named, background, daytime, where, hidden, rng),
        dense=texts.dense_caption(boxed, background, daytime, where, hidden, height, width),
    )


def _list_things(stage: Stage, fields: Fields) -> tuple[Thing, ...]:
    """Boxes and areas of what can be seen of each thing; hidden and tiny ones are dropped."""
    height, width = fields.instances.shape
    rows, columns = np.nonzero(fields.instances)
    numbers = fields.instances[rows, columns]
    areas = np.bincount(numbers, minlength=len(stage.labels) + 1)
    found = []
    for number, label in enumerate(stage.labels, start=1):
        area = int(areas[number])
        if area < max(SMALLEST_SHARE * height * width, 1):
            continue
        own = numbers == number
        x, y = columns[own], rows[own]
        box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        centre = (box[0] + box[2]) / 2 / width
        place = "left" if centre < LEFT_BELOW else "right" if centre > RIGHT_ABOVE else "middle"
        found.append(Thing(label, box, number, area, place, texts.phrase(label, place)))
    return tuple(sorted(found, key=lambda thing: (-thing.area, thing.instance)))


def _look_past(visible: np.ndarray, chance: Random) -> np.ndarray:
    """The visible picture enlarged a little and shifted by no more than that: no empty edge."""
    height, width = visible.shape[:2]
    margin = chance.uniform(0.2, 1.0) * FARTHEST_OFF
    left, top = (2 * margin * chance.random() * side for side in (width, height))
    box = (left, top, left + (1 - 2 * margin) * width, top + (1 - 2 * margin) * height)
    picture = Image.fromarray(visible)
    return np.array(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _smoke_over(thing: Thing, fields: Fields, chance: Random, rng) -> np.ndarray:
    """An opacity map (H, W): a ragged cloud around a thing, in front of what lies behind it too."""
    height, width = fields.depth.shape
    x0, y0, x1, y1 = thing.box
    across = max((x1 - x0) * chance.uniform(0.6, 1.1), width * 0.09)
    down = max((y1 - y0) * chance.uniform(0.6, 1.0), height * 0.09)
    rows = (np.arange(height, dtype=np.float32) - (y0 + y1) / 2) / down
    columns = (np.arange(width, dtype=np.float32) - (x0 + x1) / 2) / across
    distance = rows[:, None] ** 2 + columns[None, :] ** 2
    ragged = 0.35 * grain(rng, height, width, height / 10) + 0.2 * grain(
        rng, height, width, height / 24
    )
    cloud = np.clip(1.6 - distance + ragged, 0.0, 1.0)
    return (chance.uniform(0.75, 0.97) * cloud).astype(np.float32)
