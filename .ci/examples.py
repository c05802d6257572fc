"""Draw docs/examples/KIND-NAME.jpg: what a component does to one scene of the embedded data.

    python .ci/examples.py [KIND ...] [--steps N] [--redo]

Only what can be shown without downloads and without somebody's photographs. Pictures that exist
stay, unless redone. What is seen on each stands in ``SEEN``.
"""

import argparse
import os
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fusionkit import views
from fusionkit.batch import Batch, Fused
from fusionkit.data import collate
from fusionkit.registry import Registry
from fusionkit.training import train

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "examples"
ASKED = ("highlight the person", "highlight the car")
SIZE = 160


class Scene:
    """The scene that everything is shown on: one with a person and a car, by day."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        pairs = registry.create("dataset", "scenes", split="test", count=60, size=SIZE)
        self.pair = min(
            (
                pair for pair in pairs
                if all(
                    any(t.label == label and t.box[3] - t.box[1] > SIZE / 5 for t in pair.things)
                    for label in ("person", "car")
                )
            ),
            key=lambda pair: (pair.visible.mean() - 0.45).abs(),
        )  # fmt: skip
        self.batch: Batch = collate([self.pair])
        self.encoder = registry.create("encoder", "tiny-clip")

    def build(self, kind: str, name: str) -> Any:
        takes = self.registry.accepts(kind, name, "encoder")
        return self.registry.create(kind, name, **({"encoder": self.encoder} if takes else {}))

    def asked(self, prompt: str = ASKED[0]) -> Batch:
        return self.batch.replace(prompts=(prompt,), text=self.encoder.encode_text([prompt]))


def degradation(scene: Scene, name: str) -> list[np.ndarray]:
    damage = scene.registry.create("degradation", name)
    clean = getattr(scene.batch, damage.modality)
    context = {"depth": scene.pair.depth[None]} if scene.pair.depth is not None else {}
    spoiled = damage(clean, 0.7, torch.Generator().manual_seed(0), **context)
    return [tile(clean), tile(spoiled)]


def guide(scene: Scene, name: str) -> list[np.ndarray]:
    maps = scene.build("guide", name)(scene.asked())
    picture = scene.pair.visible.numpy()
    drawn = [views.overlay(picture, values[0].amax(0).numpy()) for values in maps.values()]
    return [views.rgb(picture), *drawn[:2]]


def loss(scene: Scene, name: str) -> list[np.ndarray]:
    objective = scene.build("loss", name)
    brighter = torch.maximum(scene.batch.visible, scene.batch.infrared)
    batch = scene.asked().replace(
        targets={"fused": brighter, "mask": scene.pair.masks["person"][None]}
    )
    start = (scene.batch.visible + scene.batch.infrared) / 2
    image = start.clone().requires_grad_()
    descent = torch.optim.Adam([image], lr=0.01)
    for _ in range(100):
        descent.zero_grad()
        sum(objective(batch, Fused(image)).values()).backward()
        descent.step()
    return [tile(start), tile(image.detach())]


def modulation(scene: Scene, name: str, steps: int = 450) -> list[np.ndarray]:
    recipe = scene.registry.create("recipe", "control")
    recipe = recipe.with_overrides({"modulation": name, "steps": steps})
    pairs = list(scene.registry.create("dataset", "scenes", count=512, size=128))
    method = train(recipe, pairs, registry=scene.registry, label=name).method
    fused = [method.fuse(scene.batch.infrared, scene.batch.visible, words) for words in ASKED]
    return [tile(scene.batch.infrared), tile(scene.batch.visible), *map(tile, fused)]


DRAWN: dict[str, Callable[..., list[np.ndarray]]] = {
    "degradation": degradation, "guide": guide, "loss": loss, "modulation": modulation,
}  # fmt: skip
SEEN = {
    "degradation": "the clean picture, and the degraded one at severity .7",
    "guide": "the picture, and what the guide marks for *highlight the person*",
    "loss": "the mean of both pictures, and the same after 100 steps down this loss alone",
    "modulation": "infrared, visible, and `compact` trained with the scheme, asked to *highlight "
    "the person* and to *highlight the car*",
}
"""What the pictures of a kind show; stands above their table."""


def tile(images: torch.Tensor) -> np.ndarray:
    return views.rgb(images[0].numpy())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("kinds", nargs="*", metavar="KIND", default=list(DRAWN))
    arguments.add_argument("--steps", type=int, default=450)
    arguments.add_argument("--redo", action="store_true")
    options = arguments.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    os.environ["FUSIONKIT_PLUGINS"] = ",".join(project["entry-points"]["fusionkit"])
    warnings.simplefilter("ignore")
    scene = Scene(Registry.from_environment())
    OUT.mkdir(exist_ok=True)
    for kind in options.kinds:
        for name in scene.registry.names(kind):
            file = OUT / f"{kind}-{name}.jpg"
            if file.exists() and not options.redo:
                continue
            further = {"steps": options.steps} if kind == "modulation" else {}
            try:
                tiles = DRAWN[kind](scene, name, **further)
            except Exception as error:  # weights or files that are not here; the others go on
                print(f"{kind} {name}: not drawn: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            strip = views.to_bytes(np.concatenate(tiles, 1))
            Image.fromarray(strip).save(file, quality=85)
            print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
