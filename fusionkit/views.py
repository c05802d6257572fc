"""Pictures for notebooks: grids, overlays, channels, curves. Arrays or a stored run in, figure out.

Nothing here imports torch. Every function that draws returns a :class:`Picture`, which Jupyter
shows as a PNG whatever the plotting backend, and which ``savefig`` writes like any other figure.
What a run did not compute is drawn as a tile that says so.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fusionkit import store

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Colours of arms, in order; told apart also with the common kinds of colour blindness."""
NOT_COMPUTED = "not computed"


class Picture(Figure):
    """A matplotlib figure that belongs to no global state and shows itself as a PNG."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight", dpi=100)
        return buffer.getvalue()


# --- arrays to pictures --------------------------------------------------------------------------


def rgb(image: np.ndarray) -> np.ndarray:
    """A picture ``(y, x)`` or ``(band, y, x)`` in [0, 1] as ``(y, x, 3)`` in [0, 1].

    Values outside are cut off, NaN becomes white.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture is (y, x) or (1 or 3 bands, y, x), got {image.shape}.")
    image = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return np.clip(np.nan_to_num(image, nan=1.0, posinf=1.0, neginf=0.0), 0, 1)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """``(y, x, 3)`` in [0, 1] as bytes."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def colored(
    values: np.ndarray, limits: tuple[float, float] | None = None, colormap: str = "viridis"
) -> np.ndarray:
    """A map ``(y, x)`` in false colours, ``(y, x, 3)`` in [0, 1]; NaN is white.

    ``limits`` are the values of the first and last colour; None takes the range of the map.
    """
    values = np.asarray(values, dtype=np.float32)
    low, high = robust_limits(values, 0) if limits is None else limits
    scaled = (values - low) / max(high - low, 1e-12)
    # Where nothing is known the index is arbitrary; it is painted over.
    index = np.nan_to_num(np.clip(scaled, 0, 1), nan=0.0)
    painted = matplotlib.colormaps[colormap](index)[..., :3].astype(np.float32)
    painted[np.isnan(values)] = 1.0
    return painted


def robust_limits(values: np.ndarray, percent: float = 1.0) -> tuple[float, float]:
    """Smallest and largest finite value, without the outermost ``percent`` on either side."""
    finite = np.asarray(values, dtype=np.float32)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    if not percent:
        return float(finite.min()), float(finite.max())
    low, high = np.percentile(finite, [percent, 100 - percent])
    return float(low), float(high)


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map ``(y, x)`` at another (height, width), bilinear."""
    values = np.asarray(values, dtype=np.float32)
    if values.shape == tuple(size):
        return values
    picture = Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture)


def overlay(
    image: np.ndarray, heat: np.ndarray, strength: float = 0.6, colormap: str = "inferno"
) -> np.ndarray:
    """A heat map ``(h, w)`` in [0, 1] laid over a picture ``(band, y, x)``: ``(y, x, 3)``.

    The picture turns grey so that colour means heat alone; the warmer, the less of it shows.
    """
    base = rgb(image)
    grey = np.repeat((base @ np.float32([0.299, 0.587, 0.114]))[..., None], 3, axis=-1)
    heat = np.clip(np.nan_to_num(resized(heat, base.shape[:2])), 0, 1)
    weight = strength * heat[..., None]
    return (1 - weight) * grey + weight * colored(heat, (0, 1), colormap)


def difference(first: np.ndarray, second: np.ndarray, gain: float | None = None) -> np.ndarray:
    """First minus second as ``(y, x, 3)``: mid-grey where equal, brighter where the first is.

    ``gain`` 1 shows a change of 0.5 as full scale; None stretches the largest changes to it.
    """
    change = np.asarray(first, dtype=np.float32) - np.asarray(second, dtype=np.float32)
    if gain is None:
        gain = stretch(first, second)
    return rgb(0.5 + gain * change)


def stretch(first: np.ndarray, second: np.ndarray) -> float:
    """The gain of :func:`difference` that brings the largest changes to full scale."""
    step = 2 if np.size(first) > 500_000 else 1  # every fourth pixel tells as much
    first, second = (np.asarray(p, dtype=np.float32)[..., ::step, ::step] for p in (first, second))
    largest = np.nanpercentile(np.abs(first - second), 99.5)
    return 0.5 / max(float(largest), 1e-3)


def response_order(maps: np.ndarray) -> np.ndarray:
    """Channels of ``(channel, y, x)`` by mean absolute value, strongest first."""
    # One by one: a channel fits the processor's cache, a layer of many megabytes does not.
    strength = np.array([_mean_absolute(values) for values in maps])
    return np.argsort(-strength)


