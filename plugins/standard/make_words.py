"""Make the weights of recipe `words`, the default of `fusionkit fuse`, from rendered scenes alone.

    python plugins/standard/make_words.py --out FOLDER

Writes words.safetensors and words.json: how they were made, and what their words do to photographs
where those are at hand (RoadScene, TNO: measured on, never trained on). A run that was stopped goes
on where it was when started again with the same --out. Without --out, the weights in the package
are measured and nothing is made.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fusionkit_standard.photographs import means, on_pairs
from fusionkit_standard.tiny_clip.encoder import WEIGHTS

from fusionkit.errors import BadRequest
from fusionkit.methods import Method, load_checkpoint, load_method
from fusionkit.recipe import Recipe
from fusionkit.registry import Registry
from fusionkit.training import build_task, train

SIZES = (128, 192, 288)
"""Sides of the rendered pairs: the same things larger and smaller."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, help="folder of the weights")
    arguments.add_argument("--pairs", type=int, default=200, help="of each size")
    arguments.add_argument("--steps", type=int, help="in place of the recipe's")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--cache", help="folder for rendered pairs")
    arguments.add_argument(
        "--start", type=Path, help="weights to go on from, of an earlier tiny-clip, say"
    )
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    registry = Registry.from_environment()
    if options.out is None:
        measured(load_method("words", registry=registry, device="cpu"), registry)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    method, record = make(options, registry)
    made_with = {"encoder": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}
    file = method.save(options.out / "words.safetensors", made_with)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; {json.dumps(record)}", flush=True)
    found = {"made": record, "measures": measured(method, registry)}
    text = json.dumps(found, indent=1) + "\n"
    (options.out / "words.json").write_text(text, encoding="utf-8")


def make(options: argparse.Namespace, registry: Registry) -> tuple[Method, dict[str, Any]]:
    """The trained method, and how it was made."""
    recipe = registry.create("recipe", "words")
    if options.steps is not None:
        recipe = recipe.with_overrides({"steps": options.steps})
    begin = time.process_time()
    pairs = [
        pair
        for draw, size in enumerate(SIZES)
        for pair in registry.create(
            "dataset", "scenes", count=options.pairs, size=size, seed=draw,
            workers=options.threads, cache=options.cache,
        )
    ]  # fmt: skip
    print(f"{len(pairs)} scenes", flush=True)
    start = options.start and begun(options.start, recipe, registry, options.out / "start.pt")
    run = train(
        recipe, pairs, registry=registry, seed=options.seed, device="cpu",
        checkpoint=options.out / "words.pt", start_from=start,
    )  # fmt: skip
    record = {
        "steps": recipe.stages[0].steps,
        "pairs": {str(size): options.pairs for size in SIZES},
        "seed": options.seed,
        "core_seconds": round(time.process_time() - begin),
        "went on from earlier weights": start is not None,
    }
    return run.method, record


def begun(earlier: Path, recipe: Recipe, registry: Registry, file: Path) -> Path:
    """A start for training: earlier weights, with the text statistics of the encoder as it is."""
    if not file.exists():
        method = Method(recipe, registry, device="cpu")
        method.bank.add(build_task(method, []).prompts)
        method.bank.fit()
        method.network.load_state_dict(load_checkpoint(earlier)["network"])
        method.save(file)
    return file


def measured(method: Method, registry: Registry) -> dict[str, Any]:
    """What words do to the photographs that are at hand, printed too."""
    tables = {}
    for name, split in (("roadscene", "test"), ("tno", "all")):
        try:
            photographs = list(registry.create("dataset", name, split=split))
        except BadRequest as error:
            print(f"not measured: {error}")
            continue
        rows = means(on_pairs(method, photographs))
        table = pd.DataFrame.from_dict(rows, orient="index").round(3)
        print(f"\n{name}\n{table.to_string()}", flush=True)
        tables[name] = {
            wish: {measure: round(value, 4) for measure, value in row.items()}
            for wish, row in rows.items()
        }
    return tables


if __name__ == "__main__":
    main()
