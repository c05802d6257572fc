"""Texts of pictures: what captioners, segmenters and chat models say, and its features."""

from fusionkit.hookspecs import hookimpl
from fusionkit_captions.chain import Paragraph
from fusionkit_captions.chat import Chat
from fusionkit_captions.composer import Composer
from fusionkit_captions.encoders import Blip2Text, Paragraphs, StoredFeatures
from fusionkit_captions.models import Blip2Caption, DenseCaptions, Regions

__version__ = "0.1.0"


@hookimpl
def fusionkit_captioners():
    return {
        "blip2": Blip2Caption,
        "chat": Chat,
        "composer": Composer,
        "dense": DenseCaptions,
        "paragraph": Paragraph,
        "regions": Regions,
    }


@hookimpl
def fusionkit_encoders():
    return {"blip2": Blip2Text, "paragraphs": Paragraphs, "stored-features": StoredFeatures}
