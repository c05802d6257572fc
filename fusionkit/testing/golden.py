"""Parity with recorded outputs: weights and pictures rebuilt from names, so that none is stored.

A reference implementation was filled with :func:`seeded_state` and its outputs were recorded. Both
sides draw from NumPy's legacy generator, whose stream its compatibility policy freezes.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def folder(system: str, beside: str | os.PathLike[str]) -> Path:
    """Where the full recording of a system lies, or the compact one kept with the tests.

    Args:
        system: name of its folder under ``$FUSIONKIT_GOLDEN``, or under ``golden`` of the files
            that lie beside the checkout.
        beside: the compact recording.
    """
    above = Path(__file__).resolve().parents[3] / "shared" / "golden"
    for root in (os.environ.get("FUSIONKIT_GOLDEN"), above):
        if root and (found := Path(root, system)).is_dir():
            return found
    return Path(beside)


def seeded_array(
    name: str, shape: Sequence[int], dtype: str = "float32", salt: str = ""
) -> np.ndarray:
    """The array that a name stands for.

    Whole-number tensors are zero; ``running_var`` is uniform in [0.5, 1.5), ``running_mean`` normal
    of deviation 0.1; matrices and kernels are normal of deviation ``fan_in ** -0.5``, biases (and
    ``beta``) of 0.05; any other vector or number is 1 plus such a deviation.
    """
    if np.issubdtype(np.dtype(dtype), np.integer) or dtype == "bool":
        return np.zeros(shape, dtype)
    draw = np.random.RandomState(zlib.crc32(f"{salt}{name}".encode()))
    last = name.rpartition(".")[2]
    if last == "running_var":
        values = draw.uniform(0.5, 1.5, shape)
    elif last == "running_mean":
        values = 0.1 * draw.standard_normal(shape)
    elif len(shape) > 1:
        values = draw.standard_normal(shape) / math.sqrt(math.prod(shape[1:]) or 1)
    else:
        values = 0.05 * draw.standard_normal(shape) + (last not in ("bias", "beta"))
    return np.asarray(values, dtype)


def seeded_image(name: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """A smooth picture in [0, 1], float32 ``(..., H, W)``: six waves per plane, stretched."""
    draw = np.random.RandomState(zlib.crc32(f"{salt}image:{name}".encode()))
    *lead, height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = []
    for _ in range(math.prod(lead)):
        plane = np.zeros((height, width))
        for _ in range(6):
            down, across = draw.uniform(0.5, 12.0, 2)
            phase, height_of_wave = draw.uniform(0, 2 * np.pi), draw.uniform(0.2, 1.0)
            plane += height_of_wave * np.sin(
                2 * np.pi * (down * y / height + across * x / width) + phase
            )
        plane -= plane.min()
        plane /= plane.max()
        planes.append(plane)
    return np.reshape(planes, shape).astype("float32")


def seeded_state(manifest: Mapping[str, Any], salt: str = "") -> dict[str, Tensor]:
    """The state dict that ``manifest["tensors"]`` describes, or a mapping like that one."""
    tensors = manifest.get("tensors", manifest)
    return {
        name: torch.from_numpy(
            seeded_array(name, spec["shape"], spec.get("dtype", "float32"), salt)
        )
        for name, spec in tensors.items()
    }


def seeded_input(spec: Mapping[str, Any], salt: str = "") -> Tensor:
    """An input of a manifest: its ``kind`` or ``generator``, with ``scale`` and ``offset``."""
    kind = spec.get("kind") or spec["generator"]
    make = seeded_image if "image" in kind else seeded_array
    values = make(spec["name"], spec["shape"], salt=salt)
    if "sqrt(L*768)" in kind:
        values = values * np.float32(math.sqrt(math.prod(spec["shape"][1:])))
    values = values * np.float32(spec.get("scale", 1)) + np.float32(spec.get("offset", 0))
    return torch.from_numpy(np.asarray(values, "float32"))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A manifest or a list of loss values."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
