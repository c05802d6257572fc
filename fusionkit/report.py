"""A stored run as one page that can be mailed: no kernel, no network, nothing beside the file.

Reads the store and nothing else, without torch. Everything on the page is there without a script:
tables, pictures, maps, curves. A little plain JavaScript adds what paper lacks: sorting, a swipe,
zoom that is the same in all pictures of a pair, a slider for heat maps.
"""

import base64
import contextlib
import html
import io
import json
import math
import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fusionkit import store, views
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.statistics import interval, interval_nested

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree

FIRST_PAIRS = 6
"""How many pairs are shown where none are named."""
CHANNELS = 12
"""How many channels of a layer are shown, those that respond most."""
LARGEST_SIDE = 640
MAP_SIDE = 160
QUALITY = 85
UNUSUAL = 3.0
"""A score this many times the usual distance (1.4826 x the median) from the median is marked."""
MAILABLE = 20 * 2**20

LABELS = {
    "ir": "infrared",
    "vi": "visible",
    "fused": "fused, first prompt",
    "fused_other": "fused, second prompt",
    "fused_plain": "fused, default prompt",
    "fused_baseline": "baseline",
}
CHANGES = {
    "fused_other": "first prompt - second prompt",
    "fused_baseline": "first prompt - baseline",
    "fused_plain": "first prompt - default prompt",
}
PROVENANCE = ("parameters", "recipe", "components", "packages", "git", "machine", "python")


def report(
    run: "Stored",
    output: str | os.PathLike,
    *,
    pairs: Sequence[str] | str | None = None,
    channels: int = CHANNELS,
    side: int = LARGEST_SIDE,
    say: Callable[[str], None] = print,
) -> Path:
    """Write the page of a stored run.

    Args:
        run: path, fsspec address or opened tree; one still being written may be given, its holes
            are shown as holes.
        output: the ``.html`` file; it appears whole or not at all.
        pairs: whose pictures and maps are shown; None the first six of which any were kept,
            ``"all"`` all of those. Scores are those of all pairs in any case.
        channels: of each layer, the channels that respond most.
        side: pictures with a longer side are made smaller, to this.
        say: is told about a page too large for most mail boxes.

    Raises:
        BadRequest: a pair that the run does not have or kept nothing of.
        StoreError: no run there, or one that cannot be read.
        CannotWrite: no right or no room for the page.
    """
    tree = store.open_run(run) if isinstance(run, str | os.PathLike) else run
    facts = _facts(run, tree)
    chosen = _chosen(store.kept_pairs(tree), store.contents(tree)["pairs"], pairs)
    page = Template(_read("report.html")).substitute(
        title=html.escape(facts["name"]),
        style=_read("report.css"),
        script=_read("report.js"),
        head=_head(facts),
        scores=_scores(tree, chosen),
        control=_control(tree),
        curves=_curves(tree),
        pairs="".join(_pair(tree, pair, channels, side) for pair in chosen)
        or "<p>This run kept no pictures or maps.</p>",
        provenance=_provenance(tree.attrs),
    )
    data = page.encode()
    if len(data) > MAILABLE:
        say(
            f"the page has {len(data) / 2**20:.0f} MB, too much for most mail boxes: name fewer "
            "pairs, or fewer channels."
        )
    return _write(Path(output).expanduser(), data)


def _read(name: str) -> str:
    return resources.files("fusionkit").joinpath("pages", name).read_text(encoding="utf-8")


def _write(target: Path, data: bytes) -> Path:
    from fusionkit.store.errors import StoreFull, explained

    if target.is_dir():
        raise BadRequest(f"{target} is a folder; name the .html file to write.")
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            os.replace(draft, target)
    except StoreFull:
        raise store.StoreFull(f"no space left for {target}; nothing was written.") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return target


def _chosen(kept: list[str], known: list[str], asked: Sequence[str] | str | None) -> list[str]:
    """The pairs to show, in the order asked for."""
    if asked is None:
        return kept[:FIRST_PAIRS]
    if asked == "all":
        return kept
    asked = [asked] if isinstance(asked, str) else list(asked)
    for name in asked:
        if name not in known:
            raise BadRequest(
                f"no pair {name!r} in this run.{did_you_mean(name, known)} Pairs of which pictures "
                f"or maps were kept: {', '.join(kept) or 'none'}.",
                asked=name,
                known=known,
            )
        if name not in kept:
            raise BadRequest(
                f"the run scored {name!r}, but kept no picture or map of it; it kept those of "
                f"{', '.join(kept) or 'no pair'}.",
                asked=name,
                known=kept,
            )
    return list(dict.fromkeys(asked))


# --- what was done ------------------------------------------------------------------------------


