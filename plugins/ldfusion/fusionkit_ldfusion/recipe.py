"""LDFusion as data: the paper's protocol, the released learning rate, and a preset for CPUs."""

from fusionkit.recipe import Recipe, Stage
from fusionkit_ldfusion.language import SENTENCES
from fusionkit_ldfusion.official import official
from fusionkit_ldfusion.task import LanguageDrivenTask

PAPER = (
    "Y. Wang et al., Infrared and visible image fusion with language-driven loss in CLIP embedding "
    "space, ACM MM 2025"
)
REMARK = (
    "The sentence is in the training loss alone: this network reads no text when it fuses. Another "
    "objective (sentences.fused) means training again."
)
EPOCHS = 100
HALVED = (50, 60, 70, 80, 90, 100)
"""Epochs at which the configured schedule halves the rate; the last one is the end."""
EPOCH_STEPS = 2625
"""4,200 pairs of M3FD's detection set, each listed ten times, in batches of 16."""


def configured(stage: Stage, step: int) -> float:
    """The schedule as the authors configured it, over 100 epochs however long the stage is.

    Linear warm-up in the first epoch, then half the rate at epochs 50, 60, 70, 80 and 90.
    """
    epoch = EPOCHS * step / stage.steps
    if epoch < 1:
        return (step + 1) / (stage.steps / EPOCHS + 1)
    return 0.5 ** sum(epoch >= mark for mark in HALVED)


def as_released(stage: Stage, step: int) -> float:
    """The schedule as the released trainer runs it.

    Both schedulers step per iteration and in the first epoch alone, so the rate rises through that
    epoch, is half for the single *steps* 50, 60 ... 100, and stays at its peak ever after. N is the
    number of steps of an epoch.
    """
    epoch = max(1, stage.steps // EPOCHS)
    if step >= epoch:
        return (epoch + 1) / epoch
    return (step + 1) / epoch * (0.5 if step in HALVED else 1.0)


def ldfusion() -> Recipe:
    """The paper's protocol (preset ``paper``): a GPU's work, 512 CLIP passes a step."""
    return Recipe(
        name="ldfusion",
        paper=PAPER,
        remark=REMARK,
        network="ldfusion",
        encoder={"name": "clip-vit-b-32", "options": {"precision": "auto"}},
        offline_encoder="tiny-clip",
        losses=(
            {"name": "language-direction", "options": {"crops": 32, "entropy_min": 6.0}},
            {"name": "vgg-max", "options": {"offline": "seeded"}},
        ),
        weights={"similarity": 6.0, "global": 2.0, "patch": 10.0, "perceptual": 10.0},
        sentences=SENTENCES,
        metrics=("EN", "SD", "SF", "AG", "SCD", "direction_vis", "direction_ir"),
        stages=(
            Stage(
                steps=EPOCHS * EPOCH_STEPS,
                batch_size=16,
                crop=224,
                optimizer="adam",
                learning_rate=5e-4,
                weight_decay=0.0,
                schedule="constant",
            ),
        ),
        task=LanguageDrivenTask,
        rate=configured,
        official=official,
    )


def ldfusion_as_released() -> Recipe:
    """The same with the learning rate that the released trainer really uses."""
    return ldfusion().model_copy(update={"name": "ldfusion-as-released", "rate": as_released})


def ldfusion_cpu() -> Recipe:
    """A reduced run for two CPU cores (preset ``cpu``): one picture and four crops a step.

    The encoder is the small one that comes along, and VGG19 looks at half the side. It shows the
    machinery at work, not the paper's result.
    """
    changes = {
        "name": "ldfusion-cpu",
        "encoder": "tiny-clip",
        "losses.language-direction.options.crops": 4,
        "losses.vgg-max.options.size": 112,
        "steps": 600,
        "batch_size": 1,
    }
    return ldfusion().with_overrides(changes)
