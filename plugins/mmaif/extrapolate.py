"""How a network that was trained on small crops does on larger pictures.

    python plugins/mmaif/extrapolate.py CHECKPOINT [--recipe mmaif-small] [--sizes 64 128 256]

For held-out scenes at every size, clean ("fuse the two images") and damaged: mean PSNR of the fused
picture against the fused target, with positions as they count on (rope_scale 1) and squeezed into
the range of training. ``mean latent`` is what the network starts from before it has learned,
``ceiling`` the target itself through the tokenizer. Also the load of the experts at each size.
"""

import argparse

import torch
from torch import Tensor

import fusionkit as fk
from fusionkit.batch import Batch
from fusionkit.registry import Registry
from fusionkit.training import build_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--recipe", default="mmaif-small")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    registry = Registry.from_environment()
    method = fk.load_method(given.recipe, given.checkpoint, device=given.device)
    trained = method.recipe.stages[0].crop
    print(f"trained on crops of {trained}; PSNR in dB, mean of {given.pairs} held-out scenes")
    for damaged in (False, True):
        for size in given.sizes:
            row = measure(method, registry, size, given.pairs, damaged, trained)
            said = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
            print(f"{'damaged' if damaged else 'clean'} {size}x{size}: {said}", flush=True)


@torch.no_grad()
def measure(
    method: object, registry: Registry, size: int, count: int, damaged: bool, trained: int
) -> dict[str, float]:
    pairs = list(registry.create("dataset", "scenes", split="test", count=count, size=size))
    options = {"crop": None, "flips": False, "clean_share": float(not damaged), "empty_share": 0.0}
    task = build_task(method, pairs, options)
    samples = [task.sample(1, torch.Generator().manual_seed(i)) for i in range(count)]
    network = method.network
    found: dict[str, list[float]] = {}
    for sample in samples:
        batch = Batch(sample.visible, sample.infrared, prompts=sample.prompts)
        target = sample.targets["fused"]
        given = batch.to(method.device)
        pictures = {
            "mean latent": network.decode(sum(network.encode(given)) / 2),
            "ceiling": network.decode(network._latent(target.to(method.device))),
        }
        for scale in dict.fromkeys((1.0, min(1.0, trained / size))):
            network.transformer.rope_scale = scale
            fused = method(batch)
            pictures[f"rope_scale {scale:g}"] = fused.image
        network.transformer.rope_scale = 1.0
        for name, picture in pictures.items():
            found.setdefault(name, []).append(psnr(picture.cpu(), target))
        for name in ("load_most", "load_least"):
            found.setdefault(name, []).append(float(fused.terms[name]))
    return {name: sum(values) / count for name, values in found.items()}


def psnr(picture: Tensor, target: Tensor) -> float:
    return float(-10 * torch.log10((picture.clamp(0, 1) - target).square().mean()))


if __name__ == "__main__":
    main()
