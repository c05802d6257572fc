"""OCCO's training as data, in full and for a CPU."""

from fusionkit.recipe import Part, Recipe, Stage
from fusionkit_occo.official import official
from fusionkit_occo.task import ObjectTask

PAPER = (
    "LVM-guided Infrared and Visible Image Fusion with Object-aware and Contextual Contrastive "
    "Learning, IJCV 2025, arXiv 2503.18635"
)


def occo() -> Recipe:
    """The released protocol: 20 epochs of MSRS's 1,083 pairs, two crops of 256 each, 12 a step.

    Where there are no ImageNet weights and no detector, fixed random features and plain saliency
    take their places, with a warning each.
    """
    return Recipe(
        name="occo",
        paper=PAPER,
        network="occo",
        losses=(
            "occo-pixel",
            Part(name="occo-contrast", options={"weights": "imagenet", "offline": "untrained"}),
        ),
        weights={
            "ssim": 1.0,
            "intensity": 10.0,
            "gradient": 1.0,
            "contrast_visible": 10.0,
            "contrast_infrared": 10.0,
            "contrast_shared_visible": 5.0,
            "contrast_shared_infrared": 5.0,
            "contrast_background": 10.0,
        },
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        stages=(
            Stage(
                steps=3_600,
                batch_size=12,
                crop=256,
                optimizer="adam",
                learning_rate=1e-4,
                weight_decay=0.0,
                schedule="constant",
            ),
        ),
        task=ObjectTask,
        official=official,
    )


def occo_small() -> Recipe:
    """The same method on two CPU cores in minutes: small crops, few steps, a higher rate."""
    return (
        occo()
        .model_copy(update={"name": "occo-small"})
        .with_overrides(
            {"steps": 120, "batch_size": 4, "crop": 64, "learning_rate": 1e-3, "schedule": "cosine"}
        )
    )
