"""Shapes of what plugins build. Nothing to inherit: an object that has these methods fits.

The kinds, how they are built and how they are called. A factory is called with keywords only;
whatever it does not know is refused by the registry with the nearest name. Optional facts about a
component are plain class attributes, read with ``getattr``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fusionkit.batch import Batch, Fused, ImageFeatures, TextFeatures


@runtime_checkable
class Encoder(Protocol):
    """Prompts in, features out. Frozen unless it says otherwise."""

    text_dim: int
    """D, the width of ``pooled`` and ``tokens``."""

    def encode_text(self, prompts: list[str]) -> TextFeatures: ...


@runtime_checkable
class JointEncoder(Encoder, Protocol):
    """Sentences and pictures in one space.

    One that can learn from pairs without labels has besides: ``adapt(pairs, *, steps, seconds,
    seed, say) -> encoder``, another encoder of its kind, of ``steps`` steps or as many as
    ``seconds`` allow (None: all), telling ``say`` lines of text; ``save(path)``, and an option
    ``weights`` of its factory that takes the path.
    """

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """``(B, 3 or 1, H, W)`` in [0, 1] -> features. Gradients reach the picture."""

    def heatmap(self, prompts: list[str], image: Tensor) -> Tensor:
        """Where each picture shows what its prompt names: ``(B, 1, H, W)`` in [0, 1].

        One prompt, or one per picture.
        """


@runtime_checkable
class Modulation(Protocol):
    """Text acting on features. Built as ``factory(channels=C, text_dim=D, **options)``."""

    def __call__(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        """Two ``(B, C, H, W)`` maps -> one of the same shape and dtype."""


class BuildModulation(Protocol):
    """What a network is given: it says how wide its point is and gets the module for it."""

    def __call__(self, channels: int, **options: Any) -> torch.nn.Module: ...


@runtime_checkable
class Network(Protocol):
    """Batch in, :class:`~fusionkit.batch.Fused` out.

    Built as ``factory(modulation=None, text_dim=D, **options)``. ``modulation`` is a
    :class:`BuildModulation`, or None for the network's own scheme. Class attributes the host
    reads:

    ``modulation_points``
        Names of the points where text meets features; empty where there are none, and the host
        then refuses a modulation with a message. Default: none.
    ``multiple_of``
        The host reflect-pads to a multiple of this and crops the result. Default 1.
    ``layers``
        Names of submodules whose output is worth keeping as feature maps. Default: none.
    ``min_size``
        The smallest height and width it accepts. Default 1.
    """

    def __call__(self, batch: Batch) -> Fused: ...


@runtime_checkable
class Loss(Protocol):
    """Training terms: named, unweighted scalars. Weights are the recipe's business.

    A factory with a parameter ``encoder`` is handed the run's joint encoder, one with a parameter
    ``sentences`` those of the recipe. Two things a loss may have besides: ``remark``, a sentence
    that stands with the results (empty for none), and ``heatmaps(batch, fused)``, maps by name that
    show where in a picture it is met: ``{name: (words, (B, len(words), H, W) in [0, 1])}``.
    """

    def __call__(self, batch: Batch, fused: Fused) -> Mapping[str, Tensor]: ...


@runtime_checkable
class Metric(Protocol):
    """A score per picture.

    Called with the fused picture and its sources, returns ``(B,)``. What the definition
    does not need is ignored. Class attributes: ``name``, ``higher_is_better``, ``range``
    ``(low, high)``, ``unit``, ``source``, ``variant``, ``needs`` (subset of ``fused``, ``ir``,
    ``vi``, ``text``, ``mask``, ``reference``, ``confidence``), the last four keywords of the call.
    A factory with a parameter ``encoder`` is handed the joint encoder.
    """

    name: str
    higher_is_better: bool

    def __call__(self, fused: Tensor, ir: Tensor, vi: Tensor, **context: Any) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Preset:
    """How one program makes its table: which variant each printed name stands for, and the rules.

    A number means something only with all of this beside it.
    """

    name: str
    metrics: Mapping[str, str]
    """The columns of its tables in their order: printed name -> metric code (``SSIM`` ->
    ``ssim_u7_L2_sum``)."""
    gray: str
    """How colour becomes grey, in words."""
    quantisation: str
    """What is rounded before scoring, in words."""
    saving: str
    """How the fused pictures of those tables were written, in words."""
    source: str
    """The program."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Further names the program knows that are not in its tables."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What every metric is built with that has such an option; carries out ``gray`` and
    ``quantisation``."""
    note: str = ""
    """What a reader of its numbers must know."""


@runtime_checkable
class Guide(Protocol):
    """Masks and heat maps for a batch: ``(batch) -> {name: (B, C, h, w)}``.

    A factory with a parameter ``encoder`` is handed the run's joint encoder.
    """

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]: ...


@runtime_checkable
class Captioner(Protocol):
    """Pictures in, one text per picture out."""

    def __call__(self, image: Tensor, **context: Any) -> list[str]: ...


@runtime_checkable
class Degradation(Protocol):
    """``(image, severity, generator, **context) -> image`` on ``(B, C, H, W)`` in [0, 1].

    Severity in [0, 1], a number or ``(B,)``; 0 changes nothing. Attributes: ``name``,
    ``modality`` (``visible`` or ``infrared``), ``prompts`` (requests to undo it),
    ``statements`` (sentences that state it), ``source``.
    """

    name: str
    modality: str
    prompts: tuple[str, ...]

    def __call__(
        self,
        image: Tensor,
        severity: float | Tensor,
        generator: torch.Generator | None = None,
        **context: Any,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Thing:
    """A named object of a pair."""

    label: str
    box: tuple[float, float, float, float]
    """``(x0, y0, x1, y1)`` in pixels, end exclusive."""
    phrase: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """One visible and one infrared photograph of a scene, and what is known about it."""

    name: str
    visible: Tensor
    """``(3, H, W)`` float in [0, 1]."""
    infrared: Tensor
    """``(1, H, W)`` float in [0, 1]."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Descriptions by kind: ``caption``, ``dense``, ``ir``, ``vi``, ``common``, ``fused`` ..."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """True masks by label, ``(1, H, W)`` in [0, 1]; empty on real data."""
    depth: Tensor | None = None
    """``(1, H, W)`` metres."""
    things: tuple[Thing, ...] = ()
    """Objects with boxes, where known."""


@runtime_checkable
class Dataset(Protocol):
    """A sequence of pairs.

    Built as ``factory(root=None, split="train", count=None, size=None, seed=0, **options)``.
    ``count`` limits the number of pairs, ``size`` is the height and width of generated pairs or
    None for pictures as they are. Class attributes: ``layout``, ``licence``, ``source``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


class Task(Protocol):
    """How a recipe turns pairs into training batches: prompts, inputs, targets.

    Built by the recipe as ``factory(pairs=..., registry=..., encoder=..., guides=..., **options)``.
    A batch is a function of the given generator alone, so a resumed run sees the same samples.

    A static method ``on_pairs(method, pairs) -> {measure: {pair name: value}}`` says what a method
    trained for the task does to held-out pairs, beyond its questions.
    """

    prompts: tuple[str, ...]
    """Every prompt it may draw; encoded once."""

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """A training batch with ``prompts`` set and ``text`` absent; the loop adds the features."""


Factory = Callable[..., Any]
