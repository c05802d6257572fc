"""The page of a stored run: all in one file, holes shown as holes, wrong requests refused."""

import base64
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fusionkit import cli, store
from fusionkit.errors import BadRequest
from fusionkit.report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAIRS = [f"scene {i}" for i in range(8)]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def smooth(i):
    """A picture that compresses well, unlike that of any other pair."""
    y, x = np.mgrid[0:24, 0:32] / 32
    return np.stack([x * (i + 1) / 3, y, np.full_like(x, 1 - i / 3)]).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of eight scored pairs that kept something of three; the second lacks a layer."""
    path = tmp_path_factory.mktemp("report") / "demo.zarr"
    with store.create_run(
        path, parameters={"modulation": "film"}, recipe={"losses": {"pixel": 1.0}}, components={},
        seed=[0], device="cpu", notebook="ablation",
    ) as written:  # fmt: skip
        written.declare_pairs(PAIRS, 24, 32)
        written.declare_metrics(
            {"EN": {"higher_is_better": True, "code": "en_u8"}, "CE": {"higher_is_better": False}}
        )
        for i, pair in enumerate(PAIRS):
            spoilt = np.nan if i == 2 else 0.5
            written.put_scores("score", pair, {"EN": 7 + 0.01 * i - 4 * (i == 5), "CE": spoilt})
        for i, pair in enumerate(PAIRS[:3]):
            written.put_image("ir", pair, noise(1, 24, 32, seed=i))
            written.put_image("vi", pair, smooth(i))
            if i != 1:
                written.put_features("body", pair, noise(20, 12, 16, seed=i))
            maps = np.stack([np.full((24, 32), 1.0), np.full((24, 32), 0.0)])
            written.put_heatmaps("heatmap", pair, maps, ["the <car>", 'a "sign" & more'])
            written.put_image("fused_other", pair, noise(3, 24, 32, seed=30 + i))
            written.put_image("fused", pair, noise(3, 24, 32, seed=20 + i))
        written.declare_history(["film"], [0], 3, ["total"])
        written.put_history("film", 0, 0, {"total": 2.0})
        written.declare_control(["film"], [0], 4)
        written.put_control("film", 0, {"gain": np.array([0.25, 0.75, np.nan, 0.5])})
        written.note(result="film: 1 < 2")
    return path


class Page(HTMLParser):
    """Tags with their attributes, pictures decoded, visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def picture(self, label, which=0, mode="RGB"):
        urls = [a["src"] for t, a in self.tags if t == "img" and a.get("alt") == label]
        data = base64.b64decode(urls[which].split(",", 1)[1])
        picture = Image.open(io.BytesIO(data)).convert(mode)
        return np.asarray(picture, dtype=np.float32) / 255


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    file = report(run, tmp_path_factory.mktemp("page") / "run.html")
    text = file.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_is_whole_and_fetches_nothing(page):
    text, parsed = page
    assert parsed.open == []
    assert not re.search(r"https?://|//cdn|@import|<link|src=\"(?!data:)", text)
    fetched = [a for _, a in parsed.tags if "href" in a and not a["href"].startswith("#")]
    assert fetched == []
    assert "default-src 'none'" in text  # and the browser holds it to that
    targets = {a["id"] for _, a in parsed.tags if "id" in a}
    assert {a["href"][1:] for _, a in parsed.tags if "href" in a} <= targets
    assert len(text) < 1_000_000


def test_pictures_on_the_page_are_those_of_the_store(page, run):
    visible = page[1].picture("visible", which=2)
    assert visible.shape == (24, 32, 3)
    expected, other = (store.read_image(run, "vi", p).transpose(1, 2, 0) for p in PAIRS[2:0:-1])
    assert np.abs(visible - expected).mean() < 0.02
    assert np.abs(visible - other).mean() > 0.1
    hot, cold = (page[1].picture("heat map", i, "RGBA")[..., 3] for i in (0, 1))
    assert hot.min() == 1 and cold.max() == 0


def test_a_layer_shows_its_strongest_channels_mean_and_directions(page, run):
    labels = [a["alt"] for t, a in page[1].tags if t == "img"]
    channels = [int(label.split()[1]) for label in labels if label.startswith("channel")]
    assert len(channels) == 2 * 12  # of the first and the third pair
    maps = store.read_features(run, "body", PAIRS[0])
    assert channels[:12] == list(np.argsort(-np.abs(maps).mean((1, 2)))[:12])
    assert labels.count("mean") == labels.count("main directions as RGB") == 2


def test_what_was_not_computed_is_said(page):
    text = " ".join(page[1].text)
    assert "layer 'body' for pair 'scene 1' is not computed in this run" in text


def test_scores_of_all_pairs_are_there_with_means_and_what_is_unusual(page):
    text, parsed = page
    values = [float(a["data-v"]) for t, a in parsed.tags if t == "td" and a.get("data-v")]
    assert len(values) == 8 + 7
    assert 'data-v="" ' in text or 'data-v="">' in text  # the undefined one
    (odd,) = [a["data-v"] for t, a in parsed.tags if t == "td" and a.get("class") == "odd"]
    assert float(odd) == pytest.approx(3.05)
    said = " ".join(parsed.text)
    assert "EN ↑" in said and "CE ↓" in said and "n 7" in said
    assert "0.5" in said and "gain" in said


