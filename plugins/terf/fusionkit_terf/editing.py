"""Editing after fusion: a command is read, its regions found, its effects pasted one by one."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.methods import Method
from fusionkit_terf.chat import ChatParser
from fusionkit_terf.effects import WHOLE, Effects
from fusionkit_terf.instruction import EFFECTS, NOTHING, Edit, RuleParser
from fusionkit_terf.regions import Regions, feathered, merge

PARSERS = ("rules", "chat")
CPU_SIDE = 96
"""Side of the window that ``auto`` learns on, on a CPU."""


@dataclass(frozen=True, slots=True)
class Done:
    """One edit carried out on one picture."""

    edit: Edit
    mask: Tensor
    """Where it acted, ``(1, 1, H, W)`` in [0, 1]."""
    image: Tensor
    """The picture after it, ``(1, 3, H, W)``."""


def edit(
    method: Method,
    batch: Batch,
    fused: Fused,
    *,
    parser: str = "rules",
    parser_options: Mapping[str, Any] | None = None,
    guide: str = "heatmap",
    guide_options: Mapping[str, Any] | None = None,
    offline_guide: str | None = None,
    look_at: str = "pair",
    feather: int = 2,
    respect_mask: bool = True,
    whole_numbers: bool = False,
    max_steps: int | str | None = "auto",
    work_size: int | str | None = "auto",
) -> Fused:
    """The recipe's ``refine``: what the prompt of each pair asks for, done to its fused picture.

    Args:
        method: what fused, with its network, encoder and registry.
        batch: the pairs with their prompts; guides named like a noun serve as its mask.
        fused: what came of them.
        parser, parser_options: ``rules`` (the grammar), or ``chat`` (a chat model behind
            ``endpoint``; its key comes from the environment).
        guide, guide_options, offline_guide, look_at: see :class:`~fusionkit_terf.regions.Regions`.
        feather: pixels over which an effect fades in from the border of its region inwards.
        respect_mask: False pastes brightening, darkening and both leaning effects over the whole
            picture, as the release does.
        whole_numbers: cut pictures to 8 bits between edits, as the release does.
        max_steps, work_size: limits of what an effect may learn, see
            :class:`~fusionkit_terf.effects.Effects`; ``auto`` is 20 steps (60 to
            denoise) on windows of 96 pixels on a CPU and the published protocol on a GPU, None the
            published protocol.

    Returns:
        The edited pictures. Where all pairs were edited alike, ``maps`` has for the n-th edit
        ``edit<n>.<effect>.<region>.mask`` ``(B, 1, H, W)`` and ``....image`` ``(B, 3, H, W)``.

    Warns:
        A clause that asks for nothing known, or a region that was not found: nothing is changed.
    """
    if parser not in PARSERS:
        raise BadRequest(
            f"TeRF's parsers are {' and '.join(PARSERS)}, not {parser!r}."
            f"{did_you_mean(parser, PARSERS)}"
        )
    if not any(batch.prompts):
        return fused
    read = (
        RuleParser() if parser == "rules" else ChatParser(method.registry, **(parser_options or {}))
    )
    commands = {prompt: read(prompt) for prompt in dict.fromkeys(batch.prompts)}
    slow = method.device.type == "cpu"
    effects = Effects(
        method.network,
        max_steps=None if max_steps == "auto" else max_steps,
        quick=slow and max_steps == "auto",
        work_size=(CPU_SIDE if slow else None) if work_size == "auto" else work_size,
    )
    regions = _regions(method, guide, guide_options or {}, offline_guide, look_at)
    done = []
    for index, prompt in enumerate(batch.prompts):
        one = _only(batch, index)
        picture = fused.image[index : index + 1]
        wanted = _known(prompt, commands[prompt])
        masks = regions(one, picture, wanted, commands[prompt])
        steps: list[Done] = []
        for asked, mask in zip(wanted, masks, strict=True):
            if not mask.any():
                warnings.warn(
                    f"no {asked.region} was found, so nothing is changed there ({asked.effect}).",
                    stacklevel=2,
                )
            elif not respect_mask and asked.effect in WHOLE:
                mask = torch.ones_like(mask)
            else:
                mask = feathered(mask, feather)
            if mask.any():
                result = effects(asked.effect, picture, one.visible, one.infrared, mask)
                picture = merge(picture, result, mask, whole_numbers=whole_numbers)
            steps.append(Done(asked, mask, picture))
        done.append((picture, steps))
    image = torch.cat([picture for picture, _ in done])
    return Fused(image, {**fused.maps, **_maps([steps for _, steps in done])}, fused.terms)


def _known(prompt: str, edits: list[Edit]) -> list[Edit]:
    """The edits that do something; a remark about the others."""
    known = [edit for edit in edits if edit.effect != NOTHING]
    if prompt and not known:
        warnings.warn(
            f"TeRF reads no change out of {prompt!r}: name what to do and where, as in "
            f"'brighten the road, make the person stand out'. It can {', '.join(EFFECTS)}.",
            stacklevel=3,
        )
    return known


def _maps(done: list[list[Done]]) -> dict[str, Tensor]:
    """Masks and pictures by edit, where every pair had the same edits."""
    edits = [[step.edit for step in steps] for steps in done]
    if any(other != edits[0] for other in edits):
        return {}
    maps = {}
    for n, steps in enumerate(zip(*done, strict=True)):
        name = f"edit{n + 1}.{steps[0].edit.effect}.{steps[0].edit.region or 'everything'}"
        name = re.sub(r"[^\w.]+", "-", name)
        maps[f"{name}.mask"] = torch.cat([step.mask for step in steps])
        maps[f"{name}.image"] = torch.cat([step.image for step in steps])
    return maps


def _only(batch: Batch, index: int) -> Batch:
    """One pair of a batch with its guides."""
    rows = slice(index, index + 1)
    return Batch(
        visible=batch.visible[rows],
        infrared=batch.infrared[rows],
        guides={name: maps[rows] for name, maps in batch.guides.items()},
        names=batch.names[rows],
    )


_kept: "WeakKeyDictionary[Method, tuple[Any, Regions]]" = WeakKeyDictionary()
"""Detectors are large: one is built per method, not per picture."""


def _regions(
    method: Method,
    guide: str,
    options: Mapping[str, Any],
    offline_guide: str | None,
    look_at: str,
) -> Regions:
    asked = guide, repr(sorted(options.items())), offline_guide, look_at
    if method not in _kept or _kept[method][0] != asked:
        built = Regions(
            registry=method.registry,
            encoder=method.encoder,
            guide=guide,
            guide_options=options,
            offline_guide=offline_guide,
            look_at=look_at,
        )
        _kept[method] = asked, built
    return _kept[method][1]
