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

GROUPS = {"vehicle": ("car", "truck", "bus")}
"""Words for several classes at once; what is meant is the union of their masks."""
_MANY: dict[str, tuple[str, ...]] = {
    "hill": ("hills", "mountains"),
    "building": ("buildings", "houses"),
    "road": ("roads", "streets"),
    "tree": ("trees", "plants"),
    "pole": ("poles", "street lamps", "traffic signs"),
    "car": ("cars", "automobiles"),
    "truck": ("trucks", "lorries"),
    "bus": ("buses", "coaches"),
    "person": ("people", "pedestrians", "persons"),
    "bicycle": ("bicycles", "bikes"),
    "vehicle": ("vehicles", "cars and trucks"),
}

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
    "{}",
    "I want to see the {}",
    "please highlight the {}",
    "can you make the {} brighter",
    "where is the {}",
    "fuse both images and highlight the {}",
    "the {} should be bright and clear",
    "give the {} more contrast",
    "I am looking for a {} in this picture, show it to me",
)
_HIGHLIGHT_SYNONYM = ("highlight the {}", "make the {} stand out", "focus on the {}")
_HIGHLIGHT_TURN = ("please show the {}", "{}", "let me see the {} better", "draw the eye to the {}")
_HIGHLIGHT_MANY = (
    "make the {} stand out",
    "I want to see the {} better",
    "find all {} and highlight them",
    "where are the {}",
    "please bring out the {}",
    "show me all {}",
    "the {} should stand out",
    "fuse the images so that the {} are easy to see",
    "{}",
)
# Nothing trains on these. The first ones say something new with words the others know; the last
# ones use words that no other text of the generator does.
_HIGHLIGHT_HELD_OUT = (
    "let the {} stand out",
    "the {} is what I want to see",
    "please make the {} easy to see",
    "show me where the {} is",
    "bring the {} out of the dark, please",
    "can you find the {}",
    "spotlight the {}",
    "accentuate any {} you notice",
)
_MANY_HELD_OUT = (
    "all {} should be bright",
    "I am looking for {}",
    "please let me see all {} clearly",
    "pull the {} forward",
)

PLAIN = (
    "fuse the two images",
    "fuse the infrared and visible images",
    "combine both images",
    "merge the infrared image with the visible image",
    "make one image from both",
    "plain fusion",
    "please fuse the pair",
    "I want one picture of both cameras",
    "just put the two pictures together",
    "fuse",
)
_PLAIN_HELD_OUT = (
    "please make a picture out of the two images",
    "I want both images in one",
    "put infrared and visible together",
    "blend the pair",
)

