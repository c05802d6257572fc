"""What every benchmark shares: the machine in words, best-of timing, measured arithmetic limits."""

import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def machine(device: torch.device) -> dict[str, Any]:
    """Where the figures were taken."""
    from fusionkit import devices
    from fusionkit.store.provenance import machine as this_machine

    return {
        **this_machine(),
        "device": devices.describe(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def seconds(call: Callable[[], Any], device: torch.device, *, least: float = 1.0) -> float:
    """Best time of one call, over repeats that take ``least`` seconds together, after a warm-up."""
    call()
    call()
    _wait(device)
    best, spent = float("inf"), 0.0
    while spent < least:
        start = time.perf_counter()
        call()
        _wait(device)
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return best


def convolution_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a 3x3 convolution of 64 channels, channels-last: what the machine can do.

    The best over some batch and picture sizes, so that the limit is no accident of one shape.
    """
    weight = torch.randn(64, 64, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    best = 0.0
    for batch, side in ((16, 32), (16, 64), (8, 128)):
        x = torch.randn(batch, 64, side, side, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            took = seconds(lambda x=x: torch.conv2d(x, weight, padding=1), device, least=0.5)
        best = max(best, 2 * batch * side * side * 64 * 64 * 9 / took)
    return best


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of the convolutions and matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def report(name: str, device: torch.device, figures: dict[str, Any]) -> None:
    """Print the figures as JSON."""
    json.dump({"benchmark": name, "machine": machine(device), **figures}, sys.stdout, indent=2)
    print()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
