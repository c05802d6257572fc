"""Scores of fused pictures: metrics by name over tensors, over named pairs, and as one table.

This module knows no formula. Metrics come from the registry by name; what each one rounds,
converts or compares is stated by its plugin. A preset says which variant each short name stands
for in the tables of one program. Folders of pictures are the business of ``fusionkit.scoring``.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fusionkit.devices import pick_device
from fusionkit.errors import BadRequest, FusionkitError, UnknownComponent, did_you_mean
from fusionkit.protocols import Metric, Preset
from fusionkit.registry import Registry
from fusionkit.statistics import (
    Difference,
    Interval,
    interval,
    interval_nested,
    paired_difference,
)

__all__ = [
    "Difference",
    "Interval",
    "build_metrics",
    "evaluate",
    "facts",
    "find_preset",
    "interval",
    "interval_nested",
    "paired_difference",
    "score_metric",
    "score_pairs",
    "summarise",
]

STANDARD = "standard"
"""The preset of those who ask for none: the corrected variants, which short names stand for."""

_PICTURES = ("fused", "ir", "vi")
_SLACK = 1e-6  # float32 arithmetic that should end at 1 may end this far above

Name = str | Metric


def evaluate(
    fused: Tensor,
    ir: Tensor,
    vi: Tensor,
    metrics: str | Sequence[Name] | None = None,
    *,
    variant: str | None = None,
    registry: Registry | None = None,
    device: str | torch.device | None = None,
    gradients: bool = False,
    **context: Any,
) -> dict[str, Tensor]:
    """Score each fused picture of a batch.

    Args:
        fused: ``(B, 1 or 3, H, W)`` floats in [0, 1].
        ir, vi: The sources, of the same B, H and W; 1 or 3 channels each.
        metrics: Names, one or several, or metrics already built; None for all of the variant's.
        variant: The preset whose variants the names stand for, ``cddfuse``, ``vifb`` ...; without
            one, names are those of the registry, where short names are the standard variants.
        registry: Where names are looked up; the installed plugins if None.
        device: Where to compute: ``auto``, ``cpu``, ``cuda`` ...; where ``fused`` is if None.
        gradients: Keep the graph, for metrics that have a gradient.
        **context: What some metrics read besides the three pictures: ``text``, ``mask`` ...;
            ``encoder`` is handed to metrics that are built with one.

    Returns:
        One ``(B,)`` tensor per metric on ``device``, keyed by the names asked for (by the metric's
        own name where an object was given). NaN where a metric is undefined for a picture.

    Raises:
        BadRequest: When sizes differ, a picture has no four dimensions, is not floating point, or
            holds values outside [0, 1] or NaN, and when a metric needs more than was given.
        UnknownComponent: For a metric no plugin offers, with the nearest name.

    Example:
        >>> picture = torch.full((1, 1, 48, 48), 0.5)
        >>> evaluate(picture, picture, picture, ["EN", "sf"])
        {'EN': tensor([0.], dtype=torch.float64), 'sf': tensor([0.], dtype=torch.float64)}
    """
    _check_pictures(fused, ir, vi)
    built = build_metrics(
        metrics, variant=variant, registry=registry, encoder=context.get("encoder")
    )
    where = fused.device if device is None else _device(device)
    pictures = [image.to(where) for image in (fused, ir, vi)]
    context = {key: _moved(value, where) for key, value in context.items()}
    with nullcontext() if gradients else torch.no_grad():
        return {key: score_metric(key, metric, pictures, context) for key, metric in built.items()}


def find_preset(name: str, *, registry: Registry | None = None) -> Preset:
    """The preset of that name: which variants, and which rules, make one program's table."""
    return (registry or Registry.from_environment()).create("preset", name)


