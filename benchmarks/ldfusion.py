"""LDFusion's language loss: crops in one batch against one at a time; a step of the CPU preset.

    python benchmarks/ldfusion.py [--device auto] [--crops 4] [--batch 1] [--precision float32]

The plain formulation does what the formulas say, crop by crop and picture by picture: sentences and
sources are encoded anew for each, as a first version would. Both give the same number and the same
gradient (``plugins/ldfusion/tests/test_language.py``). The encoder is open_clip's ViT-B/32 with
random weights, which change no time; the filter is off, so that every crop is encoded.
"""

import argparse
import resource
import statistics
import time

import torch
from common import report, seconds
from fusionkit_ldfusion.crops import draw_windows
from fusionkit_ldfusion.language import Language, LanguageDirection

from fusionkit import devices, training
from fusionkit.batch import Batch, Fused
from fusionkit.methods import Method
from fusionkit.registry import Registry
from fusionkit.testing import tiny_pairs


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--precision", default="float32")
    arguments.add_argument("--crops", type=int, default=4)
    arguments.add_argument("--batch", type=int, default=1)
    options = arguments.parse_args()
    device = devices.pick_device(options.device)
    dtype = devices.pick_precision(options.precision, device)
    registry = Registry.from_environment()
    encoder = registry.create(
        "encoder",
        "openclip",
        model="ViT-B-32-quickgelu",
        pretrained=None,
        untrained=True,
        device=str(device),
        precision=options.precision,
    )
    size = (224, 224)
    visible = torch.rand(options.batch, 3, *size, device=device)
    infrared = torch.rand(options.batch, 1, *size, device=device)
    image = torch.rand(options.batch, 3, *size, device=device, requires_grad=True)
    batch, fused = Batch(visible=visible, infrared=infrared), Fused(image)

    def batched(chunk: int) -> None:
        loss = LanguageDirection(encoder=encoder, crops=options.crops, entropy_min=0, chunk=chunk)
        loss.language = language
        sum(loss(batch, fused).values()).backward()

    def plain() -> None:
        grey = fused.image.mean(1, keepdim=True)
        windows = draw_windows(options.crops, size, 150)
        total = 0.0
        for number in range(len(windows)):
            for sample in range(options.batch):
                row = slice(sample, sample + 1)
                fresh = Language(encoder)
                crop = windows[number : number + 1].cut(grey[row])[0]
                seen = [fresh.see(x) for x in (crop, visible[row], infrared[row])]
                first, second = fresh.cosines(*seen, fresh.objective(1))
                total = total + 1 - (first + second).sum() / 2
        (total / (len(windows) * options.batch)).backward()

    language = Language(encoder)
    figures = {
        "batched_seconds": round(seconds(lambda: batched(64), device, least=1.0), 3),
        "plain_seconds": round(seconds(plain, device, least=1.0), 3),
    }
    figures["times_faster"] = round(figures["plain_seconds"] / figures["batched_seconds"], 2)
    figures["cpu_preset_step_seconds"] = round(step(registry, device, dtype), 3)
    setting = {
        "crops": options.crops,
        "batch": options.batch,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
    }
    figures["largest_memory_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    report("ldfusion", device, setting | figures)


def step(registry: Registry, device: torch.device, dtype: torch.dtype) -> float:
    """Median seconds of an optimiser step of ``ldfusion-cpu``, tiny-clip and seeded VGG19."""
    recipe = registry.create("recipe", "ldfusion-cpu").with_overrides(
        {"losses.vgg-max.options.weights": "seeded"}
    )
    method = Method(recipe, registry, device=device, dtype=dtype)
    (stage,) = recipe.stages
    task = training.build_task(method, tiny_pairs(4, 256))
    losses = training.build_losses(method)
    parameters = training._trainable(method.network, stage)
    optimizer = training._optimizer(stage, parameters, device)
    times = []
    for number in range(8):
        start = time.perf_counter()
        training._step(
            method, task, losses, recipe.weights, optimizer, parameters, stage,
            step=number, within=number, seed=0,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
