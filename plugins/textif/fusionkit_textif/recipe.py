"""Text-IF as data: the published protocol, and a reduced one for a CPU."""

from fusionkit.recipe import Recipe, Stage
from fusionkit_textif.network import TextIF
from fusionkit_textif.official import load_official
from fusionkit_textif.prompts import PLAIN
from fusionkit_textif.task import DegradedPairs

EPOCHS = 120
POWER = 0.9
START = 0.001
"""Share of the learning rate at the first step of the warm-up."""


def warmup_poly(stage: Stage, step: int) -> float:
    """One epoch (``stage.warmup`` of the steps) of linear rise, then a polynomial fall to zero."""
    rise = stage.warmup * stage.steps
    if step <= rise and rise:
        return START * (1 - step / rise) + step / rise
    return (1 - (step - rise) / (stage.steps - rise)) ** POWER


def textif() -> Recipe:
    """The published protocol.

    It counts 120 epochs of twice as many samples as there are pairs, in batches of 8: 30 steps per
    training pair. The number here is for 1,000 pairs; for others set ``steps``.
    """
    return Recipe(
        name="textif",
        paper=TextIF.paper,
        network="textif",
        encoder="clip-vit-b-32",
        offline_encoder="tiny-clip",
        losses=("textif",),
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        stages=(
            Stage(
                steps=EPOCHS * 250,
                batch_size=8,
                crop=96,
                optimizer="adamw",
                learning_rate=1e-4,
                weight_decay=0.05,
                warmup=1 / EPOCHS,
            ),
        ),
        default_text=PLAIN,
        task=DegradedPairs,
        official=load_official,
        rate=warmup_poly,
    )


def textif_small() -> Recipe:
    """The same method a tenth as wide and with one block per level, minutes on a CPU.

    A higher learning rate for the fewer steps, plain fusion among the tasks, and text features
    standardised over the sentences, which a short training hears better than raw ones.
    """
    return textif().with_overrides(
        {
            "name": "textif-small",
            "network.options": {
                "dim": 16,
                "num_blocks": (1, 1, 1, 1),
                "refinement": 1,
                "hidden": 128,
            },
            "encoder": "tiny-clip",
            "offline_encoder": None,
            "standardise_text": True,
            "steps": 600,
            "batch_size": 4,
            "crop": 64,
            "learning_rate": 1e-3,
            "task_options": {
                "tasks": ("plain", "low-light", "over-exposure", "ir-low-contrast", "ir-noise")
            },
        }
    )
