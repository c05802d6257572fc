"""What a handful of scores says about the next ones: means with intervals, paired differences.

Nothing here is assumed normal: intervals are percentile bootstraps, the test flips signs. Values
that are not finite are a score's way to say that it is undefined for a picture; they are left out,
and every result says how many there were.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fusionkit.errors import BadRequest

_EXACT_UP_TO = 14  # 2**14 sign patterns are enumerated, more are sampled
_AT_ONCE = 2**22  # numbers held at once while resampling


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what it may be. Unpacks as ``mean, low, high = interval(values)``.

    Each entry is a float, or an array over the leading axes of the values.
    """

    mean: float | np.ndarray
    low: float | np.ndarray
    """NaN where fewer than two values are finite: one value says nothing about the next."""
    high: float | np.ndarray
    n: int | np.ndarray
    """How many values were finite, hence used."""
    undefined: int | np.ndarray
    """How many were not."""

    def __iter__(self) -> Iterator[float | np.ndarray]:
        return iter((self.mean, self.low, self.high))


class Difference(NamedTuple):
    """How two methods differ on the same pictures."""

    mean: float
    """Mean of a - b over the pictures where both are finite."""
    interval: Interval
    """The same with its interval, ``n`` and ``undefined``."""
    p: float
    """Two-sided chance of a mean this far from 0 if the sign of each difference were random."""


def interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over the last axis with its percentile-bootstrap interval.

    Args:
        values: ``(..., N)``, one score per picture.
        level: Share of bootstrap means between low and high.
        resamples: Bootstrap means drawn.
        seed: The same values and seed give the same interval.

    Raises:
        BadRequest: For a level outside (0, 1), no resamples, or a single number.

    Example:
        >>> found = interval([1.0, 2.0, 3.0, float("nan")])
        >>> found.mean, found.n, found.undefined
        (2.0, 3, 1)
    """
    _check(level, resamples)
    array = _floats(values)
    if array.ndim == 0:
        raise BadRequest("an interval needs several values; one number was given.")
    lead = array.shape[:-1]
    rows = [
        _interval_of(row, level, resamples, seed)
        for row in array.reshape(int(np.prod(lead)), array.shape[-1])
    ]
    if not lead:
        return rows[0]
    return Interval(
        *(np.array([getattr(r, f) for r in rows]).reshape(lead) for f in Interval.__slots__)
    )


def interval_nested(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over training seeds and scenes with an interval that covers the choice of both.

    Seeds and scenes are resampled each by itself, and a drawn scene is drawn for all seeds, because
    all seeds were scored on the same scenes: a hard scene is hard for each of them. (Drawing scenes
    anew within each seed would treat them as different ones and make the interval too narrow.)
    Source: A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).

    Args:
        values: ``(seeds, scenes)``. With one seed the interval covers the choice of scenes alone;
            with a few seeds it is too narrow, since few values show little of their spread.
        level, resamples, seed: As for :func:`interval`.

    Raises:
        BadRequest: For another shape, a level outside (0, 1), or no resamples.
    """
    _check(level, resamples)
    array = _floats(values)
    if array.ndim != 2:
        raise BadRequest(f"values have the shape (seeds, scenes), not {array.shape}.")
    finite = np.isfinite(array)
    n = int(finite.sum())
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0, array.size)
    mean = float(array[finite].mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, 1, array.size - 1)
    filled = np.where(finite, array, 0.0)
    rng = np.random.default_rng(seed)
    means = []
    for count in _portions(resamples, max(array.shape)):
        by_seed, by_scene = (rng.multinomial(k, np.full(k, 1 / k), count) for k in array.shape)
        total = ((by_seed @ filled) * by_scene).sum(1)
        weight = ((by_seed @ finite.astype(float)) * by_scene).sum(1)
        means.append(np.divide(total, weight, out=np.full(count, np.nan), where=weight > 0))
    low, high = np.nanquantile(np.concatenate(means), _tails(level))
    return Interval(mean, float(low), float(high), n, array.size - n)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Difference:
    """How much higher ``a`` scores than ``b`` on the same pictures.

    The test is a sign-flip permutation of the mean difference: every pattern of signs up to
    14 pictures, 10,000 random ones beyond. The smallest p it can give is therefore 2 / 2**n,
    and 1 / 10,001 for many pictures.

    Args:
        a, b: ``(N,)`` scores of the same pictures in the same order. A picture counts only where
            both are finite. Average over seeds before.
        level, resamples, seed: Of the bootstrap interval, as for :func:`interval`.

    Raises:
        BadRequest: When the shapes differ or are not ``(N,)``.

    Example:
        >>> paired_difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5]).p  # 2 of 8 sign patterns
        0.25
    """
    first, second = _floats(a), _floats(b)
    if first.ndim != 1 or first.shape != second.shape:
        raise BadRequest(
            "scores are compared picture by picture: two sequences of one length, not "
            f"{first.shape} and {second.shape}."
        )
    with np.errstate(invalid="ignore"):  # inf - inf is one of the undefined ones
        difference = first - second
    found = interval(difference, level=level, resamples=resamples, seed=seed)
    kept = difference[np.isfinite(difference)]
    return Difference(float(found.mean), found, _sign_flip_p(kept, seed))


