"""Ways to damage a picture, batched and repeatable.

Each follows ``degradation(image, severity, generator, **context) -> image``: image (B, C, H, W)
float in [0, 1], severity in [0, 1] as one number or one per picture (B,). Severity 0 changes
nothing, 0.5 to 1 spans the usable range of strengths; in between the physical parameters run
linearly. All chance comes from `generator` and is drawn on its device; None is torch's own.

Each carries ``prompts`` (requests to undo it, to train on), ``held_out`` (others, to test with),
``statements``, ``modality`` and ``stage``, its place between the scene and the file. Several become
one with :class:`fusionkit.degrading.Chain`.
"""

from fusionkit_standard.degradations.base import Damage
from fusionkit_standard.degradations.light import Flare, LowLight, OverExposure
from fusionkit_standard.degradations.optics import (
    Blur,
    Defocus,
    Downsample,
    GaussianBlur,
    Jpeg,
    MotionBlur,
)
from fusionkit_standard.degradations.sensor import (
    DeadPixels,
    InfraredNoise,
    LowContrast,
    Noise,
    PoissonNoise,
    Stripes,
)
from fusionkit_standard.degradations.weather import Haze, Rain, Snow

BASIC: dict[str, type[Damage]] = {
    cls.name: cls
    for cls in (
        LowLight,
        OverExposure,
        Noise,
        Blur,
        Haze,
        Stripes,
        LowContrast,
        InfraredNoise,
    )
}
"""The eight that the embedded encoder was trained to tell apart, in its order."""

DEGRADATIONS: dict[str, type[Damage]] = BASIC | {
    cls.name: cls
    for cls in (
        PoissonNoise,
        GaussianBlur,
        Defocus,
        MotionBlur,
        Downsample,
        Jpeg,
        Rain,
        Snow,
        Flare,
        DeadPixels,
    )
}
