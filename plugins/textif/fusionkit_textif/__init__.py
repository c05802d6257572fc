"""Text-IF (Yi et al., CVPR 2024) for fusionkit: a sentence says what to repair in a fusion."""

from fusionkit.hookspecs import hookimpl
from fusionkit_textif import losses
from fusionkit_textif.dataset import Ems
from fusionkit_textif.degradations import DEGRADATIONS
from fusionkit_textif.modulation import TextModulation
from fusionkit_textif.network import TextIF
from fusionkit_textif.recipe import textif, textif_small

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"textif": TextIF}


@hookimpl
def fusionkit_modulations():
    return {"textif": TextModulation}


@hookimpl
def fusionkit_losses():
    return {
        "textif": losses.TaskWeighted,
        "textif-max": losses.Intensity,
        "textif-ssim": losses.Structure,
        "textif-color": losses.Color,
        "textif-gradient": losses.Gradient,
        "textif-consistency": losses.Consistency,
    }


@hookimpl
def fusionkit_degradations():
    return DEGRADATIONS


@hookimpl
def fusionkit_datasets():
    return {"ems": Ems}


@hookimpl
def fusionkit_recipes():
    return {"textif": textif, "textif-small": textif_small}
