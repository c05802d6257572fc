"""Pairs per second of the scene generator, with the share of the time that is painting.

Run ``python benchmarks/scenes.py``; prints JSON. Process CPU time is used for one core, so other
programs disturb it little; wall time for two processes. Reference within the same run: laying
out and painting with Pillow alone (`paintings_per_second`), which is the plain part of the work
and a bound that no rearrangement of the array work can pass; `share_of_painting` is how near the
whole pair comes to it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from random import Random

import numpy as np
import PIL
from fusionkit_standard.scenes import render, render_many
from fusionkit_standard.scenes.layout import compose


def pairs_per_second(count: int, size: int) -> float:
    """One core: CPU time of this process."""
    render(0, size)
    start = time.process_time()
    for seed in range(count):
        render(seed, size)
    return count / (time.process_time() - start)


def paintings_per_second(count: int, size: int) -> float:
    """Layout and painting of part numbers alone, without any field."""
    start = time.process_time()
    for seed in range(count):
        compose(Random(f"scene {seed}"), size, size)
    return count / (time.process_time() - start)


def main() -> None:
    report: dict[str, object] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
    for size, count in ((128, 120), (256, 40)):
        one = max(pairs_per_second(count, size) for _ in range(3))
        painting = max(paintings_per_second(count, size) for _ in range(3))
        start = time.perf_counter()
        render_many(range(4 * count), size, workers=2)
        two = 4 * count / (time.perf_counter() - start)
        report[f"{size}x{size}"] = {
            "pairs_per_second_1_core": round(one, 1),
            "pairs_per_second_2_processes_wall": round(two, 1),
            "paintings_per_second": round(painting, 1),
            "share_of_painting": round(one / painting, 3),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
