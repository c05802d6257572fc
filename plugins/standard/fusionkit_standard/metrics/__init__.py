"""Scores of fused pictures. A name without its variant is not a number, so each has both.

``SCORES`` lists the scores under codes that name the variant; ``ALIASES`` says which variant the
field's short name stands for here, the corrected standard one; ``METRICS`` offers both.
"""

from fusionkit_standard.metrics.base import Score
from fusionkit_standard.metrics.codes import ALIASES
from fusionkit_standard.metrics.contrast import StandardDeviation
from fusionkit_standard.metrics.correlation import CorrelationOfDifferences
from fusionkit_standard.metrics.edges import EdgeTransfer
from fusionkit_standard.metrics.fidelity import InformationFidelity
from fusionkit_standard.metrics.gradient import AverageGradient, SpatialFrequency
from fusionkit_standard.metrics.information import Entropy, MutualInformation
from fusionkit_standard.metrics.presets import PRESETS
from fusionkit_standard.metrics.structure import StructuralSimilarity

SCORES: dict[str, type[Score]] = {
    score.name: score
    for score in (
        Entropy,
        StandardDeviation,
        SpatialFrequency,
        AverageGradient,
        MutualInformation,
        StructuralSimilarity,
        InformationFidelity,
        EdgeTransfer,
        CorrelationOfDifferences,
    )
}

METRICS: dict[str, type[Score]] = SCORES | {short: SCORES[code] for short, code in ALIASES.items()}

__all__ = ["ALIASES", "METRICS", "PRESETS", "SCORES", "Score"]
