"""LDFusion (Wang et al., ACM MM 2025) for fusionkit: the sentence is in the loss alone."""

from fusionkit.hookspecs import hookimpl
from fusionkit_ldfusion.language import LanguageDirection
from fusionkit_ldfusion.metrics import DetailEnergy, DirectionInfrared, DirectionVisible
from fusionkit_ldfusion.modulation import AdainStyle
from fusionkit_ldfusion.network import LDFusion
from fusionkit_ldfusion.perceptual import VggMax
from fusionkit_ldfusion.recipe import ldfusion, ldfusion_as_released, ldfusion_cpu

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"ldfusion": LDFusion}


@hookimpl
def fusionkit_modulations():
    return {"adain-style": AdainStyle}


@hookimpl
def fusionkit_losses():
    return {"language-direction": LanguageDirection, "vgg-max": VggMax}


@hookimpl
def fusionkit_metrics():
    return {
        "direction_vis": DirectionVisible,
        "direction_ir": DirectionInfrared,
        "detail_energy": DetailEnergy,
    }


@hookimpl
def fusionkit_recipes():
    return {
        "ldfusion": ldfusion,
        "ldfusion-as-released": ldfusion_as_released,
        "ldfusion-cpu": ldfusion_cpu,
    }
