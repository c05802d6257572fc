"""Masks of what a prompt names: detectors with a segmenter, CLIPSeg, folders, plain saliency."""

from fusionkit.hookspecs import hookimpl
from fusionkit_grounding.clipseg import ClipSeg
from fusionkit_grounding.folder import FolderMasks
from fusionkit_grounding.grounded import GroundingDinoSam, Owlv2Sam
from fusionkit_grounding.saliency import Saliency

__version__ = "0.1.0"


@hookimpl
def fusionkit_guides():
    return {
        "grounding-dino-sam": GroundingDinoSam,
        "owlv2": Owlv2Sam,
        "clipseg": ClipSeg,
        "folder-masks": FolderMasks,
        "saliency": Saliency,
    }
