"""The default method: the compact network that obeys requests to highlight or to repair.

Source: ours.
"""

from fusionkit.recipe import Part, Recipe, Stage
from fusionkit_standard.control import ControlTask
from fusionkit_standard.words import WordsTask


def control() -> Recipe:
    """Text control on two CPU cores.

    ``fusionkit train control`` takes about half a minute on two server cores; what to expect on
    held-out scenes stands in the project's README.
    """
    return Recipe(
        name="control",
        network="compact",
        modulation="film",
        encoder="tiny-clip",
        losses=("pixel-l1", "gradient-l1", "region-l1"),
        weights={"pixel": 1.0, "gradient": 0.5, "region": 0.5, "contrast": 0.25},
        metrics=("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "SCD"),
        standardise_text=True,
        stages=(
            Stage(
                steps=450,
                batch_size=16,
                crop=64,
                learning_rate=1e-3,
                warmup=0.03,
                clip_norm=1.0,
                weight_decay=0.01,
            ),
        ),
        default_text="fuse the two images",
        task=ControlTask,
    )


def words() -> Recipe:
    """The default of ``fusionkit fuse``: ``control`` with a map of the prompt at the input.

    Its weights are in the package; ``make_words.py`` of the project makes them.
    """
    base = control()
    (stage,) = base.stages
    return base.model_copy(
        update={
            "name": "words",
            "network": Part(name="compact", options={"guides": ["heatmap"]}),
            "guides": (Part(name="heatmap"),),
            "weights": {**base.weights, "region": 1.0},
            "stages": (stage.model_copy(update={"steps": 4000}),),
            "task": WordsTask,
            "checkpoint": "fusionkit_standard:words.safetensors",
            "remark": "It knows persons, vehicles, buildings, trees and seven kinds of damage, "
            "from rendered scenes alone; plugins/standard/MODEL_CARD.md has its limits.",
        }
    )
