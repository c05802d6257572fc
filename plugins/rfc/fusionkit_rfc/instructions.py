"""Instructions: composed from a grammar, parsed back, and split into *what* and *where*.

    [degree] action "of the" region ["in the infrared image"]      or, of a whole picture,
    [degree] action "of the infrared image"

"In the image" says nothing and is read over.

Actions are the templates that the authors document (section on data of the paper and the README of
the release), and two in the same manner for damages that only an infrared camera has. Degree and
modality are additions of this plugin: they are words of the process phrase, so the sentence alone
carries them.

What a sentence means to the network is decided by :func:`split`: the region's words are the target
phrase for CLIPSeg, the sentence with "photo" in their place is the process phrase for CLIP.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusionkit.errors import BadRequest, did_you_mean

ACTIONS: dict[str, tuple[str, ...]] = {
    "low-light": ("enhance the light of the {}", "make the {} brighter"),
    "over-exposure": ("reduce the light of the {}", "make the {} darker"),
    "noise": ("reduce the noise of the {}",),
    "haze": ("reduce the haze of the {}",),
    "flare": ("remove the flare of the {}",),
    "blur": ("increase the details of the {}",),
    "visibility": ("enhance the visibility of the {}", "make the {} clear"),
    "low-contrast": ("enhance the contrast of the {}",),
    "stripes": ("remove the stripes of the {}",),
}
"""Requests by what they mend; the last two are this plugin's."""

DEGREES = {"slightly": 0.4, "moderately": 0.7, "fully": 1.0}
"""Word -> share of the damage that is to be mended; a sentence without one asks for all of it."""
MODALITIES = ("infrared", "visible")
IMAGE = "image"
"""The region that is the whole picture."""
PHOTO = "photo"
"""Stands for the region in a process phrase."""
NOTHING = "the photo"
"""Process phrase of an empty instruction."""

_IN = re.compile(rf"(.*) in the (?:({'|'.join(MODALITIES)}) )?image")
_WHOLE = re.compile(rf"({'|'.join(MODALITIES)}) {IMAGE}")
_DEGREE = re.compile(rf"({'|'.join(DEGREES)}) (.*)")
_FORMS = [
    (action, index, re.compile(form.replace("{}", r"([a-z][a-z' -]*)")))
    for action, forms in ACTIONS.items()
    for index, form in enumerate(forms)
]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What an instruction of the grammar asks for."""

    action: str
    """What is to be mended, a key of :data:`ACTIONS`."""
    region: str = IMAGE
    """Where: a noun phrase in lower case, or ``image``."""
    modality: str | None = None
    """Of which picture, ``infrared`` or ``visible``; None means both."""
    degree: str | None = None
    """How far, a key of :data:`DEGREES`; None means fully."""
    form: int = 0
    """Which of the action's wordings."""

    @property
    def share(self) -> float:
        """How much of the damage is to be mended, in (0, 1]."""
        return 1.0 if self.degree is None else DEGREES[self.degree]


def compose(instruction: Instruction) -> str:
    """The sentence of an instruction; :func:`parse` gives the instruction back.

    Raises:
        BadRequest: a part that the grammar does not have, or a region that would be read otherwise.
    """
    for what, asked, known in (
        ("action", instruction.action, ACTIONS),
        ("degree", instruction.degree, (None, *DEGREES)),
        ("modality", instruction.modality, (None, *MODALITIES)),
    ):
        if asked not in known:
            names = [name for name in known if name]
            raise BadRequest(
                f"an instruction has no {what} {asked!r}: it may be {', '.join(names)}."
                f"{did_you_mean(str(asked), names)}"
            )
    forms = ACTIONS[instruction.action]
    if not 0 <= instruction.form < len(forms):
        raise BadRequest(
            f"{instruction.action!r} has {len(forms)} wordings, counted from 0; "
            f"there is no {instruction.form}."
        )
    sentence = _worded(instruction, instruction.region)
    if parse(sentence) != instruction:
        raise BadRequest(
            f"the region {instruction.region!r} cannot stand in an instruction: give a noun phrase "
            "in lower-case letters."
        )
    return sentence


