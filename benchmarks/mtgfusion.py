"""MTG-Fusion's own parts against their plain formulation, at 256x256 and 480x640.

    python benchmarks/mtgfusion.py [PART ...] [--threads N] [--sizes 256x256 480x640]

Parts: ``recursion`` (the domain transform: the release's loop over pixels, a loop over positions
that treats all lines at once, the parallel scan), ``reorder`` (every pixel against every text
vector, against the 81 different ones), ``cube`` (text maps over every pixel, and over the 9x9 that
stand for them), ``attention`` (full, one block; windowed), ``memory`` (one fused pair in a process
of its own, windowed). Plain forms that take minutes are measured on a
part, which the figure's name says, and scaled. Results are compared each time.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import report, seconds
from fusionkit_mtgfusion.attention import AttentionOptions, TokenBlock
from fusionkit_mtgfusion.cube import TextMap, reorder, spread
from fusionkit_mtgfusion.network import MtgFusion
from fusionkit_mtgfusion.transform import (
    cosine_distance,
    domain_transform,
    scan_parallel,
    scan_stepwise,
)
from torch import Tensor

from fusionkit.batch import Batch

CPU = torch.device("cpu")


def recursion(height: int, width: int) -> dict[str, Any]:
    v, t = torch.randn(1, height, width, 64), torch.randn(1, height, width, 64)
    line, text = v, t[:, :, :-1]
    log_k = torch.nn.functional.pad(-cosine_distance(line[:, :, 1:], text), (1, 0))
    side = 64
    took, plain = once(lambda: pixel_loop(v[0, :side, :side], t[0, :side, :side]))
    ours = domain_transform(v[:, :side, :side], t[:, :side, :side])[0][0]
    return {
        f"pixel loop, seconds, from {side}x{side}": took * height * width / side**2,
        "whole transform, seconds": seconds(lambda: domain_transform(v, t), CPU),
        "one pass stepwise, seconds": seconds(lambda: scan_stepwise(line, log_k), CPU),
        "one pass parallel, seconds": seconds(lambda: scan_parallel(line, log_k), CPU),
        "largest difference from the loop": float((ours - plain).abs().max()),
    }


def pixel_loop(v: Tensor, t: Tensor) -> Tensor:
    """The recursion as the release runs it, one pixel after the other."""
    j = v.clone()
    for axis in (0, 1):
        source, j, guide = (x.transpose(0, 1) if axis else x for x in (j, j.clone(), t))
        for r in range(len(j)):
            for c in range(1, j.shape[1]):
                k = torch.exp(-cosine_distance(source[r, c], guide[r, c - 1]))
                j[r, c] = (1 - k) * source[r, c] + k * j[r, c - 1]
        j = j.transpose(0, 1) if axis else j
    return j


def reordering(height: int, width: int) -> dict[str, Any]:
    count, part = height * width, 8192
    visual, few = torch.randn(1, count, 64), torch.randn(1, 81, 64)
    index = torch.randint(81, (count,))
    took, plain = once(lambda: reorder(visual[:, :part], few[:, index])[0])
    ours = reorder(visual, few)[0]
    return {
        f"against every pixel, seconds, from {part} pixels": took * count / part,
        "against 81 vectors, seconds": seconds(lambda: reorder(visual, few), CPU),
        "largest difference": float((ours[:, :part] - plain).abs().max()),
    }


def cube(height: int, width: int) -> dict[str, Any]:
    branch, pooled, size = TextMap(64).eval(), torch.randn(1, 64), (height, width)
    everywhere = TextMap(64).eval()
    everywhere.load_state_dict(branch.state_dict())
    everywhere.reach = (10**6,) * 4  # no two pixels are taken to be alike
    took, plain = once(lambda: everywhere(pooled, size))
    ours = spread(branch(pooled, size), *branch.grid(size, CPU))
    return {
        "one branch over every pixel, seconds": took,
        "over 9x9, seconds": seconds(lambda: branch(pooled, size), CPU),
        "largest difference": float((ours - plain).abs().max()),
    }


def attention(height: int, width: int) -> dict[str, Any]:
    x = torch.randn(1, height, width, 64)
    side = 128
    blocks = {k: TokenBlock(attention=AttentionOptions(k)).eval() for k in ("full", "windowed")}
    small = seconds(lambda: blocks["full"](x[:, :side, :side]), CPU, least=0.1)
    scale = (height * width / side**2) ** 2
    return {
        f"one full block at {side}x{side}, seconds": small,
        f"one full block, seconds, scaled from {side}x{side}": small * scale,
        "one windowed block, seconds": seconds(lambda: blocks["windowed"](x), CPU),
    }


def memory(height: int, width: int) -> dict[str, Any]:
    """Largest resident size of a process that does nothing else, MiB."""
    found = {}
    for kind in ("import alone", "windowed"):
        command = [sys.executable, __file__, "--alone", kind, f"{height}x{width}"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[f"{kind}, MiB"] = float(out)
    return found


def alone(kind: str, height: int, width: int) -> None:
    """Fuse one pair, once (``systems.py`` has the times); prints the largest resident size, MiB."""
    network = MtgFusion(text_dim=768, attention=kind if kind != "import alone" else "windowed")
    batch = Batch(visible=torch.rand(1, 3, height, width), infrared=torch.rand(1, 1, height, width))
    if kind != "import alone":
        network.eval()(batch)
    # Of this process alone: ru_maxrss begins with that of the process that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024)


def once(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call without warm-up, and what it gave."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


PARTS = {
    "recursion": recursion,
    "reorder": reordering,
    "cube": cube,
    "attention": attention,
    "memory": memory,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS))
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--sizes", nargs="*", default=["256x256", "480x640"])
    arguments.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        if options.alone:
            alone(options.alone[0], *map(int, options.alone[1].split("x")))
            return
        figures: dict[str, Any] = {"threads": torch.get_num_threads()}
        for name in options.parts:
            for size in options.sizes:
                height, width = map(int, size.split("x"))
                figures[f"{name} {size}"] = {
                    key: float(f"{value:.4g}") for key, value in PARTS[name](height, width).items()
                }
    report("mtgfusion", CPU, figures)


if __name__ == "__main__":
    main()
