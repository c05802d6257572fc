"""Everything a large run spends its time on, as ratios within one run; printed and stored as JSON.

    python benchmarks/scale.py [NAME...] [--device auto] [--precision auto] [--batch N] [--crop N]
                               [--flops] [--no-profile] [-o runs/scale.json]

NAME is a recipe; without any, every one with a full protocol. Per recipe, its first stage: seconds
of a step and of fusing a picture, each against plain eager float32 (contiguous memory, an optimiser
that loops over parameters) and against the machine's limit; the share of a step that is making the
samples (below 1 / processes, an accelerator never waits for them when they are made beside it); and
what a profile of the step says it is spent on. Then the data path, the store and what a widget
reads, against the step of the first recipe. On a GPU the limit is a bfloat16 matrix product and the
copying of memory, on a CPU a convolution. ``--batch`` and ``--crop`` bound the step for a small
machine. ``--flops`` counts only what arithmetic a step of the full protocol is: one small step on
this machine, times the batch; it measures no time.

Weights are random and text features given, as in ``systems.py``.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import convolution_peak, flops, machine, seconds
from PIL import Image
from systems import build, pair
from torch.profiler import ProfilerActivity, profile

from fusionkit import devices, store, training
from fusionkit.errors import FusionkitError
from fusionkit.methods import Method
from fusionkit.recipe import Recipe
from fusionkit.registry import Registry
from fusionkit.store.provenance import package_versions

PLAIN = {"channels_last": False, "compile": None, "precision": "float32", "fused": False}
"""Eager float32: what a script without any care does."""
WHOLE = {"textfusion": (1024, 1280), "iffilm": (480, 640), "iffilm-stored": (480, 640),
         "rfc": (480, 640), "rfc-spacy": (480, 640)}  # fmt: skip
"""Height and width of the pairs that recipes without a crop take whole, in their papers' data."""
LEAST = {"occo": 4, "control": 2}
"""Fewest samples that a task makes a batch of, where that is not one."""
REDUCED = ("-small", "-cpu", "-small-flow")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="*", metavar="NAME")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--precision", default="auto")
    arguments.add_argument("--batch", type=int)
    arguments.add_argument("--crop", type=int)
    arguments.add_argument("--flops", action="store_true")
    arguments.add_argument("--no-profile", action="store_true")
    arguments.add_argument("-o", "--output", default="runs/scale.json")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    registry = Registry.from_environment()
    device = devices.pick_device(options.device)
    dtype = devices.pick_precision(options.precision, device)
    names = options.names or [n for n in registry.names("recipe") if not n.endswith(REDUCED)]
    figures: dict[str, Any] = {
        "benchmark": "scale",
        "machine": machine(device),
        "packages": package_versions(),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    if not options.flops:
        figures["limits"] = limits(device, dtype)
    figures["recipes"] = {}
    for name in names:
        recipe = registry.create("recipe", name)
        try:
            found = (
                arithmetic(recipe, registry)
                if options.flops
                else measured(recipe, registry, device, dtype, figures["limits"], options)
            )
        except (FusionkitError, ValueError, TypeError, RuntimeError, OSError) as error:
            found = {"not measured": str(error).splitlines()[0]}
        figures["recipes"][name] = found
        print(f"{name}: {json.dumps(found)}", flush=True)
    if not options.flops:
        first = next(iter(figures["recipes"].values()))
        step = first.get("step", {}).get("seconds")
        figures |= {"data": data(registry, first), "store": stored(step), "reads": reads()}
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(json.dumps({k: v for k, v in figures.items() if k != "packages"}, indent=2))
    print(output)


def limits(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What the machine does at best: arithmetic per second, bytes copied per second."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    product = 2 * side**3 / seconds(lambda: a @ a, device)
    source = torch.empty((1 << 30 if device.type == "cuda" else 1 << 26) // 4, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / seconds(lambda: target.copy_(source), device)
    return {
        "convolution_gflops": round(convolution_peak(device, dtype) / 1e9, 1),
        "matrix_gflops": round(product / 1e9, 1),
        "copy_gb_per_s": round(copied / 1e9, 2),
    }


def bounded(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with the batch and crop of the command line, where these are smaller."""
    stage = recipe.stages[0]
    changes: dict[str, Any] = {"stages.0.accumulate": 1}
    if options.batch:
        least = max(options.batch, LEAST.get(recipe.name, 1))
        changes["stages.0.batch_size"] = min(stage.batch_size, least)
    if options.crop and stage.crop:
        changes["stages.0.crop"] = min(stage.crop, options.crop)
    return recipe.with_overrides(changes)


class Step:
    """A training step of a recipe's first stage, again and again."""

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.method: Method = build(recipe, registry, device, dtype)
        self.stage = recipe.stages[0]
        self.losses = training.build_losses(self.method)
        sizes = WHOLE.get(recipe.name) or (2 * (self.stage.crop or 128),) * 2
        made = registry.create("dataset", "scenes", root=None, split="train", count=4, size=sizes)
        options = {"crop": self.stage.crop} | recipe.task_options | self.stage.task_options
        self.task = training.build_task(self.method, list(made), options)
        if self.method.bank is not None:
            self.method.bank.add(self.task.prompts)
            self.method.bank.fit()
        self.parameters = training._trainable(self.method.network, self.stage)
        self.optimizer = training._optimizer(self.stage, self.parameters, device)
        network, backend = self.method.network, recipe.compile
        self.network = torch.compile(network, backend=backend) if backend else network
        self.numbers: Iterator[int] = iter(range(10**9))

    def __call__(self) -> None:
        number = next(self.numbers)
        training._step(
            self.method, self.task, self.losses, self.method.recipe.weights, self.optimizer,
            self.parameters, self.stage, step=number, within=number % self.stage.steps, seed=0,
            network=self.network,
        )  # fmt: skip

    def sample(self) -> None:
        """Its samples alone."""
        generator = training.step_generator(0, next(self.numbers))
        self.task.sample(self.stage.batch_size, generator)


def measured(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    dtype: torch.dtype,
    limit: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Step and fusing of one recipe, ours and plain."""
    recipe = bounded(recipe, options)
    ours = Step(recipe, registry, device, dtype)
    plain = Step(recipe.with_overrides(PLAIN), registry, device, torch.float32)
    peak = 1e9 * limit["matrix_gflops" if device.type == "cuda" else "convolution_gflops"]
    work, took, slow = flops(ours), median(ours, device), median(plain, device)
    batch = pair("256x256", ours.method)
    fusing = seconds(lambda: ours.method(batch), device)
    fusing_plain = seconds(lambda: plain.method(batch), device)
    fusing_work = flops(lambda: ours.method(batch))
    found = {
        "step": {
            "batch": ours.stage.batch_size,
            "crop": ours.stage.crop or WHOLE.get(recipe.name, 256),
            "seconds": round(took, 5),
            "times_faster_than_plain": round(slow / took, 2),
            "gflop": round(work / 1e9, 2),
            "share_of_limit": round(work / took / peak, 3),
            "share_making_samples": round(median(ours.sample, device) / took, 3),
        },
        "fuse 256x256": {
            "seconds": round(fusing, 5),
            "times_faster_than_plain": round(fusing_plain / fusing, 2),
            "share_of_limit": round(fusing_work / fusing / peak, 3),
        },
    }
    if not options.no_profile:
        found["step"]["spent_on"] = spent(ours, device)
    return found


def median(call: Callable[[], Any], device: torch.device) -> float:
    """Median seconds of five calls after two; medians of things that are compared as ratios."""
    times = []
    for number in range(7):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def spent(call: Callable[[], Any], device: torch.device, most: int = 8) -> dict[str, float]:
    """The operations that a call spends most on, as shares of all."""
    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=kinds) as found:
        call()

    def own(event: Any) -> float:
        return event.self_device_time_total if cuda else event.self_cpu_time_total

    events = sorted(found.key_averages(), key=own, reverse=True)
    total = sum(map(own, events)) or 1
    return {event.key: round(own(event) / total, 3) for event in events[:most]}


def arithmetic(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """Floating-point operations of the full protocol, counted in one small step of each stage.

    Convolutions and matrix products of networks and losses, forward and backward, on pictures of
    the protocol's size and with the fewest samples; the arithmetic of a step is proportional to its
    batch.
    """
    stages = []
    for stage in recipe.stages:
        least = LEAST.get(recipe.name, 1)
        small = stage.model_copy(update={"batch_size": least, "accumulate": 1})
        changes: dict[str, Any] = {"stages": (small,)}
        if stage.weights is not None:
            changes["weights"] = stage.weights
        once = Step(recipe.model_copy(update=changes), registry, torch.device("cpu"), torch.float32)
        stages.append((stage.steps, stage.batch_size, flops(once) / least * stage.batch_size))
    return {
        "parameters": sum(p.numel() for p in once.method.network.parameters()),
        "steps": [steps for steps, _, _ in stages],
        "batch": [batch for _, batch, _ in stages],
        "gflop_per_step": [round(work / 1e9, 1) for _, _, work in stages],
        "petaflop_in_all": round(sum(steps * work for steps, _, work in stages) / 1e15, 2),
    }


def data(registry: Registry, first: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of one processor per pair or picture, and steps' worth of samples per second."""
    found: dict[str, Any] = {}

    def scenes() -> list[Any]:  # a set keeps what it has rendered, so each time a new one
        return list(
            registry.create("dataset", "scenes", root=None, split="train", count=8, size=256)
        )

    found["scene 256x256"] = busy(scenes) / 8
    made = scenes()
    with tempfile.TemporaryDirectory() as folder:
        for place in ("ir", "vi"):
            (Path(folder) / place).mkdir()
        for number, one in enumerate(list(made)):
            for place, picture in (("vi", one.visible), ("ir", one.infrared.expand(3, -1, -1))):
                values = (picture * 255).byte().permute(1, 2, 0).numpy()
                Image.fromarray(values).save(Path(folder) / place / f"{number}.png")
        read = registry.create("dataset", "folder", root=folder, split="train", count=8, size=None)
        found["folder 256x256, PNG"] = busy(lambda: list(read)) / max(1, len(list(read)))
    one = next(iter(made))
    for name in registry.names("degradation"):
        try:
            damage = registry.create("degradation", name)
            side = one.infrared if damage.modality == "infrared" else one.visible
            context = {} if one.depth is None else {"depth": one.depth[None]}
            generator = torch.Generator().manual_seed(0)
            call = lambda d=damage, s=side, g=generator, c=context: d(s[None], 0.7, g, **c)  # noqa: E731
            found[f"degradation {name}"] = busy(call)
        except (FusionkitError, RuntimeError, TypeError) as error:
            found[f"degradation {name}"] = str(error).splitlines()[0]
    step = first.get("step", {})
    per_sample = 1e3 * step["seconds"] / step["batch"] if "seconds" in step else None
    return {
        name: value
        if isinstance(value, str)
        else {
            "ms": round(value, 3),
            **({"of_a_sample_of_a_step": round(value / per_sample, 3)} if per_sample else {}),
        }
        for name, value in found.items()
    }


def busy(call: Callable[[], Any], times: int = 3) -> float:
    """Milliseconds of processor time of the best of some calls."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return 1e3 * best


def stored(step: float | None) -> dict[str, Any]:
    """What a run writes: an entry of the history, a picture of a pair, maps of a layer."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        run = store.create_run(
            f"{folder}/a.zarr", parameters={}, recipe={}, components={}, seed=0, device="cpu"
        )
        with run:
            run.declare_history(["a"], [0], list(range(1, 401)), ["total", "a", "b"])
            run.declare_pairs([f"p{n}" for n in range(8)], 256, 256)
            terms = {"total": 1.0, "a": 2.0, "b": 3.0}
            rows = iter(range(400))
            entry = timed(lambda: run.put_history("a", 0, next(rows), terms), 40)
            names = iter(f"p{n}" for n in range(8))
            picture = rng.random((3, 256, 256), dtype=np.float32)
            pictures = timed(lambda: run.put_image("fused", next(names), picture), 8)
            names = iter(f"p{n}" for n in range(8))
            maps = rng.random((64, 64, 64), dtype=np.float32)
            features = timed(lambda: run.put_features("layer", next(names), maps), 8)
    found: dict[str, Any] = {
        "history entry, ms": round(entry, 3),
        "picture 256x256, ms": round(pictures, 3),
        "maps 64x64x64, ms": round(features, 3),
    }
    if step:
        found["history entry, share of a step"] = round(entry / 1e3 / step, 4)
    return found


def reads() -> dict[str, float]:
    """What the widget asks a store for when a control moves."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.zarr"
        with store.create_run(
            path, parameters={}, recipe={}, components={}, seed=0, device="cpu"
        ) as run:
            run.declare_pairs(["p"], 480, 640)
            run.put_image("fused", "p", rng.random((3, 480, 640), dtype=np.float32))
            run.put_features("layer", "p", rng.random((64, 240, 320), dtype=np.float32))
        tree = store.open_run(path)
        return {
            "channel 240x320, ms": round(
                timed(lambda: store.read_channel(tree, "layer", "p", 5), 20), 3
            ),
            "picture 480x640, ms": round(
                timed(lambda: store.read_image(tree, "fused", "p"), 20), 3
            ),
        }


def timed(call: Callable[[], Any], times: int) -> float:
    """Mean milliseconds of processor time."""
    start = time.process_time()
    for _ in range(times):
        call()
    return 1e3 * (time.process_time() - start) / times


if __name__ == "__main__":
    main()
