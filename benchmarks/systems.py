"""Published systems: fuse and training step against the machine's limit and the authors' own cost.

    python benchmarks/systems.py NAME... [--device auto] [--precision float32] [--threads N]
                                 [--sizes 256x256 480x640] [--memory 1024x1280] [--no-step]
                                 [--set PATH=VALUE ...]

NAME is a recipe. Weights are random (they change no time), text features are given and not
computed, as in the authors' figures. ``limit`` is a 3x3 convolution of 64 channels in the same run;
GFLOP counts convolutions and matrix products that are really computed. ``plain`` is the same
network with its own accelerations switched off, where it has such options. ``--memory`` adds the
growth of this process' largest size while one pair of that size is fused. ``--set`` overrides
numbers of the recipe.
"""

import argparse
import ast
import resource
import statistics
import time
import warnings
from typing import Any

import torch
from common import convolution_peak, flops, report, seconds

from fusionkit import devices, training
from fusionkit.batch import Batch
from fusionkit.errors import FusionkitError
from fusionkit.methods import Method
from fusionkit.recipe import Recipe
from fusionkit.registry import Registry
from fusionkit.testing.inputs import TinyEncoder, tiny_pairs

TEXT_WIDTHS = {
    "clip-vit-b-32": 512,
    "clip-vit-b-16": 512,
    "clip-vit-l-14": 768,
    "tiny-clip": 64,
    "paragraphs": 768,
    "flan-t5": 768,
}
"""Width of the text features by encoder; another one is built and asked."""
TOKENS = {"iffilm": 256}
"""Length of the text by network, where it is long in the authors' figures: the 83 and 226 GFLOP of
IF-FILM's are those of 256 tokens (two paragraphs). The length of its own features is not known."""
AUTHORS = {
    "textfusion": {"256x256": 0.74, "480x640": 3.61},
    "iffilm": {"256x256": 2.83, "480x640": 16.4},
    "occo": {"256x256": 0.38, "480x640": 2.86},
    "textif": {"256x256": 6.8, "480x640": 38.0},
    "ldfusion": {"256x256": 0.14, "480x640": 0.73},
    "rfc": {"256x256": 2.81, "480x640": 14.0},
    "terf": {"256x256": 2.16, "480x640": 14.9},
}
"""Seconds of the authors' own networks, float32, two threads of a 2-core AVX-512 server, idle."""
GUIDES = {"coresemantic": ("mask",)}
"""Maps that are given, as text features are, by network: a square in the middle is inside."""
PLAIN: dict[str, dict[str, Any]] = {"textfusion": {"fold": False, "band": None}}
"""Options that switch a network's accelerations off, by network."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="+", metavar="NAME")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--precision", default="float32")
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--sizes", nargs="*", default=["256x256", "480x640"])
    arguments.add_argument("--memory")
    arguments.add_argument("--no-step", action="store_true")
    arguments.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = devices.pick_device(options.device)
    dtype = devices.pick_precision(options.precision, device)
    peak = convolution_peak(device, dtype)
    figures: dict[str, Any] = {
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "convolution_limit_gflops": round(peak / 1e9, 1),
    }
    registry = Registry.from_environment()
    overrides = dict(pair.split("=", 1) for pair in options.set)
    for name in options.names:
        recipe = registry.create("recipe", name).with_overrides(
            {path: _value(text) for path, text in overrides.items()}
        )
        figures[name] = system(recipe, registry, device, dtype, peak, options)
    report("systems", device, figures)


def system(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    dtype: torch.dtype,
    peak: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """All figures of one recipe."""
    method = build(recipe, registry, device, dtype)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in method.network.parameters()),
    }
    if options.memory:
        before = _largest()
        method(pair(options.memory, method))
        found[f"memory of {options.memory}, MiB"] = round(_largest() - before)
    plain = None
    if recipe.network.name in PLAIN:
        changes = {f"network.options.{k}": v for k, v in PLAIN[recipe.network.name].items()}
        plain = build(recipe.with_overrides(changes), registry, device, dtype)
        plain.network.load_state_dict(method.network.state_dict())
    for size in options.sizes:
        batch = pair(size, method)
        work = flops(lambda b=batch: method(b))
        took = seconds(lambda b=batch: method(b), device, least=3.0)
        row = {
            "seconds": round(took, 4),
            "gflop": round(work / 1e9, 2),
            "share_of_limit": round(work / took / peak, 3),
        }
        if plain is not None:
            row["plain_seconds"] = round(seconds(lambda b=batch: plain(b), device, least=2.0), 4)
            row["plain_gflop"] = round(flops(lambda b=batch: plain(b)) / 1e9, 2)
            row["largest_difference"] = float(
                (method(batch).image - plain(batch).image).abs().max()
            )
        if device.type == "cpu" and (authors := AUTHORS.get(recipe.name, {}).get(size)):
            row["authors_seconds"] = authors
            row["times_faster_than_the_authors"] = round(authors / took, 1)
        found[f"fuse {size}"] = row
    if not options.no_step:
        found["training step"] = step(method, device, peak)
    return found


def build(recipe: Recipe, registry: Registry, device: torch.device, dtype: torch.dtype) -> Method:
    """The recipe with text features of the right width that mean nothing, and without editing."""
    recipe = recipe.model_copy(update={"refine": None})
    encoder = None
    if recipe.encoder is not None:
        width = TEXT_WIDTHS.get(recipe.encoder.name)
        if width is None:
            width = registry.create("encoder", recipe.encoder.name).text_dim

        class Given(TinyEncoder):
            text_dim = width

        encoder = Given().to(device)
    return Method(recipe, registry, device=device, dtype=dtype, encoder=encoder)


def pair(size: str, method: Method) -> Batch:
    """One random pair on the device, its text features already there."""
    height, width = (int(side) for side in size.split("x"))
    batch = Batch(
        visible=torch.rand(1, 3, height, width),
        infrared=torch.rand(1, 1, height, width),
        prompts=("word " * TOKENS.get(method.recipe.network.name, 3),),
    )
    inside = torch.zeros(1, 1, height, width)
    inside[..., height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 1
    given = {name: inside for name in GUIDES.get(method.recipe.network.name, ())}
    return method.with_text(batch.replace(guides=given)).to(method.device)


def step(method: Method, device: torch.device, peak: float) -> dict[str, Any]:
    """One optimiser step of the recipe's first stage, samples and losses included."""
    recipe = method.recipe
    stage = recipe.stages[0]
    side = 2 * (stage.crop or 128)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            losses = training.build_losses(method)
            task = training.build_task(method, tiny_pairs(4, side))
        except (FusionkitError, ValueError) as error:
            return {"not measured": str(error)}
    if method.bank is not None:
        method.bank.add(task.prompts)
        method.bank.fit()
    parameters = training._trainable(method.network, stage)
    optimizer = training._optimizer(stage, parameters, device)
    number = iter(range(10**9))

    def once() -> None:
        n = next(number)
        training._step(
            method, task, losses, recipe.weights, optimizer, parameters, stage,
            step=n, within=n % stage.steps, seed=0,
        )  # fmt: skip

    # Regions and masks are found once per pair and kept: not a part of the step that is timed.
    task.sample(16, torch.Generator().manual_seed(0))
    work, times = flops(once), []
    for _ in range(5):
        start = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    took = statistics.median(times)
    return {
        "batch": stage.batch_size,
        "crop": stage.crop or f"{side}x{side} pairs, whole",
        "seconds": round(took, 4),
        "gflop": round(work / 1e9, 2),
        "share_of_limit": round(work / took / peak, 3),
        "said": sorted({str(warning.message) for warning in said}),
    }


def _largest() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
