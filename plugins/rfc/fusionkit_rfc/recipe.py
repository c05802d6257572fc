"""RFC as data: the published protocol, the same with the released parser, and a small one."""

from fusionkit.recipe import Recipe, Stage
from fusionkit_rfc.instructions import process_phrase, process_phrase_by_dependencies
from fusionkit_rfc.network import RFC
from fusionkit_rfc.official import load_official
from fusionkit_rfc.task import Instructions

SAMPLES, EPOCHS, PER_STEP = 14_654, 60, 8
PER_EPOCH = SAMPLES // PER_STEP
"""Optimiser steps."""

WEIGHTS = {
    "region_intensity": 5.0,
    "region_gradient": 10.0,
    "region_cr": 5.0,
    "region_cb": 5.0,
    "rest_intensity": 5.0,
    "rest_gradient": 10.0,
    "rest_cr": 1.0,
    "rest_cb": 1.0,
    "align": 5.0,
}
"""Those of the released ``loss.py``."""

DEFAULT = "enhance the visibility of the image"
"""The release's default instruction."""


def rfc() -> Recipe:
    """The published protocol: 60 epochs over 14,654 samples, whole pictures, eight per step.

    Rates fall to .65 every 20 epochs. Heights were drawn from 480, 512, 544 and 576 with 1.4 times
    the width; here these are factors of the pictures as they are read, so read them 528 high. The
    eight pass one by one, as in the release, so they may be of eight sizes.
    """
    return Recipe(
        name="rfc",
        paper=RFC.paper,
        network="rfc",
        encoder="clip-vit-b-16",
        offline_encoder="tiny-clip",
        guides=("rfc-regions",),
        losses=("rfc",),
        weights=WEIGHTS,
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        stages=(
            Stage(
                steps=EPOCHS * PER_EPOCH,
                batch_size=PER_STEP,
                accumulate=PER_STEP,
                crop=None,
                optimizer="adamw",
                learning_rate=2e-4,
                weight_decay=1e-4,
                schedule="steps",
                milestones=(20 * PER_EPOCH, 40 * PER_EPOCH),
                decay=0.65,
            ),
        ),
        task_options={"scales": tuple(height / 528 for height in (480, 512, 544, 576))},
        default_text=DEFAULT,
        task=Instructions,
        reads=process_phrase,
        official=load_official,
    )


def rfc_spacy() -> Recipe:
    """The same with the parser of the release, which reads any English sentence; needs spaCy."""
    recipe = rfc().with_overrides({"name": "rfc-spacy", "guides.0.options.parser": "spacy"})
    return recipe.model_copy(update={"reads": process_phrase_by_dependencies})


def rfc_small() -> Recipe:
    """The same method a sixteenth of the size, minutes on a CPU, with nothing to download.

    Regions come from the encoder's heat maps; text features are standardised, which a short
    training hears better than raw ones.
    """
    return rfc().with_overrides(
        {
            "name": "rfc-small",
            "network.options": {"base": 16, "region": 8},
            "encoder": "tiny-clip",
            "offline_encoder": None,
            "guides": [{"name": "rfc-regions", "options": {"model": None, "grid": 4}}],
            "standardise_text": True,
            "stages.0.milestones": (),
            "stages.0.schedule": "cosine",
            "steps": 600,
            "batch_size": 4,
            "accumulate": 1,
            "crop": 64,
            "learning_rate": 1e-3,
            "task_options": {},
        }
    )
