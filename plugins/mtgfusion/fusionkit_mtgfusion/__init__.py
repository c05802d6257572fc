"""MTG-Fusion (IJCV 2025) for fusionkit: fusion guided by several texts through a text cube."""

from fusionkit.hookspecs import hookimpl
from fusionkit_mtgfusion.datasets import MtgImages
from fusionkit_mtgfusion.losses import TextAgreement, TwoSource
from fusionkit_mtgfusion.modulation import TextCubeModulation
from fusionkit_mtgfusion.network import MtgFusion
from fusionkit_mtgfusion.recipe import mtgfusion, mtgfusion_small

__version__ = "0.1.0"


@hookimpl
def fusionkit_modulations():
    return {"mtg": TextCubeModulation}


@hookimpl
def fusionkit_networks():
    return {"mtgfusion": MtgFusion}


@hookimpl
def fusionkit_losses():
    return {"mtgfusion-sources": TwoSource, "mtgfusion-text": TextAgreement}


@hookimpl
def fusionkit_recipes():
    return {"mtgfusion": mtgfusion, "mtgfusion-small": mtgfusion_small}


@hookimpl
def fusionkit_datasets():
    return {"mtgfusion": MtgImages}
