"""The network of a stored run, asked again: another prompt for a pair that the run kept."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fusionkit import store
from fusionkit.batch import Batch
from fusionkit.browsing import Answer
from fusionkit.capture import as_array, capture
from fusionkit.color import luma
from fusionkit.errors import MissingWeights
from fusionkit.methods import Method, load_checkpoint, load_method

Ask = Callable[[np.ndarray, np.ndarray, str], Answer]
"""``(infrared (band, y, x), visible (3, y, x), prompt) -> Answer``."""


def weights_of(path: str | os.PathLike[str]) -> Path:
    """The weights whose pictures the run holds: those of its last arm and first seed.

    Raises :class:`~fusionkit.errors.MissingWeights` where they do not lie beside the store.
    """
    inside, folder = store.contents(path), store.checkpoint_folder(path)
    named = [folder / f"{arm}-seed{inside['seeds'][0]}.pt" for arm in inside["arms"][-1:]]
    for file in [*named, *sorted(folder.glob("*.pt"))]:
        if file.is_file():
            return file
    raise MissingWeights(
        f"no weights of this run in {folder}, so it cannot be asked anything new; hand a method to "
        "inspect(run, method=fk.load_method(...))."
    )


def asker(source: str | os.PathLike[str] | Method, device: str = "auto") -> Ask:
    """A function that fuses one pair under a prompt and tells what happened inside.

    Args:
        source: the path of a run whose weights lie beside it, or a method that is loaded.
    """
    if isinstance(source, Method):
        method = source
    else:
        file = weights_of(source)
        method = load_method(load_checkpoint(file)["recipe"], file, device=device)
    guide = None
    if hasattr(method.encoder, "heatmap"):
        guide = method.registry.create("guide", "heatmap", encoder=method.encoder)

    def ask(infrared: np.ndarray, visible: np.ndarray, prompt: str) -> Answer:
        ir, vi = (torch.from_numpy(np.array(p)).clamp(0, 1)[None] for p in (infrared, visible))
        with capture(method.network) as maps:
            image = method.fuse(ir, vi, [prompt])
            features = {layer: as_array(value[0]) for layer, value in maps.items()}
        return Answer(
            image=image[0].cpu().numpy(),
            features={layer: maps for layer, maps in features.items() if maps.ndim == 3},
            heatmaps={} if guide is None else _heatmaps(guide, ir, vi.to(method.device), prompt),
        )

    return ask


def _heatmaps(guide: Callable, ir: torch.Tensor, vi: torch.Tensor, prompt: str) -> dict:
    batch = Batch(visible=vi, infrared=luma(ir).to(vi.device), prompts=(prompt,))
    with torch.no_grad():
        drawn = guide(batch)
    return {n: m[0, 0].float().cpu().numpy() for n, m in drawn.items() if m.shape[1] == 1}
