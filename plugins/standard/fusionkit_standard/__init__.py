"""Enough to run with no download: scenes, a tiny encoder, a compact network, common schemes."""

from fusionkit.hookspecs import hookimpl
from fusionkit_standard import losses, modulations
from fusionkit_standard.compact import Compact
from fusionkit_standard.datasets import Folder, RoadScene, Scenes, Tno
from fusionkit_standard.degradations import DEGRADATIONS
from fusionkit_standard.depth import Depth
from fusionkit_standard.guide import HeatMap
from fusionkit_standard.metrics import METRICS, PRESETS
from fusionkit_standard.published import PUBLISHED
from fusionkit_standard.recipe import control, words
from fusionkit_standard.tiny_clip import TinyClip

__version__ = "0.1.0"


@hookimpl
def fusionkit_encoders():
    return {"tiny-clip": TinyClip}


@hookimpl
def fusionkit_modulations():
    return {
        "none": modulations.Plain,
        "film": modulations.Film,
        "gate": modulations.Gate,
        "cross-attention": modulations.CrossAttention,
    }


@hookimpl
def fusionkit_networks():
    return {"compact": Compact}


@hookimpl
def fusionkit_losses():
    return {
        "pixel-l1": losses.PixelL1,
        "gradient-l1": losses.GradientL1,
        "region-l1": losses.RegionL1,
    }


@hookimpl
def fusionkit_metrics():
    return METRICS


@hookimpl
def fusionkit_presets():
    return PRESETS


@hookimpl
def fusionkit_guides():
    return {"heatmap": HeatMap, "depth": Depth}


@hookimpl
def fusionkit_degradations():
    return DEGRADATIONS


@hookimpl
def fusionkit_datasets():
    own = {"scenes": Scenes, "folder": Folder, "roadscene": RoadScene, "tno": Tno}
    return own | {known.folder: known for known in PUBLISHED}


@hookimpl
def fusionkit_recipes():
    return {"control": control, "words": words}