def _facts(run: "Stored", tree: "xarray.DataTree") -> dict[str, Any]:
    """What stands at the head; ``command`` only where the run was given by its place."""
    attributes = dict(tree.attrs)
    attributes["name"] = (tree.name or "run").removesuffix(".zarr")
    if isinstance(run, str | os.PathLike):
        told = store.run_info(run)
        attributes |= {key: told[key] for key in ("status", "notice", "command")}
    return attributes


def _head(facts: Mapping[str, Any]) -> str:
    lines = [f"<h1>{html.escape(facts['name'])}</h1>"]
    if facts.get("notice"):
        lines.append(f'<p class="notice">{html.escape(facts["notice"])}</p>')
    if facts.get("result"):
        lines.append(f'<p class="result">{html.escape(str(facts["result"]))}</p>')
    lines += [f'<p class="remark">{html.escape(str(r))}</p>' for r in facts.get("remarks") or ()]
    told = {
        "status": facts.get("status"),
        "started": facts.get("started"),
        "ended": facts.get("ended"),
        "device": facts.get("device"),
        "seeds": facts.get("seed"),
    }
    said = [f"{name} {html.escape(str(value))}" for name, value in told.items() if value]
    lines.append(f'<p class="facts">{" · ".join(said)}</p>')
    if facts.get("command"):
        lines.append(f"<pre>{html.escape(facts['command'])}</pre>")
    return "\n".join(lines)


def _provenance(attributes: Mapping[str, Any]) -> str:
    parts = []
    for name in PROVENANCE:
        if attributes.get(name):
            text = json.dumps(attributes[name], indent=1, ensure_ascii=False, default=str)
            parts.append(
                f"<details><summary>{name}</summary><pre>{html.escape(text)}</pre></details>"
            )
    return "\n".join(parts)


# --- numbers ------------------------------------------------------------------------------------


def _scores(tree: "xarray.DataTree", shown: Sequence[str]) -> str:
    """Means with intervals, then every pair, with what is unusual marked."""
    if "scores" not in tree.children:
        return "<p>This run has no scores.</p>"
    group = tree["scores"].to_dataset()
    about = group.attrs.get("metric_facts", {})
    metrics = [str(m) for m in group["metric"].values]
    names = [str(p) for p in group["pair"].values]
    variables = sorted(
        (v for v in group.data_vars if group[v].dims == ("pair", "metric")),
        key=lambda v: (v != "score", v),
    )
    tables = {v: np.asarray(group[v].values, dtype=np.float64) for v in variables}
    tables = {v: values for v, values in tables.items() if np.isfinite(values).any()}
    if not tables:
        return "<p>No pair is scored yet.</p>"
    heads = [
        f'<th title="{html.escape(_about(about.get(m, {})))}">{html.escape(m)} '
        f"{_arrow(about.get(m, {}))}</th>"
        for m in metrics
    ]
    rows = []
    for variable, values in tables.items():
        cells = []
        for column in values.T:
            found = interval(column)
            cells.append(
                f"<td>{_number(found.mean)}<small> [{_number(found.low)}, {_number(found.high)}] "
                f"n {found.n}</small></td>"
            )
        rows.append(f"<tr><th>{html.escape(variable)}</th>{''.join(cells)}</tr>")
    text = (
        "<p>Mean over the pairs with its 95 % bootstrap interval; undefined scores are in no mean."
        f"</p><table><tr><th></th>{''.join(heads)}</tr>{''.join(rows)}</table>"
    )
    for variable, values in tables.items():
        odd = _unusual(values)
        lines = []
        for i, name in enumerate(names):
            if not np.isfinite(values[i]).any():
                continue
            label = html.escape(name)
            link = f'<a href="#{_anchor(name)}">{label}</a>' if name in shown else label
            cells = "".join(
                f'<td data-v="{"" if math.isnan(v) else repr(float(v))}"'
                f"{' class=odd' if odd[i, k] else ''}>{_number(v)}</td>"
                for k, v in enumerate(values[i])
            )
            lines.append(f"<tr><th>{link}</th>{cells}</tr>")
        text += (
            f"<details{' open' if len(lines) <= 12 else ''}><summary>{html.escape(variable)} of "
            f"each of {len(lines)} pairs; click a head to sort, marked is what lies far from the "
            f'median</summary><table class="sortable"><thead><tr><th>pair</th>{"".join(heads)}</tr>'
            f"</thead><tbody>{''.join(lines)}</tbody></table></details>"
        )
    return text


