"""Seconds per pair of the scores: ours, libraries that compute the same, formulas written plainly.

    python benchmarks/metrics.py [eight] [suite] [single] [libraries] [feature] [--device D]

``eight`` times the usual eight (preset ``cddfuse``) at two sizes and in batches of 1 and 16,
``suite`` every score that needs no more than three pictures, ``single`` each of those alone,
``libraries`` the scores that torchmetrics, piq, pyiqa, scikit-image and scikit-learn compute too,
with the difference of the values, ``feature`` FMI against a loop over windows. Libraries come with
``pip install "fusionkit[bench]"``; what is not installed is left out. Pictures are made up.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import report
from fusionkit_standard.metrics import PRESETS, SCORES
from plain_metrics import PLAIN

from fusionkit.devices import pick_device

SIZES = {"TNO": (450, 620), "640x480": (480, 640)}
BATCHES = (1, 16)
EIGHT = tuple(PRESETS["cddfuse"]().metrics.values())
SUITE = tuple(code for code, score in SCORES.items() if "reference" not in score.needs)
FEW_ROWS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {
        "eight": eight,
        "suite": suite,
        "single": single,
        "libraries": libraries,
        "feature": feature,
    }
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    device = pick_device(arguments.device)
    figures = {name: parts[name](device) for name in arguments.parts or parts}
    report("metrics", device, {"threads": torch.get_num_threads(), **figures})


def eight(device: torch.device) -> dict[str, Any]:
    """The usual eight, per pair, against the same formulas written plainly."""
    found = {}
    for size, shape in SIZES.items():
        found[size] = per_pair(EIGHT, shape, device)
        one = plain(made(1, shape, device))
        found[size]["plain"] = seconds(lambda one=one: [PLAIN[code](*one) for code in EIGHT])
        found[size]["times faster"] = found[size]["plain"] / found[size]["batch 1"]
    return found


def suite(device: torch.device) -> dict[str, Any]:
    """Every score, per pair."""
    found: dict[str, Any] = {"scores": len(SUITE)}
    for size, shape in SIZES.items():
        found[size] = per_pair(SUITE, shape, device)
    return found


def single(device: torch.device) -> dict[str, float]:
    """Milliseconds of each score for a pair of 640x480, and of the plain formula."""
    pictures = made(1, SIZES["640x480"], device)
    return {code: 1e3 * seconds(lambda code=code: run([code], pictures)) for code in SUITE}


def libraries(device: torch.device) -> dict[str, Any]:
    """Milliseconds per pair of 640x480, value and relative difference, by library."""
    pictures = made(1, SIZES["640x480"], device)
    levels = [(p * 255).round().double() for p in pictures]
    found = {}
    for (code, name), call in calls(levels).items():
        ours = seconds(lambda code=code: run([code], pictures))
        theirs, value = seconds(call), run([code], pictures)[0].item()
        reached = call()
        found[f"{code}: {name}"] = {
            "ms": 1e3 * theirs,
            "ours, ms": 1e3 * ours,
            "times faster": theirs / ours,
            "relative difference": abs(reached - value) / abs(value),
        }
    return found


def feature(device: torch.device) -> dict[str, Any]:
    """FMI on raw pixels of 640x480 against a loop over windows, timed on a few rows of them."""
    pictures = made(1, SIZES["640x480"], device)
    one = plain(pictures)
    rows = one[0].shape[0] - 2
    loop = seconds(lambda: PLAIN["fmi_none"](*one, rows=FEW_ROWS)) * rows / FEW_ROWS
    ours = seconds(lambda: run(["fmi_none"], pictures))
    return {"loop": loop, "ours": ours, "times faster": loop / ours}


def calls(levels: list[torch.Tensor]) -> dict[tuple[str, str], Callable[[], float]]:
    """What the installed libraries offer of the same definitions, float64 pictures 0..255."""
    fused, *sources = levels
    arrays = [p[0, 0].cpu().numpy() for p in levels]
    found: dict[tuple[str, str], Callable[[], float]] = {}

    def both(call: Callable[..., Any]) -> Callable[[], float]:
        return lambda: float(sum(call(source) for source in sources))

    def both_arrays(call: Callable[..., Any]) -> Callable[[], float]:
        return lambda: float(sum(call(source) for source in arrays[1:]))

    try:
        from torchmetrics.functional.image import visual_information_fidelity as vif
        from torchmetrics.functional.regression import pearson_corrcoef as pearson

        found["vif_sum", "torchmetrics"] = both(lambda s: vif(fused, s, sigma_n_sq=2.0).item())
        found["cc", "torchmetrics"] = both(lambda s: pearson(fused.ravel(), s.ravel()).item() / 2)
    except ImportError:
        pass
    try:
        import piq

        found["vif_sum", "piq"] = both(lambda s: piq.vif_p(fused, s, data_range=255.0).item())
        found["ssim_g11_valid_sum", "piq"] = both(
            lambda s: piq.ssim(fused, s, data_range=255.0, downsample=False).item()
        )
        found["ms_ssim", "piq"] = both(
            lambda s: piq.multi_scale_ssim(fused, s, data_range=255.0).item()
        )
    except ImportError:
        pass
    try:
        from skimage.measure import shannon_entropy
        from skimage.metrics import structural_similarity as ssim

        whole = arrays[0].astype("uint8")
        found["en", "scikit-image"] = lambda: float(shannon_entropy(whole))
        found["ssim_u7_L2_sum", "scikit-image"] = both_arrays(
            lambda s: ssim(s, arrays[0], data_range=2)
        )
        gauss = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        found["ssim_g11_valid_sum", "scikit-image"] = both_arrays(
            lambda s: ssim(s, arrays[0], data_range=255, **gauss)
        )
    except ImportError:
        pass
    try:
        from sklearn.metrics import mutual_info_score

        flat = [a.ravel().astype(int) for a in arrays]
        found["mi_nats", "scikit-learn"] = lambda: sum(
            mutual_info_score(source, flat[0]) for source in flat[1:]
        )
    except ImportError:
        pass
    try:
        import pyiqa

        metric = pyiqa.create_metric("ms_ssim", device=fused.device)
        found["ms_ssim", "pyiqa"] = both(
            lambda s: metric((fused / 255).float(), (s / 255).float()).item()
        )
    except ImportError:
        pass
    return found


def per_pair(
    codes: Sequence[str], shape: tuple[int, int], device: torch.device
) -> dict[str, float]:
    """Seconds per pair for each size of batch."""
    found = {}
    for batch in BATCHES:
        pictures = made(batch, shape, device)
        found[f"batch {batch}"] = seconds(lambda p=pictures: run(codes, p)) / batch
    return found


def run(codes: Sequence[str], pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    """Scores as numbers on this machine, so that a GPU has finished."""
    return [SCORES[code]()(*pictures).cpu() for code in codes]


def seconds(call: Callable[[], Any], *, least: float = 0.3) -> float:
    """Best of the calls that fit into ``least`` seconds; one that takes longer is made once."""
    best, spent, count = math.inf, 0.0, 0
    while spent < least:
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        best, spent, count = min(best, took), spent + took, count + 1
    return best


def made(batch: int, shape: tuple[int, int], device: torch.device) -> list[torch.Tensor]:
    """Fused, infrared and visible: noise on several scales, as 8-bit pictures hold it."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for _ in range(2):
        levels = torch.zeros(batch, 1, *shape)
        for coarse in (1, 4, 16, 64):
            cells = [-(-side // coarse) for side in shape]
            noise = torch.rand(batch, 1, *cells, generator=generator)
            levels += torch.nn.functional.interpolate(noise, size=shape, mode="bilinear") * coarse
        low, high = levels.amin((2, 3), True), levels.amax((2, 3), True)
        pictures.append((levels - low) / (high - low))
    fused = 0.6 * torch.maximum(*pictures) + 0.4 * sum(pictures) / 2
    return [(p * 255).round().div(255).to(device) for p in (fused, *pictures)]


def plain(pictures: list[torch.Tensor]) -> list[Any]:
    """The same as arrays of grey levels."""
    return [(p[0, 0] * 255).round().double().cpu().numpy() for p in pictures]


if __name__ == "__main__":
    main()
