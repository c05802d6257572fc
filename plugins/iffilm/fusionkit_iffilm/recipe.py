"""IF-FILM as data."""

from fusionkit.recipe import Part, Recipe, Stage
from fusionkit_iffilm.official import official
from fusionkit_iffilm.task import ParagraphPairs

PAPER = "Z. Zhao et al., Image Fusion via Vision-Language Model, ICML 2024"

STEPS_OF_EPOCH = 541
"""1,083 training pairs of MSRS in twos, the odd one left out."""


def iffilm() -> Recipe:
    """The released protocol: 150 epochs on MSRS, whole pictures of 288x384, two at a time.

    Adam at 1e-5, times 0.6 every 50 epochs. Text of both pictures through BLIP-2; without its
    weights, every sentence of the paragraphs through the offline encoder.
    """
    return Recipe(
        name="iffilm",
        paper=PAPER,
        network=Part(name="iffilm", options={"stretch": True}),
        encoder=Part(name="paragraphs", options={"reader": "blip2"}),
        offline_encoder=Part(
            name="paragraphs", options={"reader": "tiny-clip", "split": "sentence"}
        ),
        texts=("features", "ir", "vi"),
        captioner="paragraph",
        losses=("iffilm-intensity", "iffilm-gradient"),
        weights={"intensity": 1.0, "gradient": 20.0},
        metrics=("EN", "SD", "SF", "AG", "VIF", "Qabf"),
        stages=(
            Stage(
                steps=150 * STEPS_OF_EPOCH,
                batch_size=2,
                crop=None,
                optimizer="adam",
                learning_rate=1e-5,
                weight_decay=0.0,
                schedule="steps",
                milestones=(50 * STEPS_OF_EPOCH, 100 * STEPS_OF_EPOCH),
                decay=0.6,
            ),
        ),
        task_options={"size": (288, 384), "captioner": "paragraph"},
        remark=(
            "IF-FILM's text is written from the pictures by machine and its gate is near 1/256, so "
            "words change the result by little; it is no method for asking."
        ),
        task=ParagraphPairs,
        official=official,
    )


def iffilm_small() -> Recipe:
    """The same method in minutes on two processor cores: crops, few steps, a higher rate.

    The text's grid is a quarter of the paper's on each side, as the crops are of its pictures.
    """
    return iffilm().model_copy(
        update={
            "name": "iffilm-small",
            "network": Part(name="iffilm", options={"grid": [72, 96]}),
            "stages": (
                Stage(
                    steps=300,
                    batch_size=4,
                    crop=64,
                    optimizer="adam",
                    learning_rate=1e-3,
                    weight_decay=0.0,
                    schedule="cosine",
                    warmup=0.05,
                ),
            ),
        }
    )


def iffilm_stored() -> Recipe:
    """IF-FILM over text features stored with the pairs, as the authors' data set has them.

    For the data set ``vlf``; no model is loaded for the text.
    """
    return iffilm().model_copy(
        update={
            "name": "iffilm-stored",
            "encoder": Part(name="stored-features"),
            "offline_encoder": None,
            "texts": ("features",),
            "captioner": None,
        }
    )
