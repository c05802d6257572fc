"""A command in words becomes a list of edits: what to do, and where.

The default parser is a grammar of cue words: no model, no network, the same answer every time. The
cues and their order are those that describe the released few-shot prompt; what goes beyond them
(clauses joined by "and", comparisons with a source, places, hot and cold) is ours.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

EFFECTS = {
    "denoise": "remove noise",
    "brighten": "more illumination",
    "darken": "less illumination",
    "blur": "out of focus",
    "deblur": "undo blur (not among the published effects)",
    "texture": "texture and look of the visible picture",
    "salient": "stands out as in the infrared picture",
}
"""What an edit can do, by name."""
NOTHING = "none"
BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Edit:
    """One effect in one region."""

    region: str
    """What the command names, ``person on the left``; empty for the whole picture."""
    effect: str
    """A name of :data:`EFFECTS`, or ``none`` where the words ask for no change that is known."""


class Region(NamedTuple):
    """A region's words taken apart."""

    things: tuple[str, ...]
    """Nouns; several are joined, none means all of the place."""
    place: str = ""
    """``left``, ``right``, ``top``, ``bottom``, ``middle`` or nothing."""


LESS = r"\b(?:decreas|lower|reduc|diminish|less)\w*"
MORE = r"\b(?:increas|improv|amplif|rais|boost|more)\w*"
SOURCE = r"(?:image|picture|photo|photograph|camera|spectrum|source|one)"
CUES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "denoise",
        (
            r"\bnois", r"\bdenois", r"\bgrain", r"\bstatic\b", r"\bspeckl",
            r"\bclean(?:s|ed|ing)? up",
        ),
    ),
    (
        "deblur",
        (
            r"\bdeblur", r"\bunblur", r"\bsharpen", r"\bsharper",
            r"\b(?:remov|undo|fix|correct|less|reduc)\w*(?: the| any| its| motion)* blur",
        ),
    ),
    (
        "blur",
        (
            r"\bblur", r"\bvague", r"\bout of focus", r"\bsoft focus", r"\bobscur",
            r"\bharder to read",
        ),
    ),
    (
        "darken",
        (
            r"\bdark(?:er|en)", r"\bdim", r"\bless bright",
            rf"{LESS}.*\b(?:visibility|illumination|brightness|intensity|lighting)",
        ),
    ),
    (
        "brighten",
        (
            r"\bbrighten", r"\bbrighter", r"\bmore bright", r"\blight(?:en)? up", r"\billuminate",
            rf"{MORE}.*\bbrightness", rf"{MORE}.*\bvisibility", r"\bbrightness.*\bincreas",
            r"\billumination.*\benhanc", r"\benhanc\w*.*\billumination",
            rf"{MORE}.*\b(?:illumination|lighting)", r"\bintensif\w* the lighting",
            r"\bclarity of the image",
        ),
    ),
    (
        "texture",
        (
            r"\btextur", r"\bdetail", r"\bclearer", r"\brefin",
            rf"\b(?:visible|rgb|daylight|color|colour) {SOURCE}",
            r"\b(?:like|as|as in|towards?|to|from) the visible\b",
        ),
    ),
    (
        "salient",
        (
            r"\bsalien", r"\bstand(?:s|ing)? out", r"\bprominen", r"\bhighlight", r"\bemphasi[sz]",
            r"\bfocus(?:es|ing)? on", r"\bhot(?:ter)?\b", r"\bwarm(?:er)?\b", r"\bglow",
            r"\binfrared\b", r"\bthermal\b", r"\b(?:more|better) visible",
        ),
    ),
)  # fmt: skip
"""Effects by cue, the first that fits counts; a cue begins at the start of a word."""

VERBS = (
    r"(?:(?:make|keep|leave|show|render|turn|let|give|remove|reduce|decrease|lower|increase|improve"
    r"|enhance|raise|boost|brighten|lighten|illuminate|darken|dim|blur|deblur|unblur|sharpen|denoise"
    r"|obscure|refine|highlight|emphasi[sz]e)s?|amplif(?:y|ies)|intensif(?:y|ies)|cleans?(?: up)?"
    r"|focus(?:es)? on|bring out|undo|fix|get rid of)"
)
POLITE = (
    r"(?:(?:and|then|also|next|finally|please|kindly|now|(?:can|could|would) you|let us|just"
    r"|i (?:want|would like)(?: you)? to)\s+)"
)
WHOLE = (
    r"(?:(?:fused|whole|entire|complete|final) )*"
    r"(?:photo|photograph|image|picture|scene|result|frame)"
)
TRAILING = rf"\s+in (?:the|this) {WHOLE}$"
COMPARISON = (
    r"\s+(?:just |more |closer |close |similar |the same )*"
    r"(?:as (?:it is |they are |seen |shown )?in|as from|like in|like|as|towards?|to|from|with)"
    r"(?: the)? (?:visible|rgb|daylight|infrared|thermal)"
    rf"(?: (?:{SOURCE}|texture|look|colors?|colours?))?$"
)
SIDES = {
    "left": "on the",
    "right": "on the",
    "top": "at the",
    "bottom": "at the",
    "middle": "in the",
}
PLACES = r"(left|right|top|bottom|middle|centre|center)(?:most)?(?: (?:side|half|part|hand side))?"
PLACE = rf"(?<!focus)(?<!focuses)\s+(?:on|at|in|to) the (?:far )?{PLACES}(?: of the {WHOLE})?\b"
PLACE_ONLY = rf"^{PLACES}(?: of the {WHOLE})?$"
PLACE_FIRST = r"^(left|right|top|bottom|middle|central)(?:most)? (?!side|half|part)(?=\w)"
TAIL = (
    r"(?:^|\s+)(?:(?:clear|bright|dark|dim|hot|warm|sharp)(?:er|ter|mer|ly)?|blurr(?:y|ier|ed)"
    r"|vague|glow(?:ing)?|salient|prominent|visible|noisy|detailed|stands? out|standing out"
    r"|out of focus|in (?:soft )?focus|harder to read|look|appear|be|should|must|up"
    r"|unchanged|untouched|as (?:it is|they are)|more \w+|less \w+"
    r"|(?:a )?(?:bit|little|lot|much|slightly|very|more|less|too|again|alone))$"
)
EVERYTHING = rf"(?:|it|all|everything|{WHOLE}|everywhere)"
REST = (
    r"\b(?:(?:rest|remainder|surroundings?) of "
    r"|(?:rest|everything else|remainder|surroundings?|backdrop)$)"
)
ONLY_EFFECT = (
    r"(?:(?:image|sensor|thermal|motion|any|all|overall|random)\s+)*"
    r"(?:noise|grain|graininess|static|speckles?|blur|brightness|illumination|lighting|light"
    r"|visibility|intensity|details?|textures?|saliency|clarity|contrast|sharpness)"
)
NOT = r"\b(?:do not|don't|dont|never|unchanged|untouched|as (?:it|they) (?:is|are)$|alone$)"
ARTICLE = (
    r"^(?:the|a|an|this|that|these|those|every|all|any|some|its|their|his|her"
    r"|both|two|three|four|five|several|many)\s+"
)


