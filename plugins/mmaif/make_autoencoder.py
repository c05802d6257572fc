"""Make the weights of the small autoencoder from nothing but the generator of scenes.

    python plugins/mmaif/make_autoencoder.py --core-seconds 300 --threads 1

The linear part starts at the principal components of 8x8 blocks; then everything learns by L1 in
the picture plus 1e-6 times the divergence from a standard normal. Visible and infrared pictures
(the latter as three equal channels) take turns. Core-seconds are processor time of this process;
the batch of a step is a function of (--seed, step). How many steps fit depends on the machine, so
two machines get slightly different weights; --steps fixes the number instead.

Writes autoencoder.safetensors (half precision) and autoencoder.json (how it was made; PSNR on
held-out scenes, and on the test pairs of RoadScene where they are found), prints the latter.
``--size conv`` trains the large form of the tokenizer ``conv`` instead; give --out then.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from fusionkit_mmaif.tokenizers import SMALL, WEIGHTS, ConvAutoencoder
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from fusionkit import devices
from fusionkit.errors import BadRequest
from fusionkit.registry import Registry

DEVIATION = 0.05
"""Of the posterior, in units of the latents' own deviation at the start."""


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    device = devices.pick_device(options.device)
    registry = Registry.from_environment()
    torch.manual_seed(options.seed)
    scenes = registry.create("dataset", "scenes", count=options.scenes, size=128)
    pictures = to_bytes([p for pair in scenes for p in (pair.visible, pair.infrared)])
    print(f"{len(pictures)} pictures", flush=True)
    model = ConvAutoencoder(**(SMALL if options.size == "small" else {}))
    model.to(device, memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    if model.linear is not None:
        start_at_principal_components(model, pictures)
        print("principal components alone:", measure(model, registry), flush=True)
    steps, used = train(model, pictures, options, device)
    standardise(model, pictures)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().cpu().contiguous() for k, v in model.state_dict().items()}, out)
    model.load_state_dict({k: v.half().float() for k, v in model.state_dict().items()})
    found = {
        "made": {
            "scenes": options.scenes,
            "steps": steps,
            "core_seconds": round(used),
            "seed": options.seed,
            "batch_size": options.batch_size,
            "learning_rate": options.learning_rate,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "psnr": measure(model, registry),
    }
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core-seconds", type=float, default=300)
    parser.add_argument("--steps", type=int, help="train this many steps instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=("small", "conv"), default="small")
    parser.add_argument("--out", default=str(WEIGHTS))
    return parser.parse_args()


def to_bytes(pictures: list[Tensor]) -> Tensor:
    return torch.stack([(p.expand(3, -1, -1) * 255).round().to(torch.uint8) for p in pictures])


def to_unit(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def start_at_principal_components(model: ConvAutoencoder, pictures: Tensor) -> None:
    blocks = to_unit(pictures[::4]).unfold(2, 8, 8).unfold(3, 8, 8)
    rows = blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, 192)
    # About zero and not about the mean: the decoder's linear part has no bias.
    _, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    best = directions.flip(1)[:, : model.latent_channels].T.reshape(-1, 3, 8, 8)
    model.linear.copy_(best)
    model.linear_back.copy_(best)


def train(
    model: ConvAutoencoder, pictures: Tensor, options: argparse.Namespace, device: torch.device
) -> tuple[int, float]:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    with torch.no_grad():
        spread = model.raw(to_unit(pictures[:64]).to(device)).std((0, 2, 3), keepdim=True)
    begin, step, mean = time.process_time(), 0, 0.0
    while True:
        used = time.process_time() - begin
        done = step / options.steps if options.steps else used / options.core_seconds
        if done >= 1:
            return step, used
        rate = min(1.0, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        batch = sample(pictures, options.batch_size, generator).to(device)
        latent = model.raw(batch.contiguous(memory_format=torch.channels_last))
        noise = torch.randn(latent.shape, generator=generator).to(device)
        image = model.raw_back(latent + DEVIATION * spread * noise)
        loss = (image - batch).abs().mean() + 1e-6 * latent.square().sum(1).mean() / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = 0.98 * mean + 0.02 * float(loss.detach()) if step else float(loss.detach())
        step += 1
        if step % 200 == 0:
            print(f"step {step}, {used:.0f} core-seconds, loss {mean:.4f}", flush=True)


def sample(pictures: Tensor, count: int, generator: torch.Generator, side: int = 64) -> Tensor:
    rows = torch.randint(len(pictures), (count,), generator=generator).tolist()
    places = torch.randint(pictures.shape[-1] - side + 1, (count, 2), generator=generator).tolist()
    cut = torch.stack(
        [pictures[r, :, y : y + side, x : x + side] for r, (y, x) in zip(rows, places, strict=True)]
    )
    return to_unit(cut.flip(-1) if torch.rand((), generator=generator) < 0.5 else cut)


@torch.no_grad()
def standardise(model: ConvAutoencoder, pictures: Tensor) -> None:
    device = model.mean.device
    latent = torch.cat([model.raw(to_unit(part).to(device)) for part in pictures[:256].split(32)])
    model.mean.copy_(latent.mean((0, 2, 3)))
    model.deviation.copy_(latent.std((0, 2, 3)))


@torch.no_grad()
def measure(model: ConvAutoencoder, registry: Registry) -> dict[str, dict[str, float]]:
    """Mean PSNR of decoded against given pictures, dB, by data set and modality."""
    found = {}
    for name, title, count in (("scenes", "held-out scenes", 32), ("roadscene", "RoadScene", 20)):
        try:
            pairs = registry.create("dataset", name, split="test", count=count)
        except BadRequest:
            continue
        found[title] = {
            side: round(sum(psnr(model, getattr(p, side)) for p in pairs) / len(pairs), 2)
            for side in ("visible", "infrared")
        }
    return found


def psnr(model: ConvAutoencoder, picture: Tensor) -> float:
    image = picture.expand(3, -1, -1)[None].to(model.mean.device)
    height, width = image.shape[-2:]
    padded = pad(image, (0, -width % 8, 0, -height % 8), mode="reflect")
    back = (model.decode(model.encode(2 * padded - 1))[..., :height, :width] + 1) / 2
    return float(-10 * torch.log10((back.clamp(0, 1) - image).square().mean()))


if __name__ == "__main__":
    main()
