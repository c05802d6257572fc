"""How much of a wish survives other words: two encoders, the same network, the same questions.

    python plugins/minilm/paraphrases.py [--steps 450] [--scenes 100]

Trains the default method once with each encoder, on the wordings of the bundled task alone. Then
each held-out picture is fused under a wish as trained, under the same wish in words that were never
trained, and under another wish. ``kept`` is the share of the wish that survives: one minus the
change made by the paraphrase over the change made by the other wish; 1 is no change at all.
"""

import argparse

import torch

from fusionkit.batch import Batch
from fusionkit.data import collate
from fusionkit.registry import Registry
from fusionkit.training import train

WISHES = {
    "highlight the person": (
        "make the people stand out",
        "let pedestrians pop",
        "I want to see humans clearly",
    ),
    "highlight the car": (
        "make the vehicles stand out",
        "let the automobile pop",
        "I want to see cars clearly",
    ),
    "highlight the building": (
        "make the houses stand out",
        "let the architecture pop",
        "I want to see the facade clearly",
    ),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=450)
    arguments.add_argument("--scenes", type=int, default=100)
    options = arguments.parse_args()
    registry = Registry.from_environment()
    if "minilm" not in registry.names("encoder"):
        raise SystemExit("install the plugin first: pip install -e plugins/minilm")
    pairs = list(registry.create("dataset", "scenes", count=512, size=128))
    held_out = registry.create("dataset", "scenes", split="test", count=options.scenes, size=128)
    batch = collate(list(held_out))
    for encoder in ("tiny-clip", "minilm"):
        recipe = registry.create("recipe", "control").with_overrides(
            {"encoder": encoder, "steps": options.steps}
        )
        method = train(recipe, pairs, registry=registry, label=encoder).method
        for index, (wish, others) in enumerate(WISHES.items()):
            another = list(WISHES)[(index + 1) % len(WISHES)]
            asked, opposed = fuse(method, batch, wish), fuse(method, batch, another)
            changed = (asked - opposed).abs().mean((1, 2, 3))
            for words in others:
                drift = (asked - fuse(method, batch, words)).abs().mean((1, 2, 3))
                kept = 1 - (drift.mean() / changed.mean()).item()
                print(f"{encoder:10s} {wish:24s} {words:34s} kept {kept:5.2f}", flush=True)


def fuse(method, batch: Batch, words: str) -> torch.Tensor:
    """The pictures under one prompt."""
    parts = range(0, len(batch.visible), 25)
    return torch.cat(
        [
            method.fuse(batch.infrared[at : at + 25], batch.visible[at : at + 25], words)
            for at in parts
        ]
    )


if __name__ == "__main__":
    main()