def _mean_absolute(values: np.ndarray) -> float:
    values = np.abs(np.asarray(values, dtype=np.float32))
    mean = float(values.mean(dtype=np.float64))
    return mean if np.isfinite(mean) else float(np.nanmean(values))


def mean_map(maps: np.ndarray) -> np.ndarray:
    """Mean over the channels of ``(channel, y, x)``, ``(y, x)``; NaN only where all are."""
    return np.asarray(maps, dtype=np.float32).mean(axis=0)


def principal_colors(maps: np.ndarray) -> np.ndarray:
    """The three main directions of a layer ``(channel, y, x)`` as red, green, blue: ``(y, x, 3)``.

    Positions with alike features get alike colours. Principal components over the positions, each
    from its 1st to its 99th percentile; where a layer has fewer directions, the rest is mid-grey.
    A component's sign is arbitrary: its largest weight is made positive.
    """
    maps = np.asarray(maps, dtype=np.float32)
    channels, height, width = maps.shape
    flat = np.nan_to_num(maps.reshape(channels, -1))
    flat = flat - flat.mean(axis=1, keepdims=True)
    # Some ten thousand positions tell the directions as well as all of them.
    some = flat[:, :: max(1, flat.shape[1] // 10_000)]
    values, vectors = np.linalg.eigh((some @ some.T).astype(np.float64))
    drawn = np.full((height, width, 3), 0.5, dtype=np.float32)
    for band, index in enumerate(np.argsort(-values)[:3]):
        direction = vectors[:, index]
        if values[index] <= 1e-6 * values[-1] or values[index] <= 0:
            break
        direction = direction * np.sign(direction[np.argmax(np.abs(direction))])
        component = (direction.astype(np.float32) @ flat).reshape(height, width)
        low, high = robust_limits(component[:: max(1, height // 128), :: max(1, width // 128)])
        drawn[..., band] = np.clip((component - low) / max(high - low, 1e-12), 0, 1)
    return drawn


def cropped(picture: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """The part of ``(y, x, ...)`` within ``window``: left, top, right, bottom as shares of 1."""
    height, width = picture.shape[:2]
    left, top, right, bottom = window
    rows = slice(max(0, int(top * height)), max(1, math.ceil(bottom * height)))
    return picture[rows, max(0, int(left * width)) : max(1, math.ceil(right * width))]


def mosaic(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Tiles ``(y, x, 3)`` of one size as one picture, row by row, about as many down as across."""
    across = math.ceil(math.sqrt(len(tiles)))
    padded = [*tiles, *[np.ones_like(tiles[0])] * (-len(tiles) % across)]
    rows = [np.concatenate(padded[i : i + across], axis=1) for i in range(0, len(padded), across)]
    return np.concatenate(rows, axis=0)


# --- drawing -------------------------------------------------------------------------------------


def grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    width: float = 2.2,
) -> Picture:
    """Rows of pictures ``(y, x)``, ``(band, y, x)`` or ``(y, x, 3)``; None is a hole.

    ``columns`` are headings, ``labels`` stand before the rows, ``width`` is that of a column in
    inches.
    """
    across = max((len(row) for row in rows), default=0)
    if not across:
        raise ValueError("a grid needs at least one picture.")
    shapes = [_painted(cell).shape for row in rows for cell in row if cell is not None]
    aspect = max((s[0] / s[1] for s in shapes), default=0.75)
    figure = Picture(figsize=(width * across, (width * aspect + 0.25) * len(rows)))
    figure.set_layout_engine("compressed")
    axes = figure.subplots(len(rows), across, squeeze=False)
    for r, row in enumerate(rows):
        for c in range(across):
            axis = axes[r, c]
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if c < len(row) and row[c] is not None:
                axis.imshow(_painted(row[c]), interpolation="nearest")
            elif c < len(row):
                axis.set(xlim=(0, 1), ylim=(0, 1), box_aspect=aspect, facecolor="0.93")
                axis.text(0.5, 0.5, NOT_COMPUTED, ha="center", va="center", color="0.4", fontsize=8)
            if r == 0 and c < len(columns):
                axis.set_title(columns[c], fontsize=9)
            if c == 0 and r < len(labels):
                axis.set_ylabel(labels[r], fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _painted(cell: np.ndarray) -> np.ndarray:
    cell = np.asarray(cell)
    if cell.ndim == 3 and cell.shape[-1] == 3 and cell.shape[0] not in (1, 3):
        return np.clip(cell, 0, 1)
    return rgb(cell)


def channel_grid(
    maps: np.ndarray,
    *,
    count: int = 24,
    order: str = "response",
    columns: int = 8,
    colormap: str = "viridis",
    title: str = "",
) -> Picture:
    """Channels of one layer, ``(channel, y, x)``, all on one colour scale.

    ``order`` is ``response`` (strongest first) or ``index``. The scale leaves out the outermost one
    percent of all values shown.
    """
    maps = np.asarray(maps, dtype=np.float32)
    if order not in ("response", "index"):
        raise ValueError(f"order is 'response' or 'index', got {order!r}.")
    chosen = (response_order(maps) if order == "response" else np.arange(len(maps)))[:count]
    limits = robust_limits(maps[chosen])
    columns = min(columns, len(chosen))
    down = math.ceil(len(chosen) / columns)
    aspect = maps.shape[1] / maps.shape[2]
    figure = Picture(figsize=(1.4 * columns + 0.6, (1.4 * aspect + 0.22) * down + 0.3))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(down, columns, squeeze=False)
    shown = None
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, channel in zip(axes.flat, chosen, strict=False):
        shown = axis.imshow(
            maps[channel], cmap=colormap, vmin=limits[0], vmax=limits[1], interpolation="nearest"
        )
        axis.set_title(str(channel), fontsize=7, pad=2)
    figure.colorbar(shown, ax=axes, fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def curves(
    steps: np.ndarray, values: Mapping[str, np.ndarray], *, name: str = "", axis: Any = None
) -> Picture:
    """One line per arm over the steps, ``values`` arm -> ``(seed, step)``.

    With several seeds the line is their mean and the band reaches from the lowest to the highest.
    """
    figure = None
    if axis is None:
        figure = Picture(figsize=(4.8, 3))
        axis = figure.subplots()
    for (arm, seeds), color in zip(values.items(), _colors(len(values)), strict=True):
        seeds = np.atleast_2d(np.asarray(seeds, dtype=np.float64))
        there = ~np.isnan(seeds).all(axis=0)
        if not there.any():
            continue
        x, seen = np.asarray(steps)[there], seeds[:, there]
        axis.plot(x, np.nanmean(seen, axis=0), color=color, label=arm, linewidth=1.5)
        if len(seeds) > 1:
            low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
            axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axis.set_xlabel("step", fontsize=8)
    axis.set_title(name, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)
    return figure


def distributions(
    values: Mapping[str, Mapping[str, np.ndarray]],
    *,
    better: Mapping[str, str] | None = None,
    columns: int = 4,
) -> Picture:
    """Scores of all pictures: a panel per metric, in it a row of points and a box per method.

    Args:
        values: metric -> method -> scores; what is not finite is left out and counted.
        better: metric -> a word for the direction, shown in the title.
        columns: panels side by side.

    The box reaches from the first to the third quartile with the median as a line, the thin line
    from the lowest to the highest score, the diamond is the mean. Points are spread sideways only
    to be seen.
    """
    methods = list(dict.fromkeys(name for by in values.values() for name in by))
    if not methods:
        raise ValueError("distributions need at least one metric and one method.")
    columns = min(columns, len(values))
    down = math.ceil(len(values) / columns)
    figure = Picture(figsize=(2.9 * columns, (0.75 + 0.42 * len(methods)) * down))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(down, columns, squeeze=False)
    for axis in axes.flat[len(values) :]:
        axis.set_axis_off()
    spread = np.random.default_rng(0)
    for number, (axis, (metric, by)) in enumerate(zip(axes.flat, values.items(), strict=False)):
        for place, (method, color) in enumerate(zip(methods, _colors(len(methods)), strict=True)):
            scores = np.asarray(by.get(method, ()), dtype=np.float64)
            kept = scores[np.isfinite(scores)]
            if len(kept) < len(scores):
                lost = f"{len(scores) - len(kept)} undefined"
                axis.text(
                    0.99, place + 0.42, lost, transform=axis.get_yaxis_transform(), ha="right",
                    va="center", fontsize=6.5, color="0.35", zorder=4,
                )  # fmt: skip
            if not len(kept):
                continue
            sideways = place + spread.uniform(-0.22, 0.22, len(kept))
            axis.scatter(kept, sideways, s=9, color=color, alpha=0.45, linewidth=0)
            low, first, middle, third, high = np.quantile(kept, [0, 0.25, 0.5, 0.75, 1])
            axis.plot([low, high], [place, place], color="0.35", linewidth=0.8, zorder=2)
            axis.barh(place, third - first, 0.5, first, color="none", edgecolor="0.35", zorder=2)
            axis.plot([middle] * 2, [place - 0.25, place + 0.25], color="0.15", zorder=2)
            axis.scatter([kept.mean()], [place], marker="D", s=22, color=color, edgecolor="0.15",
                         zorder=3)  # fmt: skip
        axis.set_ylim(len(methods) - 0.4, -0.6)
        leftmost = number % columns == 0
        labels = methods if leftmost else [""] * len(methods)
        axis.set_yticks(range(len(methods)), labels, fontsize=8)
        word = f" ({better[metric]})" if better and metric in better else ""
        axis.set_title(f"{metric}{word}", fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
        axis.grid(axis="x", alpha=0.3)
    return figure


def parallel(
    means: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]
) -> Picture:
    """Methods as lines over metrics: up is better, each axis from the worst to the best mean.

    Args:
        means: metric -> method -> mean. A mean that is not finite leaves a gap.
        higher_is_better: by metric; where it is not, the axis is turned over.

    The numbers at the ends of an axis are its worst and best mean. Since each axis is stretched to
    the methods shown, heights say who is ahead, not by how much it matters.
    """
    methods = list(dict.fromkeys(name for by in means.values() for name in by))
    if not methods:
        raise ValueError("the parallel view needs at least one metric and one method.")
    heights = np.full((len(methods), len(means)), np.nan)
    figure = Picture(figsize=(max(4.5, 1.0 * len(means) + 1.5), 3.2))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for x, (metric, by) in enumerate(means.items()):
        values = np.array([by.get(method, np.nan) for method in methods], dtype=np.float64)
        values[~np.isfinite(values)] = np.nan
        axis.axvline(x, color="0.8", linewidth=1, zorder=0)
        if np.isnan(values).all():
            axis.text(x, 0.5, "undefined", rotation=90, ha="right", va="center", fontsize=7)
            continue
        low, high = np.nanmin(values), np.nanmax(values)
        share = (
            (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.5)
        )
        up = higher_is_better[metric]
        heights[:, x] = share if up or high == low else 1 - share
        worst, best = (low, high) if up else (high, low)
        axis.text(x, 1.06, f"{best:.4g}", ha="center", fontsize=7, color="0.25")
        if high > low:
            axis.text(x, -0.06, f"{worst:.4g}", ha="center", va="top", fontsize=7, color="0.25")
    for line, method, color in zip(heights, methods, _colors(len(methods)), strict=True):
        axis.plot(line, color=color, marker="o", markersize=4, linewidth=1.5, label=method)
    axis.set_xticks(range(len(means)), list(means), fontsize=8)
    axis.set_yticks([0, 1], ["worst", "best"], fontsize=8)
    axis.set_ylim(-0.16, 1.16)
    axis.set_xlim(-0.4, len(means) - 0.6)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def score_distributions(scores: Any) -> Picture:
    """:func:`distributions` of :class:`~fusionkit.scoring.Scores`."""
    rows = scores.scored
    return distributions(
        {
            metric: {m: rows.loc[rows["method"] == m, metric].to_numpy() for m in scores.methods}
            for metric in scores.metrics
        },
        better={
            metric: "higher is better" if about["higher_is_better"] else "lower is better"
            for metric, about in scores.metrics.items()
        },
    )


def fused_grid(scores: Any, names: Sequence[str]) -> Picture:
    """Sources and every method's picture of some pairs of :class:`~fusionkit.scoring.Scores`."""
    from fusionkit.data import read_image  # imports torch

    rows = []
    for name in names:
        pair, fused = scores.files[name]
        paths = [pair.ir, pair.vi, *(fused.get(method) for method in scores.methods)]
        rows.append([None if path is None else read_image(path).numpy() for path in paths])
    columns = ["infrared", "visible", *scores.methods]
    return grid(rows, columns=columns, labels=list(names), width=2.0)


def score_profile(summary: Any) -> Picture:
    """:func:`parallel` of the table that :func:`fusionkit.tables.summary` makes."""
    means: dict[str, dict[str, float]] = {}
    for row in summary.itertuples():
        means.setdefault(row.metric, {})[row.method] = row.mean
    up = dict(zip(summary["metric"], summary["higher_is_better"], strict=True))
    return parallel(means, up)


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


# --- over pairs and stored runs ------------------------------------------------------------------


def pairs(pairs: Sequence[Any]) -> Picture:
    """Infrared above visible of some :class:`~fusionkit.protocols.Pair` objects."""
    rows = [[np.asarray(getattr(pair, kind)) for pair in pairs] for kind in ("infrared", "visible")]
    return grid(rows, columns=[pair.name for pair in pairs], labels=["infrared", "visible"])


def loss_curves(run: "Stored", terms: Sequence[str] | None = None) -> Picture:
    """The training curves of a stored run: one panel per term, one line per arm."""
    terms = list(terms or store.contents(run)["terms"])
    if not terms:
        raise store.StoreError("this run has no history: nothing was trained in it.")
    across = min(3, len(terms))
    down = math.ceil(len(terms) / across)
    figure = Picture(figsize=(3.6 * across, 2.5 * down))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(terms) :]:
        axis.set_axis_off()
    for axis, term in zip(axes.flat, terms, strict=False):
        steps, values = store.read_history(run, term)
        curves(steps, values, name=term, axis=axis)
    return figure


def image_grid(
    run: "Stored", pairs: Sequence[str] | None = None, variables: Sequence[str] | None = None
) -> Picture:
    """Pictures of a stored run, one row a pair; without ``pairs`` the first six kept."""
    inside = store.contents(run)
    variables = list(variables or _in_order(inside["images"]))
    pairs = pairs or store.kept_pairs(run)[:6]
    rows = {pair: [_image(run, variable, pair) for variable in variables] for pair in pairs}
    if not rows or not variables:
        raise store.StoreError("this run holds no pictures yet.")
    return grid(list(rows.values()), columns=variables, labels=list(rows))


def heatmap_grid(run: "Stored", name: str, pair: str, over: str = "vi") -> Picture:
    """Heat maps of one pair over its picture, one tile a prompt."""
    maps, prompts = store.read_heatmaps(run, name, pair)
    picture = store.read_image(run, over, pair)
    return grid([[overlay(picture, heat) for heat in maps]], columns=prompts, title=pair, width=2.8)


def ablation_grid(run: "Stored", pairs: Sequence[str] | None = None) -> Picture:
    """What the text did, one row a pair: sources, baseline, the scheme under two prompts, change.

    The change is the picture for the first prompt minus that for the second, stretched alike in
    all rows; grey is no change. Where the run has heat maps, the last column lays that of the
    first prompt over the visible picture, and the prompts stand below the row.
    """
    inside = store.contents(run)
    heat_name = next(iter(inside["heatmaps"]), None)
    shown = {
        "infrared": "ir",
        "visible": "vi",
        "baseline": "fused_baseline",
        "first prompt": "fused",
        "second prompt": "fused_other",
    }
    if "fused_baseline" not in inside["images"]:
        del shown["baseline"]
    columns, names = [*shown, "change"], list(shown.values())
    rows, labels = [], []
    largest = 1e-3
    for pair in pairs or store.kept_pairs(run):
        cells = [_image(run, n, pair) if n in inside["images"] else None for n in names]
        first, second = cells[names.index("fused")], cells[names.index("fused_other")]
        if all(cell is None for cell in cells[2:]) and not pairs:
            continue
        prompts: list[str] = []
        heat = None
        if heat_name is not None:
            try:
                maps, prompts = store.read_heatmaps(run, heat_name, pair)
                heat = None if cells[1] is None else overlay(cells[1], maps[0])
            except store.NotComputed:
                pass
        if first is not None and second is not None:
            largest = max(largest, float(np.nanpercentile(np.abs(first - second), 99.5)))
        rows.append([*cells, heat])
        labels.append(
            "   ".join([pair, *(f"{i + 1}: {shorten(p, 90)}" for i, p in enumerate(prompts[:2]))])
        )
    if not rows:
        raise store.StoreError("this run holds no fused pictures yet.")
    drawn = []
    for *cells, heat in rows:
        first, second = cells[names.index("fused")], cells[names.index("fused_other")]
        known = first is not None and second is not None
        change = difference(first, second, 0.5 / largest) if known else None
        drawn.append([*cells, change, *([heat] if heat_name else [])])
    figure = grid(drawn, columns=[*columns, *([heat_name] if heat_name else [])], width=1.7)
    for axis, label in zip(figure.axes[:: len(drawn[0])], labels, strict=True):
        # The line is longer than its column: keep it out of the layout, and a blank in its place.
        axis.set_xlabel(" ", fontsize=7, labelpad=2)
        text = axis.text(0, -0.03, label, transform=axis.transAxes, va="top", fontsize=7)
        text.set(in_layout=False, clip_on=False, color="0.25")
    return figure


def _image(run: "Stored", variable: str, pair: str) -> np.ndarray | None:
    try:
        return store.read_image(run, variable, pair)
    except store.NotComputed:
        return None


def _in_order(variables: Sequence[str]) -> list[str]:
    """Sources first, results after."""
    first = [name for name in ("ir", "vi", "fused") if name in variables]
    return first + [name for name in variables if name not in first]