def _unusual(values: np.ndarray) -> np.ndarray:
    """Which scores ``(pair, metric)`` lie far from the median of their metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric that is NaN everywhere
        distance = np.abs(values - np.nanmedian(values, axis=0))
        usual = 1.4826 * np.nanmedian(distance, axis=0)
    return (usual > 0) & (distance > UNUSUAL * usual)


def _arrow(about: Mapping[str, Any]) -> str:
    up = about.get("higher_is_better")
    return "" if up is None else "↑" if up else "↓"


def _about(about: Mapping[str, Any]) -> str:
    told = (about.get(key) for key in ("code", "variant", "unit", "source"))
    return "; ".join(str(text) for text in told if text)


def _control(tree: "xarray.DataTree") -> str:
    """Measures of text control, one row an arm."""
    if "control" not in tree.children:
        return "<p>Nothing was asked of the text.</p>"
    group = tree["control"].to_dataset()
    names = [
        str(n) for n in group.data_vars if f"{n}_scene" in group.data_vars and group[n].ndim == 2
    ]
    rows = []
    for arm in group["arm"].values:
        cells = []
        for name in names:
            values = group[f"{name}_scene"].sel(arm=arm).values
            there = values[~np.isnan(values).all(1)]
            found = interval_nested(there[:, ~np.isnan(there).all(0)]) if there.size else None
            cells.append(
                "<td></td>"
                if found is None
                else f"<td>{_number(found.mean)}<small> [{_number(found.low)}, "
                f"{_number(found.high)}]</small></td>"
            )
        rows.append(f"<tr><th>{html.escape(str(arm))}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{html.escape(n.replace('_', ' '))}</th>" for n in names)
    return (
        "<p>Mean with its 95 % bootstrap interval over seeds and scenes.</p>"
        f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"
    )


def _curves(tree: "xarray.DataTree") -> str:
    if not store.contents(tree)["terms"]:
        return "<p>Nothing was trained in this run.</p>"
    buffer = io.BytesIO()
    views.loss_curves(tree).savefig(buffer, format="png", dpi=80)
    return f'<img class="wide" alt="loss curves" src="{_url(buffer.getvalue(), "png")}">'


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


# --- pictures -----------------------------------------------------------------------------------


def _pair(tree: "xarray.DataTree", pair: str, channels: int, side: int) -> str:
    inside = store.contents(tree)
    names = [n for n in LABELS if n in inside["images"]]
    names += [n for n in inside["images"] if n not in LABELS]
    images = {name: _image(tree, name, pair) for name in names}
    tiles = {_label(name): _picture(image, side) for name, image in images.items()}
    first = images.get("fused")
    for name, label in CHANGES.items():
        if first is not None and images.get(name) is not None:
            tiles[label] = _picture(views.difference(first, images[name]), side)
    shown = "".join(_figure(label, url) for label, url in tiles.items())
    there = {label: url for label, url in tiles.items() if url}
    parts = [
        f'<section class="pair" id="{_anchor(pair)}"><h3>{html.escape(pair)}</h3>',
        _pair_scores(tree, pair),
        f'<div class="tiles linked">{shown}</div>',
    ]
    if len(there) > 1:
        parts.append(_swipe(list(there)))
    for name in inside["heatmaps"]:
        parts.append(_heat(tree, name, pair, images, side))
    for layer in inside["features"]:
        parts.append(_layer(tree, layer, pair, channels))
    return "".join(parts) + "</section>"


def _image(tree: "xarray.DataTree", name: str, pair: str) -> np.ndarray | None:
    try:
        return store.read_image(tree, name, pair)
    except store.NotComputed:
        return None


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _pair_scores(tree: "xarray.DataTree", pair: str) -> str:
    rows = store.read_scores(tree, pair) if "scores" in tree.children else {}
    rows = {name: row for name, row in rows.items() if np.isfinite(list(row.values())).any()}
    if not rows:
        return ""
    heads = "".join(f"<th>{html.escape(m)}</th>" for m in next(iter(rows.values())))
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{_number(value)}</td>" for value in row.values())
        + "</tr>"
        for name, row in sorted(rows.items(), key=lambda item: item[0] != "score")
    )
    return f"<table><tr><th></th>{heads}</tr>{lines}</table>"


def _swipe(labels: Sequence[str]) -> str:
    """Two pictures of the pair over each other; the script fills it from the tiles."""
    left, right = ("visible", "fused, first prompt")
    left = left if left in labels else labels[0]
    right = right if right in labels else labels[-1]

    def choice(chosen: str, where: str) -> str:
        options = "".join(
            f"<option{' selected' if label == chosen else ''}>{html.escape(label)}</option>"
            for label in labels
        )
        return f'<select class="{where}" aria-label="{where} picture">{options}</select>'

    return (
        '<div class="swipe" hidden><div class="controls">'
        f'{choice(left, "left")}<input type="range" min="0" max="100" value="50" '
        f'aria-label="where the two pictures meet">{choice(right, "right")}</div>'
        '<div class="stack linked"><div class="view"><img class="under" alt="">'
        '<img class="over" alt=""></div></div></div>'
    )


def _heat(
    tree: "xarray.DataTree",
    name: str,
    pair: str,
    images: Mapping[str, np.ndarray | None],
    side: int,
) -> str:
    """Heat maps of one pair, each over the visible picture; opacity is the reader's."""
    try:
        maps, prompts = store.read_heatmaps(tree, name, pair)
    except store.NotComputed as hole:
        return f"<h4>heat maps: {html.escape(name)}</h4><p>{html.escape(str(hole))}</p>"
    base = images.get("vi")
    under = "" if base is None else _picture(base.mean(0), side)
    figures = []
    for heat, prompt in zip(maps, prompts, strict=True):
        url = _heat_picture(heat, side)
        figures.append(
            '<figure class="heat"><div class="view">'
            + (f'<img class="base" alt="visible, grey" src="{under}">' if under else "")
            + f'<img class="map" alt="heat map" src="{url}"></div>'
            f"<figcaption>{html.escape(prompt)} "
            f"<small>[{_number(float(np.nanmin(heat)))}, {_number(float(np.nanmax(heat)))}]</small>"
            "</figcaption></figure>"
        )
    return (
        f'<h4>heat maps: {html.escape(name)} <label class="opacity" hidden>opacity '
        '<input type="range" min="0" max="100" value="70"></label></h4>'
        f'<div class="tiles linked heats">{"".join(figures)}</div>'
    )


