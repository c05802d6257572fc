"""A chat model as writer, at any endpoint that speaks the chat-completions protocol.

Source: Z. Zhao et al., "Image Fusion via Vision-Language Model", ICML 2024, for
what it is asked to write.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fusionkit.errors import BadRequest, FusionkitError, MissingWeights
from fusionkit_captions.composer import facts_of
from fusionkit_captions.facts import Facts, inside, write_items

ENDPOINT_VARIABLE = "FUSIONKIT_CHAT_ENDPOINT"
KEY_VARIABLE = "FUSIONKIT_CHAT_KEY"

RULES = (
    "Write a single flowing paragraph in English. Open with the caption and the resolution. "
    "Mention every object once with its box in square brackets, then the regions, then close "
    "with one sentence on the overall scene. Invent nothing."
)


class Chat:
    """A paragraph from facts, written by a chat model of the user's choice.

    Only the facts go out (size, caption, phrases and boxes), never a picture.

    Args:
        endpoint: address of the service up to ``/v1``, for example ``http://localhost:8000/v1``; by
            default the variable FUSIONKIT_CHAT_ENDPOINT.
        model: its name there.
        key_variable: the environment variable that holds the key; a key is never a parameter, so
            that it cannot end up in a notebook. An endpoint without keys needs none.
        timeout: seconds for one answer.

    Raises:
        MissingWeights: no endpoint is named.
        FusionkitError: the service cannot be reached, refuses, or answers in another form.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        model: str = "default",
        key_variable: str = KEY_VARIABLE,
        timeout: float = 60.0,
    ) -> None:
        endpoint = endpoint or os.environ.get(ENDPOINT_VARIABLE)
        if not endpoint:
            raise MissingWeights(
                "captioner 'chat' needs the address of a chat model: pass endpoint, or set "
                f"{ENDPOINT_VARIABLE}; without one take the writer 'composer'."
            )
        if not endpoint.startswith(("http://", "https://")):
            raise BadRequest(f"captioner 'chat': endpoint {endpoint!r} is no http(s) address.")
        self.address = endpoint.rstrip("/") + "/chat/completions"
        self.model, self.key_variable, self.timeout = model, key_variable, timeout

    def __call__(
        self,
        image: Tensor,
        *,
        modality: str = "visible",
        facts: Sequence[Facts | Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        height, width = image.shape[-2:]
        return [
            self.ask(instruction(found, width, height))
            for found in facts_of(image, modality, facts)
        ]

    def ask(self, message: str) -> str:
        """The model's answer to one message."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": message}],
            "temperature": 0,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                content = json.load(answer)
        except urllib.error.HTTPError as error:
            hint = (
                f"; put its key into the variable {self.key_variable}"
                if error.code in (401, 403)
                else ""
            )
            raise FusionkitError(
                f"the chat model at {self.address} refused ({error.code} {error.reason}){hint}."
            ) from None
        except (OSError, ValueError) as error:
            raise FusionkitError(
                f"no answer from the chat model at {self.address}: {error}"
            ) from None
        try:
            return " ".join(content["choices"][0]["message"]["content"].split())
        except (KeyError, IndexError, TypeError, AttributeError):
            raise FusionkitError(
                f"{self.address} answered in another form than chat completions."
            ) from None


def instruction(facts: Facts, width: int, height: int) -> str:
    """What the chat model is told about one picture."""
    items, regions = (inside(part, width, height) for part in (facts.items, facts.regions))
    return "\n".join(
        [
            f"You describe one {facts.modality} image for an image-fusion system. "
            "Facts measured on it:",
            f"size: {width}X{height} pixels",
            f"caption: {facts.caption}",
            f"objects: {write_items(items) or 'none'}",
            f"regions: {write_items(regions) or 'none'}",
            RULES,
        ]
    )
