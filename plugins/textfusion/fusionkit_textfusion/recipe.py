"""TextFusion as data."""

from fusionkit.recipe import Recipe, Stage
from fusionkit_textfusion.official import official
from fusionkit_textfusion.task import SentenceTask

PAPER = (
    "C. Cheng et al., TextFusion: Unveiling the Power of Textual Semantics for Controllable Image "
    "Fusion, Information Fusion 117 (2025) 102790"
)


def textfusion() -> Recipe:
    """The authors' protocol: 3 epochs over 2,000 pairs of five sentences, one at a time.

    Whole frames at half size, Adam at 1e-4, no schedule. An empty sentence is what the authors
    advise where no text is wanted.
    """
    return Recipe(
        name="textfusion",
        paper=PAPER,
        network="textfusion",
        encoder="clip-vit-b-32",
        offline_encoder="tiny-clip",
        losses=("region-intensity", "saliency-weighted-mse"),
        weights={"interested": 1.0, "non_interested": 1.0},
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        stages=(
            Stage(
                steps=30_000,
                batch_size=1,
                crop=None,
                optimizer="adam",
                learning_rate=1e-4,
                weight_decay=0.0,
                schedule="constant",
            ),
        ),
        default_text="",
        task=SentenceTask,
        official=official,
    )
