"""TeRF (ACM MM 2024) for fusionkit: region-wise edits of a fused picture, asked for in words."""

from fusionkit.hookspecs import hookimpl
from fusionkit_terf.losses import FusionTerms, LeanInfrared, LeanVisible
from fusionkit_terf.network import Terf
from fusionkit_terf.recipe import terf, terf_small

__version__ = "0.1.0"


@hookimpl
def fusionkit_networks():
    return {"terf": Terf}


@hookimpl
def fusionkit_losses():
    return {
        "terf-fusion": FusionTerms,
        "terf-infrared": LeanInfrared,
        "terf-visible": LeanVisible,
    }


@hookimpl
def fusionkit_recipes():
    return {"terf": terf, "terf-small": terf_small}