class RuleParser:
    """The default parser, offline and deterministic."""

    def __call__(self, command: str) -> list[Edit]:
        """The edits of a command in their order; of clauses that ask for nothing, effect ``none``.

        A clause that only names something ("..., the road and the sky") continues the one before.
        """
        edits: list[Edit] = []
        for clause in clauses(command):
            effect = effect_of(clause)
            if effect == NOTHING and edits and re.match(r"(?:and )?(?:the|a|an) ", clause):
                effect = edits[-1].effect
            edits.append(Edit(region_of(clause), effect))
        return edits


def clauses(command: str) -> list[str]:
    """The command in small letters, parted at commas and the like, and at "and" before a verb."""
    text = re.sub(r"[\"'`“”‘’]", "", command.lower().replace("don't", "do not"))
    parts = re.split(rf"[,;.!?\n]+|\bthen\b|\bbut\b|\band (?={POLITE}*{VERBS}\b)", text)
    found = [clause for part in parts if (clause := _plain(part))]
    return [piece for clause in found for piece in _two(clause)]


def _two(clause: str) -> list[str]:
    """A clause, or its halves around an "and" where each asks for something by itself."""
    before, joined, after = clause.rpartition(" and ")
    if not joined or NOTHING in (effect_of(before), effect_of(after)) or not region_of(before):
        return [clause]
    return [*_two(before), after]


def _plain(part: str) -> str:
    part = re.sub(r"\s+", " ", part).strip(" :-")
    while (shorter := re.sub(f"^{POLITE}", "", part)) != part:
        part = shorter
    return "" if part in ("and", "then") else part


def effect_of(clause: str) -> str:
    """Which of :data:`EFFECTS` a clause asks for; ``none`` if it asks for no change."""
    clause = clause.partition(" without ")[0]
    if re.search(NOT, clause):
        return NOTHING
    for effect, cues in CUES:
        if any(re.search(cue, clause) for cue in cues):
            return effect
    return NOTHING


def region_of(clause: str) -> str:
    """Where a clause wants it, as words; empty for the whole picture."""
    text = clause.partition(" without ")[0]
    text = re.sub(r"\b(?:do not|never)\s+", "", text)
    text = re.sub(COMPARISON, "", re.sub(TRAILING, "", text))
    place = re.search(PLACE, text)
    text = _without_tail(re.sub(PLACE, "", text, count=1))
    text = re.sub(COMPARISON, "", re.sub(TRAILING, "", text))
    after_verb = re.match(rf"{VERBS}(?:\s+|$)(.*)$", text)
    named = after_verb[1] if after_verb else text
    if re.search(REST, named):
        named = BACKGROUND
    elif " of " in f" {text}":
        named = re.split(r"\bof ", text)[-1]
    elif found := re.search(rf"^(?:the )?{ONLY_EFFECT} (?:in|on|from|around|at|for) (.+)$", named):
        named = found[1]
    named = _bare(_without_tail(named))
    if re.fullmatch(ONLY_EFFECT, named) or re.fullmatch(EVERYTHING, named):
        named = ""
    if only := re.match(PLACE_ONLY, named):
        return f"{_place(only[1])} half"
    if first := re.match(PLACE_FIRST, named):
        named, place = named[first.end() :], first
    if place is None:
        return named
    where = _place(place[1])
    return f"{named} {SIDES[where]} {where}" if named else f"{where} half"


def _without_tail(text: str) -> str:
    while (shorter := re.sub(TAIL, "", text).strip()) != text:
        text = shorter
    return text


def _bare(named: str) -> str:
    while (shorter := re.sub(ARTICLE, "", named.strip())) != named:
        named = shorter
    return named


def _place(word: str) -> str:
    return "middle" if word in ("centre", "center", "central") else word


def parts_of(region: str) -> Region:
    """A region's nouns and place: ``person and car on the left`` -> (person, car), left."""
    place = ""
    if half := re.fullmatch(r"(\w+) half", region):
        return Region((), half[1])
    if found := re.search(r" (?:on|at|in) the (left|right|top|bottom|middle)$", region):
        region, place = region[: found.start()], found[1]
    things = (_bare(thing) for thing in re.split(r"\s*(?:\band\b|/|&|,)\s*", region))
    return Region(tuple(thing for thing in things if thing), place)
