"""Looking into stored runs by hand: pictures, feature maps, heat maps, scores, all linked.

Reads the store and nothing else: no torch, unless a new prompt is typed. Only what is on show is
read. The state is traits, so ``widget.pair = "street"`` does what a click does; drawing, zoom and
values under the cursor are the browser's (``inspector.js``), which gets plain numbers. Where there
is no kernel (an exported notebook, a code host), the present view remains as a still picture.
"""

import base64
import contextlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import matplotlib
import numpy as np
import traitlets
from PIL import Image, ImageDraw
from traitlets import Bool, Dict, Enum, Float, Int, List, Unicode

from fusionkit import store, views
from fusionkit.browsing import Answer, Shelf, StoredRun, Typed, curve, unusual
from fusionkit.errors import FusionkitError, did_you_mean

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree

logger = logging.getLogger("fusionkit.widgets")

PANES = ("infrared", "visible", "fused", "difference", "compare", "features", "heat map")
"""What can stand side by side, in this order."""
HOW = ("channel", "mean", "colors", "grid")
"""A layer as one channel, its mean, its main directions as colours, or many channels."""
TILES = 24
"""Channels on one page of the grid."""
TILE_SIDE = 160
"""Longest side of a channel in the grid, in pixels."""
THUMB_SIDE = 96
STILL_HEIGHT = 240
"""Height of every picture in the still, in pixels."""


def inspect(
    run: "Stored | None" = None, *others: "Stored", method: Any = None, **labelled: "Stored"
) -> "Inspector":
    """A widget over a stored run: its pictures, feature maps, heat maps, scores and curves.

    Args:
        run: a path, an fsspec address or an opened tree; None is the newest run under ``runs``. A
            run still being written can be opened; what it lacks is shown as not computed.
        others, labelled: further runs to lay beside it; those given by keyword are called by it,
            the others by their file. Pairs are matched by name.
        method: answers typed prompts, see :func:`fusionkit.load_method`; None takes the weights
            that lie beside the run, if any, when a prompt is first typed.
    """
    if run is None or isinstance(run, str | os.PathLike):
        run = store.find_run(run)
    beside: dict[str, Stored] = {}
    for other in others:
        name = Path(_path_of(other) or "run").name.removesuffix(".zarr")
        label, count = name, 2
        while label in beside or label in labelled:
            label, count = f"{name} {count}", count + 1
        beside[label] = other
    return Inspector(run, {**beside, **labelled}, method=method)


