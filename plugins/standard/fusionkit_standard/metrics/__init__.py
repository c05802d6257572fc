"""Scores of fused pictures. A name without its variant is not a number, so each has both.

``SCORES`` lists the scores under codes that name the variant; ``ALIASES`` says which variant the
field's short name stands for here, the corrected standard one; ``METRICS`` offers both, each score
weighted by a mask (``<code>_region``), and the scores that a model or a text is needed for.
``PRESETS`` are the tables of the field.
"""

from typing import Any

from fusionkit_standard.metrics import (
    contrast,
    correlation,
    edges,
    error,
    exposure,
    feature,
    fidelity,
    gradient,
    information,
    language,
    opinion,
    perception,
    structure,
    textual,
    wavelet,
)
from fusionkit_standard.metrics.base import Score
from fusionkit_standard.metrics.codes import ALIASES
from fusionkit_standard.metrics.presets import PRESETS
from fusionkit_standard.metrics.region import Regional, regional

SCORES: dict[str, type[Score]] = {
    score.name: score
    for score in (
        information.Entropy,
        contrast.StandardDeviation,
        contrast.SaturatedDeviation,
        gradient.SpatialFrequency,
        gradient.SpatialFrequencyPerPixel,
        gradient.SpatialFrequencyUnit,
        gradient.AverageGradient,
        gradient.AverageGradientInner,
        gradient.EdgeIntensity,
        information.MutualInformation,
        information.MutualInformationBits,
        information.MutualInformationMerged,
        information.NormalisedMutualInformation,
        information.MutualInformationPerSourceEntropy,
        information.CrossEntropy,
        error.SquaredError,
        error.SquaredErrorUnit,
        error.RootSquaredError,
        error.NormPerPixel,
        error.PeakSignalToNoise,
        error.PeakOfFused,
        error.PeakTooHigh,
        error.PeakOfNorm,
        correlation.CorrelationCoefficient,
        correlation.CorrelationOfDifferences,
        structure.StructuralSimilarity,
        structure.SimilarityBoxRange2,
        structure.SimilarityBox,
        structure.SimilarityRepeatedBorder,
        structure.SimilarityRepeatedBorderRange1,
        structure.MultiScaleSimilarity,
        exposure.WishedSimilarity,
        exposure.WishedSimilarityScales,
        fidelity.InformationFidelity,
        fidelity.SaturatedFidelity,
        wavelet.WaveletFidelity,
        edges.EdgeTransfer,
        edges.Artefacts,
        edges.ArtefactsSwapped,
        feature.FeatureInformation,
        feature.FeatureInformationGradient,
        feature.FeatureInformationCosine,
        feature.FeatureInformationEdge,
        feature.FeatureInformationWavelet,
        perception.ChenBlum,
        perception.ChenVarshney,
        perception.Yang,
        textual.TextualEdgeTransfer,
        textual.TextualSimilarity,
        textual.TextualFidelity,
    )
}

LEARNED: dict[str, type] = {
    score.name: score
    for score in (
        language.TextAgreement,
        language.TextGain,
        opinion.Niqe,
        opinion.Brisque,
        opinion.Musiq,
        opinion.ClipIqa,
    )
}

METRICS: dict[str, Any] = (
    SCORES | {short: SCORES[code] for short, code in ALIASES.items()} | regional(SCORES) | LEARNED
)

__all__ = ["ALIASES", "LEARNED", "METRICS", "PRESETS", "SCORES", "Regional", "Score"]