def build_metrics(
    metrics: str | Sequence[Name] | None = None,
    *,
    variant: str | Preset | None = None,
    registry: Registry | None = None,
    encoder: Any = None,
    sentences: Mapping[str, Any] | None = None,
) -> dict[str, Metric]:
    """Metrics by the names asked for, in that order; a metric object goes by its own name.

    Args:
        metrics: Names or objects. None asks for every column of the preset.
        variant: A preset or its name. A name that it does not know must be the code of a metric
            (``qabf``, not ``Qabf``): a short name would silently be another program's variant.
        registry: Where names are looked up; the installed plugins if None.
        encoder, sentences: Handed to the factories that have such a parameter.

    Raises:
        BadRequest: For no metric, one asked for twice, or a short name that the preset lacks.
        UnknownComponent: For a name nobody offers, with the nearest one.
    """
    if metrics is None and variant is None:
        variant = STANDARD
    if isinstance(variant, str):
        registry = registry or Registry.from_environment()
        variant = find_preset(variant, registry=registry)
    if metrics is None:
        metrics = list(variant.metrics)
    asked = [metrics] if isinstance(metrics, str) or not isinstance(metrics, Iterable) else metrics
    built: dict[str, Metric] = {}
    for entry in asked:
        key = entry if isinstance(entry, str) else entry.name
        if key in built:
            raise BadRequest(f"the metric {key!r} was asked for twice.")
        if isinstance(entry, str):
            registry = registry or Registry.from_environment()
            offers = {"encoder": encoder, "sentences": sentences}
            entry = _build(entry, variant, registry, offers)
        built[key] = entry
    if not built:
        raise BadRequest("no metric was asked for; `fusionkit plugins --kind metric` lists them.")
    return built


def _build(
    name: str, preset: Preset | None, registry: Registry, offers: Mapping[str, Any]
) -> Metric:
    known = {**preset.also, **preset.metrics} if preset else {}
    code = known.get(name, name)
    given = dict(preset.options) if preset else {}
    given |= {key: value for key, value in offers.items() if value is not None}
    try:
        options = {k: v for k, v in given.items() if registry.accepts("metric", code, k)}
        metric = registry.create("metric", code, **options)
    except UnknownComponent as error:
        if name in known or not (near := did_you_mean(name, known)):
            raise
        message = f"the preset {preset.name!r} has no metric {name!r}.{near}"
        raise UnknownComponent(message, kind="metric", name=name, known=known) from error
    if preset and preset.name != STANDARD and name not in known and metric.name != name:
        raise BadRequest(
            f"the preset {preset.name!r} has no {name!r}, and elsewhere that name is another "
            f"variant. Ask for it by its code, {metric.name!r}; the preset has {', '.join(known)}.",
            asked=name,
            known=known,
        )
    return metric


def facts(metric: Metric) -> dict[str, Any]:
    """What belongs beside every number: code name, variant, direction, range, unit, source."""
    return {
        "code": metric.name,
        "higher_is_better": metric.higher_is_better,
        **{key: getattr(metric, key, None) for key in ("variant", "range", "unit", "source")},
    }


def score_pairs(
    pairs: Iterable[tuple[Hashable, Tensor, Tensor, Tensor]],
    metrics: str | Sequence[Name],
    *,
    registry: Registry | None = None,
    device: str | torch.device | None = None,
    **context: Any,
) -> pd.DataFrame:
    """Score pictures one by one; each may have its own size.

    Args:
        pairs: ``(name, fused, ir, vi)`` with pictures ``(C, H, W)`` or ``(1, C, H, W)`` as for
            :func:`evaluate`. Read once, so a generator that loads files works.
        metrics, registry, device, **context: As for :func:`evaluate`.

    Returns:
        One row per picture, indexed by its name, one float64 column per metric asked for.
        ``table.attrs["metrics"]`` holds the :func:`facts` of each column.

    Raises:
        BadRequest: As :func:`evaluate`, with the name of the pair; for a name given twice; for no
            pairs at all.
    """
    built = build_metrics(metrics, registry=registry, encoder=context.get("encoder"))
    rows: dict[Hashable, dict[str, float]] = {}
    for name, *pictures in pairs:
        if name in rows:
            raise BadRequest(f"two pairs are called {name!r}; rows could not be told apart.")
        try:
            batch = [_one(role, p) for role, p in zip(_PICTURES, pictures, strict=True)]
            _check_pictures(*batch)
            where = batch[0].device if device is None else _device(device)
            batch = [image.to(where) for image in batch]
            here = {key: _moved(value, where) for key, value in context.items()}
            with torch.no_grad():
                rows[name] = {k: score_metric(k, m, batch, here).item() for k, m in built.items()}
        except BadRequest as error:
            raise BadRequest(f"pair {name!r}: {error}") from None
    if not rows:
        raise BadRequest("there are no pairs to score.")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(built), dtype="float64")
    table.index.name = "name"
    table.attrs["metrics"] = {key: facts(metric) for key, metric in built.items()}
    return table


