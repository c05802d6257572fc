"""How much of a wish survives other words: two encoders, the same network, the same questions.

    python plugins/minilm/paraphrases.py [--steps 450] [--scenes 100] [--raw]

Trains the default method once with each encoder, on the wordings of the bundled task alone. Then
each held-out picture is fused under a wish as trained, under the same wish in words that were never
trained, and under another wish. ``kept`` is the share of the wish that survives: one minus the
change made by the paraphrase over the change made by the other wish; 1 is no change at all.
"""

import argparse

import torch

from fusionkit.batch import Batch
from fusionkit.data import collate
from fusionkit.recipe import Recipe
from fusionkit.registry import Registry
from fusionkit.training import train

WISHES = {
    "highlight the person": (
        "make the people stand out",
        "let pedestrians pop",
        "I want to see humans clearly",
        "show me where everybody is",
        "emphasise whoever is walking there",
        "draw my eye to the folks on foot",
    ),
    "highlight the car": (
        "make the vehicles stand out",
        "let the automobile pop",
        "I want to see cars clearly",
        "show me where the autos are",
        "emphasise whatever is driving there",
        "draw my eye to the motor traffic",
    ),
    "highlight the building": (
        "make the houses stand out",
        "let the architecture pop",
        "I want to see the facade clearly",
        "show me where the homes are",
        "emphasise whatever has been built there",
        "draw my eye to the edifice",
    ),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=450)
    arguments.add_argument("--scenes", type=int, default=100)
    arguments.add_argument("--raw", action="store_true", help="text features as they come")
    options = arguments.parse_args()
    registry = Registry.from_environment()
    if "minilm" not in registry.names("encoder"):
        raise SystemExit("install the plugin first: pip install -e plugins/minilm")
    for encoder in ("tiny-clip", "minilm"):
        recipe = registry.create("recipe", "control").with_overrides(
            {"encoder": encoder, "steps": options.steps, "standardise_text": not options.raw}
        )
        found = kept(registry, recipe, scenes=options.scenes)
        for (wish, words), share in found.items():
            print(f"{encoder:10s} {wish:24s} {words:40s} kept {share:5.2f}")
        mean = sum(found.values()) / len(found)
        print(f"{encoder}: mean {mean:.2f}, least {min(found.values()):.2f}", flush=True)


def kept(
    registry: Registry, recipe: Recipe, *, train_on: int = 512, scenes: int, size: int = 128
) -> dict[tuple[str, str], float]:
    """(wish, paraphrase) -> the share that survives, after training by the recipe."""
    pairs = list(registry.create("dataset", "scenes", count=train_on, size=size))
    method = train(recipe, pairs, registry=registry, label=recipe.encoder).method
    held_out = registry.create("dataset", "scenes", split="test", count=scenes, size=size)
    batch = collate(list(held_out))
    shares = {}
    for index, (wish, others) in enumerate(WISHES.items()):
        another = list(WISHES)[(index + 1) % len(WISHES)]
        asked = fuse(method, batch, wish)
        changed = (asked - fuse(method, batch, another)).abs().mean()
        for words in others:
            drift = (asked - fuse(method, batch, words)).abs().mean()
            shares[wish, words] = 1 - (drift / changed).item()
    return shares


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
