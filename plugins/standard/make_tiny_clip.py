"""Make the weights of tiny-clip from nothing but the generator of scenes.

    python plugins/standard/make_tiny_clip.py --core-seconds 3000 --threads 1 --out FOLDER

Core-seconds are processor time of this process, scenes not counted; the wall clock depends on what
else runs. A run that was stopped goes on where it was when started again with the same --cache.
The batch of a step is a function of (--seed, step). How many steps fit into the time depends on the
machine, so two machines get slightly different weights; --steps fixes the number instead.
Writes tiny_clip.safetensors (half precision), vocabulary.json and measures.json, prints measures.
"""

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path

import torch
from fusionkit_standard.datasets import RoadScene, Tno
from fusionkit_standard.scenes import texts
from fusionkit_standard.tiny_clip import training
from fusionkit_standard.tiny_clip.encoder import TinyClip, load_towers
from fusionkit_standard.tiny_clip.measures import (
    by_reading_size,
    calibrate,
    degradations_on_photographs,
    measure,
    on_photographs,
    table,
)
from fusionkit_standard.tiny_clip.tokenizer import Tokenizer
from fusionkit_standard.tiny_clip.towers import CONFIG, Towers
from safetensors.torch import save_file

from fusionkit.devices import autocast, pick_precision
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair

CPU = torch.device("cpu")
SAVE_EVERY = 120  # core-seconds
WARM_UP = 0.03  # share of the run


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    cache = Path(options.cache) if options.cache else None
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter(), sum(os.times()[:4])
    seeds = range(training.TRAINING_SEEDS, training.TRAINING_SEEDS + options.scenes)
    pool = training.Pool(seeds, options.threads, cache and cache / "scenes", training.POOL_SIZE)
    rendering = sum(os.times()[:4]) - started[1]
    print(f"{len(pool)} scenes after {rendering:.0f} core-seconds", flush=True)
    vocabulary = list(texts.vocabulary())
    if options.start:
        vocabulary = json.loads(Path(options.start).with_name("vocabulary.json").read_text())
    (out / "vocabulary.json").write_text(json.dumps(vocabulary, indent=0) + "\n", encoding="utf-8")
    towers, record = train(options, pool, Tokenizer(vocabulary), cache)
    path = out / "tiny_clip.safetensors"
    save(towers, path)
    encoder = TinyClip(path)
    calibrate(encoder, training.Pool(training.CALIBRATION_SEEDS, options.threads))
    save(encoder.towers, path)
    encoder = TinyClip(path)
    found = measure(encoder, training.Pool(training.MEASURE_SEEDS, options.threads))
    large = training.Pool(training.LARGE_SEEDS, options.threads, size=training.LARGE)
    found["reading size"] = by_reading_size(encoder, large, (128, 160, 192, 224, 256, 320, 384))
    real = photographs()
    found["on photographs"] = {name: on_photographs(encoder, real[name]) for name in real}
    if real:
        every = [pair for pairs in real.values() for pair in pairs]
        named = degradations_on_photographs(encoder, every)
        found["degradation named on photographs"] = {"pairs": len(every), **named}
    record |= {"machine": machine(), "threads": options.threads, "seed": options.seed}
    record |= {"scenes": len(pool), "parameters": sum(p.numel() for p in towers.parameters())}
    record |= {"minutes": round((time.perf_counter() - started[0]) / 60, 1)}
    (out / "measures.json").write_text(
        json.dumps({"made": record, "measures": _rounded(found)}, indent=1) + "\n"
    )
    print(table({key: value for key, value in found.items() if key != "on photographs"}))
    for name, by_label in found["on photographs"].items():
        for label, by_source in by_label.items():
            print(f"{name}: {label}", json.dumps(_rounded(by_source)))
    print(json.dumps(record))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core-seconds", type=float, default=3000, help="processor time to train")
    parser.add_argument("--steps", type=int, help="train this many steps instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=7_000, help="scenes to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder that keeps scenes and the state of the run")
    parser.add_argument("--start", help="weights to go on from, with the vocabulary beside them")
    parser.add_argument(
        "--without", nargs="*", default=(), choices=training.PARTS, help="parts to leave out"
    )
    parser.add_argument("--rate", type=float, default=training.PEAK_RATE, help="peak learning rate")
    parser.add_argument("--out", required=True, help="folder for the three files")
    return parser.parse_args()


def train(
    options: argparse.Namespace, pool: training.Pool, tokenizer: Tokenizer, cache: Path | None
) -> tuple[Towers, dict]:
    """The trained towers and a record of the run."""
    torch.manual_seed(options.seed)
    towers = load_towers(Path(options.start)) if options.start else Towers(CONFIG)
    towers = towers.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        towers.parameters(), lr=options.rate, weight_decay=0.02, fused=True
    )
    parts = [part for part in training.PARTS if part not in options.without]
    others_count = training.OTHERS if "contrast" in parts else training.FEW_OTHERS
    objective = training.Objective(tokenizer, pool.frequencies(), parts)
    odds, precision = pool.odds(), pick_precision("auto", CPU)
    state = cache / f"state-{options.seed}.pt" if cache else None
    step, before = 0, 0.0
    if state and state.exists():
        kept = torch.load(state, weights_only=True)
        towers.load_state_dict(kept["towers"])
        optimizer.load_state_dict(kept["optimizer"])
        step, before = kept["step"], kept["core_seconds"]
        print(f"goes on at step {step}, {before:.0f} core-seconds", flush=True)
    start, saved, shown = time.process_time(), before, {}
    while True:
        spent = before + time.process_time() - start
        progress = step / options.steps if options.steps else spent / options.core_seconds
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate(progress)
        rows, rng = training.rows_of_step(step, odds, options.seed, parts)
        seen = training.views(pool, rows, rng, parts)
        others = rng.integers(len(pool), size=others_count)
        captions = [training.caption(pool.facts[row], rng) for row in (*rows, *others)]
        with autocast(CPU, precision):
            terms = objective(towers, seen, captions, rng)
            loss = sum(training.WEIGHTS[name] * term for name, term in terms.items())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimizer.step()
        step += 1
        for name, term in terms.items():
            shown[name] = 0.98 * shown.get(name, term.item()) + 0.02 * term.item()
        if step % 100 == 0:
            means = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"step {step:6}  {spent:6.0f} cs  {means}", flush=True)
        if state and spent - saved > SAVE_EVERY:
            kept = {"towers": towers.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**kept, "step": step, "core_seconds": spent}, state)
            saved = spent
    return towers, {
        "core_seconds": round(spent),
        "steps": step,
        "views": step * training.BATCH,
        "precision": str(precision).removeprefix("torch."),
    }


def rate(progress: float) -> float:
    """Share of the peak learning rate: short linear rise, then half a cosine to zero."""
    rise = min(1.0, (progress + 0.001) / WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * progress))


def photographs() -> dict[str, list[Pair]]:
    """The pairs with boxes of RoadScene and TNO, where they are found. They train nothing."""
    found = {}
    for name, dataset in {"roadscene": RoadScene, "tno": Tno}.items():
        try:
            pairs = dataset(split="all")
        except BadRequest as error:
            print(f"Not measured on photographs: {error}")
        else:
            found[name] = [pair for pair in pairs if pair.things]
    return found


def save(towers: Towers, path: Path) -> None:
    """Weights in half precision; counters of the normalisation layers keep their type."""
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in towers.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    path.chmod(0o644)


def machine() -> str:
    """The processor in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {os.cpu_count()} processors, {capability}, torch {torch.__version__}"


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
