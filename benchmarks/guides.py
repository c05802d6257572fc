"""How well the offline guides find what a word names: pointing and overlap, scenes and photographs.

    python benchmarks/guides.py [--scenes 100] [--data FOLDER] [--guides NAME...] [--labels NAME...]

For every thing that a held-out pair holds, its name is the prompt. *pointing* is the share of maps
whose highest place lies on the thing (pointing game; J. Zhang et al., "Top-Down Neural Attention by
Excitation Backprop", ECCV 2016, without its margin of 15 pixels), *overlap* the intersection over
union of the thing and of the places above half the map's maximum. Truth is the mask of a rendered
thing and the box, drawn by hand, of a photographed one. Beside the guides stand the brightness of
the infrared picture and chance, for both numbers the share of the picture that the thing covers
(the whole picture as the answer). An empty map counts as a miss.
"""

import argparse
import os
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import report
from torch import Tensor

from fusionkit.data import collate
from fusionkit.pointing import boxed
from fusionkit.protocols import Pair
from fusionkit.registry import Registry

MAPS = {
    "heatmap": "heatmap",
    "association": "association_heat",
    "relevance": "relevance",
    "core-mask": "mask",
    "saliency": "mask",
}
"""Guides that need no weights but the bundled ones, and the map of theirs that marks the prompt."""
LABELS = ("person", "car", "truck", "bus", "bicycle", "building", "tree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--data", type=Path, help="folder that holds roadscene/")
    parser.add_argument("--guides", nargs="*", default=list(MAPS))
    parser.add_argument("--labels", nargs="*", default=list(LABELS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    registry = Registry.from_environment()
    sets = {
        "scenes": registry.create("dataset", "scenes", split="test", count=options.scenes, size=128)
    }
    home = options.data or os.environ.get("FUSIONKIT_DATA") or "../shared/data"
    if (Path(home) / "roadscene").is_dir():
        sets["roadscene"] = registry.create(
            "dataset", "roadscene", split="test", root=Path(home) / "roadscene"
        )
    found = {name: measure(pairs, registry, options) for name, pairs in sets.items()}
    report("guides", torch.device("cpu"), found)


def measure(pairs: Any, registry: Registry, options: argparse.Namespace) -> dict[str, Any]:
    """Guide or baseline -> label -> pointing, overlap and the number of things."""
    encoder = registry.create("encoder", "tiny-clip")
    guides = {}
    for name in options.guides:
        takes = {"encoder": encoder, "registry": registry}
        given = {k: v for k, v in takes.items() if registry.accepts("guide", name, k)}
        guides[name] = registry.create("guide", name, **given)
    scores: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        for label, truth in truths(pair, options.labels):
            batch = collate([pair]).replace(prompts=(label,), text=encoder.encode_text([label]))
            maps = {name: guide(batch)[MAPS[name]][0, 0] for name, guide in guides.items()}
            share = truth.float().mean().item()
            maps["infrared brightness"] = pair.infrared[0]
            for name, drawn in maps.items():
                scores[name][label].append(score(drawn, truth))
            scores["chance"][label].append((share, share))
    return {
        name: {
            label: {
                "pointing": round(statistics.mean(p for p, _ in values), 2),
                "overlap": round(statistics.mean(o for _, o in values), 2),
                "things": len(values),
            }
            for label, values in by_label.items()
        }
        for name, by_label in scores.items()
    }


def truths(pair: Pair, labels: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Labels of the pair with where they are, ``(H, W)`` bool; specks are left out."""
    for label in labels:
        if pair.masks:
            here = pair.masks[label][0] > 0.5 if label in pair.masks else None
        else:
            here = boxed([t.box for t in pair.things if t.label == label], pair.infrared.shape[-2:])
        if here is not None and here.float().mean() > 0.002:
            yield label, here


def score(drawn: Tensor, truth: Tensor) -> tuple[float, float]:
    """Whether the highest place is on the thing, and the overlap above half of the maximum."""
    drawn = drawn.float()
    if drawn.max() <= 0:
        return 0.0, 0.0
    inside = drawn > drawn.max() / 2
    union = (inside | truth).sum().item()
    return float(truth.flatten()[drawn.argmax()]), (inside & truth).sum().item() / union


if __name__ == "__main__":
    main()
