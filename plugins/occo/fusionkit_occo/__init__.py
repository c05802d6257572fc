"""OCCO (IJCV 2025, arXiv 2503.18635) for fusionkit: object-aware and contextual contrast."""

from fusionkit.hookspecs import hookimpl
from fusionkit_occo.contrast import ObjectContrast
from fusionkit_occo.network import Occo
from fusionkit_occo.pixel import PixelTerms
from fusionkit_occo.recipe import occo, occo_small

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"occo": Occo}


@hookimpl
def fusionkit_losses():
    return {"occo-pixel": PixelTerms, "occo-contrast": ObjectContrast}


@hookimpl
def fusionkit_recipes():
    return {"occo": occo, "occo-small": occo_small}
