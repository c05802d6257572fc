"""Where and in what precision to compute: chosen by what the machine can do, never by hope."""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from fusionkit.errors import BadRequest, did_you_mean

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of two settings of ``mallopt``, from ``malloc.h`` of the GNU C library."""
KEPT = 1 << 30
"""Bytes of free memory at the end of the heap that go back to the system only beyond this."""


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is the first GPU where there is one, else the CPU; otherwise one of ``DEVICES``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        hint = did_you_mean(name, ("auto", *DEVICES))
        raise BadRequest(f"{name!r} is no device; use auto, cpu, mps, cuda or cuda:N.{hint}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BadRequest(f"{name!r} was asked for, but this machine has no Apple GPU; use cpu.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadRequest(f"{name!r} was asked for, but this machine has no usable GPU; use cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadRequest(f"{name!r} was asked for; there are {torch.cuda.device_count()} GPUs.")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic in hardware (emulation is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
            return torch.cpu._is_avx512_bf16_supported()
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(k, False) for k in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the hardware has it, else float32."""
    if name not in PRECISIONS:
        raise BadRequest(f"{name!r} is no precision; use one of {', '.join(PRECISIONS)}.")
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return getattr(torch, name)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision for the block, or nothing in float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


@cache
def keep_memory() -> bool:
    """Have this process keep memory that was freed, for what is allocated next; whether it does.

    The GNU C library takes a block of more than 32 MB from the system each time and gives it back
    each time, and the system clears every page of it anew when it is first touched. Where many maps
    of whole pictures come and go on a processor, that takes longer than what is done with them. The
    price is memory: a network asks for this where it gains by it. Other C libraries and systems are
    left as they are; for a GPU torch keeps memory itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_MAX, 0))


def describe(device: torch.device) -> str:
    """The device in words, for provenance."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}: {torch.get_num_threads()} threads"
