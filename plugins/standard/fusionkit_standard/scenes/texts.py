"""Every English text of the generator: names, captions, requests and statements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

SYNONYMS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "clouds", "heavens", "open sky", "air above"),
    "hill": ("hill", "mountain", "ridge", "hillside"),
    "building": ("building", "house", "facade", "architecture", "wall"),
    "road": ("road", "street", "roadway", "asphalt", "lane"),
    "ground": ("ground", "pavement", "sidewalk", "grass", "soil"),
    "tree": ("tree", "vegetation", "plant", "foliage", "bush"),
    "pole": ("pole", "post", "street lamp", "traffic sign", "traffic light"),
    "car": ("car", "automobile", "sedan", "passenger car", "motor car"),
    "truck": ("truck", "lorry", "delivery truck", "cargo truck"),
    "bus": ("bus", "coach", "city bus", "passenger bus"),
    "person": ("person", "pedestrian", "human", "people", "walker"),
    "bicycle": ("bicycle", "bike", "cycle", "push bike"),
}
PLURALS = {
    "car": "cars",
    "truck": "trucks",
    "bus": "buses",
    "person": "persons",
    "bicycle": "bicycles",
}
PLACES = {"left": "on the left", "right": "on the right", "middle": "in the middle"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "several")

_HIGHLIGHT = (
    "highlight the {}",
    "emphasize the {}",
    "make the {} stand out",
    "bring out the {}",
    "focus on the {}",
    "keep the {} bright",
    "enhance the {}",
    "show the {} clearly",
    "pay attention to the {}",
)
_HIGHLIGHT_SYNONYM = ("highlight the {}", "make the {} stand out", "focus on the {}")

PLAIN = (
    "fuse the two images",
    "fuse the infrared and visible images",
    "combine both images",
    "merge the infrared image with the visible image",
    "make one image from both",
    "plain fusion",
)

_REPAIR: dict[str, tuple[str, ...]] = {
    "low-light": (
        "brighten the dark image",
        "fix the low light",
        "correct the underexposed visible image",
        "improve the low light",
        "make the dark scene brighter",
    ),
    "over-exposure": (
        "fix the overexposure",
        "correct the overexposed visible image",
        "reduce the excessive brightness",
        "recover the washed out regions",
        "make the bright scene darker",
    ),
    "noise": (
        "remove the noise from the visible image",
        "denoise the visible image",
        "clean the noisy visible image",
        "suppress the visible noise",
    ),
    "blur": (
        "remove the blur",
        "sharpen the blurred visible image",
        "deblur the visible image",
        "make the visible image sharp",
    ),
    "haze": (
        "remove the haze",
        "dehaze the visible image",
        "clear the fog",
        "see through the haze",
        "remove the mist",
    ),
    "ir-stripes": (
        "remove the stripes",
        "remove the stripe noise from the infrared image",
        "suppress the infrared stripes",
        "clean the striped infrared image",
    ),
    "ir-low-contrast": (
        "raise the infrared contrast",
        "fix the low contrast of the infrared image",
        "enhance the contrast of the infrared image",
        "correct the flat infrared image",
    ),
    "ir-noise": (
        "remove the noise from the infrared image",
        "denoise the infrared image",
        "clean the noisy infrared image",
        "suppress the infrared noise",
    ),
}
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "low-light": ("an underexposed image", "a dark visible image with low light"),
    "over-exposure": ("an overexposed image", "a washed out visible image"),
    "noise": ("a noisy visible image", "a visible image with noise"),
    "blur": ("a blurred image", "a visible image out of focus"),
    "haze": ("a hazy image", "a visible image in fog"),
    "ir-stripes": ("an infrared image with stripes", "a striped infrared image"),
    "ir-low-contrast": ("an infrared image with low contrast", "a flat infrared image"),
    "ir-noise": ("a noisy infrared image", "an infrared image with noise"),
}
DEGRADATION_NAMES = tuple(_REPAIR)

_WHERE = {"street": "street", "open": "country road", "elevated": "street seen from above"}
_WHEN = {"day": "by day", "dusk": "at dusk", "night": "at night"}
_WHEN_ADJECTIVE = {"day": "daytime", "dusk": "dusk", "night": "night"}
_FORMS = (
    "a {adjective} scene of a {where} with {things}{smoke}",
    "{things} {when} on a {where}{smoke}",
    "we see {things} in this {adjective} picture of a {where}{smoke}",
    "{when} the {where} shows {things}{smoke}",
    "a {where} {when} with {things}{smoke}",
)
_EMPTY = "nothing but {background}"
_SMOKE = " behind smoke"
_DENSE_HEAD = "A {adjective} {where} at {width}X{height} resolution{smoke}."
_DENSE_THING = "The {name} is {place} at [{x0}, {y0}, {x1}, {y1}]."
_DENSE_BACKGROUND = "The background shows {background}."


def highlight_prompts(label: str) -> tuple[str, ...]:
    """Requests to highlight one class: nine templates for its name, three for each synonym."""
    if label not in SYNONYMS:
        raise ValueError(f"No class is called {label!r}; the classes are {', '.join(SYNONYMS)}.")
    name, *others = SYNONYMS[label]
    prompts = [form.format(name) for form in _HIGHLIGHT]
    prompts += [form.format(other) for other in others for form in _HIGHLIGHT_SYNONYM]
    return tuple(prompts)


def repair_prompts(degradation: str) -> tuple[str, ...]:
    """Requests that ask for the repair of one degradation."""
    return _named(_REPAIR, degradation)


def statement(degradation: str) -> tuple[str, ...]:
    """Sentences that state one degradation, such as "an underexposed image"."""
    return _named(_STATEMENTS, degradation)


def _named(table: dict[str, tuple[str, ...]], degradation: str) -> tuple[str, ...]:
    if degradation not in table:
        raise ValueError(f"No degradation is called {degradation!r}; known are {', '.join(table)}.")
    return table[degradation]


def all_prompts() -> tuple[str, ...]:
    """Every highlight, repair and plain prompt, sorted: the bank for text standardisation."""
    prompts = set(PLAIN)
    for label in SYNONYMS:
        prompts.update(highlight_prompts(label))
    for group in _REPAIR.values():
        prompts.update(group)
    return tuple(sorted(prompts))


def phrase(label: str, place: str) -> str:
    """A name with its place: "the car on the left"."""
    return f"the {label} {PLACES[place]}"


def vocabulary() -> tuple[str, ...]:
    """Every lower-case word that any text of the generator may contain, sorted; no digits."""
    texts = [*all_prompts(), *NUMBERS, *PLURALS.values(), *PLACES.values(), *_WHERE.values()]
    texts += [*_WHEN.values(), *_WHEN_ADJECTIVE.values(), *_FORMS, _EMPTY, _SMOKE]
    texts += [_DENSE_HEAD, _DENSE_THING, _DENSE_BACKGROUND, "a and an"]
    texts += [name for names in SYNONYMS.values() for name in names]
    texts += [text for group in _STATEMENTS.values() for text in group]
    words: set[str] = set()
    for text in texts:
        words.update(re.findall(r"[a-z]+", re.sub(r"\{[^}]*\}", " ", text).lower()))
    return tuple(sorted(words))


def captions(
    things: Sequence[tuple[str, str]],
    background: Sequence[str],
    daytime: str,
    where: str,
    smoke: bool,
    rng: np.random.Generator,
) -> tuple[str, str, str]:
    """Three short captions in three sentence forms.

    `things` are (label, place) pairs, big first; `background` names classes that fill the scene.
    """
    chosen = rng.permutation(len(_FORMS))[:3]
    return tuple(
        _FORMS[number].format(
            adjective=_WHEN_ADJECTIVE[daytime],
            when=_WHEN[daytime],
            where=_WHERE[where],
            things=_list_things(things, background, rng, exact=turn == 0),
            smoke=_SMOKE if smoke else "",
        )
        for turn, number in enumerate(chosen)
    )


def dense_caption(
    things: Sequence[tuple[str, str, tuple[int, int, int, int]]],
    background: Sequence[str],
    daytime: str,
    where: str,
    smoke: bool,
    height: int,
    width: int,
) -> str:
    """One caption that names every thing with its box, after the picture's resolution."""
    sentences = [
        _DENSE_HEAD.format(
            adjective=_WHEN_ADJECTIVE[daytime],
            where=_WHERE[where],
            width=width,
            height=height,
            smoke=_SMOKE if smoke else "",
        )
    ]
    for label, place, (x0, y0, x1, y1) in things:
        sentences.append(
            _DENSE_THING.format(name=label, place=PLACES[place], x0=x0, y0=y0, x1=x1, y1=y1)
        )
    if background:
        sentences.append(_DENSE_BACKGROUND.format(background=_join(_articles(background))))
    return " ".join(sentences)


def _articles(labels: Sequence[str]) -> list[str]:
    return [
        f"the {label}" if label in ("sky", "ground", "road") else f"a {label}" for label in labels
    ]


def _list_things(things, background, rng: np.random.Generator, exact: bool) -> str:
    """Counts with places, plain names in the first sentence and synonyms in the others."""
    counted = Counter(label for label, _ in things)
    if not counted:
        return _EMPTY.format(background=_join(_articles(background[:2] or ["road"])))
    parts = []
    for label, number in list(counted.items())[:3]:
        names = SYNONYMS[label][:4] if label != "person" else ("person", "pedestrian", "human")
        name = names[0] if exact else names[int(rng.integers(len(names)))]
        if number == 1:
            place = next(place for other, place in things if other == label)
            article = "an" if name[0] in "aeiou" else "a"
            parts.append(f"{article} {name}" + (f" {PLACES[place]}" if rng.random() < 0.7 else ""))
        else:
            parts.append(f"{NUMBERS[min(number, 7)]} {PLURALS[label]}")
    if not exact and background and rng.random() < 0.5:
        parts += _articles(background[:1])
    return _join(parts)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
