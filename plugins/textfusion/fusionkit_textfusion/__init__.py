"""TextFusion (Cheng et al., Information Fusion 2025) for fusionkit: text-weighted infrared."""

from fusionkit.hookspecs import hookimpl
from fusionkit_textfusion.modulation import AffineFusion

__version__ = "0.1.0"


@hookimpl
def fusionkit_modulations():
    return {"textfusion": AffineFusion}
