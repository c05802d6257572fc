"""A chat model as parser: for wording that the grammar does not know.

The model is asked through the captioner ``chat`` of the registry, any endpoint that speaks the
chat-completions protocol; its key comes from the environment and the picture never leaves.
"""

import json
import re
from typing import Any

from fusionkit.errors import FusionkitError
from fusionkit.registry import Registry
from fusionkit_terf.instruction import EFFECTS, NOTHING, Edit

EXAMPLES = (
    ("increase the visibility of buildings", [("buildings", "brighten")]),
    ("the street is too bright, tone it down", [("street", "darken")]),
    (
        "blur the background and make the car stand out",
        [("background", "blur"), ("car", "salient")],
    ),
    ("makes the texture of the tree clearer", [("tree", "texture")]),
    ("get rid of the grain", [("", "denoise")]),
    ("the van on the right should look as in infrared", [("van on the right", "salient")]),
    ("what is this?", []),
)


class ChatParser:
    """Edits as a chat model reads them.

    Args:
        registry: where the captioner ``chat`` comes from.
        **options: its options, ``endpoint`` and ``model`` first of all.

    Raises:
        MissingWeights: no endpoint is named.
    """

    def __init__(self, registry: Registry, **options: Any) -> None:
        self.model = registry.create("captioner", "chat", **options)

    def __call__(self, command: str) -> list[Edit]:
        """The edits of a command.

        Raises:
            FusionkitError: the service fails, or its answer is no list of edits.
        """
        answer = self.model.ask(question(command))
        found = re.search(r"\[.*\]", answer, re.DOTALL)
        try:
            items = json.loads(found[0] if found else answer)
            return [_edit(item) for item in items]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise FusionkitError(
                f"the chat model answered {answer[:120]!r} to the command {command!r}, which is no "
                'list like [{"region": "car", "effect": "salient"}]: ask again, or take the parser '
                "'rules'."
            ) from None


def _edit(item: dict[str, str]) -> Edit:
    region, effect = item["region"].strip().lower(), item["effect"].strip().lower()
    region = "" if region in ("unknown", "whole picture", "image", "everything") else region
    return Edit(region, effect if effect in EFFECTS else NOTHING)


def question(command: str) -> str:
    """What the model is told: the effects, examples, the command."""
    effects = "; ".join(f"{name} ({meaning})" for name, meaning in EFFECTS.items())
    examples = "\n".join(f"{said} => {_written(edits)}" for said, edits in EXAMPLES)
    return (
        "Turn a request to edit a picture into a JSON list of edits, in the order of the request. "
        'Each is {"region": what is named, in singular words of the request, or "" for the whole '
        f'picture, "effect": one of the names}}. Effects: {effects}. Answer with the list alone.\n'
        f"{examples}\n{command.lower()} =>"
    )


def _written(edits: list[tuple[str, str]]) -> str:
    return json.dumps([{"region": region, "effect": effect} for region, effect in edits])
