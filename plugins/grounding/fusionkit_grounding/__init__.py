"""Where a prompt's things are: detectors, CLIPSeg, relevance, saliency, maps kept before."""

from fusionkit.hookspecs import hookimpl
from fusionkit_grounding.clipseg import ClipSeg
from fusionkit_grounding.folder import FolderMasks
from fusionkit_grounding.grounded import GroundingDinoSam, Owlv2Sam
from fusionkit_grounding.relevance import Relevance
from fusionkit_grounding.saliency import Saliency
from fusionkit_grounding.stored import StoredMaps

__version__ = "0.1.0"


@hookimpl
def fusionkit_guides():
    return {
        "grounding-dino-sam": GroundingDinoSam,
        "owlv2": Owlv2Sam,
        "clipseg": ClipSeg,
        "folder-masks": FolderMasks,
        "saliency": Saliency,
        "relevance": Relevance,
        "stored-maps": StoredMaps,
    }
