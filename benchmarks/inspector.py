"""How fast the inspector answers on a store of many gigabytes.

    python benchmarks/inspector.py [--gigabytes 10] [--folder FOLDER] [--browser]

Makes the store (some real pairs, the rest their copies), evicts it from the system's memory, moves
the controls and prints what each answer took: the kernel's part, from the change to the last byte
handed over, and with ``--browser`` the whole way in JupyterLab, from the event in the page to the
drawn canvas. The store is deleted afterwards.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusionkit import store
from fusionkit.widgets import HOW, Inspector

HEIGHT, WIDTH = 480, 640
LAYERS = {"full": (64, 480, 640), "half": (128, 240, 320), "quarter": (256, 120, 160)}
REAL = 4


def smooth(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Activations as a network has them: correlated in space, half of them zero."""
    coarse = random.standard_normal((shape[0], shape[1] // 4 + 1, shape[2] // 4 + 1))
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, : shape[1], : shape[2]]
    return np.maximum(fine + 0.2 * random.standard_normal(shape), 0).astype(np.float16)


def make(folder: Path, gigabytes: float) -> Path:
    """A store of about that size."""
    path, random = folder / "large.zarr", np.random.default_rng(0)
    about = {"recipe": {}, "components": {}, "seed": 0, "device": "cpu"}
    with store.create_run(path, parameters={}, **about) as run:
        run.declare_pairs([f"pair-{i:04d}" for i in range(REAL)], HEIGHT, WIDTH)
        for i in range(REAL):
            name = f"pair-{i:04d}"
            for image in ("ir", "vi", "fused_other", "fused"):
                bands = 1 if image == "ir" else 3
                picture = smooth(random, bands, HEIGHT, WIDTH).astype(np.float32) / 8
                run.put_image(image, name, np.clip(picture, 0, 1))
            for layer, shape in LAYERS.items():
                run.put_features(layer, name, smooth(random, *shape))
            heat = np.clip(smooth(random, 2, HEIGHT, WIDTH).astype(np.float32) / 4, 0, 1)
            run.put_heatmaps("heatmap", name, heat, ["the person", "the car"])
        each = size(path) / REAL
        count = max(REAL, round(gigabytes * 1e9 / each))
        names = [f"pair-{i:04d}" for i in range(count)]
        run.declare_pairs(names, HEIGHT, WIDTH)
        # A copy of a pair is its files under another number.
        for chunks in [p for p in path.rglob("c") if p.is_dir()]:
            if not (chunks / str(REAL - 1)).exists():
                continue
            for i in range(REAL, count):
                source = chunks / str(i % REAL)
                copy = shutil.copytree if source.is_dir() else shutil.copy
                if source.exists() and not (chunks / str(i)).exists():
                    copy(source, chunks / str(i))
        run.declare_metrics(["EN", "SD", "VIF"])
        for name in names:
            run.put_scores("score", name, dict.fromkeys(("EN", "SD", "VIF"), random.random()))
    return path


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def evict(path: Path) -> None:
    """Drop the files from the system's memory, so that reading them means the disk."""
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def say(what: str, took: list[float], busy: Sequence[float] = ()) -> None:
    took = 1000 * np.array(took)
    work = f", processor {1000 * np.median(busy):5.0f} ms" if len(busy) else ""
    print(
        f"{what:<52} median {np.median(took):6.0f} ms, worst {took.max():6.0f} ms{work}", flush=True
    )


def kernel(path: Path) -> None:
    """The kernel's part: each control moved many times, with nobody listening."""
    evict(path)
    began = time.perf_counter()
    view = Inspector(path)
    say("open", [time.perf_counter() - began])
    sent = []
    view.send = lambda content, buffers=None: sent.append(sum(map(len, buffers or [])))
    view._heard(view, {"kind": "ready"}, [])

    def move(what: str, trait: str, values: list) -> None:
        took, busy = [], []
        for value in values:
            began, worked = time.perf_counter(), time.process_time()
            setattr(view, trait, value)
            took.append(time.perf_counter() - began)
            busy.append(time.process_time() - worked)
        say(what, took, busy)

    for how in HOW:
        view.how = how
        # Every time pairs that nobody has read yet.
        move(f"pair, layer of 64 at 480x640 as {how}", "pair", view.pairs[1 + HOW.index(how) :: 17])
    view.how = "channel"
    for layer in LAYERS:
        view.pair = view.pairs[-1]
        view.layer = layer
        move(f"channel, layer {layer}", "channel", list(range(1, 64)))
    view.pair, view.how, view.layer = view.pairs[-2], "grid", "quarter"
    move("page of the grid, layer quarter", "page", [1, 2, 3, 4, 5])
    move("prompt of the heat map", "prompt", [1, 0, 1, 0])
    move("compared picture", "second", ["ir", "vi", "fused_other"])
    print(f"largest message {max(sent) / 1e6:.1f} MB", flush=True)


def browser(path: Path, folder: Path) -> None:
    """The whole way, in JupyterLab."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import test_browser as lab
    from playwright.sync_api import sync_playwright

    notebook = lab.prepared(path, folder)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=lab.CHROMIUM, args=lab.FLAGS)
        for page in lab.opened(chromium, notebook):
            page.set_default_timeout(600_000)
            page.wait_for_function(lab.DRAWN)
            root = page.locator(".fk-inspector")
            # By number, so that the next channel is never the end of the slider.
            page.locator('select[data-trait="order"]').select_option("index")
            for what, how, keys, pane in (
                ("channel", "c", "ArrowRight", "features"),
                ("pair, one channel shown", "c", "j", "visible"),
                ("pair, one channel shown, its features", "c", "j", "features"),
                ("pair, grid shown, its features", "g", "j", "features"),
            ):
                root.press(how)
                page.wait_for_timeout(1500)
                evict(path)
                took = page.evaluate(MEASURE, [pane, keys, 15])
                say(f"in the browser: {what}", [t / 1000 for t in took])
        chromium.close()


MEASURE = """async ([pane, key, count]) => {
    const root = document.querySelector(".fk-inspector");
    const canvas = root.querySelector(`.fk-pane[data-pane="${pane}"] canvas`);
    const took = [];
    for (let i = 0; i < count; i++) {
        const before = canvas.dataset.drawn, start = performance.now();
        root.dispatchEvent(new KeyboardEvent("keydown", { key }));
        while (canvas.dataset.drawn === before && performance.now() - start < 10000)
            await new Promise((next) => setTimeout(next, 1));
        took.push(performance.now() - start);
        await new Promise((next) => setTimeout(next, 400));
    }
    return took;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--folder", help="where to make it; default the system's for such files")
    parser.add_argument("--browser", action="store_true", help="also in JupyterLab")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        began = time.perf_counter()
        path = make(Path(folder), given.gigabytes)
        pairs = len(store.kept_pairs(path))
        print(f"{size(path) / 1e9:.2f} GB, {pairs} pairs, {time.perf_counter() - began:.0f} s")
        kernel(path)
        if given.browser:
            browser(path, Path(folder))


if __name__ == "__main__":
    main()