def summarise(
    table: pd.DataFrame, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """One row per metric: ``mean``, ``low``, ``high`` over pictures, ``n`` used, ``undefined``.

    ``undefined`` counts the pictures left out because the score is not finite for them. The
    interval is that of :func:`~fusionkit.statistics.interval`.
    """
    options = {"level": level, "resamples": resamples, "seed": seed}
    found = {column: interval(table[column].to_numpy(), **options) for column in table.columns}
    summary = pd.DataFrame(
        {f: [getattr(i, f) for i in found.values()] for f in Interval.__slots__}, index=list(found)
    )
    summary.index.name = "metric"
    summary.attrs.update(table.attrs)
    return summary


def score_metric(
    key: str, metric: Metric, pictures: Sequence[Tensor], context: Mapping[str, Any]
) -> Tensor:
    """One ``(B,)`` of one metric; ``pictures`` are fused, infrared and visible, checked before.

    Raises:
        BadRequest: When the metric needs context that is not there, or refuses the pictures.
        FusionkitError: When it does not return one value per picture.
    """
    needs = getattr(metric, "needs", _PICTURES)
    missing = [need for need in needs if need not in _PICTURES and context.get(need) is None]
    if missing:
        given = ", ".join(f"{need}=..." for need in missing)
        raise BadRequest(f"the metric {key!r} needs more than three pictures: pass {given}")
    values = metric(*pictures, **context)
    if values.shape != (len(pictures[0]),):
        raise FusionkitError(
            f"the metric {key!r} returned the shape {tuple(values.shape)} for "
            f"{len(pictures[0])} pictures; its plugin must return one value per picture."
        )
    return values


def _check_pictures(fused: Tensor, ir: Tensor, vi: Tensor) -> None:
    pictures = dict(zip(_PICTURES, (fused, ir, vi), strict=True))
    for role, image in pictures.items():
        _check_form(role, image)
    if len({(len(image), *image.shape[2:]) for image in pictures.values()}) > 1:
        listed = ", ".join(f"{role} {_size(image)}" for role, image in pictures.items())
        raise BadRequest(f"the pictures differ in number or size: {listed}. Nothing is resized.")
    for role, image in pictures.items():
        _check_values(role, image)


def _check_form(role: str, image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise BadRequest(f"{role} is a {type(image).__name__}; a torch tensor is expected.")
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise BadRequest(
            f"{role} has the shape {tuple(image.shape)}; (B, 1 or 3, H, W) is expected."
        )
    if image.numel() == 0:
        raise BadRequest(f"{role} is empty: {tuple(image.shape)}.")
    if not image.is_floating_point():
        hint = " Divide by 255." if image.dtype == torch.uint8 else ""
        raise BadRequest(f"{role} holds {image.dtype}; floats in [0, 1] are expected.{hint}")


def _check_values(role: str, image: Tensor) -> None:
    image = image.detach()
    if bad := int((~image.isfinite()).sum()):
        raise BadRequest(f"{role} holds {bad} of {image.numel()} values that are NaN or infinite.")
    low, high = image.aminmax()
    if low < -_SLACK or high > 1 + _SLACK:
        out = int(((image < -_SLACK) | (image > 1 + _SLACK)).sum())
        hint = "; divide by 255" if low >= 0 and high > 2 else "; clip them if that is meant"
        raise BadRequest(
            f"{role} holds {out} of {image.numel()} values outside [0, 1] "
            f"({low:.4g} to {high:.4g}){hint}."
        )


def _size(image: Tensor) -> str:
    return f"{len(image)} of {image.shape[2]} x {image.shape[3]}"


def _one(role: str, image: Tensor) -> Tensor:
    if isinstance(image, Tensor) and image.ndim == 3:
        return image[None]
    if isinstance(image, Tensor) and image.ndim == 4 and len(image) != 1:
        raise BadRequest(f"{role} holds {len(image)} pictures; a pair has one of each.")
    return image


def _device(device: str | torch.device) -> torch.device:
    return device if isinstance(device, torch.device) else pick_device(device)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
