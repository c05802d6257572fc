"""Make the weights of recipe `words`, the default of `fusionkit fuse`, from rendered scenes alone.

    python plugins/standard/make_words.py --out FOLDER

Writes words.safetensors and prints what the words do to photographs, where those are at hand
(RoadScene, TNO: they are measured on, never trained on). A run that was stopped goes on where it
was when started again with the same --out.
"""

import argparse
import hashlib
import time
from pathlib import Path

import pandas as pd
import torch
from fusionkit_standard.photographs import means, on_pairs
from fusionkit_standard.tiny_clip.encoder import WEIGHTS

from fusionkit.errors import BadRequest
from fusionkit.registry import Registry
from fusionkit.training import train

SIZES = (128, 192, 288)
"""Sides of the rendered pairs: the same things larger and smaller."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--pairs", type=int, default=480, help="of each size")
    arguments.add_argument("--steps", type=int, help="in place of the recipe's")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--cache", help="folder for rendered pairs")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)

    registry = Registry.from_environment()
    recipe = registry.create("recipe", "words").with_overrides({"steps": options.steps})
    start = time.process_time()
    pairs = [
        pair
        for draw, size in enumerate(SIZES)
        for pair in registry.create(
            "dataset", "scenes", count=options.pairs, size=size, seed=draw,
            workers=options.threads, cache=options.cache,
        )
    ]  # fmt: skip
    print(f"{len(pairs)} scenes, {time.process_time() - start:.0f} core-seconds", flush=True)
    file = options.out / "words.pt"
    method = train(recipe, pairs, registry=registry, seed=options.seed, checkpoint=file).method
    made_with = {"encoder": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}
    file = method.save(options.out / "words.safetensors", made_with)
    spent = time.process_time() - start
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB after {spent:.0f} core-seconds", flush=True)
    for name, split in (("roadscene", "test"), ("tno", "all")):
        try:
            photographs = list(registry.create("dataset", name, split=split))
        except BadRequest as error:
            print(f"not measured: {error}")
            continue
        found = pd.DataFrame.from_dict(means(on_pairs(method, photographs)), orient="index")
        print(f"\n{name}\n{found.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()
