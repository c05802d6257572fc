"""A method as data: which parts, which options, which weights, how it is trained.

A recipe names components and holds numbers; it builds nothing. What a paper does differently in
kind (how samples are made, an objective that is no sum of losses, editing at test time) enters as a
callable of the same plugin, so that device, precision, seeds, saving and resuming stay in the one
loop of :mod:`fusionkit.training`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from fusionkit.errors import BadRequest


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Part(_Data):
    """A component by name, with the options of its factory. A bare name stands for no options."""

    name: str
    options: dict[str, Any] = {}


def _part(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _optional_part(value: Any) -> Any:
    return None if value in (None, "", "None") else _part(value)


def _parts(value: Any) -> Any:
    return [_part(v) for v in value] if isinstance(value, (list, tuple)) else value


AnyPart = Annotated[Part, BeforeValidator(_part)]
OptionalPart = Annotated[Part | None, BeforeValidator(_optional_part)]
Parts = Annotated[tuple[Part, ...], BeforeValidator(_parts)]


class Stage(_Data):
    """One phase of training. Most methods have one; stage-wise methods list several."""

    name: str = "train"
    steps: Annotated[int, Field(ge=1)] = 400
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples per step, all processes together."""
    crop: Annotated[int, Field(ge=8)] | None = None
    """Height and width of training crops in pixels; None takes pictures as they are."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    fused: bool = True
    """Whether the optimiser takes its step in one pass over all parameters, where it can."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    """Cosine falls from the peak rate to a hundredth of it; ``steps`` multiplies it by ``decay`` at
    each of the ``milestones``. A policy of another form is the recipe's ``rate``."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Steps of the stage at which the rate falls."""
    decay: Annotated[float, Field(gt=0)] = 0.5
    """What a milestone multiplies the rate by."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the rate rises from zero."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which a step's batch passes through the network, for less memory; divides
    ``batch_size``. Losses are means, so the gradient is the mean over the parts. Several processes
    deal out whole parts if the number of parts divides by theirs, see :mod:`fusionkit.parallel`."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient."""
    trainable: tuple[str, ...] = ("*",)
    """Patterns (``fnmatch``) of the parameters that learn in this stage."""
    weights: dict[str, float] | None = None
    """Loss weights of this stage where they differ from the recipe's."""
    task_options: dict[str, Any] = {}
    """Options of the task in this stage, over the recipe's."""

    @model_validator(mode="after")
    def _parts_are_whole(self) -> "Stage":
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"a batch of {self.batch_size} does not pass in {self.accumulate} equal parts"
            )
        return self


