"""TextFusion (Cheng et al., Information Fusion 2025) for fusionkit."""

from fusionkit.hookspecs import hookimpl
from fusionkit_textfusion.association import Association
from fusionkit_textfusion.datasets import Ivt
from fusionkit_textfusion.losses import RegionIntensity, SaliencyWeightedMse
from fusionkit_textfusion.modulation import AffineFusion
from fusionkit_textfusion.network import TextFusion
from fusionkit_textfusion.recipe import textfusion

__version__ = "0.1.0"


@hookimpl
def fusionkit_modulations():
    return {"textfusion": AffineFusion}


@hookimpl
def fusionkit_networks():
    return {"textfusion": TextFusion}


@hookimpl
def fusionkit_losses():
    return {"region-intensity": RegionIntensity, "saliency-weighted-mse": SaliencyWeightedMse}


@hookimpl
def fusionkit_guides():
    return {"association": Association}


@hookimpl
def fusionkit_datasets():
    return {"ivt": Ivt}


@hookimpl
def fusionkit_recipes():
    return {"textfusion": textfusion}
