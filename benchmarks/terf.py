"""TeRF's effects: seconds of one edit of one picture, learning and application.

    python benchmarks/terf.py [EFFECT ...] [--size 480x640] [--threads N] [--device auto]

Budget of a CPU (20 steps on a window of 96 pixels), or the published protocol on a GPU. Weights are
random; they change no time.
"""

import argparse
import time

import torch
from common import report
from fusionkit_terf.editing import CPU_SIDE, CPU_STEPS
from fusionkit_terf.effects import Effects
from fusionkit_terf.network import Terf

from fusionkit import devices


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("effects", nargs="*", default=["denoise", "brighten", "salient"])
    arguments.add_argument("--size", default="480x640")
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--device", default="auto")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = devices.pick_device(options.device)
    height, width = (int(side) for side in options.size.split("x"))
    visible = torch.rand(1, 3, height, width, device=device)
    infrared = torch.rand(1, 1, height, width, device=device)
    network = Terf().to(device, memory_format=torch.channels_last).eval()
    slow = device.type == "cpu"
    effects = Effects(
        network, max_steps=CPU_STEPS if slow else None, work_size=CPU_SIDE if slow else None
    )
    figures = {"size": options.size, "threads": torch.get_num_threads()}
    for name in options.effects:
        start = time.perf_counter()
        effects(name, visible, visible, infrared, torch.ones_like(infrared))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        figures[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "steps": effects.budget(name)[1],
        }
    report("terf", device, figures)


if __name__ == "__main__":
    main()
