"""The inspector without a browser: its state, what it shows for it, what it tells the browser."""

import base64
import io
import json

import numpy as np
import pytest
import traitlets
from PIL import Image

from fusionkit import browsing, store, views, widgets

RECIPE = {"name": "toy", "default_text": "plainly"}
ABOUT = {"recipe": RECIPE, "components": {}, "seed": 0, "device": "cpu"}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three declared pairs: one whole, one with sources and a heat map only, one never reached."""
    path = tmp_path_factory.mktemp("widgets") / "run.zarr"
    with store.create_run(path, parameters={"steps": 4}, **ABOUT) as run:
        run.declare_pairs(["street", "wood", "never"], 24, 32)
        for seed, name in enumerate(("ir", "vi", "fused_baseline", "fused_other", "fused")):
            run.put_image(name, "street", noise(3, 24, 32, seed=seed))
        run.put_image("ir", "wood", noise(1, 24, 32, seed=8))
        run.put_image("vi", "wood", noise(3, 24, 32, seed=9))
        strength = np.float32([3, 0, 4, 1, 2])
        run.put_features("levels.1", "street", noise(5, 12, 16) * strength[:, None, None])
        run.put_features("deep", "street", noise(30, 6, 8))
        run.put_heatmaps("clip", "street", noise(2, 24, 32), ["a car", "the sky"])
        run.put_heatmaps("clip", "wood", noise(1, 24, 32), ["fog"])
        run.declare_metrics(["EN", "SD"])
        run.put_scores("score", "street", {"EN": 6.5, "SD": 0.25})
        run.put_scores("score", "never", {"EN": 7.5, "SD": 0.5})
        run.put_scores("baseline", "street", {"EN": 6.0, "SD": 0.125})
        run.declare_control(["none", "film"], [0, 1], ["street", "street#2", "wood"])
        for seed in (0, 1):
            run.put_control("film", seed, {"gain": np.array([0.2, 0.4, np.nan]) + seed})
        run.declare_history(["film", "none"], [0, 1], 4, ["pixel", "total"])
        for step in range(3):
            run.put_history("film", 0, step, {"pixel": 1.0 / (step + 1)})
    return path


@pytest.fixture(scope="module")
def second_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("widgets") / "second.zarr"
    with store.create_run(path, parameters={"steps": 5}, **ABOUT) as run:
        run.declare_pairs(["street"], 24, 32)
        run.put_image("fused", "street", noise(3, 24, 32, seed=20))
        run.put_features("deep", "street", noise(4, 6, 8))
    return path


class Browser:
    """Stands in for the browser: hears what the widget sends, and asks."""

    def __init__(self, widget):
        self.widget, self.heard = widget, []
        widget.send = lambda content, buffers=None: self.heard.append((content, buffers or []))

    def ask(self, kind, **content):
        """Everything that the widget answers."""
        self.heard.clear()
        self.widget._heard(self.widget, json.loads(json.dumps({"kind": kind, **content})), [])
        for message, _ in self.heard:
            json.dumps(message, allow_nan=False)
        assert self.heard[-1][0] == {"kind": "done", "of": kind}
        return self.heard[:-1]

    def panes(self):
        return [message["name"] for message, _ in self.heard if message["kind"] == "pane"]


def unpacked(facts, data):
    """What the browser makes of a raster."""
    steps = np.frombuffer(data, "<u2").reshape(facts["bands"], facts["height"], facts["width"])
    values = facts["low"] + steps * ((facts["high"] - facts["low"]) / 65534)
    return np.where(steps == 65535, np.nan, values)


# --- state ---------------------------------------------------------------------------------------


def test_the_view_begins_with_everything_the_run_kept(run):
    view = widgets.inspect(run)
    assert view.pairs == ["street", "wood"]
    assert view.panes == list(widgets.PANES)
    assert (view.pair, view.fused, view.first, view.second) == (
        "street", "fused", "fused", "fused_other",
    )  # fmt: skip
    assert view.options["features"] == {"deep": 30, "levels.1": 5}
    assert view.options["heatmaps"] == ["clip"]
    assert not view.can_ask


def test_panes_show_the_stored_values(run):
    view = widgets.inspect(run)
    first, second, vi = (store.read_image(run, n, "street") for n in ("fused", "fused_other", "vi"))
    assert np.array_equal(view.drawn("visible"), views.rgb(vi))
    view.gain = 1
    assert np.allclose(view.drawn("difference"), views.difference(first, second, 1.0))
    view.swipe = 0.25
    both = view.drawn("compare")
    assert np.array_equal(both[:, :8], views.rgb(first)[:, :8])
    assert np.array_equal(both[:, 8:], views.rgb(second)[:, 8:])
    view.prompt, view.over, view.opacity = 1, "fused", 0.5
    heat = store.read_heatmaps(run, "clip", "street")[0][1]
    assert np.allclose(view.drawn("heat map"), views.overlay(first, heat, 0.5))
    view.heat_scale = "own"
    assert np.allclose(view.drawn("heat map"), views.overlay(first, heat / heat.max(), 0.5))


def test_a_layer_is_shown_as_grid_channel_mean_and_colours(run):
    view = widgets.inspect(run)
    view.layer = "levels.1"
    maps = store.read_features(run, "levels.1", "street")
    about, arrays = view.pane("features")
    assert about["channels"] == [2, 0, 4, 3, 1]
    assert np.array_equal(arrays[about["raster"]], maps[[2, 0, 4, 3, 1]])
    view.order = "index"
    assert view.pane("features")[0]["channels"] == [0, 1, 2, 3, 4]
    view.how, view.channel = "channel", 3
    assert np.allclose(view.drawn("features"), views.colored(maps[3]))
    assert f"mean {maps[3].mean():.4g}" in view.pane("features")[0]["text"]
    view.scale = "layer"
    assert np.allclose(view.drawn("features"), views.colored(maps[3], views.robust_limits(maps)))
    view.how, view.scale = "mean", "map"
    assert np.allclose(view.drawn("features"), views.colored(maps.mean(0)), atol=0.01)
    view.how = "colors"
    assert np.allclose(view.drawn("features"), views.principal_colors(maps))


def test_a_long_layer_has_pages_and_a_channel_stays_within_its_layer(run):
    view = widgets.inspect(run)
    assert view.layer == "deep"
    assert (view.pane("features")[0]["pages"], len(view.pane("features")[0]["channels"])) == (2, 24)
    view.page = 1
    assert len(view.pane("features")[0]["channels"]) == 6
    view.channel = 29
    view.layer = "levels.1"
    assert (view.channel, view.page) == (4, 0)


def test_one_channel_is_read_without_the_rest_of_its_layer(run, monkeypatch):
    view = widgets.inspect(run)
    view.how, view.layer = "channel", "levels.1"

    def refuse(*given):
        raise AssertionError("read the whole layer")

    monkeypatch.setattr(store, "read_features", refuse)
    for channel in range(5):
        view.channel = channel
        assert "hole" not in view.pane("features")[0]


def test_a_pair_with_fewer_prompts_shows_its_own(run):
    view = widgets.inspect(run)
    view.prompt = 1
    assert view.pane("heat map")[0]["text"].startswith("“the sky”")
    view.pair = "wood"
    assert view.prompt == 0
    assert view.pane("heat map")[0]["prompts"] == ["fog"]


def test_a_picture_says_under_which_prompt_it_was_fused(run):
    view = widgets.inspect(run)
    names = ("fused", "fused_other", "fused_plain", "fused_baseline", "vi")
    assert [view.text_of(name) for name in names] == ["“a car”", "“the sky”", "“plainly”", "", ""]


def test_what_the_run_lacks_is_said(run):
    view = widgets.inspect(run)
    view.pair = "wood"
    for name in ("fused", "difference", "compare", "features"):
        assert "not computed" in view.pane(name)[0]["hole"]
    with pytest.raises(store.NotComputed):
        view.drawn("fused")
    assert "hole" not in view.pane("visible")[0]


def test_an_unknown_name_is_refused_with_the_nearest(run):
    view = widgets.inspect(run)
    with pytest.raises(traitlets.TraitError, match="Did you mean 'street'"):
        view.pair = "stret"
    with pytest.raises(traitlets.TraitError, match="Did you mean 'fused_other'"):
        view.fused = "fused_othr"
    assert (view.pair, view.fused) == ("street", "fused")


def test_an_empty_run_has_nothing_to_look_at(tmp_path):
    with store.create_run(tmp_path / "empty.zarr", parameters={}, **ABOUT):
        pass
    with pytest.raises(store.StoreError, match="kept no pictures"):
        widgets.inspect(tmp_path / "empty.zarr")


def test_a_run_that_grows_is_read_anew(tmp_path):
    path = tmp_path / "growing.zarr"
    with store.create_run(path, parameters={}, **ABOUT) as growing:
        growing.declare_pairs(["a", "b"], 8, 8)
        growing.put_image("fused", "a", noise(3, 8, 8))
        view = widgets.inspect(path)
        assert view.pairs == ["a"] and "still being written" in view.notice
        growing.put_image("fused", "b", noise(3, 8, 8, seed=1))
        growing.put_image("vi", "b", noise(3, 8, 8, seed=2))
        Browser(view).ask("refresh")
        assert view.pairs == ["a", "b"] and "vi" in view.options["images"]


# --- several runs, typed prompts -----------------------------------------------------------------


def test_runs_are_laid_side_by_side_by_pair(run, second_run):
    view = widgets.inspect(run, second_run)
    assert view.options["images"][-1] == "second/fused"
    view.second = "second/fused"
    own, other = (store.read_image(r, "fused", "street") for r in (run, second_run))
    assert np.allclose(view.drawn("difference"), views.difference(own, other))
    view.layer = "second/deep"
    assert view.options["features"]["second/deep"] == 4
    view.pair, view.first = "wood", "vi"
    assert "no pair 'wood'" in view.pane("compare")[0]["hole"]
    labelled = widgets.inspect(run, other=second_run)
    assert "other/fused" in labelled.options["images"]
    twice = widgets.inspect(run, second_run, second_run)
    assert {"second/fused", "second 2/fused"} <= set(twice.options["images"])


def answering(view):
    """A network that paints the length of the prompt."""
    calls = []

    def ask(infrared, visible, prompt):
        calls.append(prompt)
        image = np.full_like(visible, len(prompt) / 100)
        return browsing.Answer(image, {"deep": noise(2, 6, 8)}, {"clip": noise(24, 32)})

    view._ask, view.can_ask = ask, True
    return calls


def test_a_typed_prompt_is_fused_and_laid_beside_the_former_picture(run):
    view = widgets.inspect(run)
    calls = answering(view)
    browser = Browser(view)
    browser.ask("ready")
    browser.ask("ask", prompt="  make the   car bright ")
    label = "“make the car bright”"
    assert calls == ["make the car bright"]
    assert (view.fused, view.first, view.second) == (f"{label}/fused",) * 2 + ("fused",)
    assert view.heatmap == f"{label}/clip"
    assert np.allclose(view.drawn("fused"), 0.19)
    assert view.text_of(view.fused) == label
    assert f"{label}/deep" in view.options["features"]
    assert {"fused", "difference", "compare", "heat map"} <= set(browser.panes())
    view.ask("make the car bright")  # known already
    assert calls == ["make the car bright"]
    view.ask("fog/mist")  # a sign that references use
    assert view.fused == "“fog/mist”/fused" and np.allclose(view.drawn("fused"), 0.08)


def test_without_a_network_a_prompt_says_where_it_would_be(run):
    browser = Browser(widgets.inspect(run))
    browser.ask("ask", prompt="brighter")
    assert "no weights of this run" in browser.widget.message
    assert browser.widget.options["images"][-1] == "vi"
    browser.ask("code")
    assert browser.widget.message == ""


def test_a_network_that_fails_is_heard_of(run):
    view = widgets.inspect(run)

    def fail(*given):
        raise RuntimeError("out of memory")

    view._ask = fail
    Browser(view).ask("ask", prompt="brighter")
    assert view.message == "RuntimeError: out of memory"
    assert view.fused == "fused" and list(view.shelf.shown) == [""]


# --- the whole run -------------------------------------------------------------------------------


def test_scores_and_control_stand_in_one_table_by_pair(run):
    table = store.read_table(run)
    assert list(table)[:4] == ["EN", "SD", "EN, baseline", "SD, baseline"]
    assert np.array_equal(table["EN"], [6.5, np.nan, 7.5], equal_nan=True)
    # Two questions about the street, each the mean of two seeds.
    assert np.allclose(table["gain, film"], [0.8, np.nan, np.nan], equal_nan=True)
    assert not [name for name in table if name.endswith("none")]
    view = widgets.inspect(run)
    assert view._facts()["EN"] == 6.5
    message = Browser(view).ask("table")[0][0]
    assert message["columns"]["EN"] == [6.5, None, 7.5]


def test_outliers_are_counted_in_robust_deviations():
    values = np.append(np.arange(20.0), [200.0, np.nan])
    found = browsing.unusual(values)
    assert np.flatnonzero(np.abs(found) > 3.5).tolist() == [20]
    assert np.isnan(found[-1])
    # Half of the values are equal: the median deviation is 0, and yet 9 is far out.
    assert np.abs(browsing.unusual(np.array([1.0] * 10 + [1.1, 9.0])))[-1] > 3.5
    assert browsing.unusual(np.ones(5)).tolist() == [0.0] * 5


def test_curves_are_thinned_with_their_spread():
    rows = np.array([np.arange(1000.0), np.arange(1000.0) + 2])
    line = browsing.curve(range(1000), rows, most=10)
    assert line["steps"] == list(range(99, 1000, 100))
    assert line["mean"][0] == 50.5 and (line["low"][0], line["high"][0]) == (49.5, 51.5)
    assert browsing.curve([0, 1], np.full((1, 2), np.nan))["steps"] == []


def test_curves_recipe_and_thumbnails_are_sent_when_asked_for(run, second_run):
    browser = Browser(widgets.inspect(run, second_run))
    curves = browser.ask("curves")[0][0]["terms"]
    assert list(curves) == ["pixel"] and list(curves["pixel"]) == ["film"]
    assert curves["pixel"]["film"]["steps"] == [0, 1, 2]
    about = browser.ask("about")[0][0]["runs"]
    assert list(about) == ["run.zarr", "second"]
    assert about["run.zarr"]["parameters"] == {"steps": 4}
    assert "steps 4" in about["run.zarr"]["command"]
    thumbs = browser.ask("thumbs", pairs=["street", "wood"])
    assert [message["pair"] for message, _ in thumbs] == ["street", "wood"]
    assert Image.open(io.BytesIO(thumbs[1][1][0])).size == (32, 24)


# --- to the browser ------------------------------------------------------------------------------


def test_rasters_arrive_within_a_step_and_with_their_holes():
    values = noise(3, 5, 7) * 4 - 1
    values[1, 2, 3] = np.nan
    facts, data = widgets._packed(values)
    back = unpacked(facts, data)
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert np.nanmax(np.abs(back - values)) < 4 / 65534
    grey = np.broadcast_to(noise(1, 5, 7), (3, 5, 7))
    assert widgets._packed(grey)[0]["bands"] == 1
    flat, data = widgets._packed(np.full((4, 4), 2.5))
    assert (unpacked(flat, data) == 2.5).all()


def test_the_browser_gets_each_picture_once_and_only_what_changed(run):
    view = widgets.inspect(run)
    browser = Browser(view)
    view.pair = "wood"
    assert browser.heard == []  # nobody looks yet
    view.pair = "street"
    sent = browser.ask("ready")
    assert sent[0][0]["kind"] == "pair"
    assert sorted(browser.panes()) == sorted(widgets.PANES)
    keys = [raster["key"] for message, _ in sent[1:] for raster in message["rasters"]]
    assert len(keys) == len(set(keys))
    vi = store.read_image(run, "vi", "street")
    message, buffers = next(item for item in sent[1:] if item[0]["name"] == "visible")
    assert np.abs(unpacked(message["rasters"][0], buffers[0]) - vi).max() < 2e-5
    browser.heard.clear()
    view.second = "fused_baseline"
    assert browser.panes() == ["difference", "compare"]
    browser.heard.clear()
    view.opacity, view.swipe, view.window = 0.2, 0.1, [0.1, 0.1, 0.5, 0.5]
    assert browser.heard == []  # the browser's own business
    view.panes = ["fused"]
    view.layer = "levels.1"
    assert browser.panes() == []
    view.panes = ["fused", "features"]
    assert browser.panes() == ["features"]


def test_the_next_pair_is_read_while_nobody_waits(run, monkeypatch):
    view = widgets.inspect(run)
    view.pair = "wood"
    browser = Browser(view)
    browser.ask("ready")
    for part in ("pictures", "features"):  # of those that the run lacks nothing is heard
        assert browser.ask("ahead", pair="street", part=part) == []

    def refuse(*given):
        raise AssertionError("read again")

    for read in ("read_image", "read_heatmaps", "read_features"):
        monkeypatch.setattr(store, read, refuse)
    view.pair = "street"
    assert not [m for m, _ in browser.heard if "hole" in m.get("about", {})]


# --- keeping what is seen ------------------------------------------------------------------------


@pytest.mark.parametrize("how", widgets.HOW)
def test_the_code_draws_what_the_view_shows(run, second_run, how):
    view = widgets.inspect(run, other=second_run)
    view.layer, view.how, view.channel, view.scale = "levels.1", how, 2, "map"
    view.second, view.prompt, view.opacity = "other/fused", 1, 0.3
    view.window, view.swipe = [0.25, 0.0, 0.75, 0.5], 0.4
    names = {}
    exec(compile(view.code(), "code", "exec"), names)
    for pane in view.panes:
        drawn, made = view.drawn(pane), names[pane.replace(" ", "_")]
        if isinstance(drawn, list):
            drawn = views.mosaic([views.cropped(tile, view.window) for tile in drawn])
        assert np.allclose(drawn, made, atol=1e-5), pane


def test_the_code_of_a_typed_prompt_asks_the_method_again(run):
    view = widgets.Inspector(run, method=object())
    answering(view)
    view.ask("brighter")
    code = view.code()
    assert "ask = asker(method)" in code
    assert "answer_1 = ask(store.read_image(run" in code and "rgb(answer_1.image)" in code
    compile(code, "code", "exec")


def test_a_tree_says_where_it_was_opened(run):
    assert widgets.inspect(store.open_run(run)).path == str(run)


def test_the_still_shows_the_panes_as_they_are_zoomed(run, tmp_path):
    view = widgets.inspect(run)
    view.panes = ["visible"]
    view.window = [0.0, 0.0, 0.5, 0.5]
    shown = np.asarray(Image.open(view.save(tmp_path / "view.png")).convert("RGB"))
    quarter = views.to_bytes(views.rgb(store.read_image(run, "vi", "street"))[:12, :16])
    high = widgets.STILL_HEIGHT
    assert shown.shape == (high + widgets.CAPTION, high * 16 // 12, 3)
    assert np.array_equal(shown[widgets.CAPTION + 10 :: 20, 10::20], quarter)


def test_places_without_a_kernel_show_a_still_picture(run):
    view = widgets.inspect(run)
    bundle = view._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert base64.b64decode(data["image/png"]) == view.still()
    assert "application/vnd.jupyter.widget-view+json" in data
    view.pair = "wood"  # most of it missing, still a picture
    assert view.still().startswith(b"\x89PNG")


def test_the_browsers_part_is_in_the_package_and_asks_for_nothing_else():
    for name in ("inspector.js", "inspector.css"):
        text = (widgets.Path(widgets.__file__).with_name(name)).read_text(encoding="utf-8")
        addresses = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http" not in addresses and "import(" not in text and "@import" not in text
