"""MTG-Fusion as data: the published protocol, and a reduced one for two processor cores."""

from fusionkit.recipe import Part, Recipe, Stage
from fusionkit_mtgfusion.network import load_official
from fusionkit_mtgfusion.task import KINDS, TextedPairs

PAPER = (
    "Multi-text guidance is important: multi-modality image fusion via large generative "
    "vision-language model, IJCV 2025"
)
WEIGHTS = {"mse": 1.0, "ssim": 0.5, "l1": 0.6, "text": 0.5}
EPOCH = 11
"""Steps that go through the 171 training pairs of RoadScene once, 16 at a time. The release names
no training set; for another one, override ``stages.0.steps`` and the milestones."""


def mtgfusion() -> Recipe:
    """The released protocol: 100 epochs without text, 50 with, the rate halved every 20."""
    shared = {
        "batch_size": 16,
        "crop": 256,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "steps",
    }
    return Recipe(
        name="mtgfusion",
        paper=PAPER,
        network={"name": "mtgfusion"},
        encoder="clip-vit-l-14",
        offline_encoder="tiny-clip",
        texts=KINDS,
        losses=("mtgfusion-sources", "mtgfusion-text"),
        weights=WEIGHTS,
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        stages=(
            Stage(
                name="without-text",
                steps=100 * EPOCH,
                milestones=tuple(epoch * EPOCH for epoch in (20, 40, 60, 80)),
                learning_rate=1e-4,
                weights=WEIGHTS | {"text": 0.0},
                task_options={"texts": False},
                **shared,
            ),
            Stage(
                name="with-text",
                steps=50 * EPOCH,
                milestones=tuple(epoch * EPOCH for epoch in (20, 40)),
                learning_rate=5e-5,
                **shared,
            ),
        ),
        task=TextedPairs,
        official=load_official,
    )


def mtgfusion_small() -> Recipe:
    """The same in minutes on two processor cores: half the width, few steps, small crops."""
    full = mtgfusion()
    small = {"batch_size": 4, "crop": 32, "milestones": (), "schedule": "cosine", "clip_norm": 1.0}
    small["warmup"] = 0.1
    first, second = full.stages
    network = {"channels": 32, "window": 8, "specific": {"cross_blocks": 2}}
    return full.model_copy(
        update={
            "name": "mtgfusion-small",
            "network": Part(name="mtgfusion", options=network),
            "encoder": full.offline_encoder,
            "task_options": {"cutting": "crop"},
            "stages": (
                first.model_copy(update={**small, "steps": 160, "learning_rate": 5e-4}),
                second.model_copy(update={**small, "steps": 60, "learning_rate": 2.5e-4}),
            ),
        }
    )
