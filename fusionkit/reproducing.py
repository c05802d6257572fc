"""The view of an inspector as lines of Python: reading, drawing, nothing of the widget."""

from typing import TYPE_CHECKING

from fusionkit.browsing import Typed

if TYPE_CHECKING:
    from fusionkit.widgets import Inspector


def code(view: "Inspector") -> str:
    """Lines that draw what the panes show, cut as they are zoomed; the last one is the figure.

    A pane that shows nothing is left out. Runs that were handed over as opened trees are named
    as they have to be given.
    """
    writer = _Writer(view)
    panes = []
    for name in view.panes:
        if "hole" in view.pane(name)[0]:
            continue
        variable = name.replace(" ", "_")
        writer.body += getattr(writer, f"_{variable}")(variable)
        panes.append((name, variable))
    # A grid is cut tile by tile, so that every channel shows the same place.
    cells = ", ".join(
        variable
        if (name, view.how) == ("features", "grid")
        else f"views.cropped({variable}, window)"
        for name, variable in panes
    )
    names = [about["caption"] for about in (view.pane(name)[0] for name, _ in panes)]
    head = ["import fusionkit as fk", "from fusionkit import store, views", *writer.imports, ""]
    lines = [
        *head,
        *writer.runs.values(),
        f"pair = {view.pair!r}",
        f"window = {tuple(round(edge, 5) for edge in view.window)!r}",
        *writer.answers.values(),
        "",
        *writer.body,
        f"views.grid([[{cells}]], columns={names!r}, title=pair)",
    ]
    return "\n".join(lines) + "\n"


class _Writer:
    """Collects the lines; a run or an answer is opened once, where it is first needed."""

    def __init__(self, view: "Inspector") -> None:
        self.view = view
        self.imports: list[str] = []
        self.runs: dict[str, str] = {}
        self.answers: dict[str, str] = {}
        self.body: list[str] = []

    def _variable(self, label: str) -> str:
        """The name of an opened run, or of the answer to a typed prompt."""
        shown = self.view.shelf.shown[label]
        if isinstance(shown, Typed):
            if label not in self.answers:
                run = self._variable("")
                if not self.answers:
                    self.imports.append("from fusionkit.asking import asker")
                    method = self.view._method
                    source = repr(self.view.path) if method is None else "method"
                    said = "" if method is None else "  # the one that inspect() was given"
                    self.answers[" ask"] = f"ask = asker({source}){said}"
                both = ", ".join(f'store.read_image({run}, "{n}", pair)' for n in ("ir", "vi"))
                self.answers[label] = f"answer_{len(self.answers)} = ask({both}, {shown.prompt!r})"
            return self.answers[label].split(" = ")[0]
        if label not in self.runs:
            name = f"run_{len(self.runs) + 1}" if label else "run"
            path = self.view.path_of(label)
            opened = f"fk.open_run({path!r})" if path else f"...  # the tree {label} of the view"
            self.runs[label] = f"{name} = {opened}"
        return self.runs[label].split(" = ")[0]

    def _read(self, what: str, reference: str, channel: int | None = None) -> str:
        """An expression for an array: ``image``, ``features``, ``channel`` or ``heatmap``."""
        label, _, name = reference.rpartition("/")
        source = self._variable(label)
        typed = isinstance(self.view.shelf.shown[label], Typed)
        if what == "image":
            return f"{source}.image" if typed else f"store.read_image({source}, {name!r}, pair)"
        if what == "heatmap":
            return (
                f"{source}.heatmaps[{name!r}]"
                if typed
                else f"store.read_heatmaps({source}, {name!r}, pair)[0][{channel}]"
            )
        if what == "channel" and not typed:
            return f"store.read_channel({source}, {name!r}, pair, {channel})"
        whole = (
            f"{source}.features[{name!r}]"
            if typed
            else f"store.read_features({source}, {name!r}, pair)"
        )
        return whole if channel is None else f"{whole}[{channel}]"

    def _infrared(self, variable: str) -> list[str]:
        return [f"{variable} = views.rgb({self._read('image', 'ir')})"]

    def _visible(self, variable: str) -> list[str]:
        return [f"{variable} = views.rgb({self._read('image', 'vi')})"]

    def _fused(self, variable: str) -> list[str]:
        return [f"{variable} = views.rgb({self._read('image', self.view.fused)})"]

    def _difference(self, variable: str) -> list[str]:
        first, second = (self._read("image", name) for name in (self.view.first, self.view.second))
        gain = self.view.gain or None
        return [f"{variable} = views.difference({first}, {second}, {gain})"]

    def _compare(self, variable: str) -> list[str]:
        first, second = (self._read("image", name) for name in (self.view.first, self.view.second))
        return [
            f"{variable} = views.rgb({first})",
            f"edge = round({round(self.view.swipe, 5)} * {variable}.shape[1])",
            f"{variable}[:, edge:] = views.rgb({second})[:, edge:]",
        ]

    def _features(self, variable: str) -> list[str]:
        view = self.view
        if view.how == "colors":
            return [f"{variable} = views.principal_colors({self._read('features', view.layer)})"]
        common = None
        if view.scale == "layer":
            common = tuple(float(f"{limit:.6g}") for limit in view._limits())
        if view.how == "grid":
            channels = view.pane("features")[0]["channels"]
            return [
                f"maps = {self._read('features', view.layer)}",
                f"channels = {channels!r}",
                f"tiles = [views.colored(maps[c], {common}) for c in channels]",
                f"{variable} = views.mosaic([views.cropped(tile, window) for tile in tiles])",
            ]
        if view.how == "mean":
            values = f"views.mean_map({self._read('features', view.layer)})"
        else:
            values = self._read("channel", view.layer, view.channel)
        return [f"{variable} = views.colored({values}, {common})"]

    def _heat_map(self, variable: str) -> list[str]:
        view = self.view
        index = view.pane("heat map")[0]["prompt"]
        base = self._read("image", view.over)
        lines = [f"heat = {self._read('heatmap', view.heatmap, index)}"]
        if view.heat_scale == "own":
            lines.append("heat = heat / heat.max()")
        return [*lines, f"{variable} = views.overlay({base}, heat, {round(view.opacity, 5)})"]
