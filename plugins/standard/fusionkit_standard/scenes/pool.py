"""Many scenes at once, in light worker processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .scene import Scene, render, size_of

WORTH_A_PROCESS = 48  # pictures of 128x128 per worker; below that starting one costs more
# Runs in a fresh interpreter. It puts an empty package in the place of the plugin's own, because
# the plugin's __init__ imports torch (seconds, and hundreds of MB per worker) and scenes need none.
_WORKER = """
import sys, types
package = types.ModuleType("fusionkit_standard")
package.__path__ = [sys.argv[1]]
sys.modules["fusionkit_standard"] = package
from fusionkit_standard.scenes.pool import serve
serve(int(sys.argv[2]), int(sys.argv[3]))
"""


def render_many(
    seeds: Sequence[int], size: int | tuple[int, int] = 128, workers: int = 2
) -> list[Scene]:
    """Render scenes in the order of `seeds`, on `workers` processes (serially if that is faster).

    The workers are plain interpreters fed through pipes instead of a multiprocessing pool: they
    neither fork a process that runs torch threads nor run the caller's main module again, so the
    call works from a script without a guard, from a test and inside a notebook kernel, and a
    worker starts without torch.
    """
    seeds = [int(seed) for seed in seeds]
    height, width = size_of(size)
    effort = len(seeds) * height * width / 128**2
    workers = max(1, min(workers, int(effort / WORTH_A_PROCESS), os.cpu_count() or 1))
    if workers == 1:
        return [render(seed, (height, width)) for seed in seeds]
    shares = [seeds[start::workers] for start in range(workers)]
    with ThreadPoolExecutor(workers) as threads:
        results = list(threads.map(lambda share: list(_ask(share, height, width)), shares))
    scenes: list[Scene | None] = [None] * len(seeds)
    for start, share in enumerate(results):
        scenes[start::workers] = share
    return scenes


def _ask(seeds: list[int], height: int, width: int) -> Iterator[Scene]:
    """Start one worker, hand it its seeds and yield its scenes."""
    package = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", _WORKER, package, str(height), str(width)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as worker:
        try:
            pickle.dump(seeds, worker.stdin)
            worker.stdin.close()
            for _ in seeds:
                yield pickle.load(worker.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise RuntimeError(
                "A scene worker ended early; its error is printed above. "
                "render_many(..., workers=1) renders in this process instead."
            ) from None
        finally:
            worker.stdout.close()


def serve(height: int, width: int) -> None:
    """The worker's side: read seeds from stdin, write one pickled scene after the other."""
    seeds = pickle.load(sys.stdin.buffer)
    output = sys.stdout.buffer
    for seed in seeds:
        pickle.dump(render(seed, (height, width)), output, protocol=pickle.HIGHEST_PROTOCOL)
    output.flush()