def parse(sentence: str) -> Instruction | None:
    """The instruction that a sentence of the grammar stands for; None for any other sentence."""
    words = _plain(sentence)
    degree = modality = None
    if found := _DEGREE.fullmatch(words):
        degree, words = found.groups()
    if found := _IN.fullmatch(words):
        words, modality = found.groups()
    for action, index, form in _FORMS:
        if not (found := form.fullmatch(words)):
            continue
        region = found[1]
        if modality is None and (whole := _WHOLE.fullmatch(region)):
            modality, region = whole[1], IMAGE
        return Instruction(action, region, modality, degree, index)
    return None


def split(sentence: str) -> tuple[str | None, str]:
    """An instruction as target phrase (None: nowhere) and process phrase.

    A sentence outside the grammar is about the whole image and stays as it is; the released parser
    would fail on one in which it finds no region.
    """
    words = _plain(sentence)
    if words in ("", "none"):
        return None, NOTHING
    found = parse(words)
    if found is None:
        return IMAGE, words
    return found.region, _worded(found, PHOTO)


def process_phrase(sentence: str) -> str:
    """What the text encoder is told."""
    return split(sentence)[1]


def _worded(instruction: Instruction, region: str) -> str:
    """The sentence, with ``region`` where the region is named."""
    degree = "" if instruction.degree is None else f"{instruction.degree} "
    place = ""
    if instruction.modality is not None:
        if instruction.region == IMAGE:
            region = f"{instruction.modality} {region}"
        else:
            place = f" in the {instruction.modality} image"
    form = ACTIONS[instruction.action][instruction.form]
    return f"{degree}{form.format(region)}{place}"


def _plain(sentence: str) -> str:
    return " ".join(sentence.lower().split()).rstrip(" .!")


# ------------------------------------------------------------------- the released parser, by spaCy


def split_by_dependencies(
    sentence: str, read: Any = None, *, model: str = "en_core_web_sm"
) -> tuple[str | None, str]:
    """As :func:`split`, by the released rules over a dependency parse of any English sentence.

    Args:
        sentence: an instruction.
        read: a parser, sentence -> tokens with ``text``, ``dep_``, ``pos_``; None loads spaCy's.
        model: the spaCy model to load.

    Raises:
        BadRequest: spaCy or its model is not installed.
    """
    words = _plain(sentence)
    if words in ("", "none"):
        return None, NOTHING
    tokens = list((read or _spacy(model))(words))
    where = region_tokens(tokens, "of" in words)
    if not where:
        return IMAGE, words
    target = " ".join(tokens[i].text for i in where)
    process = " ".join(PHOTO if i in where else t.text for i, t in enumerate(tokens))
    return target, process


def process_phrase_by_dependencies(sentence: str) -> str:
    """What the text encoder is told, by the released rules."""
    return split_by_dependencies(sentence)[1]


def region_tokens(tokens: Sequence[Any], has_of: bool) -> list[int]:
    """Which tokens name the region: the rules of the release.

    An imperative (its first token is root and verb) gives objects of prepositions, possessives,
    compounds and adjectives, and a subject unless a case marker stands before or a preposition
    after it; another sentence with "of" gives objects of prepositions; any other its subjects.
    """
    imperative = bool(tokens) and tokens[0].dep_ == "ROOT" and tokens[0].pos_ == "VERB"
    found = []
    for i, token in enumerate(tokens):
        before = tokens[i - 1].dep_ if i else ""
        after = tokens[i + 1].dep_ if i + 1 < len(tokens) else ""
        if imperative:
            subject = token.dep_ == "nsubj" and before != "case" and after != "prep"
            named = token.dep_ in ("pobj", "poss", "compound", "amod") or subject
        elif has_of:
            named = token.dep_ == "pobj"
        else:
            named = token.dep_ == "nsubj" and i > 0
        if named:
            found.append(i)
    return found


_models: dict[str, Any] = {}


def _spacy(model: str) -> Any:
    if model not in _models:
        try:
            import spacy

            _models[model] = spacy.load(model)
        except (ImportError, OSError) as error:
            raise BadRequest(
                f"the parser 'spacy' needs spaCy and its model: pip install spacy, then "
                f"python -m spacy download {model}. The parser 'grammar' needs neither."
            ) from error
    return _models[model]


PARSERS: Mapping[str, Any] = {"grammar": split, "spacy": split_by_dependencies}
"""Ways to split a sentence, by name."""