class Recipe(_Data):
    """A method: its parts by name and its training protocol."""

    name: str
    paper: str = ""
    """Authors, title, venue: where the method was published; empty for our own."""
    network: AnyPart
    modulation: OptionalPart = None
    """The scheme at the network's text points; None is the network's own."""
    encoder: OptionalPart = None
    """None for a method that reads no text."""
    offline_encoder: OptionalPart = None
    """Takes the encoder's place, with a warning, where the encoder's weights cannot be had; the run
    then says so and has text features of another kind and width than the paper's."""
    texts: tuple[str, ...] = ()
    """Kinds of description of a pair (``ir``, ``vi``, ``common`` ...) that the method reads besides
    the prompt; each becomes ``batch.texts[kind]``, zero for a pair that has none of the kind."""
    captioner: OptionalPart = None
    """Describes both pictures (kinds ``ir`` and ``vi``) where ``fuse`` is given no text."""
    guides: Parts = ()
    losses: Parts = ()
    weights: dict[str, float] = {}
    """Weight of each loss term by its name; a term that is not listed counts once."""
    metrics: tuple[str, ...] = ()
    standardise_text: bool = False
    """Standardise text features over the bank of the task's prompts, see ``text.TextBank``."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of training and fusing where the run names none; ``auto`` is what the device is good at."""
    channels_last: bool = True
    """The memory layout of pictures and weights that convolutions are fastest in."""
    compile: str | None = None
    """A backend of ``torch.compile`` for the network in training: ``inductor`` is torch's own. None
    leaves the network as it is."""
    task_options: dict[str, Any] = {}
    """Options of the task's factory."""
    refine_options: dict[str, Any] = {}
    """Options of ``refine``, passed by keyword."""
    sentences: dict[str, Any] = {}
    """Sentences by role (one, or a list) that the losses and metrics of the method compare pictures
    with; handed to every loss and metric that takes ``sentences``."""
    remark: str = ""
    """What a reader of the results must know about the method; stands with every result."""
    default_text: str = ""
    """What ``fuse`` says when it is given no text."""
    checkpoint: str = ""
    """Weights that come with the recipe, as ``package:file``; empty where there are none."""

    task: Callable[..., Any] | None = Field(default=None, exclude=True)
    """Turns pairs into training batches, see :class:`fusionkit.protocols.Task`."""
    reads: Callable[[str], str] | None = Field(default=None, exclude=True)
    """``(prompt) -> words``: what of a prompt the text encoder is told, where a method takes an
    instruction apart (what to do, where); guides and captions see the whole prompt."""
    step: Callable[..., Any] | None = Field(default=None, exclude=True)
    """``(network, batch, losses) -> named terms``, for an objective that is no sum of losses."""
    refine: Callable[..., Any] | None = Field(default=None, exclude=True)
    """``(method, batch, fused, **refine_options) -> Fused``: editing after fusion, per picture, at
    test time."""
    official: Callable[..., Any] | None = Field(default=None, exclude=True)
    """``(state_dict) -> module`` callable as the contract's table says, released weights in it. Its
    attribute ``network`` is the plugin's own network with these weights, which takes a Batch."""
    rate: Callable[..., float] | None = Field(default=None, exclude=True)
    """``(stage, step) -> share of the learning rate`` at a step of the stage, in place of the
    stage's ``schedule`` and ``warmup``."""

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Recipe":
        """A copy with some numbers changed, each by its dotted path.

        ``{"stages.0.steps": 50, "weights.region": 0.2, "network.options.width": 24}``. The short
        forms ``steps``, ``batch_size``, ``learning_rate`` ... set that field in every stage; a
        batch that passes in parts keeps the size of its parts where that comes out.

        Raises:
            BadRequest: a path that the recipe does not have (with the nearest one), or a value of
                the wrong type.
        """
        data = self.model_dump()
        parts_given = any(path.rsplit(".", 1)[-1] == "accumulate" for path in overrides)
        for path, value in overrides.items():
            keys = path.split(".")
            if len(keys) == 1 and keys[0] in Stage.model_fields and keys[0] not in data:
                for stage in data["stages"]:
                    if keys[0] == "batch_size" and not parts_given:
                        stage["accumulate"] = parts(value, stage["batch_size"], stage["accumulate"])
                    stage[keys[0]] = value
            else:
                _set(data, keys, value, path)
        try:
            return type(self).model_validate(data | self.callables())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadRequest(
                f"recipe {self.name!r}: {where}: {first['msg']}, but got {first['input']!r}."
            ) from None

    def callables(self) -> dict[str, Callable[..., Any] | None]:
        """What is code and not data, by field."""
        return {key: getattr(self, key) for key in CALLABLES}

    def describe(self) -> dict[str, Any]:
        """The recipe as plain data for provenance; callables as ``module:name``."""
        data = self.model_dump(mode="json")
        for key, value in self.callables().items():
            if value is not None:
                data[key] = f"{value.__module__}:{value.__qualname__}"
        return data


CALLABLES = ("task", "reads", "step", "refine", "official", "rate")

FREE = ("options", "weights", "task_options", "refine_options", "sentences")
"""Mappings whose keys belong to a component, so any key may be set; its factory checks it."""


def parts(batch_size: Any, before: int, accumulate: int) -> int:
    """In how many parts another batch passes: in parts of the same size, where that comes out."""
    rows = before // accumulate
    if isinstance(batch_size, int) and batch_size > 0 and batch_size % rows == 0:
        return batch_size // rows
    return accumulate


def _set(data: Any, keys: list[str], value: Any, path: str) -> None:
    here = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, (list, tuple)):
            names = [item.get("name", str(i)) for i, item in enumerate(here)]
            if key.isdigit() and int(key) < len(here):
                key = int(key)
            elif key in names:
                key = names.index(key)
            else:
                raise _unknown(path, key, names)
        elif depth and keys[depth - 1] in FREE:
            if here is None:
                raise _unknown(path, key, [])
        elif not isinstance(here, dict) or key not in here:
            raise _unknown(path, key, list(here) if isinstance(here, dict) else [])
        if last:
            here[key] = value
            return
        if isinstance(here, dict) and here.get(key) is None and key in FREE:
            here[key] = {}
        if isinstance(here[key], tuple):
            here[key] = list(here[key])
        here = here[key]


def _unknown(path: str, key: str, known: list[str]) -> BadRequest:
    near = get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    options = f" Known here: {', '.join(sorted(known))}." if known else ""
    return BadRequest(f"recipe override {path!r}: there is no {key!r}.{hint}{options}")
