"""RFC (AAAI 2026) for fusionkit: one instruction says what to mend in a pair, and where."""

from fusionkit.hookspecs import hookimpl
from fusionkit_rfc.datasets import Instructed
from fusionkit_rfc.guide import Regions
from fusionkit_rfc.losses import RegionReconstruction
from fusionkit_rfc.modulation import DenseModulation
from fusionkit_rfc.network import RFC
from fusionkit_rfc.recipe import rfc, rfc_small, rfc_spacy

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"rfc": RFC}


@hookimpl
def fusionkit_modulations():
    return {"rfc": DenseModulation}


@hookimpl
def fusionkit_guides():
    return {"rfc-regions": Regions}


@hookimpl
def fusionkit_losses():
    return {"rfc": RegionReconstruction}


@hookimpl
def fusionkit_datasets():
    return {"rfc": Instructed}


@hookimpl
def fusionkit_recipes():
    return {"rfc": rfc, "rfc-spacy": rfc_spacy, "rfc-small": rfc_small}
