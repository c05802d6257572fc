"""minilm: a sentence encoder for fusionkit that knows paraphrases and needs no model hub."""

from fusionkit.hookspecs import hookimpl
from fusionkit_minilm.encoder import MiniLm

__version__ = "0.1.0"


@hookimpl
def fusionkit_encoders():
    return {"minilm": MiniLm}