def holm(p: ArrayLike) -> np.ndarray:
    """p-values corrected for being several, by the step-down rule of S. Holm (1979).

    NaN, a comparison without data, is left out of the count and stays NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    values = _floats(p)
    corrected = np.full(values.shape, np.nan)
    order = [k for k in np.argsort(values) if not np.isnan(values[k])]
    least = 0.0
    for place, k in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * values[k]))
        corrected[k] = least
    return corrected


def ranks(values: ArrayLike, *, higher_is_better: bool) -> np.ndarray:
    """Ranks within each row, 1 the best; equal values share the mean of their places.

    Args:
        values: ``(N, methods)`` scores. What is not finite gets NaN and takes no place.

    Example:
        >>> ranks([[3.0, 1.0, 3.0]], higher_is_better=True).tolist()
        [[1.5, 3.0, 1.5]]
    """
    from scipy.stats import rankdata

    array = _floats(values)
    ordered = np.where(np.isfinite(array), -array if higher_is_better else array, np.nan)
    return rankdata(ordered, axis=1, nan_policy="omit")


def _sign_flip_p(difference: np.ndarray, seed: int, draws: int = 10_000) -> float:
    n = len(difference)
    if n == 0:
        return float("nan")
    reached = abs(difference.sum()) * (1 - 1e-12)  # sums in another order may miss by rounding
    if n <= _EXACT_UP_TO:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs((1 - 2 * patterns) @ difference) >= reached).mean())
    rng = np.random.default_rng(seed)
    hits = sum(
        int((np.abs(rng.choice((-1.0, 1.0), (count, n)) @ difference) >= reached).sum())
        for count in _portions(draws, n)
    )
    return (hits + 1) / (draws + 1)  # the observed pattern is one of the possible ones


def _interval_of(row: np.ndarray, level: float, resamples: int, seed: int) -> Interval:
    kept = row[np.isfinite(row)]
    n = len(kept)
    undefined = len(row) - n
    if n < 2:
        return Interval(float(kept[0]) if n else np.nan, np.nan, np.nan, n, undefined)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [kept[rng.integers(0, n, (count, n))].mean(1) for count in _portions(resamples, n)]
    )
    low, high = np.quantile(means, _tails(level))
    return Interval(float(kept.mean()), float(low), float(high), n, undefined)


def _portions(count: int, width: int) -> Iterator[int]:
    """``count`` in portions that keep ``portion x width`` numbers in memory."""
    most = max(1, _AT_ONCE // width)
    for start in range(0, count, most):
        yield min(most, count - start)


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _floats(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise BadRequest(f"level is a share between 0 and 1, not {level}.")
    if resamples < 1:
        raise BadRequest(f"resamples is at least 1, not {resamples}.")