_REPAIR: dict[str, tuple[str, ...]] = {
    "low-light": (
        "brighten the dark image",
        "fix the low light",
        "correct the underexposed visible image",
        "improve the low light",
        "make the dark scene brighter",
        "lighten the night scene of the visible image",
        "the visible image is too dark, make its content visible",
        "raise the exposure of the visible image",
        "bring out what lies in the shadows",
        "the picture was taken with too little light, enhance it",
        "make it brighter",
        "it is too dark",
        "more light please",
        "I want to see what is in the dark",
        "turn the night into day",
    ),
    "over-exposure": (
        "fix the overexposure",
        "correct the overexposed visible image",
        "reduce the excessive brightness",
        "recover the washed out regions",
        "make the bright scene darker",
        "the visible image is too bright, restore its highlights",
        "bring back the detail in the blown out areas",
        "tone down the overexposed parts",
        "the picture received too much light, correct it",
        "lower the exposure of the visible image",
        "make it darker",
        "it is too bright",
        "less light please",
        "get rid of the glaring white",
        "the picture is overexposed, fix it",
    ),
    "noise": (
        "remove the noise from the visible image",
        "denoise the visible image",
        "clean the noisy visible image",
        "suppress the visible noise",
        "get rid of the random noise in the visible image",
        "filter the Gaussian noise out of the visible image",
        "the visible image is grainy, smooth it",
        "take the sensor noise out of the colour picture",
        "fuse both images and remove the grain of the visible one",
        "restore the visible image behind its noise",
        "get rid of the visible noise",
        "I want a clean visible image",
        "please remove the grain of the camera",
        "less noise in the visible image",
        "the camera picture is noisy, clean it",
    ),
    "blur": (
        "remove the blur",
        "sharpen the blurred visible image",
        "deblur the visible image",
        "make the visible image sharp",
        "restore the edges of the unsharp visible image",
        "the visible image is soft, bring back its detail",
        "undo the blur of the visible image",
        "give the smeared visible image its contours back",
        "make the outlines in the visible image crisp",
        "fuse both images and correct the blur",
        "get rid of the blur",
        "make it sharp",
        "it is blurred",
        "please sharpen the picture",
        "I want sharp edges",
    ),
    "haze": (
        "remove the haze",
        "dehaze the visible image",
        "clear the fog",
        "see through the haze",
        "remove the mist",
        "restore the contrast lost to haze",
        "the visible image is foggy, clear it",
        "take the grey veil off the visible image",
        "show the distant things behind the fog",
        "undo the scattering of light in the air",
        "get rid of the fog",
        "it is foggy",
        "I want to see through the fog",
        "please remove the fog",
        "take the haze away",
    ),
    "ir-stripes": (
        "remove the stripes",
        "remove the stripe noise from the infrared image",
        "suppress the infrared stripes",
        "clean the striped infrared image",
        "destripe the infrared image",
        "take the vertical lines out of the thermal image",
        "remove the column noise of the thermal sensor",
        "correct the fixed pattern of the infrared image",
        "the infrared image shows stripes, erase them",
        "even out the columns of the infrared image",
        "get rid of the stripes",
        "no more stripes please",
        "I want an infrared image without stripes",
        "take the stripes away",
        "the heat picture has stripes, remove them",
    ),
    "ir-low-contrast": (
        "raise the infrared contrast",
        "fix the low contrast of the infrared image",
        "enhance the contrast of the infrared image",
        "correct the flat infrared image",
        "stretch the grey levels of the infrared image",
        "the thermal image is flat, strengthen it",
        "make warm things stand out of the dull infrared image",
        "restore the range of the thermal image",
        "improve the weak contrast of the infrared image",
        "intensify the faint infrared signal",
        "more infrared contrast please",
        "I want more contrast in the infrared image",
        "the heat picture is dull, strengthen it",
        "make warm things brighter than cold ones",
        "get more out of the flat infrared image",
    ),
    "ir-noise": (
        "remove the noise from the infrared image",
        "denoise the infrared image",
        "clean the noisy infrared image",
        "suppress the infrared noise",
        "filter the random noise out of the thermal image",
        "the infrared image is grainy, smooth it",
        "take the sensor noise out of the infrared image",
        "get rid of the grain in the thermal picture",
        "fuse both images without the noise of the infrared one",
        "restore the infrared image behind its noise",
        "get rid of the infrared noise",
        "I want a clean infrared image",
        "less noise in the infrared image",
        "please clean the heat picture",
        "the thermal camera is noisy, filter it",
    ),
}
_REPAIR_HELD_OUT: dict[str, tuple[str, ...]] = {
    "low-light": (
        "please fix the dark picture",
        "I want more brightness",
        "it is night, show me what the dark hides",
        "turn up the light in this dim photograph",
        "I can hardly see anything in the dark, help",
        "compensate for the missing illumination",
        "let the night look like day",
    ),
    "over-exposure": (
        "there is too much light, lower the brightness",
        "please make the washed out picture darker",
        "get the detail of the white parts back",
        "the sky is burnt out, rescue it",
        "compensate for the excess of light",
        "pull the saturated whites back",
        "the sun spoilt this photograph, save it",
    ),
    "noise": (
        "the visible camera has grain, take it away",
        "I want the visible picture without noise",
        "make the noisy camera image clean",
        "wipe away the speckle of the camera",
        "this photograph is full of grain, polish it",
        "give me the visible view without disturbance",
        "reduce random fluctuations of the colour channels",
    ),
    "blur": (
        "it is not sharp",
        "I want to see sharp detail",
        "please take the blur away",
        "everything looks washed together, sharpen it up",
        "focus this fuzzy photograph",
        "I want clear outlines instead of this mush",
        "increase the acutance of the colour picture",
    ),
    "haze": (
        "there is fog, remove it",
        "please clear the hazy air",
        "I want to see without the mist",
        "let me look through the smog",
        "the air is thick, clean the view",
        "cut through the murk",
        "compensate for the milky atmosphere",
    ),
    "ir-stripes": (
        "the thermal image has lines, get rid of them",
        "please erase the infrared stripes",
        "make the columns of the heat picture even",
        "the heat picture has bars, take them away",
        "level the uneven read-out of the detector",
        "cancel the banding of the thermal camera",
        "no more vertical pattern in the heat map, please",
    ),
    "ir-low-contrast": (
        "the infrared image is too flat",
        "please make the heat picture less dull",
        "bring out warm things in the infrared image",
        "the heat picture is all grey, spread it",
        "widen the dynamic range of the thermal camera",
        "separate warm from cold more clearly",
        "give the pale thermogram some punch",
    ),
    "ir-noise": (
        "the thermal image is noisy, clean it",
        "I want the infrared picture without grain",
        "take the noise of the heat camera away",
        "quieten the snowing heat picture",
        "average out the flicker of the thermal detector",
        "polish the rough thermogram",
        "reduce the temporal noise of the microbolometer",
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
    """Phrasings of one wish: to highlight a class, or a group of GROUPS.

    Commands, questions, statements and the bare name; its plurals; some of them for each synonym.
    """
    name, *others = _names(label)
    many = _MANY.get(label, ())
    prompts = [form.format(name) for form in _HIGHLIGHT]
    for turn, other in enumerate(others):
        forms = (*_HIGHLIGHT_SYNONYM, _HIGHLIGHT_TURN[turn % len(_HIGHLIGHT_TURN)])
        prompts += [form.format(other) for form in forms]
    if many:
        prompts += [
            form.format(many[turn % len(many)]) for turn, form in enumerate(_HIGHLIGHT_MANY)
        ]
    return tuple(dict.fromkeys(prompts))


def _names(label: str) -> tuple[str, ...]:
    if label not in SYNONYMS and label not in GROUPS:
        raise ValueError(f"No class is called {label!r}; the classes are {', '.join(SYNONYMS)}.")
    return SYNONYMS.get(label, (label,))


def held_out_prompts(wish: str) -> tuple[str, ...]:
    """Phrasings of a wish that are in no list for training, to tell reading from remembering.

    `wish` is a class, a group, a degradation or "plain", as in `wishes`. The sentences are new,
    their words mostly known; the last ones have words that no text of the generator has.
    """
    if wish == "plain":
        return _PLAIN_HELD_OUT
    if wish in _REPAIR_HELD_OUT:
        return _REPAIR_HELD_OUT[wish]
    names = _names(wish)
    many = _MANY.get(wish, ())
    prompts = [
        form.format(names[turn % 2 if len(names) > 1 else 0])
        for turn, form in enumerate(_HIGHLIGHT_HELD_OUT)
    ]
    if many:
        prompts += [form.format(many[turn % len(many)]) for turn, form in enumerate(_MANY_HELD_OUT)]
    return tuple(prompts)


def wishes() -> dict[str, tuple[str, ...]]:
    """Every wish with the phrasings that mean it: classes, groups, degradations and "plain"."""
    found = {label: highlight_prompts(label) for label in (*SYNONYMS, *GROUPS)}
    return {**found, **_REPAIR, "plain": PLAIN}


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
    return tuple(sorted({prompt for group in wishes().values() for prompt in group}))


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
    """Counts with places, plain names in the first sentence and other words in the others."""
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
            many = (PLURALS[label],) if exact else _MANY[label]
            parts.append(f"{NUMBERS[min(number, 7)]} {many[int(rng.integers(len(many)))]}")
    if not exact and background and rng.random() < 0.5:
        parts += _articles(background[:1])
    return _join(parts)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