def test_names_and_prompts_cannot_break_the_page(page):
    text, parsed = page
    assert "the <car>" in " ".join(parsed.text)
    assert "<car>" not in text
    assert "film: 1 < 2" in parsed.text


def test_only_the_pairs_asked_for_are_shown(run, tmp_path):
    file = report(run, tmp_path / "one.html", pairs=[PAIRS[2]], channels=3)
    parsed = Page(file.read_text(encoding="utf-8"))
    sections = [a["id"] for t, a in parsed.tags if t == "section"]
    assert len(sections) == 1
    labels = [a["alt"] for t, a in parsed.tags if t == "img"]
    assert len([label for label in labels if label.startswith("channel")]) == 3
    with pytest.raises(BadRequest, match=r"no pair 'scene 22'.*Did you mean"):
        report(run, tmp_path / "x.html", pairs=["scene 22"])
    with pytest.raises(BadRequest, match=r"scored 'scene 5', but kept no picture"):
        report(run, tmp_path / "x.html", pairs=["scene 5"])
    assert not (tmp_path / "x.html").exists()


def test_large_pictures_are_made_smaller_and_a_large_page_is_remarked_on(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr("fusionkit.report.MAILABLE", 1000)
    said = []
    file = report(run, tmp_path / "small.html", side=16, say=said.append)
    assert Page(file.read_text(encoding="utf-8")).picture("visible").shape == (12, 16, 3)
    assert "name fewer pairs" in said[0]


def test_a_run_still_being_written_and_an_empty_one_have_a_page(tmp_path):
    path = tmp_path / "new.zarr"
    with store.create_run(
        path, parameters={}, recipe={}, components={}, seed=0, device="cpu"
    ) as run:
        text = report(path, tmp_path / "a.html").read_text(encoding="utf-8")
        assert "still being written" in text and "kept no pictures" in text
        run.declare_pairs(["a"], 8, 8)
        run.put_image("vi", "a", noise(3, 8, 8))
        text = report(path, tmp_path / "a.html").read_text(encoding="utf-8")
        assert "This run has no scores" in text
    assert [file.name for file in tmp_path.glob("*.html")] == ["a.html"]


def test_the_command_writes_the_page_and_names_it_without_torch(run, tmp_path):
    code = (
        "import sys; from fusionkit.cli import commands; "
        "commands.main(['report', *sys.argv[1:]], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), "-o", str(tmp_path / "r.html"),
         "--pairs", "scene 0, scene 2"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'r.html'}: ")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count('<section class="pair"') == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.zarr", "-o", "x.html"], "no run at"),
        (["RUN", "-o", "x.html", "--pairs", "scone 1"], "Did you mean 'scene 1'"),
        (["RUN"], "Missing option '-o'"),
        (["RUN", "-o", "file/x.html"], "something on the way to it is a file"),
    ],
)
def test_a_wrong_request_is_answered_in_words(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as left:
        cli.main(["report", *(str(run) if word == "RUN" else word for word in words)])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: `make browser` installs Debian's"
)
def test_a_browser_sorts_zooms_together_and_asks_for_nothing(run, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    file = report(run, tmp_path / "run.html")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        page = chromium.new_page()
        page.set_default_timeout(120_000)
        wrong, asked = [], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        scores = page.locator("table.sortable")
        first = scores.locator("tbody tr th").first
        assert first.text_content() == PAIRS[0]
        scores.locator("thead th").nth(1).click()
        assert first.text_content() == PAIRS[5]
        scores.locator("thead th").nth(1).click()
        assert first.text_content() == PAIRS[7]
        page.locator(".tiles .view").first.hover()
        page.mouse.wheel(0, -300)
        scale = "document.querySelector('.pair .view img').style.transform"
        page.wait_for_function(f"!{scale}.endsWith('scale(1)')")
        zoomed = "e => e.style.transform.split('scale')[1]"
        scales = [image.evaluate(zoomed) for image in page.locator(".pair").nth(0).locator(
            ".linked .view img").all()]  # fmt: skip
        assert len(set(scales)) == 1 and float(scales[0].strip("()")) > 2
        assert page.locator(".pair").nth(1).locator("img").first.evaluate(zoomed) == "(1)"
        slider = page.locator(".opacity input").first
        slider.evaluate("e => { e.value = 20; e.dispatchEvent(new Event('input')); }")
        assert page.locator(".heat .map").first.evaluate("e => e.style.opacity") == "0.2"
        left, right = (page.locator(f".swipe .{c}").first for c in ("under", "over"))
        assert left.get_attribute("src") != right.get_attribute("src")
        chromium.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_help_says_what_it_is():
    assert "can be mailed" in CliRunner().invoke(cli.commands, ["report", "--help"]).output
