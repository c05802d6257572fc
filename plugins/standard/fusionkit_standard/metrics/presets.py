"""The tables of the field as data: which variant each printed name stands for, by program."""

from collections.abc import Callable

from fusionkit.protocols import Preset
from fusionkit_standard.metrics.codes import ALIASES

GRAY = "0.299 R + 0.587 G + 0.114 B of the 8-bit picture, rounded to an integer, half to even"
EIGHT_BITS = "all three pictures rounded to 8 bits, scored on the scale 0..255"


def standard() -> Preset:
    """The definitions of the papers, with errors of circulating programs left out."""
    return Preset(
        name="standard",
        metrics=dict(ALIASES),
        gray=GRAY,
        quantisation=EIGHT_BITS,
        saving="fused pictures clipped to [0, 1] and rounded to 8 bits; no stretching",
        source="fusionkit, after the papers named with each metric",
    )


PRESETS: dict[str, Callable[[], Preset]] = {preset.__name__: preset for preset in (standard,)}
