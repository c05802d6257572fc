"""The default method: training step and inference against the machine's arithmetic limit.

    python benchmarks/control.py [--device auto] [--precision auto] [--threads N]

The limit is measured in the same run: a 3x3 convolution of 64 channels. ``share`` is the part of it
that the whole step reaches, samples, losses and optimiser included; FLOP counts convolutions and
matrix products only, forward and backward.
"""

import argparse

import torch
from common import convolution_peak, flops, report, seconds

from fusionkit import devices, training
from fusionkit.batch import Batch
from fusionkit.methods import create
from fusionkit.registry import Registry


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--precision", default="auto")
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = devices.pick_device(options.device)
    dtype = devices.pick_precision(options.precision, device)
    peak = convolution_peak(device, dtype)

    registry = Registry.from_environment()
    recipe = registry.create("recipe", "control")
    pairs = list(registry.create("dataset", "scenes", count=64, size=128))
    method = training.Method(recipe, registry, device=device, dtype=dtype)
    task = training.build_task(method, pairs)
    method.bank.add(task.prompts)
    method.bank.fit()
    stage = recipe.stages[0]
    losses = {p.name: create(registry, "loss", p.name, p.options) for p in recipe.losses}
    parameters = training._trainable(method.network, stage)
    optimizer = training._optimizer(stage, parameters, device)
    counter = iter(range(10**9))

    figures = {
        "precision": str(dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in method.network.parameters()),
        "convolution_limit_gflops": round(peak / 1e9, 1),
    }

    def step(batch_size: int) -> None:
        number = next(counter)
        training._step(
            method, task, losses, recipe.weights, optimizer, parameters,
            stage.model_copy(update={"batch_size": batch_size}),
            step=number, within=number % stage.steps, seed=0,
        )  # fmt: skip

    for batch_size in (8, 16, 32):
        work = flops(lambda b=batch_size: step(b))
        took = seconds(lambda b=batch_size: step(b), device, least=4.0)
        sampling = seconds(
            lambda b=batch_size: task.sample(b, training.step_generator(0, next(counter))),
            device,
        )
        figures[f"training step, batch {batch_size} of {stage.crop}x{stage.crop}"] = {
            "seconds": round(took, 4),
            "samples_per_second": round(batch_size / took),
            "gflop": round(work / 1e9, 2),
            "share_of_limit": round(work / took / peak, 3),
            "share_of_time_making_samples": round(sampling / took, 3),
        }

    for height, width in ((128, 128), (480, 640), (768, 1024)):
        batch = Batch(
            visible=torch.rand(1, 3, height, width),
            infrared=torch.rand(1, 1, height, width),
            prompts=("highlight the person",),
        )
        work = flops(lambda b=batch: method(b))
        took = seconds(lambda b=batch: method(b), device, least=2.0)
        figures[f"fuse {height}x{width}"] = {
            "seconds": round(took, 4),
            "gflop": round(work / 1e9, 2),
            "share_of_limit": round(work / took / peak, 3),
        }
    report("control", device, figures)


if __name__ == "__main__":
    main()
