"""Writing a store of several gigabytes and reading one channel out of it.

    uv run python benchmarks/store.py [--gigabytes 4] [--folder FOLDER] [--keep]

Maps are those of a random convolution over rendered scenes, 64 channels of 120 x 160 in five layers
for each pair, so that they compress as real ones do. Every read is of a pair drawn at random; the
system's cache is dropped file by file before the cold reads, where the system lets a user do so.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fusionkit import store
from fusionkit.store.provenance import machine

LAYERS, CHANNELS, HEIGHT, WIDTH = 5, 64, 120, 160
READS = 100


def layers() -> Iterator[np.ndarray]:
    """Maps ``(LAYERS, CHANNELS, HEIGHT, WIDTH)`` of one pair after another, without end."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    weights = rng.normal(size=(LAYERS, CHANNELS, 6)).astype(np.float32)
    while True:
        waves = [np.sin(rng.random() * x / 4 + rng.random() * y / 4 + i) for i in range(3)]
        boxes = [(np.abs(x - rng.integers(WIDTH)) < 20) * (np.abs(y - rng.integers(HEIGHT)) < 15)]
        noise = rng.normal(size=(2, HEIGHT, WIDTH)) * 0.1
        source = np.stack([*waves, *boxes, *noise]).astype(np.float32)
        yield np.maximum(np.einsum("lck,kyx->lcyx", weights, source), 0)


def fill(path: Path, pairs: int) -> tuple[float, float]:
    """Write the store; seconds of wall and of processor time for the writing alone."""
    wall = cpu = 0.0
    maps = layers()
    names = [f"pair-{i:05d}" for i in range(pairs)]
    with store.create_run(
        path, parameters={}, recipe={}, components={}, seed=0, device="cpu"
    ) as run:
        run.declare_pairs(names, HEIGHT, WIDTH)
        for name in names:
            made = next(maps)
            start, busy = time.perf_counter(), time.process_time()
            for layer, values in enumerate(made):
                run.put_features(f"layer{layer}", name, values)
            run.put_image("fused", name, np.clip(made[0, :3], 0, 1))
            wall += time.perf_counter() - start
            cpu += time.process_time() - busy
    return wall, cpu


def timed(call: Callable[[int], Any], count: int, before: Callable[[int], None] | None = None):
    """Median and 95th percentile of wall time, and mean processor time, in milliseconds."""
    walls, busy = [], 0.0
    for i in range(count):
        if before is not None:
            before(i)
        start, cpu = time.perf_counter(), time.process_time()
        call(i)
        walls.append(1e3 * (time.perf_counter() - start))
        busy += time.process_time() - cpu
    return {
        "median_ms": round(statistics.median(walls), 2),
        "p95_ms": round(statistics.quantiles(walls, n=20)[-1], 2),
        "cpu_ms": round(1e3 * busy / count, 2),
    }


def forget(file: Path) -> None:
    """Take a file out of the system's cache."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def size(path: Path) -> tuple[int, int]:
    """Bytes and files."""
    sizes = [os.path.getsize(os.path.join(d, f)) for d, _, names in os.walk(path) for f in names]
    return sum(sizes), len(sizes)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--gigabytes", type=float, default=4, help="of raw half floats")
    words.add_argument("--folder", help="where the store is made; a temporary folder if left out")
    words.add_argument("--keep", action="store_true", help="do not remove the store afterwards")
    given = words.parse_args()
    raw = LAYERS * CHANNELS * HEIGHT * WIDTH * 2
    pairs = max(4, round(given.gigabytes * 2**30 / raw))
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    path = folder / "big.zarr"
    try:
        wall, cpu = fill(path, pairs)
        stored, files = size(path)
        rng = np.random.default_rng(1)
        draws = [
            (f"layer{rng.integers(LAYERS)}", int(rng.integers(pairs)), int(rng.integers(CHANNELS)))
            for _ in range(READS)
        ]

        def cold(i: int) -> None:
            layer, pair, _ = draws[i]
            forget(path / "features" / layer / "maps" / "c" / str(pair) / "0" / "0" / "0")

        tree = store.open_run(path)

        def channel(i: int) -> None:
            store.read_channel(tree, *draws[i])

        figures = {
            "pairs": pairs,
            "raw_GB": round(pairs * raw / 2**30, 2),
            "stored_GB": round(stored / 2**30, 2),
            "files": files,
            "write_MB_per_s": round(pairs * raw / 2**20 / wall, 1),
            "write_MB_per_cpu_s": round(pairs * raw / 2**20 / cpu, 1),
            "open": timed(lambda i: store.open_run(path), 10),
            "kept_pairs": timed(lambda i: store.kept_pairs(tree), 10),
            "channel_opened": timed(channel, READS),
            "channel_opened_cold": timed(
                lambda i: store.read_channel(tree, *draws[i]), READS, cold
            ),
            "channel_by_path": timed(lambda i: store.read_channel(path, *draws[i]), READS),
            "layer_opened": timed(lambda i: store.read_features(tree, *draws[i][:2]), READS),
            "image_opened": timed(lambda i: store.read_image(tree, "fused", draws[i][1]), READS),
        }
    finally:
        if given.keep:
            print(path, file=sys.stderr)
        else:
            shutil.rmtree(folder)
    json.dump({"benchmark": "store", "machine": machine(), **figures}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
