"""Text-image core-semantic alignment (Digital Signal Processing, 2025) for fusionkit."""

from fusionkit.hookspecs import hookimpl
from fusionkit_coresemantic.guide import NamedObjects
from fusionkit_coresemantic.losses import CoreSemanticRegion, RegionAlignment
from fusionkit_coresemantic.modulation import TextWeights
from fusionkit_coresemantic.network import CoreSemanticFusion
from fusionkit_coresemantic.recipe import coresemantic, coresemantic_small

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"coresemantic": CoreSemanticFusion}


@hookimpl
def fusionkit_modulations():
    return {"coresemantic": TextWeights}


@hookimpl
def fusionkit_guides():
    return {"core-mask": NamedObjects}


@hookimpl
def fusionkit_losses():
    return {"core-semantic-region": CoreSemanticRegion, "clip-region-align": RegionAlignment}


@hookimpl
def fusionkit_recipes():
    return {"coresemantic": coresemantic, "coresemantic-small": coresemantic_small}
