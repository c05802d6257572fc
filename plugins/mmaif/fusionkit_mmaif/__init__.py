"""MMAIF (ICCV 2025) for fusionkit: degraded pairs fused in a latent space, as a prompt asks."""

from fusionkit.hookspecs import hookimpl
from fusionkit_mmaif import recipe
from fusionkit_mmaif.datasets import Degraded
from fusionkit_mmaif.degradations import DEGRADATIONS
from fusionkit_mmaif.encoder import FlanT5
from fusionkit_mmaif.losses import Sources
from fusionkit_mmaif.modulation import AdaLN
from fusionkit_mmaif.network import LatentFusionDiT

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"mmaif": LatentFusionDiT}


@hookimpl
def fusionkit_modulations():
    return {"adaln": AdaLN}


@hookimpl
def fusionkit_encoders():
    return {"flan-t5": FlanT5}


@hookimpl
def fusionkit_losses():
    return {"mmaif-sources": Sources}


@hookimpl
def fusionkit_degradations():
    return DEGRADATIONS


@hookimpl
def fusionkit_datasets():
    return {"mmaif": Degraded}


@hookimpl
def fusionkit_recipes():
    return {
        "mmaif": recipe.mmaif,
        "mmaif-flow": recipe.mmaif_flow,
        "mmaif-small": recipe.mmaif_small,
        "mmaif-small-flow": recipe.mmaif_small_flow,
    }
