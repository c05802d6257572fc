"""Looking into a stored run by hand: choose a pair, a layer, a channel, and see it.

Reads the store and nothing else: no model, no torch. Only what is on show is read. Where there is
no kernel (an exported notebook, a code host), the widget's last view remains as a still picture.
"""

import base64
import html
import io
import os
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
from PIL import Image, ImageDraw

from fusionkit import store, views

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree

TILE_HEIGHT = 240
"""Height of every picture on show, in pixels."""
GAP = 6
CAPTION = 18
SOURCES = ("ir", "vi", "fused")
"""What is always on show beside the chosen map."""


def inspect(run: "Stored | None" = None) -> "Inspector":
    """A widget over a stored run: its pictures, feature maps, heat maps and scores.

    ``run`` is a path, an fsspec address or an opened tree; None is the newest run under ``runs``. A
    run still being written can be opened; what it lacks is shown as not computed.
    """
    if run is None or isinstance(run, str | os.PathLike):
        run = store.open_run(store.find_run(run))
    return Inspector(run)


class Inspector(ipywidgets.VBox):
    """The controls and what they show. Set ``pair.value``, ``show.value``, ``channel.value`` ...

    ``show`` lists ``image: ...``, ``features: ...`` and ``heat map: ...``. ``scale`` says whether
    feature maps share the colours of their whole layer (comparable from channel to channel) or
    stretch over their own range.
    """

    def __init__(self, run: "xarray.DataTree") -> None:
        self.run = run
        inside = store.contents(run)
        kept = store.kept_pairs(run)
        if not kept:
            raise store.StoreError(
                "this run kept no pictures or maps (yet), so there is nothing to look at."
            )
        shown = [("image: " + name, ("image", name)) for name in inside["images"]]
        shown += [("features: " + name, ("features", name)) for name in inside["features"]]
        shown += [("heat map: " + name, ("heat map", name)) for name in inside["heatmaps"]]
        self._channels = inside["features"]
        self.pair = ipywidgets.Dropdown(options=kept, description="pair")
        self.show = ipywidgets.Dropdown(options=shown, description="show")
        self.channel = ipywidgets.IntSlider(0, 0, 0, description="channel", continuous_update=False)
        self.order = ipywidgets.ToggleButtons(
            options=["index", "response"], description="order", style={"button_width": "80px"}
        )
        self.scale = ipywidgets.ToggleButtons(
            options=["layer", "map"], description="colours", style={"button_width": "80px"}
        )
        self.over = ipywidgets.Checkbox(value=False, description="lay over the visible picture")
        self.picture = ipywidgets.Image(format="png")
        self.words = ipywidgets.HTML()
        self.scores = ipywidgets.HTML()
        self._features: tuple[Any, np.ndarray] | None = None
        self._sources: tuple[str, list[Tile]] | None = None
        notice = run.attrs.get("notice")
        super().__init__(
            [
                *([ipywidgets.HTML(f"<b>{html.escape(notice)}</b>")] if notice else []),
                ipywidgets.HBox([self.pair, self.show, self.channel]),
                ipywidgets.HBox([self.order, self.scale, self.over]),
                self.picture,
                self.words,
                self.scores,
            ]
        )
        if any(kind == "heat map" for _, (kind, _) in shown):
            self.show.value = next(value for _, value in shown if value[0] == "heat map")
        self._fit_channels()
        self.show.observe(self._fit_channels, "value")
        self.pair.observe(self._fit_channels, "value")
        for control in (self.pair, self.show, self.channel, self.order, self.scale, self.over):
            control.observe(self._draw, "value")
        self._draw()

    # what is chosen

    def _fit_channels(self, change: Any = None) -> None:
        """Give the slider as many positions as there are channels or prompts."""
        kind, name = self.show.value
        count = 1
        if kind == "features":
            count = self._channels[name]
        elif kind == "heat map":
            try:
                count = len(store.read_heatmaps(self.run, name, self.pair.value)[1])
            except store.NotComputed:
                count = 1
        self.channel.max = max(0, count - 1)
        self.channel.disabled = count < 2
        self.channel.description = "prompt" if kind == "heat map" else "channel"

    def _layer(self, name: str) -> np.ndarray:
        """All maps of the layer, read once for a pair; needed for common colours and for order."""
        key = (name, self.pair.value)
        if self._features is None or self._features[0] != key:
            self._features = (key, store.read_features(self.run, name, self.pair.value))
        return self._features[1]

    def _chosen(self) -> tuple[np.ndarray, str, str]:
        """The picture on show ``(y, x, 3)``, its caption, and a line of facts about it."""
        (kind, name), pair, index = self.show.value, self.pair.value, self.channel.value
        if kind == "image":
            return views.rgb(store.read_image(self.run, name, pair)), name, ""
        if kind == "heat map":
            maps, prompts = store.read_heatmaps(self.run, name, pair)
            values, caption, limits, colormap = maps[index], prompts[index], (0.0, 1.0), "inferno"
        else:
            channel = index
            if self.order.value == "response":
                channel = int(views.response_order(self._layer(name))[index])
            if self.scale.value == "layer":
                limits = views.robust_limits(self._layer(name))
                values = self._layer(name)[channel]
            else:
                values = store.read_channel(self.run, name, pair, channel)
                limits = views.robust_limits(values, 0)
            caption, colormap = f"{name}, channel {channel}", "viridis"
        facts = (
            f"{values.shape[0]} x {values.shape[1]}, from {np.nanmin(values):.4g} to "
            f"{np.nanmax(values):.4g}, mean {np.nanmean(values):.4g}; "
            f"colours from {limits[0]:.4g} to {limits[1]:.4g}"
        )
        if self.over.value:
            heat = np.clip((values - limits[0]) / max(limits[1] - limits[0], 1e-12), 0, 1)
            base = store.read_image(self.run, "vi", pair)
            return views.overlay(base, heat, colormap=colormap), caption, facts
        return views.colored(values, limits, colormap), caption, facts

    # what is shown

    def _draw(self, change: Any = None) -> None:
        if self._sources is None or self._sources[0] != self.pair.value:
            self._sources = (self.pair.value, [self._source(name) for name in SOURCES])
        try:
            picture, caption, facts = self._chosen()
        except store.NotComputed as hole:
            picture, caption, facts = None, self.show.value[1], str(hole)
        self.picture.value = _strip([*self._sources[1], _tile(picture, caption)])
        self.words.value = html.escape(facts)
        self.scores.value = self._score_table()

    def _source(self, name: str) -> "Tile":
        try:
            return _tile(views.rgb(store.read_image(self.run, name, self.pair.value)), name)
        except store.StoreError:
            return _tile(None, name)

    def _score_table(self) -> str:
        rows = store.read_scores(self.run, self.pair.value)
        rows = {name: row for name, row in rows.items() if not np.isnan(list(row.values())).all()}
        if not rows:
            return ""
        metrics = next(iter(rows.values()))
        head = "".join(f"<th>{html.escape(metric)}</th>" for metric in metrics)
        body = "".join(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(f"<td>{value:.4g}</td>" for value in row.values())
            + "</tr>"
            for name, row in rows.items()
        )
        return f"<table><tr><th></th>{head}</tr>{body}</table>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for places without one the present view as a picture."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["image/png"] = base64.b64encode(self.picture.value).decode("ascii")
        return bundle