class Inspector(anywidget.AnyWidget):
    """The state of the view as traits, and what is shown for it.

    Pictures, layers and heat maps are named by reference: ``fused``, or ``<label>/fused`` of
    another run or typed prompt; ``options`` lists them all. :meth:`drawn` returns what a pane shows
    as an array, :meth:`code` the lines that make it without the widget, :meth:`still` a PNG.
    """

    _esm = Path(__file__).with_name("inspector.js")
    _css = Path(__file__).with_name("inspector.css")

    title = Unicode().tag(sync=True)
    notice = Unicode().tag(sync=True)
    message = Unicode().tag(sync=True)
    """What went wrong last, in words."""
    pairs = List(Unicode()).tag(sync=True)
    """Pairs of which the run kept something to look at."""
    options = Dict().tag(sync=True)
    """References by kind: ``images``, ``features`` (with their number of channels), ``heatmaps``.
    """
    colormaps = Dict().tag(sync=True)
    can_ask = Bool().tag(sync=True)
    """Whether a network is at hand for typed prompts."""

    pair = Unicode().tag(sync=True)
    panes = List(Enum(PANES)).tag(sync=True)
    fused = Unicode("fused").tag(sync=True)
    first = Unicode("fused").tag(sync=True)
    """Left of the swipe, and the minuend of the difference."""
    second = Unicode("vi").tag(sync=True)
    gain = Float(0.0, min=0).tag(sync=True)
    """Of the difference: 1 shows a change of 0.5 as full scale; 0 stretches the largest to it."""
    layer = Unicode().tag(sync=True)
    how = Enum(HOW, "grid").tag(sync=True)
    channel = Int(0, min=0).tag(sync=True)
    order = Enum(("response", "index"), "response").tag(sync=True)
    """Of the grid and of the slider: strongest mean absolute value first, or by number."""
    scale = Enum(("map", "layer"), "map").tag(sync=True)
    """Whether each map stretches over its own range or all of a layer share one."""
    page = Int(0, min=0).tag(sync=True)
    heatmap = Unicode().tag(sync=True)
    prompt = Int(0, min=0).tag(sync=True)
    over = Unicode("vi").tag(sync=True)
    """The picture below the heat map."""
    heat_scale = Enum(("absolute", "own"), "absolute").tag(sync=True)
    """Whether the last colour of a heat map is 1 or its own highest value."""
    opacity = Float(0.6, min=0, max=1).tag(sync=True)
    swipe = Float(0.5, min=0, max=1).tag(sync=True)
    window = List(Float(), [0.0, 0.0, 1.0, 1.0], minlen=4, maxlen=4).tag(sync=True)
    """What is in sight: left, top, right, bottom as shares of the picture."""

    def __init__(
        self,
        run: "Stored",
        others: "Mapping[str, Stored] | None" = None,
        *,
        method: Any = None,
    ) -> None:
        super().__init__()
        self.path = _path_of(run)
        self._given, self._others, self._method = run, dict(others or {}), method
        self._ask: Callable[..., Answer] | None = None
        self._sent: set[str] = set()
        self._watched = False
        self.colormaps = {
            name: np.round(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).astype(int)
            .ravel().tolist()
            for name in ("viridis", "inferno")
        }  # fmt: skip
        self._open()
        references = self.options["images"]
        for candidate in ("fused_other", "fused_baseline", "vi", "ir"):
            if candidate in references:
                self.second = candidate
                break
        if self.fused not in references:
            self.fused = self.first = references[0] if references else ""
        self.over = "vi" if "vi" in references else self.fused
        self.layer = next(iter(self.options["features"]), "")
        self.heatmap = next(iter(self.options["heatmaps"]), "")
        self.panes = [
            pane
            for pane in PANES
            if {
                "infrared": "ir" in references,
                "visible": "vi" in references,
                "features": bool(self.layer),
                "heat map": bool(self.heatmap),
            }.get(pane, bool(references))
        ]
        self.can_ask = method is not None or (
            self.path is not None and any(store.checkpoint_folder(self.path).glob("*.pt"))
        )
        self.on_msg(self._heard)

    def _open(self) -> None:
        """Open the runs, anew for those given by a path: a run may still grow."""
        typed = {} if not hasattr(self, "shelf") else self.shelf.shown
        typed = {label: shown for label, shown in typed.items() if isinstance(shown, Typed)}
        opened = {
            label: store.open_run(run) if isinstance(run, str | os.PathLike) else run
            for label, run in {"": self._given, **self._others}.items()
        }
        self.run = opened[""]
        kept = store.kept_pairs(self.run)
        if not kept:
            raise store.StoreError(
                "this run kept no pictures or maps (yet), so there is nothing to look at."
            )
        self.shelf = Shelf({label: StoredRun(tree) for label, tree in opened.items()} | typed)
        self._scores: dict[str, np.ndarray] | None = None
        self.title = Path(self.path).name if self.path else self.run.name or "run"
        self.notice = self.run.attrs.get("notice") or ""
        self._refer()
        self.pairs = kept
        if self.pair not in kept:
            self.pair = kept[0]

    def path_of(self, label: str) -> str | None:
        """Where the run of a label lies; None for a tree that was not opened from a place."""
        return _path_of(self._others[label] if label else self._given)

    def _refer(self) -> None:
        self.options = {
            "images": self.shelf.names("images"),
            "features": {n: self.shelf.channels(n) for n in self.shelf.names("features")},
            "heatmaps": self.shelf.names("heatmaps"),
        }

    # what may be chosen

    @traitlets.validate("pair", "fused", "first", "second", "over", "layer", "heatmap")
    def _known(self, proposal: Any) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        kind = {"layer": "features", "heatmap": "heatmaps"}.get(name, "images")
        known = list(self.pairs if name == "pair" else self.options[kind])
        if value not in known and value:
            raise traitlets.TraitError(
                f"{name}: this view has no {value!r}.{did_you_mean(value, known)} "
                f"Known: {', '.join(known[:12])}."
            )
        return value

    @traitlets.validate("channel")
    def _within(self, proposal: Any) -> int:
        count = self.options.get("features", {}).get(self.layer, 1)
        return min(proposal["value"], max(0, count - 1))

    @traitlets.observe("layer")
    def _other_layer(self, change: Any) -> None:
        self.page = 0
        self.channel = self.channel  # as far as the new layer reaches

    @traitlets.observe("heatmap", "pair")
    def _other_prompts(self, change: Any) -> None:
        self.prompt = min(self.prompt, max(0, len(self._prompts()) - 1))

    @traitlets.observe(
        "pair", "panes", "fused", "first", "second", "gain", "layer", "how", "channel", "order",
        "scale", "page", "heatmap", "prompt", "over",
        "heat_scale",
    )  # fmt: skip
    def _changed(self, change: Any) -> None:
        if not self._watched:
            return
        touched = {
            "fused": ("fused",),
            "first": ("difference", "compare"),
            "second": ("difference", "compare"),
            "gain": ("difference",),
            "heatmap": ("heat map",),
            "prompt": ("heat map",),
            "over": ("heat map",),
            "heat_scale": ("heat map",),
        }
        if change["name"] == "pair":
            self._sent.clear()
            self.send({"kind": "pair", "pair": self.pair, "facts": self._facts()})
            self._show(self.panes)
        elif change["name"] == "panes":
            self._show([pane for pane in self.panes if pane not in (change["old"] or ())])
        else:
            self._show(touched.get(change["name"], ("features",)))

    # what is shown

    def pane(self, name: str) -> tuple[dict, dict[str, np.ndarray]]:
        """What a pane needs: facts about it, and arrays by key.

        Pictures come as ``(band, y, x)`` and maps as ``(y, x)``, or ``(tile, y, x)`` for a grid.
        What the run did not compute comes as a ``hole`` in words.
        """
        try:
            return getattr(self, f"_{name.replace(' ', '_')}")()
        except (store.StoreError, OSError) as hole:
            return {"caption": name, "hole": str(hole)}, {}

    def drawn(self, name: str) -> np.ndarray | list[np.ndarray]:
        """What a pane shows at its full size, ``(y, x, 3)`` in [0, 1]; a list for a grid.

        The whole picture, whatever the zoom. Raises :class:`~fusionkit.store.StoreError` where the
        run lacks it.
        """
        about, arrays = getattr(self, f"_{name.replace(' ', '_')}")()
        if name == "difference":
            return views.difference(*self._both(), about["gain"])
        if name == "compare":
            left, right = (views.rgb(image) for image in self._both())
            edge = round(self.swipe * left.shape[1])
            return np.concatenate([left[:, :edge], right[:, edge:]], axis=1)
        if name == "heat map":
            base, heat = arrays[about["base"]], arrays[about["raster"]]
            return views.overlay(base, heat / about["top"], self.opacity)
        values = arrays[about["raster"]]
        if name != "features":
            return views.rgb(values)
        if self.how == "colors":
            return values.transpose(1, 2, 0)
        if self.how == "grid":
            return [views.colored(*tile) for tile in zip(values, about["limits"], strict=True)]
        return views.colored(values, about["limits"])

    def _infrared(self) -> tuple[dict, dict]:
        return self._picture("ir", "infrared")

    def _visible(self) -> tuple[dict, dict]:
        return self._picture("vi", "visible")

    def _fused(self) -> tuple[dict, dict]:
        return self._picture(self.fused, self.fused)

    def _picture(self, reference: str, caption: str) -> tuple[dict, dict]:
        about = {"raster": reference, "caption": caption, "text": self.text_of(reference)}
        return about, {reference: self.shelf.image(reference, self.pair)}

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        both = [self.shelf.image(name, self.pair) for name in (self.first, self.second)]
        if both[0].shape != both[1].shape:
            sizes = " and ".join(f"{image.shape[1]} x {image.shape[2]}" for image in both)
            raise store.StoreError(f"the two pictures differ in size: {sizes}.")
        return both[0], both[1]

    def _compare(self) -> tuple[dict, dict]:
        both = dict(zip((self.first, self.second), self._both(), strict=True))
        return {
            "first": self.first,
            "second": self.second,
            "caption": f"{self.first}  |  {self.second}",
            "text": "  |  ".join(map(self.text_of, (self.first, self.second))).strip(" |"),
        }, both

    def _difference(self) -> tuple[dict, dict]:
        gain = self.gain or self.shelf.remember(
            ("gain", self.first, self.second, self.pair), lambda: views.stretch(*self._both())
        )
        about, both = self._compare()
        about |= {"gain": gain, "text": f"{gain:.3g} times, grey is equal"}
        return about | {"caption": f"{self.first} − {self.second}"}, both

    def _features(self) -> tuple[dict, dict]:
        if not self.layer:
            raise store.StoreError("this run kept no feature maps.")
        layer, pair = self.layer, self.pair
        if self.how == "colors":
            drawn = self.shelf.remember(
                ("colors", layer, pair),
                lambda: views.principal_colors(self.shelf.features(layer, pair)).transpose(2, 0, 1),
            )
            about = {"raster": f"{layer}|colors", "caption": f"{layer}, main directions"}
            return about | {"text": "alike features, alike colours"}, {about["raster"]: drawn}
        if self.how == "grid":
            return self._grid()
        if self.how == "mean":
            values = self.shelf.remember(
                ("mean", layer, pair), lambda: views.mean_map(self.shelf.features(layer, pair))
            )
            caption = f"{layer}, mean"
        else:
            values = self.shelf.channel(layer, pair, self.channel)
            caption = f"{layer}, channel {self.channel}"
        limits = self._limits() if self.scale == "layer" else views.robust_limits(values, 0)
        about = {"raster": caption, "caption": caption, "limits": limits}
        about["text"] = (
            f"{values.shape[0]} x {values.shape[1]}, from {np.nanmin(values):.4g} to "
            f"{np.nanmax(values):.4g}, mean {np.nanmean(values):.4g}; "
            f"colours from {limits[0]:.4g} to {limits[1]:.4g}"
        )
        return about, {caption: values}

    def _grid(self) -> tuple[dict, dict]:
        ranking = self.ranking()
        pages = -(-len(ranking) // TILES)
        page = min(self.page, pages - 1)
        channels = ranking[page * TILES : (page + 1) * TILES]
        maps = self.shelf.features(self.layer, self.pair)[channels]
        step = max(1, -(-max(maps.shape[1:]) // TILE_SIDE))
        tiles = np.stack([_reduced(values, step) for values in maps])
        common = self._limits() if self.scale == "layer" else None
        key = f"{self.layer}|grid|{self.order}|{page}"
        return {
            "raster": key,
            "channels": channels,
            "limits": [common or views.robust_limits(values, 0) for values in maps],
            "pages": pages,
            "caption": f"{self.layer}, {len(channels)} of {len(ranking)} channels",
            "text": "strongest first" if self.order == "response" else "by number",
        }, {key: tiles}

    def _limits(self) -> tuple[float, float]:
        """The colours that a layer shares; from some of its positions when there are millions."""
        maps = self.shelf.features(self.layer, self.pair)
        step = max(1, round((maps.size / 1_000_000) ** 0.5))
        return self.shelf.remember(
            ("limits", self.layer, self.pair), lambda: views.robust_limits(maps[:, ::step, ::step])
        )

    def ranking(self) -> list[int]:
        """Channels of the layer in the chosen order."""
        if self.order == "index":
            return list(range(self.shelf.channels(self.layer)))
        return self.shelf.remember(
            ("ranking", self.layer, self.pair),
            lambda: views.response_order(self.shelf.features(self.layer, self.pair)).tolist(),
        )

    def _prompts(self) -> list[str]:
        try:
            return self.shelf.heatmaps(self.heatmap, self.pair)[1] if self.heatmap else []
        except store.StoreError:
            return []

    def _heat_map(self) -> tuple[dict, dict]:
        if not self.heatmap:
            raise store.StoreError("this run kept no heat maps.")
        maps, prompts = self.shelf.heatmaps(self.heatmap, self.pair)
        index = min(self.prompt, len(prompts) - 1)
        key = f"{self.heatmap}|{index}"
        about = {"base": self.over, "raster": key, "prompts": prompts, "prompt": index}
        about |= {"caption": f"{self.heatmap} over {self.over}", "text": f"“{prompts[index]}”"}
        highest = max(float(np.nanmax(maps[index])), 1e-6)
        about["top"] = 1.0 if self.heat_scale == "absolute" else highest
        about["text"] += f", up to {highest:.3g}"
        return about, {self.over: self.shelf.image(self.over, self.pair), key: maps[index]}

    def text_of(self, reference: str) -> str:
        """The prompt under which a picture was fused, where the run tells."""
        label, _, name = reference.rpartition("/")
        shown = self.shelf.shown.get(label)
        if isinstance(shown, Typed):
            return f"“{shown.prompt}”"
        if name == "fused_plain" and shown is not None:
            plain = shown.tree.attrs.get("recipe", {}).get("default_text")
            return f"“{plain}”" if plain else ""
        place = {"fused": 0, "fused_other": 1}.get(name)
        if shown is None or place is None:
            return ""
        for heatmap in shown.contents()["heatmaps"]:
            try:
                reference = f"{label}/{heatmap}" if label else heatmap
                prompts = self.shelf.heatmaps(reference, self.pair)[1]
            except store.StoreError:
                continue
            if place < len(prompts):
                return f"“{prompts[place]}”"
        return ""

    # the whole run

    def scores(self) -> dict[str, np.ndarray]:
        """Scores and measures of control, name -> ``(pair,)`` over all pairs of the run."""
        if self._scores is None:
            self._scores = store.read_table(self.run)
        return self._scores

    def _facts(self) -> dict[str, float]:
        """The scores of the pair on show."""
        index = self.run.attrs["pairs"].index(self.pair)
        values = {name: float(column[index]) for name, column in self.scores().items()}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def _table(self) -> dict:
        scores = {n: c for n, c in self.scores().items() if np.isfinite(c).any()}
        return {
            "kind": "table",
            "pairs": self.run.attrs["pairs"],
            "columns": {n: [_plain(value) for value in column] for n, column in scores.items()},
            "unusual": {
                n: [_plain(value) for value in unusual(column)] for n, column in scores.items()
            },
        }

    def _curves(self) -> dict:
        """Loss curves of every run on show: term -> line -> steps and values."""
        terms: dict[str, dict] = {}
        for label, shown in self.shelf.shown.items():
            if not isinstance(shown, StoredRun):
                continue
            for term in shown.contents()["terms"]:
                steps, values = store.read_history(shown.tree, term)
                for arm, rows in values.items():
                    name = f"{label}: {arm}" if label else arm
                    line = curve(steps, rows)
                    if line["steps"]:
                        terms.setdefault(term, {})[name] = line
        return {"kind": "curves", "terms": terms, "colors": list(views.COLORS)}

    def about(self) -> dict[str, Any]:
        """Recipe and provenance of the runs on show, by label."""
        found = {}
        for label, run in {"": self._given, **self._others}.items():
            known = isinstance(run, str | os.PathLike)
            facts = store.run_info(run) if known else dict(run.attrs)
            facts.pop("pairs", None)
            found[label or self.title] = facts
        return found

    # typed prompts

    def ask(self, prompt: str) -> str:
        """Fuse the pair under a new prompt; returns the label of the answer and shows it.

        The answer is laid beside the present picture: it becomes ``fused`` and ``first``, and what
        was ``fused`` becomes ``second``. Its feature and heat maps can be chosen like those of a
        run. Raises :class:`~fusionkit.errors.MissingWeights` without a network.
        """
        prompt = " ".join(prompt.split())
        if not prompt:
            raise store.StoreError("type a prompt first.")
        if self._ask is None:
            from fusionkit.asking import asker  # torch is imported here, and not before

            source = self._method if self._method is not None else self.path
            if source is None:
                raise store.StoreError(
                    "this view has no network: open the run by its path, or hand one in as method."
                )
            self._ask = asker(source)
        label = f"“{prompt}”"
        typed = self.shelf.shown.setdefault(label, Typed(prompt))
        if self.pair not in typed.answers:
            pictures = [self.shelf.image(name, self.pair) for name in ("ir", "vi")]
            try:
                typed.answers[self.pair] = self._ask(*pictures, prompt)
            finally:
                if not typed.answers:
                    del self.shelf.shown[label]
        self._refer()
        answer, before = f"{label}/fused", self.fused
        with self.hold_trait_notifications():
            if before != answer:
                self.second = before
            self.fused = self.first = answer
            if (heat := f"{label}/{self.heatmap.rpartition('/')[2]}") in self.options["heatmaps"]:
                self.heatmap = heat
        return label

    # keeping what is seen

    def code(self) -> str:
        """The lines that make the present view without the widget."""
        from fusionkit.reproducing import code

        return code(self)

    def still(self) -> bytes:
        """The present view as PNG: the panes side by side, cut as they are zoomed."""
        tiles = []
        for name in self.panes:
            about, _ = self.pane(name)
            picture = None if "hole" in about else self.drawn(name)
            if isinstance(picture, list):
                picture = views.mosaic([views.cropped(tile, self.window) for tile in picture])
            elif picture is not None:
                picture = views.cropped(picture, self.window)
            tiles.append((_tile(picture), about["caption"]))
        return _sheet(tiles)

    def save(self, path: str | os.PathLike) -> Path:
        """Write :meth:`still` to a file."""
        path = Path(path)
        path.write_bytes(self.still())
        return path

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for places without one the present view as a picture."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["image/png"] = base64.b64encode(self.still()).decode("ascii")
        return bundle

    # talking to the browser

    def _heard(self, widget: Any, content: Mapping, buffers: Sequence) -> None:
        """Answer a browser; what goes wrong is told there."""
        self.message = ""
        answers: dict[str, Callable[[], Any]] = {
            "ready": self._begin,
            "thumbs": lambda: self._thumbs(content["pairs"]),
            "ranking": lambda: self.send(
                {"kind": "ranking", "layer": self.layer, "ranking": self.ranking()}
            ),
            "table": lambda: self.send(self._table()),
            "curves": lambda: self.send(self._curves()),
            "about": lambda: self.send({"kind": "about", "runs": _plain(self.about())}),
            "code": lambda: self.send({"kind": "code", "text": self.code()}),
            "ahead": lambda: self._ahead(content["pair"], content["part"]),
            "ask": lambda: self.ask(content["prompt"]),
            "refresh": self._refresh,
        }
        try:
            answers[content["kind"]]()
        except (FusionkitError, traitlets.TraitError) as error:
            self.message = str(error)
        except Exception as error:  # a network may fail in any way, and nobody reads the log
            logger.exception("the inspector could not answer %r", content["kind"])
            self.message = f"{type(error).__name__}: {error}"
        finally:
            self.send({"kind": "done", "of": content["kind"]})

    def _begin(self) -> None:
        """A browser has opened the view: it knows nothing yet."""
        self._watched = True
        self._sent.clear()
        self.send({"kind": "pair", "pair": self.pair, "facts": self._facts()})
        self._show(self.panes)

    def _refresh(self) -> None:
        self._open()
        self._begin()

    def _show(self, names: Sequence[str]) -> None:
        """Send panes; the pictures first, since a whole layer may take longer to read."""
        for name in sorted(names, key=lambda name: name == "features" and self.how != "channel"):
            if name not in self.panes:
                continue
            about, arrays = self.pane(name)
            rasters, buffers = [], []
            for key, values in arrays.items():
                if key not in self._sent:
                    self._sent.add(key)
                    facts, data = _packed(values)
                    rasters.append({"key": key, **facts})
                    buffers.append(data)
            message = {"kind": "pane", "pair": self.pair, "name": name, "about": _plain(about)}
            self.send({**message, "rasters": rasters}, buffers)

    def _ahead(self, pair: str, part: str) -> None:
        """Read what the pair that probably comes next will need, while nobody waits."""
        references = {"ir", "vi", self.fused, self.first, self.second, self.over}
        reads = [(self.shelf.image, name) for name in references if name in self.options["images"]]
        reads += [(self.shelf.heatmaps, self.heatmap)] if self.heatmap else []
        if part == "features":
            whole = self.layer and "features" in self.panes and self.how != "channel"
            reads = [(self.shelf.features, self.layer)] if whole else []
        for read, name in reads:
            with contextlib.suppress(store.StoreError, OSError):
                read(name, pair)

    def _thumbs(self, pairs: Sequence[str]) -> None:
        """Small pictures of the pairs whose row came into sight, as JPEG."""
        for pair in pairs:
            picture = None
            for reference in ("fused", "vi", "ir"):
                try:
                    picture = views.rgb(self.shelf.find(reference)[0].image(reference, pair))
                    break
                except store.StoreError:
                    continue
            if picture is None:
                continue
            image = Image.fromarray(views.to_bytes(picture))
            image.thumbnail((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=80)
            self.send({"kind": "thumb", "pair": pair}, [buffer.getvalue()])


def _path_of(run: Any) -> str | None:
    """Where a run lies, if it was opened from somewhere."""
    if isinstance(run, str | os.PathLike):
        return os.fspath(run)
    return run.encoding.get("source")


def _reduced(values: np.ndarray, step: int) -> np.ndarray:
    """A map ``(y, x)`` at a ``step``-th of its size, by the mean of its blocks."""
    if step == 1:
        return values
    height, width = (-(-extent // step) for extent in values.shape)
    padded = np.pad(
        values, ((0, height * step - values.shape[0]), (0, width * step - values.shape[1])), "edge"
    )
    return padded.reshape(height, step, width, step).mean(axis=(1, 3))


def _packed(values: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """An array as 16-bit steps from its lowest to its highest value; the last step is NaN.

    A value read back is off by at most a 131,068th of the range.
    """
    if len(values) == 3 and all(np.array_equal(values[0], band, True) for band in values[1:]):
        values = values[:1]  # a grey picture
    if values.ndim == 2:
        values = values[None]
    finite = np.isfinite(values)
    whole = bool(finite.all())
    low = float(values.min() if whole else np.min(values, where=finite, initial=np.inf))
    high = float(values.max() if whole else np.max(values, where=finite, initial=-np.inf))
    if not finite.any():
        low = high = 0.0
    scale = 65534 / (high - low) if high > low else 0.0
    steps = (values - np.float32(low)) * np.float32(scale) + np.float32(0.5)
    if not whole:
        steps = np.where(finite, steps, 65535)
    about = {"bands": values.shape[0], "height": values.shape[1], "width": values.shape[2]}
    data = np.ascontiguousarray(np.clip(steps, 0, 65535).astype("<u2"))
    return {**about, "low": low, "high": high}, data.tobytes()


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


# --- the still -----------------------------------------------------------------------------------

GAP, CAPTION, ACROSS = 6, 18, 4


def _tile(picture: np.ndarray | None) -> Image.Image:
    """A picture ``(y, x, 3)`` at the height of the still, or a field that says it is missing."""
    if picture is None:
        field = Image.new("RGB", (round(STILL_HEIGHT * 4 / 3), STILL_HEIGHT), (236, 236, 236))
        ImageDraw.Draw(field).text((10, 10), views.NOT_COMPUTED, fill=(110, 110, 110))
        return field
    height, width = picture.shape[:2]
    # Feature maps are small: keep their cells visible rather than blur them.
    method = Image.Resampling.BOX if height > STILL_HEIGHT else Image.Resampling.NEAREST
    size = max(1, round(STILL_HEIGHT * width / height)), STILL_HEIGHT
    return Image.fromarray(views.to_bytes(picture)).resize(size, method)


def _sheet(tiles: list[tuple[Image.Image, str]]) -> bytes:
    """Tiles in rows, each with its name above, as PNG bytes."""
    rows = [tiles[i : i + ACROSS] for i in range(0, len(tiles), ACROSS)] or [[]]
    width = max(1, *(sum(t.width for t, _ in row) + GAP * (len(row) - 1) for row in rows))
    height = (STILL_HEIGHT + CAPTION) * len(rows)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for down, row in enumerate(rows):
        top, left = down * (STILL_HEIGHT + CAPTION), 0
        for tile, name in row:
            pen.text((left + 2, top + 3), name.replace("−", "-"), fill=(40, 40, 40))
            sheet.paste(tile, (left, top + CAPTION))
            left += tile.width + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
