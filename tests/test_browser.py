"""The inspector in a real browser: JupyterLab and voila, in Chromium, without any network.

Pictures of what the browser showed are left in ``$FUSIONKIT_SCREENSHOTS``, by default
``runs/screenshots``, for people (and the artefacts of a build server) to look at.
"""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from fusionkit import store
from fusionkit.notebook import launch_environment

ROOT = Path(__file__).resolve().parents[1]
SHOTS = Path(os.environ.get("FUSIONKIT_SCREENSHOTS", ROOT / "runs" / "screenshots"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS = 120

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine: `make browser` installs Debian's"
    ),
]


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    """A short run with its weights beside it."""
    from fusionkit.bench import Bench
    from fusionkit.notebook import AblationParameters

    path = tmp_path_factory.mktemp("browser") / "short.zarr"
    small = {"steps": 6, "train_pairs": 8, "test_pairs": 6, "questions": 6, "shown": 3}
    Bench.ablation(AblationParameters(store=str(path), image_size=64, **small)).everything()
    return path


def prepared(run_path, folder=None):
    """The notebook with the run as its parameter, alone in a folder."""
    content = json.loads((ROOT / "notebooks" / "inspect.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in content["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = [f"store = {str(run_path)!r}\n"]
    path = (folder or run_path.parent) / "notebooks" / "inspect.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


DRAWN = (
    "() => ![...document.querySelectorAll('.fk-pane:not([hidden]) .fk-caption')]"
    ".some((caption) => !caption.textContent)"
)
"""Every pane in sight has been drawn."""


def serve(folder, *command):
    """Start a server for the folder; yields its address and stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder.parent / f"config-{port}"
    (config / "labconfig").mkdir(parents=True)
    # The box with news from elsewhere would lie over the notebook.
    (config / "labconfig" / "page_config.json").write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    places = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = os.environ | launch_environment() | {place: str(config) for place in places}
    with (folder.parent / f"server-{port}.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}", "--no-browser"],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    urllib.request.urlopen(f"{address}/static/favicon.ico", timeout=2)
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    assert server.poll() is None, Path(log.name).read_text()
                    assert time.monotonic() < deadline, Path(log.name).read_text()
                    time.sleep(0.3)
            yield address
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(browser, run_path):
    yield from opened(browser, prepared(run_path))


def opened(browser, notebook):
    """The notebook in JupyterLab, all cells run."""
    server = serve(
        notebook.parent, "jupyter", "lab", "--allow-root", "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={notebook.parent}",
    )  # fmt: skip
    address = next(server)
    context = browser.new_context(viewport={"width": 1600, "height": 1250}, accept_downloads=True)
    try:
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        alone(page)
        page.goto(f"{address}/lab/tree/{notebook.name}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'"
        )
        page.evaluate(
            """() => {
                const { commands } = window.jupyterapp;
                commands.execute("application:toggle-left-area");
                commands.execute("notebook:run-all-cells").then(() => (window.allRan = true));
            }"""
        )
        page.wait_for_selector(".fk-inspector canvas[data-drawn]", state="attached")
        page.locator(".fk-inspector").scroll_into_view_if_needed()
        page.wait_for_function("() => window.allRan")
        yield page
    finally:
        context.close()
        server.close()


def alone(page):
    """Keep a page from all other addresses; it remembers what it asked for, and its errors."""
    page.asked, page.broken = [], []

    def away(route):
        page.asked.append(route.request.url)
        route.abort()

    page.route(re.compile(r"^(?!http://127\.0\.0\.1[:/]|data:|blob:)"), away)
    page.on("pageerror", lambda error: page.broken.append(str(error)))


def text_below(page, pane):
    return page.locator(f'.fk-pane[data-pane="{pane}"] .fk-text').inner_text()


def pixels(page, pane):
    """What a pane's canvas shows, ``(y, x, 3)`` bytes."""
    width, height, data = page.evaluate(
        """(pane) => {
            const canvas = document.querySelector(`.fk-pane[data-pane="${pane}"] canvas`);
            const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let text = "";
            for (let i = 0; i < image.data.length; i += 8192)
                text += String.fromCharCode(...image.data.subarray(i, i + 8192));
            return [canvas.width, canvas.height, btoa(text)];
        }""",
        pane,
    )
    image = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    return image[..., :3].astype(int)


def change(page, pane, act, *, least=1.0):
    """Do something and wait until the pane shows something else; returns what it shows."""
    before = pixels(page, pane)
    act()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        now = pixels(page, pane)
        if now.shape != before.shape or np.abs(now - before).mean() > least:
            return now
        page.wait_for_timeout(50)
    raise AssertionError(f"the pixels of {pane!r} did not change")


def choose(page, pane, trait, value):
    page.locator(f'.fk-pane[data-pane="{pane}"] select[data-trait="{trait}"]').select_option(value)


def the_browser_draws_the_stored_values(lab, run_path):
    """The picture and the difference, sampled at the middle of stored pixels."""
    pair = store.kept_pairs(run_path)[0]
    lab.wait_for_function(DRAWN)
    first, second = (store.read_image(run_path, n, pair) for n in ("fused", "fused_other"))
    from fusionkit import views

    for pane, expected in (
        ("fused", views.rgb(first)),
        ("visible", views.rgb(store.read_image(run_path, "vi", pair))),
        ("difference", views.difference(first, second)),
    ):
        shown = pixels(lab, pane)
        ys = ((np.arange(64) + 0.5) * shown.shape[0] / 64).astype(int)
        xs = ((np.arange(64) + 0.5) * shown.shape[1] / 64).astype(int)
        error = np.abs(shown[np.ix_(ys, xs)] - 255 * expected)
        assert error.mean() < 1.5, pane


def controls_change_the_pixels(lab):
    change(lab, "features", lambda: choose(lab, "features", "how", "channel"))
    slider = lab.locator('.fk-pane[data-pane="features"] input[data-trait="channel"]')
    change(lab, "features", lambda: slider.fill("3"))
    change(lab, "features", lambda: choose(lab, "features", "how", "colors"))
    change(lab, "features", lambda: choose(lab, "features", "how", "mean"))
    change(lab, "features", lambda: choose(lab, "features", "layer", "points.scale-half"))
    change(lab, "features", lambda: choose(lab, "features", "how", "grid"))
    change(lab, "fused", lambda: choose(lab, "fused", "fused", "ir"))
    change(lab, "fused", lambda: choose(lab, "fused", "fused", "fused"))
    heat = '.fk-pane[data-pane="heat map"]'
    other = lab.locator(f"{heat} .fk-prompts button").nth(1)
    change(lab, "heat map", other.click, least=0.1)
    change(lab, "heat map", lambda: lab.locator(f'{heat} input[data-trait="opacity"]').fill("1"))
    swipe = '.fk-pane[data-pane="compare"]'
    choose(lab, "compare", "second", "ir")
    change(lab, "compare", lambda: lab.locator(f'{swipe} input[data-trait="swipe"]').fill("0.1"))


def all_panes_zoom_together_and_values_stand_under_the_cursor(lab):
    box = lab.locator('.fk-pane[data-pane="visible"] canvas').bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = pixels(lab, "infrared")

    def scroll():
        lab.mouse.click(*middle)
        lab.mouse.wheel(0, -400)

    change(lab, "visible", scroll)
    assert np.abs(pixels(lab, "infrared") - before).mean() > 1
    lab.mouse.move(*middle)
    said = lab.locator('.fk-pane[data-pane="visible"] .fk-values').inner_text()
    assert len([float(number) for number in said.split()]) == 3
    place = lab.locator(".fk-cursor").inner_text().replace(",", "").split()
    assert {int(place[1]), int(place[3])} <= {31, 32}, place
    change(lab, "infrared", lambda: lab.locator(".fk-inspector").press("0"))
    assert np.abs(pixels(lab, "infrared") - before).mean() < 1


def the_keyboard_goes_through_pairs_and_the_table_to_one(lab, run_path):
    kept = store.kept_pairs(run_path)
    root = lab.locator(".fk-inspector")
    change(lab, "visible", lambda: root.press("j"))
    assert lab.locator(".fk-pair.fk-here span").inner_text() == kept[1]
    lab.locator(".fk-tab", has_text="scores").click()
    head = lab.locator(".fk-table th", has_text="EN").first
    head.click()
    lab.wait_for_selector(".fk-table th:has-text('EN ▾')")
    rows = lab.locator(".fk-table tbody tr")
    values = [float(rows.nth(i).locator("td").nth(1).inner_text()) for i in range(rows.count())]
    assert values == sorted(values, reverse=True) and len(values) == 6
    change(lab, "visible", lambda: lab.locator(f'.fk-table tr[data-pair="{kept[0]}"]').click())
    assert lab.locator(".fk-pair.fk-here span").inner_text() == kept[0]
    lab.locator(".fk-tab", has_text="curves").click()
    lab.wait_for_selector(".fk-curve")
    lab.locator(".fk-tab", has_text="recipe").click()
    lab.wait_for_selector(".fk-tree")
    assert "tiny-clip" in lab.locator(".fk-below").inner_text()


def a_typed_prompt_changes_the_fused_picture(lab):
    lab.locator(".fk-prompt").fill("remove the noise")
    change(lab, "fused", lambda: lab.locator(".fk-ask").click(), least=0.05)
    assert "remove the noise" in text_below(lab, "fused")
    assert lab.locator(".fk-message").inner_text() == ""


def the_view_is_kept_as_png_and_as_code(lab, tmp_path):
    from PIL import Image

    with lab.expect_download() as download:
        lab.locator(".fk-png").click()
    download.value.save_as(tmp_path / "view.png")
    saved = np.asarray(Image.open(tmp_path / "view.png").convert("RGB"))
    assert saved.shape[1] > 1200 and saved.std() > 20
    lab.locator(".fk-tab", has_text="code").click()
    lab.wait_for_selector(".fk-code")
    code = lab.locator(".fk-code").input_value()
    assert "answer_1" in code and "views.grid" in code
    exec(compile(code, "view", "exec"), {})


def a_slider_answers_within_a_blink(lab):
    """A generous bound for a shared machine; benchmarks/inspector.py measures."""
    choose(lab, "features", "how", "channel")
    lab.wait_for_timeout(500)
    slider = '.fk-pane[data-pane="features"] input[data-trait="channel"]'
    took = lab.evaluate(
        """async (slider) => {
            const input = document.querySelector(slider);
            const canvas = input.closest(".fk-pane").querySelector("canvas");
            const took = [];
            for (let i = 1; i <= 8; i++) {
                const before = canvas.dataset.drawn, start = performance.now();
                input.value = i;
                input.dispatchEvent(new Event("input"));
                while (canvas.dataset.drawn === before && performance.now() - start < 5000)
                    await new Promise((next) => requestAnimationFrame(next));
                took.push(performance.now() - start);
                await new Promise((next) => setTimeout(next, 100));
            }
            return took;
        }""",
        slider,
    )
    assert np.median(took) < 1000


def nothing_is_fetched_from_elsewhere_and_nothing_broke(lab):
    SHOTS.mkdir(parents=True, exist_ok=True)
    lab.locator(".fk-inspector").screenshot(path=SHOTS / "inspector.png")
    lab.screenshot(path=SHOTS / "lab.png")
    assert lab.asked == []
    assert lab.broken == []


def test_a_session_in_jupyterlab(lab, run_path, tmp_path):
    """One after the other: the later steps go on from the view that the earlier ones left."""
    the_browser_draws_the_stored_values(lab, run_path)
    controls_change_the_pixels(lab)
    all_panes_zoom_together_and_values_stand_under_the_cursor(lab)
    the_keyboard_goes_through_pairs_and_the_table_to_one(lab, run_path)
    a_typed_prompt_changes_the_fused_picture(lab)
    the_view_is_kept_as_png_and_as_code(lab, tmp_path)
    a_slider_answers_within_a_blink(lab)
    nothing_is_fetched_from_elsewhere_and_nothing_broke(lab)


def test_voila_shows_the_same(browser, tmp_path):
    path = tmp_path / "run.zarr"
    random = np.random.default_rng(0)
    about = {"recipe": {}, "components": {}, "seed": 0, "device": "cpu"}
    with store.create_run(path, parameters={}, **about) as run:
        run.declare_pairs(["street"], 24, 32)
        for name in ("ir", "vi", "fused"):
            run.put_image(name, "street", random.random((3, 24, 32)))
        run.put_features("deep", "street", random.random((5, 12, 16)))
    notebook = prepared(path)
    server = serve(notebook.parent, "voila", notebook.name, "--show_tracebacks=True")
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(SECONDS * 1000)
    alone(page)
    try:
        page.goto(next(server))
        page.wait_for_selector(".fk-inspector canvas[data-drawn]", state="attached")
        page.wait_for_function(DRAWN)
        change(page, "features", lambda: choose(page, "features", "how", "colors"))
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.locator(".fk-inspector").screenshot(path=SHOTS / "voila.png")
        # The style sheet of a font, asked for by voila's own page, is done without.
        assert [url for url in page.asked if "fontawesome" not in url] == []
    finally:
        page.close()
        server.close()