def _heat_picture(heat: np.ndarray, side: int) -> str:
    """A map in [0, 1] in false colours; where it is low, the picture below is seen."""
    heat = np.clip(np.nan_to_num(np.asarray(heat, dtype=np.float32)), 0, 1)
    color = views.to_bytes(views.colored(heat, (0, 1), "inferno"))
    alpha = np.round(255 * np.sqrt(heat)).astype(np.uint8)
    return _encoded(Image.fromarray(np.dstack([color, alpha]), "RGBA"), side)


def _layer(tree: "xarray.DataTree", layer: str, pair: str, channels: int) -> str:
    """The strongest channels of a layer on one scale, its mean, and its main directions as RGB."""
    title = f"<h4>features: {html.escape(layer)}"
    try:
        maps = store.read_features(tree, layer, pair)
    except store.NotComputed as hole:
        return f"{title}</h4><p>{html.escape(str(hole))}</p>"
    order = views.response_order(maps)[:channels]
    limits = views.robust_limits(maps[order])
    tiles = {"mean": views.colored(views.mean_map(maps)), "main directions as RGB": None}
    tiles["main directions as RGB"] = views.principal_colors(maps)
    tiles |= {f"channel {c}": views.colored(maps[c], limits) for c in order}
    figures = "".join(
        _figure(label, _picture(drawn, MAP_SIDE, crisp=True)) for label, drawn in tiles.items()
    )
    return (
        f"{title} <small>{len(maps)} channels of {maps.shape[1]} x {maps.shape[2]}; the "
        f"{len(order)} that respond most, colours from {limits[0]:.4g} to {limits[1]:.4g}</small>"
        f'</h4><div class="tiles maps linked">{figures}</div>'
    )


def _figure(label: str, url: str) -> str:
    inside = (
        f'<img alt="{html.escape(label)}" src="{url}">'
        if url
        else f'<div class="hole">{views.NOT_COMPUTED}</div>'
    )
    return (
        f'<figure><div class="view">{inside}</div>'
        f"<figcaption>{html.escape(label)}</figcaption></figure>"
    )


def _picture(image: np.ndarray | None, side: int, crisp: bool = False) -> str:
    """A picture ``(band, y, x)``, ``(y, x)`` or ``(y, x, 3)`` as a data URL; "" for a hole."""
    if image is None:
        return ""
    if not (image.ndim == 3 and image.shape[-1] == 3):
        image = views.rgb(image)
    return _encoded(Image.fromarray(views.to_bytes(image)), side, crisp)


def _encoded(picture: Image.Image, side: int, crisp: bool = False) -> str:
    longest = max(picture.size)
    if longest > side:
        size = tuple(max(1, round(n * side / longest)) for n in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Small maps stay exact: their cells are what is looked at.
    exact = crisp and max(picture.size) <= MAP_SIDE // 2
    picture.save(buffer, "WEBP", quality=QUALITY, lossless=exact, method=4)
    return _url(buffer.getvalue(), "webp")


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _anchor(pair: str) -> str:
    """A name of a pair as the target of a link."""
    return "pair-" + "".join(c if c.isalnum() else f"-{ord(c):x}-" for c in pair)
