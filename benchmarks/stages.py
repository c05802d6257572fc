"""Where the time of the main job goes, from the command to the result, by stage.

    python benchmarks/stages.py [-p NAME VALUE ...]

Runs ``notebooks/ablation.ipynb`` with papermill in a fresh store and reads how long each cell took.
What is not in a cell is starting papermill and the kernel.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import report

ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    "notebook.begin": "check the parameters",
    "Bench.ablation": "imports, plugins, store",
    "views.pairs": "render the training pairs",
    "bench.train(": "train every arm",
    "views.loss_curves": "draw the curves",
    "bench.measure": "render the held-out pairs, ask the questions",
    "bench.score": "score plain fusion",
    "bench.keep": "keep and draw the pictures",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.ipynb"
        command = [
            sys.executable, "-m", "papermill", str(ROOT / "notebooks/ablation.ipynb"), str(out),
            "-p", "store", str(Path(folder) / "run.zarr"), "--no-progress-bar", *sys.argv[1:],
        ]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, cwd=ROOT)
        total = time.perf_counter() - start
        cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    found: dict[str, float] = {}
    for cell in cells:
        took = cell["metadata"].get("papermill", {}).get("duration") or 0.0
        source = "".join(cell["source"])
        stage = next((name for mark, name in STAGES.items() if mark in source), "the rest")
        found[stage] = found.get(stage, 0.0) + took
    found["start papermill and the kernel"] = total - sum(found.values())
    figures = {stage: round(took, 1) for stage, took in found.items()}
    report("stages", torch.device("cpu"), {"seconds": figures, "total": round(total, 1)})


if __name__ == "__main__":
    main()
