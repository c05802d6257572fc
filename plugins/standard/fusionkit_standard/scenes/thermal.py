"""The thermal camera: temperatures seen through air, a detector and its gain control."""

from __future__ import annotations

import numpy as np

from .noise import Grain, blur, grain, smear, soften, white
from .painter import Fields
from .stage import Stage

BINS = 512
SMEARED = 0.12  # share of infrared pictures with a trail


def render_thermal(
    stage: Stage, fields: Fields, shared: Grain, smoke: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The infrared picture, white hot (H, W) uint8, and what it was made of.

    The second (H, W) uint16 is the temperature that the detector read, in hundredths of a kelvin,
    before gain control: what a radiometric camera delivers.
    """
    weather, chance = stage.weather, stage.chance
    height, width = fields.depth.shape
    sky_part = fields.classes == 0
    own = grain(rng, height, width, max(1.0, height / 128) * 3.0)
    # Half of the grain is what the visible camera sees too, half is the material's own.
    structure = 0.55 * shared.fine + 0.6 * shared.middle + 0.4 * own
    blotches = np.float32(chance.uniform(0.05, 0.5))
    structure += np.where(fields.grounded, blotches, np.float32(0.25)) * shared.coarse
    structure *= np.where(fields.grounded, np.float32(chance.uniform(0.35, 1.0)), np.float32(1.0))
    heat = fields.temperature + fields.thermal_grain * structure
    # Near ground is seen steeply, far ground at grazing angle, where it mirrors the sky's edge.
    slope = np.float32(chance.uniform(-1.5, 4.0)) * np.exp(fields.depth * np.float32(-1 / 14.0))
    heat += np.where(fields.grounded, 0.7 * shared.wide + slope, 0.35 * shared.wide)
    _paint_sky(stage, heat, sky_part, shared, rng)
    # The air in between glows at its own temperature.
    path = np.exp(fields.depth * np.float32(-1.0 / chance.uniform(300.0, 1200.0)))
    np.copyto(heat, weather.air + (heat - weather.air) * path, where=~sky_part)
    if smoke is not None:
        heat += (np.float32(weather.air + 1.0) - heat) * (0.12 * smoke)
    heat = soften(heat, chance.uniform(0.1, 0.5))
    if chance.random() < SMEARED:
        # A micro-bolometer is slow: what moves across the picture leaves a short trail.
        heat = smear(heat, chance.uniform(0.01, 0.03) * width)
    heat += np.float32(chance.uniform(0.03, 0.2)) * white(rng, height, width)
    heat += np.float32(chance.uniform(0.02, 0.09)) * white(rng, 1, width)
    kelvin = np.clip((heat + 273.15) * 100.0 + 0.5, 0, 65535).astype(np.uint16)
    return _gain_control(stage, heat, sky_part, rng), kelvin


def _paint_sky(stage: Stage, heat, sky_part, shared: Grain, rng) -> None:
    """Colder towards the zenith, with warmer cloud bands."""
    weather = stage.weather
    height, width = heat.shape
    rows = np.arange(height, dtype=np.float32) / max(stage.camera.horizon / 2, 1.0)
    drop = np.float32(weather.air - weather.sky)
    level = weather.air - drop * (1.0 - 0.55 * np.clip(rows, 0.0, 1.0) ** 2)
    bands = grain(rng, height, width, height / 16, 5.0)
    streaks = grain(rng, height, width, height / 40, 6.0)
    cloud = (1.8 * bands + 0.9 * streaks + 1.6 * shared.coarse) * (0.35 + weather.overcast)
    cloud += 0.35 * shared.fine
    np.copyto(heat, level[:, None] + cloud, where=sky_part)


def _gain_control(stage: Stage, heat: np.ndarray, sky_part: np.ndarray, rng) -> np.ndarray:
    """Temperatures to grey values as such cameras do: a linear span and a plateau histogram.

    The span is set on the land only; with the cold sky in it everything else would turn white.
    The plateau (counts clipped before they are summed) spends grey values where pixels are, which
    is why pictures of uncooled cameras are rich in contrast.
    """
    chance = stage.chance
    land = heat[~sky_part] if not sky_part.all() else heat.ravel()
    low, high = _percentiles(land, chance.uniform(0.005, 0.03), chance.uniform(0.996, 1.0))
    span = np.float32(max(high - low, 2.0))
    # What is colder than the land, the sky above all, shares a knee at the dark end.
    knee = np.float32(chance.uniform(0.14, 0.36))
    softness = np.float32(chance.uniform(5.0, 14.0))
    linear = (heat - np.float32(low)) / span
    cold = knee * np.exp(np.minimum(linear, 0.0) * (span / softness))
    linear = np.where(linear < 0.0, cold, knee + (1.0 - knee) * linear)
    # A shoulder keeps structure inside what is hotter than the span: folds, faces, hot engines.
    shoulder = np.float32(chance.uniform(0.6, 0.95))
    rest = 1 - shoulder
    hot = linear > shoulder
    linear[hot] = 1 - rest * np.exp((shoulder - linear[hot]) / rest)
    np.clip(linear, 0.0, 1.0, out=linear)
    linear **= np.float32(chance.uniform(0.75, 1.3))
    position = linear * np.float32(BINS - 1)
    index = position.astype(np.intp)
    counts = np.bincount(index.ravel(), minlength=BINS).astype(np.float64)
    counts = np.minimum(counts, chance.uniform(2.0, 5.0) * counts.sum() / BINS)
    curve = np.cumsum(counts) - 0.5 * counts
    curve /= curve[-1] + 0.5 * counts[-1] + 1e-9
    flat = np.interp(position.ravel(), np.arange(BINS), curve).reshape(heat.shape)
    share = chance.uniform(0.35, 0.9)
    grey = share * flat + (1.0 - share) * linear
    grey = grey.astype(np.float32)
    if chance.random() < 0.45:
        # Detail enhancement: the difference to a wide blur is added, the look of vehicle cameras.
        grey += np.float32(chance.uniform(0.4, 1.1)) * (grey - blur(grey, heat.shape[0] / 16))
    # Few cameras use the whole grey scale.
    grey *= np.float32(chance.uniform(195.0, 250.0))
    grey += np.float32(chance.uniform(5.0, 42.0))
    grey += np.float32(chance.uniform(0.8, 4.0)) * white(rng, *heat.shape)
    return (np.clip(grey, 0.0, 255.0) + 0.5).astype(np.uint8)


def _percentiles(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Two percentiles, from at most a few thousand samples spread evenly."""
    some = np.sort(values[:: max(1, values.size // 4096)])
    last = some.size - 1
    return float(some[int(low * last)]), float(some[int(high * last)])
