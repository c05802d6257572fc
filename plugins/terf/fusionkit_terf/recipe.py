"""TeRF as data: the released protocol, and a small one for a CPU."""

from fusionkit.recipe import Recipe, Stage
from fusionkit_terf.editing import edit
from fusionkit_terf.losses import FUSION
from fusionkit_terf.official import official
from fusionkit_terf.task import CropTask

PAPER = (
    "TeRF: Text-driven and Region-aware Flexible Visible and Infrared Image Fusion, ACM MM 2024, "
    "doi 10.1145/3664647.3680971"
)
EPOCH = 135
"""Whole batches of eight in MSRS's 1,083 training pairs."""


def terf() -> Recipe:
    """The released protocol: 500 epochs of MSRS, crops of 150, eight a step.

    Regions by Grounding DINO and SAM with the released thresholds. Where their weights cannot be
    had, the small encoder's heat map takes their place, with a warning.
    """
    return Recipe(
        name="terf",
        paper=PAPER,
        network="terf",
        encoder="tiny-clip",
        losses=("terf-fusion",),
        weights=FUSION,
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        stages=(
            Stage(
                steps=500 * EPOCH,
                batch_size=8,
                crop=150,
                optimizer="adam",
                learning_rate=2e-4,
                weight_decay=0.0,
                schedule="steps",
                milestones=(150 * EPOCH, 300 * EPOCH, 450 * EPOCH),
                decay=0.5,
            ),
        ),
        task=CropTask,
        refine=edit,
        refine_options={
            "guide": "grounding-dino-sam",
            "guide_options": {
                "sources": ["visible"],
                "detector": "IDEA-Research/grounding-dino-tiny",
                "segmenter": "facebook/sam-vit-huge",
                "box_threshold": 0.25,
                "text_threshold": 0.2,
                "nms": 0.5,
                "multimask": False,
            },
            "offline_guide": "heatmap",
            "look_at": "fused",
        },
        official=official,
    )


def terf_small() -> Recipe:
    """The same method on two CPU cores in a minute: a narrow network, small crops, few steps."""
    small = {
        "network.options": {
            "features": 24,
            "growth": 12,
            "blocks": 2,
            "layers_per_block": 3,
            "refinements": 1,
        },
        "steps": 400,
        "batch_size": 4,
        "crop": 48,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "milestones": (),
        "refine_options": {"guide": "heatmap"},
    }
    recipe = terf().model_copy(update={"name": "terf-small", "official": None})
    return recipe.with_overrides(small)