Tile = tuple[Image.Image, str]


def _tile(picture: np.ndarray | None, name: str) -> Tile:
    """A picture ``(y, x, 3)`` at the height of the strip, or a field that says it is missing."""
    if picture is None:
        field = Image.new("RGB", (round(TILE_HEIGHT * 4 / 3), TILE_HEIGHT), (236, 236, 236))
        ImageDraw.Draw(field).text((10, 10), views.NOT_COMPUTED, fill=(110, 110, 110))
        return field, name
    height, width = picture.shape[:2]
    # Feature maps are small: keep their cells visible rather than blur them.
    method = Image.Resampling.BOX if height > TILE_HEIGHT else Image.Resampling.NEAREST
    image = Image.fromarray(views.to_bytes(picture))
    return image.resize((max(1, round(TILE_HEIGHT * width / height)), TILE_HEIGHT), method), name


def _strip(tiles: list[Tile]) -> bytes:
    """Tiles side by side, each with its name above, as PNG bytes."""
    total = sum(tile.width for tile, _ in tiles) + GAP * (len(tiles) - 1)
    sheet = Image.new("RGB", (total, TILE_HEIGHT + CAPTION), "white")
    pen = ImageDraw.Draw(sheet)
    left = 0
    for tile, name in tiles:
        pen.text((left + 2, 3), name, fill=(40, 40, 40))
        sheet.paste(tile, (left, CAPTION))
        left += tile.width + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
