"""Realism: nine plain image statistics, to compare generated pairs with real ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

COLUMNS = (
    "mean_visible",
    "mean_infrared",
    "std_visible",
    "std_infrared",
    "entropy_visible",
    "entropy_infrared",
    "gradient_visible",
    "gradient_infrared",
    "correlation",
)
# Measured on all 221 RoadScene pairs, each reduced to 128x128 by area: mean and deviation.
ROADSCENE: dict[str, tuple[float, float]] = {
    "mean_visible": (0.577, 0.118),
    "mean_infrared": (0.510, 0.061),
    "std_visible": (0.153, 0.029),
    "std_infrared": (0.215, 0.041),
    "entropy_visible": (6.735, 0.267),
    "entropy_infrared": (7.535, 0.279),
    "gradient_visible": (0.030, 0.007),
    "gradient_infrared": (0.045, 0.012),
    "correlation": (-0.027, 0.465),
}


def realism(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over the pairs of each column.

    A pair is (visible (H, W, 3) or (H, W), infrared (H, W)), both uint8 and of equal size. Grey
    is BT.601 luma on a scale of 0 to 1. Entropy is that of the 256-bin histogram in bits, gradient
    the mean magnitude of central differences, correlation Pearson's between the two greys.
    """
    rows = np.array([_row(visible, infrared) for visible, infrared in pairs])
    if not len(rows):
        raise ValueError("realism needs at least one pair; it got none.")
    return {
        column: (float(mean), float(deviation))
        for column, mean, deviation in zip(COLUMNS, rows.mean(0), rows.std(0), strict=True)
    }


def table(groups: dict[str, dict[str, tuple[float, float]]]) -> str:
    """A Markdown table of several `realism` results, one row per group."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, columns in groups.items():
        cells = " | ".join(f"{m:.3f} +- {d:.3f}" for m, d in columns.values())
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _row(visible: np.ndarray, infrared: np.ndarray) -> tuple[float, ...]:
    if visible.shape[:2] != infrared.shape[:2]:
        raise ValueError(
            f"A pair needs equal sizes; visible is {visible.shape[:2]}, "
            f"infrared {infrared.shape[:2]}."
        )
    greys = []
    for image in (visible, infrared):
        image = np.asarray(image, np.float64)
        if image.ndim == 3:
            image = image @ np.array((0.299, 0.587, 0.114))
        greys.append(image / 255.0)
    means, deviations = [g.mean() for g in greys], [g.std() for g in greys]
    spread = deviations[0] * deviations[1]
    product = ((greys[0] - means[0]) * (greys[1] - means[1])).mean()
    correlation = product / spread if spread > 1e-12 else 0.0
    return (
        *means,
        *deviations,
        *(_entropy(g) for g in greys),
        *(_gradient(g) for g in greys),
        float(correlation),
    )


def _entropy(grey: np.ndarray) -> float:
    counts = np.bincount(np.rint(grey * 255).astype(np.intp).ravel(), minlength=256)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _gradient(grey: np.ndarray) -> float:
    down, across = np.gradient(grey)
    return float(np.hypot(down, across).mean())
