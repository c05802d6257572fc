"""IF-FILM (Zhao et al., ICML 2024) for fusionkit: text written from pictures asks the features."""

from fusionkit.hookspecs import hookimpl
from fusionkit_iffilm import losses
from fusionkit_iffilm.modulation import TextScan
from fusionkit_iffilm.network import IfFilm
from fusionkit_iffilm.recipe import iffilm, iffilm_small, iffilm_stored
from fusionkit_iffilm.vlf import Vlf

__version__ = "0.1.0"


@hookimpl
def fusionkit_modulations():
    return {"iffilm": TextScan}


@hookimpl
def fusionkit_networks():
    return {"iffilm": IfFilm}


@hookimpl
def fusionkit_losses():
    return {
        "iffilm-intensity": losses.Intensity,
        "iffilm-gradient": losses.Gradient,
        "iffilm-lp-ssim": losses.LpSsim,
        "mef-ssim": losses.MefSsim,
    }


@hookimpl
def fusionkit_datasets():
    return {"vlf": Vlf}


@hookimpl
def fusionkit_recipes():
    return {"iffilm": iffilm, "iffilm-small": iffilm_small, "iffilm-stored": iffilm_stored}
