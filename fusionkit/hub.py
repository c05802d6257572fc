"""Models of transformers and diffusers: from a folder, the hub's cache or the hub; else one line.

A model is looked for in this order: a folder that is given; ``transformers/OWNER/NAME`` under the
folder that the variable FUSIONKIT_WEIGHTS names; the hub's cache on this machine; the hub, unless
HF_HUB_OFFLINE is set. Nothing is imported or read before a component is built.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusionkit.errors import BadRequest, MissingWeights

WEIGHTS_VARIABLE = "FUSIONKIT_WEIGHTS"
_asked: dict[str, bool] = {}


def load(
    model: str,
    kind: str,
    device: torch.device,
    offline: str,
    *,
    processor: str = "AutoProcessor",
) -> tuple[nn.Module, Any]:
    """A model of transformers in evaluation mode, frozen, and its processor.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder that ``save_pretrained`` wrote, with the
            processor's files in it.
        kind: the automatic class that builds it, ``AutoModelForMaskGeneration`` say.
        device: where it computes.
        offline: what a user without these weights may use in their place, for the message.
        processor: the automatic class of what prepares the inputs.

    Raises:
        MissingWeights: neither here nor to be had.
        BadRequest: transformers is not installed, or the folder holds another kind of model.
    """
    try:
        import transformers
    except ImportError as error:
        raise BadRequest(
            f"{model!r} needs transformers: pip install 'fusionkit[hub]'. Without it: {offline}."
        ) from error
    place, here = _place(model)
    if not here:
        _must_be_online(model, offline)
    try:
        with _quiet():
            prepare = getattr(transformers, processor).from_pretrained(place, local_files_only=here)
            built = getattr(transformers, kind).from_pretrained(place, local_files_only=here)
    except Exception as error:  # of the hub's client, safetensors or transformers itself
        reason = " ".join(str(error).split())[:200]
        kinds = MissingWeights if not here else BadRequest
        raise kinds(f"{model!r} cannot be loaded as {kind} ({reason}).") from error
    return built.to(device).eval().requires_grad_(False), prepare


def load_diffusers(
    model: str, kind: str, offline: str, *, subfolder: str | None = None
) -> nn.Module:
    """A model of diffusers in evaluation mode, frozen; looked for and refused like :func:`load`'s.

    Args:
        model: ``OWNER/NAME`` on the hub, or a folder that ``save_pretrained`` wrote.
        kind: the class that builds it, ``AutoencoderKLCosmos`` say.
        offline: what a user without these weights may use in their place, for the message.
        subfolder: where in a model of several parts it lies; a folder that has none such is read
            itself.

    Raises:
        MissingWeights: neither here nor to be had.
        BadRequest: diffusers is not installed, or the folder holds another kind of model.
    """
    try:
        import diffusers
    except ImportError as error:
        raise BadRequest(
            f"{model!r} needs diffusers: pip install 'fusionkit[hub]'. Without it: {offline}."
        ) from error
    file = "/".join(filter(None, (subfolder, "config.json")))
    place, here = _place(model, file)
    if not here:
        _must_be_online(model, offline)
    if subfolder and Path(place).is_dir() and not Path(place, subfolder).is_dir():
        subfolder = None
    try:
        with _quiet():
            built = getattr(diffusers, kind).from_pretrained(
                place, subfolder=subfolder, local_files_only=here, low_cpu_mem_usage=False
            )
    except Exception as error:  # of the hub's client, safetensors or diffusers itself
        reason = " ".join(str(error).split())[:200]
        kinds = MissingWeights if not here else BadRequest
        raise kinds(f"{model!r} cannot be loaded as {kind} ({reason}).") from error
    return built.eval().requires_grad_(False)


def _place(model: str, file: str = "config.json") -> tuple[str, bool]:
    """What to ask the library for, and whether it lies on this machine; ``file`` tells."""
    given = Path(model).expanduser()
    if given.is_dir():
        return str(given), True
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise MissingWeights(
            f"there is no folder {model!r}; a model is a folder, or OWNER/NAME on the hub."
        )
    if root := os.environ.get(WEIGHTS_VARIABLE):
        kept = Path(root, "transformers", model)
        if kept.is_dir():
            return str(kept), True
    from huggingface_hub import try_to_load_from_cache

    return model, isinstance(try_to_load_from_cache(model, file), str)


def _must_be_online(model: str, offline: str) -> None:
    """Fail at once where a download cannot work: the hub's client would retry for a long time."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        reason = "HF_HUB_OFFLINE is set"
    elif not _reachable(constants.ENDPOINT):
        reason = "the model hub cannot be reached"
    else:
        return
    raise MissingWeights(
        f"the weights of {model!r} are not on this machine and {reason}. Run once with a network, "
        f"or put its folder at transformers/{model} under the folder that the variable "
        f"{WEIGHTS_VARIABLE} names, or pass a folder. Without these weights: {offline}."
    )


def _reachable(endpoint: str) -> bool:
    """Whether the hub answers within five seconds; asked once per process."""
    if endpoint not in _asked:
        from huggingface_hub.utils import get_session

        try:
            get_session().head(endpoint, timeout=5)
            _asked[endpoint] = True
        except Exception:  # every client library has its own errors, all mean the same here
            _asked[endpoint] = False
    return _asked[endpoint]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Loading draws bars and tables that mean nothing to the user of a component."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
